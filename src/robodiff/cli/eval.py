"""``robodiff eval``: measure a policy."""

import dataclasses
import re
from pathlib import Path
from typing import Any

from rich.console import Console

from robodiff.cli.offline import run_offline
from robodiff.cli.parser import RECORDING, Parser, add_recording
from robodiff.cli.report import report_evaluation
from robodiff.errors import UsageError
from robodiff.evaluation.comparison import compare, shared_seeds
from robodiff.evaluation.runs import COMPARISON_FILE, METRICS_FILE, Evaluation, read_evaluation, run_of
from robodiff.files import write_json
from robodiff.progress import say

DESCRIPTION = """Run episodes of a policy in an environment and tell how many succeed; without --env, tell how far its
actions are from recorded ones.

An episode depends on its seed alone: with the same --num_envs, any split of the seeds gives the same records.

Examples:
  robodiff eval runs/first --env pusht
  robodiff eval runs/first
  robodiff eval runs/second --env pusht --against runs/first
  robodiff eval runs/first --env pusht --episodes 50 --seed 100000 --sampler flow --steps 3"""

IN_ENV: dict[str, Any] = {"episodes": 100, "num_envs": 100, "videos": 3, "against": None}
OFFLINE: dict[str, Any] = {"data": None, "windows": 2000, **dict.fromkeys(RECORDING)}
"""Options that have a meaning only with --env, and only without, and what they are when not given."""


def parse(arguments: list[str]) -> Any:
    """The options, checked as far as they can be before anything is read.

    Raises:
        UsageError: one that is unknown, or out of its range.
    """
    parser = Parser("eval", "RUN_OR_POLICY [--env ENV] [options]", DESCRIPTION)
    parser.add_argument("policy", type=str, help="A run, a policy's folder, or a repository of the Hugging Face hub.")
    parser.add_argument("--env", type=str | None, help="The environment, such as pusht. Without one, the policy's "
                        "actions are compared with those of its run's held-out episodes.")  # fmt: skip
    parser.add_argument("--episodes", type=int | None, help="With --env: how many episodes; 100 when not given.")
    parser.add_argument("--seed", type=int, default=100_000, help="Seed of the first episode, the others follow; "
                        "without --env, of the noise.")  # fmt: skip
    parser.add_argument("--num_envs", type=int | None, help="With --env: episodes stepped together, with one policy "
                        "call; 100 when not given.")  # fmt: skip
    parser.add_argument("--sampler", type=str | None, help="ddpm, ddim, dpmsolver++, flow or flowheun, not its own.")
    parser.add_argument("--steps", type=int | None, help="Denoising steps, in place of the policy's own number.")
    parser.add_argument("--device", type=str, default="cpu", help="Where the policy runs: cpu, cuda, ...")
    parser.add_argument("--videos", type=int | None, help="With --env: videos of so many successes and so many "
                        "failures; 3 when not given.")  # fmt: skip
    parser.add_argument("--against", type=str | None, help="With --env: another policy, which is evaluated on the same "
                        "seeds, or the folder of an evaluation; the two are compared episode by episode.")  # fmt: skip
    parser.add_argument("--data", type=str | None, help="Without --env: another recording, all of whose episodes are "
                        "measured; builtin:pusht is the one inside the package.")  # fmt: skip
    add_recording(parser)
    parser.add_argument("--windows", type=int | None, help="Without --env: how many windows, evenly spread, are "
                        "measured; 2000 when not given.")  # fmt: skip
    parser.add_argument("--out", type=str | None, help="Folder to write to; inside the run when not given.")
    options = parser.parse_args(arguments)
    _fill(options)
    for name, least in (("episodes", 1), ("seed", 0), ("num_envs", 1), ("videos", 0), ("windows", 1)):
        if options[name] is not None and options[name] < least:
            raise UsageError(f"--{name} must be at least {least}; found {options[name]}")
    return options


def _fill(options: Any) -> None:
    """Put in the defaults of what was not given.

    Raises:
        UsageError: an option was given that has no meaning with --env, or without.
    """
    used, unused = (IN_ENV, OFFLINE) if options.env is not None else (OFFLINE, IN_ENV)
    if given := [name for name in unused if options[name] is not None]:
        what = (
            "is for recorded episodes; leave out --env"
            if options.env
            else "is for episodes in an environment; give --env"
        )
        raise UsageError(f"--{given[0]} {what}, or leave it out")
    for name, default in used.items():
        options[name] = default if options[name] is None else options[name]


def run(arguments: list[str]) -> Path:
    """Parse, measure, print; returns the folder that was written to."""
    options = parse(arguments)
    out = Path(options.out) if options.out else default_folder(options.policy, options)
    console = Console()
    if options.env is None:
        run_offline(options, out, console)
    else:
        _run_episodes(options, out, console)
    say(console, f"report: {report_evaluation(out)}")
    return out


def _run_episodes(options: Any, out: Path, console: Any) -> None:
    """Measure in the environment, compare if that was asked for, print what was found."""
    other = _against(options) if options.against else None
    if other is not None and other.resolve() == out.resolve():
        raise UsageError(f"--against {options.against}: is the evaluation that would be written; compare another one")
    metrics = measure(options.policy, options, out, console)
    _print(options, metrics, out, console)
    if other is not None:
        _compare(options, metrics, out, other, console)


def _against(options: Any) -> Path:
    """The folder of the evaluation to compare with; it is refused before anything is measured."""
    there = Path(options.against)
    if not (there / METRICS_FILE).is_file():
        return default_folder(options.against, options)
    shared_seeds(options.env, range(options.seed, options.seed + options.episodes), read_evaluation(there).metrics)
    return there


def default_folder(policy: str, options: Any) -> Path:
    """``eval/<what was measured>`` inside the run, or beside the policy."""
    folder = Path(policy)
    if folder.is_file():
        raise UsageError(f"{policy}: is a file; give the folder of a run or of a policy")
    if not folder.is_dir():
        raise UsageError(f"{policy}: no such folder; a policy from the hub is measured with --out FOLDER, and compared "
                         "with by the folder of its evaluation")  # fmt: skip
    if folder.name in ("", ".."):
        folder = folder.resolve()
    run = run_of(folder) or (folder.parent if (folder / "config.json").is_file() else folder)
    if options.env is None:
        recording = re.sub(r"[^\w.-]", "-", Path(options.data).name) if options.data else None
        parts = ["offline", recording, f"seed{options.seed}", f"n{options.windows}"]
    else:
        parts = [options.env, f"seed{options.seed}", f"n{options.episodes}"]
    parts += [options.sampler, options.steps]
    if folder != run and folder.name != "policy":
        parts.insert(0, folder.name)
    return run / "eval" / "-".join(str(part) for part in parts if part is not None)


def measure(policy: str, options: Any, out: Path, console: Any, again: bool = True) -> dict[str, Any]:
    """Evaluate with a progress bar."""
    from robodiff.evaluation.evaluate import evaluate
    from robodiff.progress import bar

    with bar(console, "episodes", options.episodes) as advance:
        return evaluate(
            policy,
            options.env,
            out,
            episodes=options.episodes,
            seed=options.seed,
            num_envs=options.num_envs,
            sampler=options.sampler,
            steps=options.steps,
            device=options.device,
            videos=options.videos,
            on_step=lambda done, running: advance(done),
            again=again,
        )


def _print(options: Any, metrics: dict[str, Any], out: Path, console: Any) -> None:
    low, high = metrics["success_rate_ci95"]
    latency, evaluated = metrics["latency_ms"], metrics["evaluated"]
    _warn(Evaluation(out, metrics), console)
    for line in (
        f"success {metrics['success_rate']:.2f} (95 % interval {low:.2f} to {high:.2f}) in {options.episodes} episodes "
        f"of {options.env} from seed {options.seed}",
        f"mean maximum reward {metrics['mean_max_reward']:.3f}, mean length {metrics['mean_episode_length']:.0f} steps",
        f"one chunk takes {latency['p50']:.1f} ms (p95 {latency['p95']:.1f} ms) on {evaluated['device']} "
        f"with {evaluated['sampler']}, {evaluated['steps']} steps",
        f"written: {out / METRICS_FILE}" + (", and videos/ beside it" if options.videos else ""),
    ):
        say(console, line)


def _warn(evaluation: Evaluation, console: Any) -> None:
    if evaluation.stopped:
        say(console, evaluation.stopped, "bold red")


def _compare(options: Any, metrics: dict[str, Any], out: Path, other: Path, console: Any) -> None:
    """Compare with the other evaluation, which is made first where there is none yet."""
    given = Path(options.against) == other
    theirs = read_evaluation(other).metrics if given else measure(options.against, options, other, console, again=False)
    _warn(Evaluation(other, theirs), console)
    result = compare(metrics, theirs)
    conclusion = result.conclusion(options.policy, options.against)
    write_json(
        out / COMPARISON_FILE, {"against": options.against, **dataclasses.asdict(result), "conclusion": conclusion}
    )
    success, reward = result.success_difference_ci95, result.reward_difference_ci95
    for line in (
        f"against {options.against}, over the same {result.episodes} seeds:",
        f"success {result.success_difference:+.2f} (95 % interval {success[0]:+.2f} to {success[1]:+.2f}); "
        f"{result.only_first} episodes succeed here alone, {result.only_second} there alone "
        f"(McNemar's exact test: p = {result.mcnemar_p:.2g})",
        f"mean maximum reward {result.reward_difference:+.3f} (95 % interval {reward[0]:+.3f} to {reward[1]:+.3f})",
        conclusion,
    ):
        say(console, line)
