"""``robodiff export``: a policy that runs without torch, checked against the original."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from robodiff.cli import outcomes
from robodiff.cli.configuration import read_config, read_run_config
from robodiff.cli.options import Options, read_options
from robodiff.deploy.artefact import is_exported
from robodiff.documents import AtLeast, Between, FilePath
from robodiff.errors import UsageError
from robodiff.evaluation.runs import check_alone, config_file, run_of


@dataclass(frozen=True, kw_only=True)
class ExportOptions(Options):
    """Write a policy as a folder that runs without torch, on OpenVINO or ONNX Runtime on a CPU: its networks as graphs,
    everything else as data. Or, with --to lerobot, write a policy that LeRobot loads.

    The result is compared with the policy in torch: actions at recorded observations, latency and, with --env, success.
    If it differs by more than rounding, nothing is left behind.

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
    """The engine that will run it, or lerobot."""
    precision: Literal["fp32", "bf16", "int8"] = "fp32"
    """Of the networks; bf16 with OpenVINO only. int8 rounds weights and activations, calibrated on recorded
    observations."""
    sampler: str | None = None
    """ddpm, ddim, dpmsolver++, flow or flowheun, in place of the policy's own; fixed by the export."""
    steps: Annotated[int, Between(1, 10_000)] | None = None
    """Denoising steps, in place of the policy's own number."""
    data: FilePath | None = None
    """Recording on which to compare; that of the policy's run when not given."""
    env: str | None = None
    """Environment in which to compare success, too, on the same seeds."""
    episodes: Annotated[int, AtLeast(1)] = 50
    """With --env: number of episodes."""
    accept_errors: bool = False
    """Keep it even if it does not act like the policy in torch."""
    out: FilePath | None = None
    """Folder to write to; exported/<to>-<precision> in the run when not given."""


def run(arguments: list[str]) -> Path:
    """Parse, export, print; return the folder that was written."""
    options = read_options(ExportOptions, "export", arguments)
    from robodiff.policies.checkpoint import load_policy

    if is_exported(options.policy):
        raise UsageError(f"{options.policy}: is exported already; export the run that it came from")
    check_alone(Path(options.policy))
    home = run_of(Path(options.policy))
    if home is not None:
        read_config(config_file(home))  # plugins are remembered
    if options.out is None and home is None:
        raise UsageError(f"{options.policy}: is not part of a run; give --out FOLDER")
    out = Path(options.out or home / "exported" / f"{options.to}-{options.precision}")  # pyright: ignore
    if out.exists() and not is_exported(out):
        raise UsageError(f"{out}: exists already, and is not an exported policy; choose another --out")
    if options.to == "lerobot":
        if options.precision != "fp32" or options.env or options.data:
            raise UsageError("--precision, --env and --data are for openvino and onnx; leave them out")
        from robodiff.policies.lerobot_writer import write_lerobot

        write_lerobot(load_policy(options.policy, sampler=options.sampler, steps=options.steps), out)
        print(f"written: {out}")
        return out
    return _export(options, home, out)


def _export(options: ExportOptions, home: Path | None, out: Path) -> Path:
    """Write and verify an exported policy; keep it if it passes."""
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
        raise UsageError(f"{options.policy}: is not part of a run; give --data PATH, a recording on which to compare")
    config = None
    if options.env is not None:
        seen_by(policy, get_env_spec(options.env))
        sampling = {"sampler": options.sampler, "steps": options.steps}
        config = EvalConfig(env=options.env, episodes=options.episodes, videos=0, clips=0, **sampling)
    source = open_path(options.data) if options.data else read_run_config(home).data  # pyright: ignore
    samples = read_samples(policy, source)
    with replacing(out) as folder:
        folder.mkdir()
        say(console, "writing the graphs")
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
