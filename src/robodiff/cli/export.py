"""``robodiff export``: a policy that acts without torch, checked against the one that it was made of."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from robodiff.cli import outcomes
from robodiff.cli.configuration import read_config, read_run_config
from robodiff.cli.options import Options, read_options
from robodiff.deploy.artefact import is_exported
from robodiff.documents import AtLeast, Between, FilePath
from robodiff.errors import UsageError
from robodiff.evaluation.runs import config_file, run_of


@dataclass(frozen=True, kw_only=True)
class ExportOptions(Options):
    """Write a policy as a folder that acts without torch, by OpenVINO or ONNX Runtime on a CPU: networks as graphs, all
    else as data. Or, with --to lerobot, as a policy that LeRobot loads.

    What was written is compared with the policy in torch: its actions at recorded observations, how long both take and,
    with --env, how often both succeed. Where it differs by more than rounding, nothing is left behind.

    Examples:
      robodiff export runs/first --to openvino
      robodiff export runs/first --to openvino --precision bf16 --env pusht
      robodiff export runs/first --to onnx --precision int8 --sampler ddim --steps 10 --out robot/policy
      robodiff eval runs/first/exported/openvino-fp32 --env pusht --against runs/first
    """

    positional: ClassVar[tuple[str, ...]] = ("policy",)

    policy: FilePath
    """A run, a policy's folder, or a repository of the Hugging Face hub."""
    to: Literal["openvino", "onnx", "lerobot"]
    """What computes it."""
    precision: Literal["fp32", "bf16", "int8"] = "fp32"
    """Of its networks; bf16 by OpenVINO alone. In int8 weights and what flows between layers are rounded, by what was
    recorded."""
    sampler: str | None = None
    """ddpm, ddim, dpmsolver++, flow or flowheun, in place of the policy's own; it cannot be changed later."""
    steps: Annotated[int, Between(1, 10_000)] | None = None
    """Denoising steps, in place of the policy's own number."""
    data: FilePath | None = None
    """A recording to compare at; that of the policy's run when not given."""
    env: str | None = None
    """An environment, in which both are measured on the same seeds, too."""
    episodes: Annotated[int, AtLeast(1)] = 50
    """With --env: how many."""
    accept_errors: bool = False
    """Write it although it does not act as the policy in torch."""
    out: FilePath | None = None
    """Folder to write to; when not given exported/<to>-<precision> inside the run."""


def run(arguments: list[str]) -> Path:
    """Parse, export, print; return the folder that was written."""
    options = read_options(ExportOptions, "export", arguments)
    from robodiff.policies.checkpoint import load_policy

    if is_exported(options.policy):
        raise UsageError(f"{options.policy}: is exported already; export the run that it was made of")
    home = run_of(Path(options.policy))
    if home is not None:
        read_config(config_file(home))  # plugins are remembered
    if options.out is None and home is None:
        raise UsageError(f"{options.policy}: lies in no run; give --out FOLDER")
    out = Path(options.out or home / "exported" / f"{options.to}-{options.precision}")  # pyright: ignore
    if out.exists() and not is_exported(out):
        raise UsageError(f"{out}: is there already, and no exported policy; choose another --out")
    if options.to == "lerobot":
        if options.precision != "fp32" or options.env or options.data:
            raise UsageError("--precision, --env and --data are for openvino and onnx; leave them out")
        from robodiff.policies.lerobot_writer import write_lerobot

        write_lerobot(load_policy(options.policy, sampler=options.sampler, steps=options.steps), out)
        print(f"written: {out}")
        return out
    return _export(options, home, out)


def _export(options: ExportOptions, home: Path | None, out: Path) -> Path:
    """Write, verify and, if it acts as it should, keep an exported policy."""
    from rich.console import Console

    from robodiff.data.recordings import open_path
    from robodiff.deploy.artefact import EXPORT_FILE
    from robodiff.deploy.export import check_export, write_exported
    from robodiff.documents import write_json
    from robodiff.envs.spec import get_env_spec
    from robodiff.evaluation.actor import seen_by
    from robodiff.evaluation.config import EvalConfig
    from robodiff.evaluation.verification import check_verified, compare_success, read_samples, verify
    from robodiff.files import replacing
    from robodiff.policies.checkpoint import load_policy
    from robodiff.progress import say

    console, precision = Console(), options.precision
    policy = load_policy(options.policy, sampler=options.sampler, steps=options.steps)
    check_export(policy, options.to, precision)  # pyright: ignore[reportArgumentType]
    if options.data is None and home is None:
        raise UsageError(f"{options.policy}: lies in no run; give --data PATH, a recording to compare at")
    config = None
    if options.env is not None:
        seen_by(policy, get_env_spec(options.env))
        sampling = {"sampler": options.sampler, "steps": options.steps}
        config = EvalConfig(env=options.env, episodes=options.episodes, videos=0, **sampling)
    source = open_path(options.data) if options.data else read_run_config(home).data  # pyright: ignore
    samples = read_samples(policy, source)
    with replacing(out) as folder:
        folder.mkdir()
        say(console, "writing its graphs")
        described = write_exported(policy, folder, options.to, precision, samples)  # pyright: ignore
        say(console, "comparing with the policy in torch")
        verified, is_worse = verify(policy, folder, samples, source.source), False
        if config is not None:
            success, is_worse = compare_success(options.policy, folder, config)
            verified = replace(verified, success=success)
        if not options.accept_errors:
            check_verified(verified, precision, is_worse)
        described = replace(described, verified=verified)
        write_json(folder / EXPORT_FILE, described)
    say(console, f"{outcomes.exported(described)}\nwritten: {out}")
    return out
