"""What ``robodiff eval`` says of a result: texts."""

from collections.abc import Sequence
from pathlib import Path

from robodiff.deploy.artefact import ExportFile
from robodiff.evaluation.results import Comparison, EnvResult, OfflineComparison, OfflineResult
from robodiff.evaluation.runs import VIDEO_FOLDER, Evaluation
from robodiff.text import counted

MOST_ROWS = 8
"""Dimensions in the table of a comparison."""


def in_env(out: Path, result: EnvResult) -> str:
    """Tell how many episodes succeeded, and how fast."""
    (low, high), count = result.success_rate_ci95, len(result.episodes)
    means = f"means over the episodes: {result.means}\n" if result.means else ""
    outside = f"{result.out_of_range} of {counted(count, 'episode')} observed what lies far out of range of training\n"
    videos = f", and {VIDEO_FOLDER}/ beside it" if Evaluation(out, result).videos else ""
    return (
        f"success {result.success_rate:.2f} (95 % interval {low:.2f} to {high:.2f}) in "
        f"{counted(count, 'episode')} of {result.evaluated.environment} from seed {result.evaluated.first_seed}\n"
        f"mean maximum reward {result.mean_max_reward:.3f}, mean length {result.mean_episode_length:.0f} steps\n"
        f"{outside if result.out_of_range else ''}{_failures(result)}{means}{_latency(result)}\n"
        f"written: {out / result.file}{videos}"
    )


def _failures(result: EnvResult) -> str:
    """Tell, each by its name, how often the policy collided, and what the planner that demonstrated failed at."""
    collisions, planning = result.policy_collisions, result.demonstrations
    ours = f"the policy collided in {collisions:.2f} of the episodes\n" if collisions is not None else ""
    return ours + (f"of the demonstrations, {planning}\n" if planning else "")


def against_in_env(paired: Comparison) -> str:
    """Tell what differs between two evaluations over the same seeds, and what may be concluded from it."""
    success, reward = paired.success_difference_ci95, paired.reward_difference_ci95
    return (
        f"against {paired.against}, over the same {counted(paired.episodes, 'seed')}:\n"
        f"success {paired.success_difference:+.2f} (95 % interval {success[0]:+.2f} to {success[1]:+.2f}); "
        f"{counted(paired.only_first, 'episode')} succeeded here alone, {paired.only_second} there alone "
        f"(McNemar's exact test: p = {paired.mcnemar_p:.2g})\n"
        f"mean maximum reward {paired.reward_difference:+.3f} (95 % interval {reward[0]:+.3f} to {reward[1]:+.3f})\n"
        f"{paired.conclusion}"
    )


def offline(out: Path, result: OfflineResult) -> str:
    """Tell how far the actions are from recorded ones, and where that was measured."""
    evaluated = result.evaluated
    return (
        f"{_errors(result)}\n"
        f"measured at {evaluated.windows:,} of {counted(evaluated.of_windows, 'window')} in "
        f"{counted(len(evaluated.episodes), 'episode')} of {evaluated.data}, {evaluated.which}\n"
        f"{_latency(result)}\n"
        f"written: {out / result.file}"
    )


def against_offline(paired: OfflineComparison) -> str:
    """Tell what differs between two evaluations at the same windows, the dimensions that err most in a table."""
    most = sorted(paired.dimensions, key=lambda each: -each.first / (each.hold or each.first or 1))[:MOST_ROWS]
    rows = [["action", "here", "there", "here", "there", "unit", "difference"]]
    for each in (each for each in paired.dimensions if each in most):
        shares = [f"{100 * error / each.hold:.0f} %" if each.hold else "" for error in (each.first, each.second)]
        ends = each.difference_ci95
        interval = f" ({ends[0]:+.3g} to {ends[1]:+.3g})" if ends else ""
        errors = [f"{each.first:.3g}", f"{each.second:.3g}", each.unit or ""]
        rows.append([each.name, *shares, *errors, f"{each.first - each.second:+.3g}{interval}"])
    more = len(paired.dimensions) - len(most)
    place = f"\nand {more} more in {paired.file}" if more else ""
    return (
        f"against {paired.against}, at the same {counted(paired.windows, 'window')} in "
        f"{counted(paired.episodes, 'episode')}, over {counted(paired.executed, 'executed step')};\n"
        f"errors first as shares of that of holding the last action, differences with 95 % intervals:\n"
        f"{table(rows)}{place}\n{paired.conclusion}"
    )


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of equal length as columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def exported(described: ExportFile) -> str:
    """Tell how an exported policy differs from the one in torch, and how fast both are."""
    verified = described.verified
    assert verified is not None
    success = verified.success
    others = [(name, graph) for name, graph in described.graphs.items() if graph.fallback]
    lines = [f"{graph.engine} computes the {name}, for {graph.fallback}" for name, graph in others]
    difference = f"{verified.mean_error:.2g} on average, {verified.max_error:.2g} at most"
    lines.append(f"actions, normalised, differ from torch's by {difference}, at {counted(verified.windows, 'window')}")
    if success is not None:
        lines.append(f"success {success.exported:.2f}, in torch {success.torch:.2f}; {success.conclusion}")
    speed = f"{verified.latency_ms} with {counted(verified.threads, 'thread')}"
    lines.append(f"one chunk takes {speed}, in torch {verified.torch_latency_ms}")
    return "\n".join([*lines, f"{verified.megabytes:.1f} MB"])


def _errors(result: OfflineResult) -> str:
    """Tell the error over all dimensions, and that of the worst one at the first executed step and at the last."""
    place, mean, hold = result.worst_dimension, result.relative_to_mean, result.relative_to_hold
    if place is None or mean is None:
        return "the recorded actions do not move: there is nothing to compare with"
    worst = result.dimensions[place]
    held = "" if hold is None else f"{100 * hold:.0f} % of that of holding the last action, "
    unit = f" {worst.unit}" if worst.unit else ""
    share = f"{100 * worst.mae / worst.scale:.0f} % of {'holding' if worst.hold else 'the mean action'}'s, "
    executed = [step.mae[place] for step in result.steps if step.executed]
    return (
        f"error of the executed actions: {held}{100 * mean:.0f} % of that of the mean action\n"
        f"worst is {worst.name}: {share}{worst.mae:.3g}{unit} on average, {executed[0]:.3g} at the first step and "
        f"{executed[-1]:.3g} at the last; holding errs by {worst.hold:.3g}, the mean action by {worst.mean:.3g}, and "
        f"two samples differ by {worst.spread:.3g}"
    )


def _latency(result: EnvResult | OfflineResult) -> str:
    how = result.evaluated
    return f"one chunk takes {result.latency_ms} on {how.device} with {how.sampler}, {how.steps} steps"
