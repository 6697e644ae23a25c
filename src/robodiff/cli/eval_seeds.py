"""``robodiff eval`` of a run with several training seeds: each policy by itself, then all of them together."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from robodiff.cli.eval_options import EvalOptions
from robodiff.cli.report import report_evaluation, report_seeds
from robodiff.cli.shards import of_shard
from robodiff.errors import UsageError
from robodiff.evaluation.members import ALONE, BEST, Members, find_members
from robodiff.evaluation.results import EnvResult, OfflineComparison, OfflineResult, read_result, write_result
from robodiff.evaluation.runs import has_policy, seed_runs
from robodiff.evaluation.seeds import SUCCESS, SeedsComparison, SeedsResult, compare_errors, compare_success, summarise
from robodiff.progress import say
from robodiff.text import counted, listed, table

R = TypeVar("R", bound=EnvResult | OfflineResult)


def evaluate_seeds(
    options: EvalOptions,
    evaluate: Callable[[EvalOptions, Path], object],
    folder_of: Callable[[Members], Path],
    console: Console,
) -> Path:
    """Measure the policy of each training seed, or of a share of them; once all are measured, tell what came of it.

    What a policy was measured at before, in just this way, is taken over.

    Args:
        options: of the command; its one policy is the folder of the runs.
        evaluate: measures one policy and writes to a folder.
        folder_of: says in which folder an evaluation of policies lies.
        console: where it is told.

    Returns:
        The folder of the evaluation of all, which is there when all are measured.

    Raises:
        UsageError: one of this process's is not trained yet, or there is nothing to compare with.
    """
    home = Path(options.policies[0])
    runs = seed_runs(home)
    chosen, others = of_shard(runs, options.shard), _others(options, runs)
    if not chosen:
        say(console, "fewer policies than shards: nothing is left for this one")
        return home
    if unmade := [run for run in chosen.values() if not has_policy(run)]:
        raise UsageError(f"{listed(unmade)}: not trained yet; go on with: robodiff fit --resume {home}")
    name = folder_of(find_members([str(next(iter(chosen.values())))], options.checkpoint)).name
    out = Path(options.out) if options.out else home / "eval" / name
    folders = {seed: out / run.name if options.out else run / "eval" / name for seed, run in runs.items()}
    for seed, run in chosen.items():
        say(console, f"\nseed {seed}", "bold")
        against = str(others[seed]) if seed in others else None
        evaluate(replace(options, policies=[str(run)], against=against, out=None, shard=None), folders[seed])
        report_evaluation(folders[seed])
    compared = {seed: folder_of(find_members([str(run)])) for seed, run in others.items()}
    kind = OfflineResult if options.env is None else EnvResult
    current = {seed: read_current(kind, run, folders[seed], options.checkpoint) for seed, run in runs.items()}
    results = {int(seed): result for seed, result in current.items() if result is not None}
    if missing := [f"seed {seed}" for seed, result in current.items() if result is None]:
        say(console, f"\nnot measured yet: {listed(missing)}; the last process to measure one tells the mean over all")
        return home
    result = summarise(results)
    write_result(out, result)
    (out / SeedsComparison.file).unlink(missing_ok=True)
    say(console, f"\n{in_words(result)}\nwritten: {out / result.file}")
    if compared:
        paired = _compare(options, folders, compared)
        write_result(out, paired)
        say(console, f"against {paired.against}, by training seed and episode: {paired.conclusion}")
    page = report_seeds(home, out if options.out else None)
    say(console, f"report: {page}")
    return out


def in_words(result: SeedsResult) -> str:
    """Tell what the policies of several training seeds were measured at, and which interval means what."""
    digits = ".2f" if result.measured == SUCCESS else ".3f"
    rows = [["seed", result.measured, "95 % interval of this policy", "mean maximum reward"]]
    for each in result.members:
        interval = f"{each.ci95[0]:.2f} to {each.ci95[1]:.2f}" if each.ci95 else ""
        reward = "" if each.mean_max_reward is None else f"{each.mean_max_reward:.3f}"
        rows.append([str(each.seed), f"{each.value:{digits}}", interval, reward])
    rows = rows if result.measured == SUCCESS else [row[:2] for row in rows]
    what = "success" if result.measured == SUCCESS else "error as a share of that of holding the last action"
    lines = [table(rows), f"{what}: mean {result.mean:{digits}} over {counted(len(result.members), 'training seed')}"]
    if result.mean_ci95 is not None and result.std is not None:
        low, high = result.mean_ci95
        further = "and episodes would give" if result.measured == SUCCESS else "would give on these episodes"
        lines[-1] += f" (95 % interval {low:{digits}} to {high:{digits}}: what further training seeds {further})"
        spread = f"{result.lowest:{digits}} to {result.highest:{digits}}, standard deviation {result.std:{digits}}"
        lines.append(f"between training seeds: {spread}")
    return "\n".join(lines)


def _others(options: EvalOptions, runs: Mapping[str, Path]) -> dict[str, Path]:
    """Return by training seed the runs to compare with, of the seeds that both have.

    Raises:
        UsageError: there is one policy alone, or none of the same seed.
    """
    if options.against is None:
        return {}
    home, others = options.policies[0], seed_runs(Path(options.against))
    if not others:
        advice = f"train it with --seeds {','.join(runs)}, too, or compare one: {next(iter(runs.values()))}"
        raise UsageError(f"--against {options.against}: is one policy, {home} has {len(runs)} training seeds\n{advice}")
    if not (shared := {seed: others[seed] for seed in runs if seed in others}):
        seeds = f"{', '.join(runs)} and {', '.join(others)}"
        raise UsageError(
            f"{home} against {options.against}: share no training seed ({seeds}); train both with the same"
        )
    if unmade := [run for run in shared.values() if not has_policy(run)]:
        raise UsageError(f"{listed(unmade)}: not trained yet; go on with: robodiff fit --resume {options.against}")
    return shared


def read_current(kind: type[R], run: Path, folder: Path, checkpoint: str = BEST) -> R | None:
    """Return what a run's present policy was measured at; None where it was not."""
    from robodiff.policies.checkpoint import find_policy, policy_hash  # needs torch

    if not has_policy(run) or not (folder / kind.file).is_file():
        return None
    result = read_result(folder, kind)
    policy = find_policy(find_members([str(run)], checkpoint)[ALONE])
    return result if result.evaluated.policy == policy_hash(policy) else None


def _compare(options: EvalOptions, folders: Mapping[str, Path], others: Mapping[str, Path]) -> SeedsComparison:
    """Compare with the evaluations of another recipe, which were made beside these."""
    names = options.name, str(options.against)
    if options.env is None:
        return compare_errors({int(seed): read_result(folders[seed], OfflineComparison) for seed in others}, *names)
    pairs = {
        int(seed): (read_result(folders[seed], EnvResult), read_result(other, EnvResult))
        for seed, other in others.items()
    }
    return compare_success(pairs, *names)
