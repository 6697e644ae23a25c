"""What came of rounds of taking over and training on: typed, written as JSON, and told as a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robodiff.data.recordings import DataConfig, open_path
from robodiff.evaluation.comparison import compare
from robodiff.evaluation.conditions import Count, Number
from robodiff.evaluation.results import EnvResult, Interval, Result, RunFacts, read_result


@dataclass(frozen=True, kw_only=True)
class Round:
    """A policy, and what it had learnt from; round 0 is the policy that there was before."""

    run: str
    """Its folder."""
    demonstrations: Count
    """Recorded episodes in which nobody took over."""
    taken_over: Count
    """Episodes that an expert took over."""
    frames: Count
    """In which an expert acted, of both."""
    minutes: Number
    """Of training, all rounds so far together."""
    success_rate: Number
    success_rate_ci95: Interval
    """Wilson's interval."""
    difference: Number
    """Of the success rate to that of round 0, over the same seeds."""
    difference_ci95: Interval
    """Newcombe's method 10."""
    p: Number
    """McNemar's exact test, two-sided."""


@dataclass(frozen=True, kw_only=True)
class Improvement(Result):
    """All rounds so far; written by ``robodiff improve``."""

    file = "improve.json"
    advice = "remove it: it is written anew by the same command"

    asked: dict[str, Any]
    """The options that a folder's rounds have in common."""
    rounds: list[Round]


def round_of(
    run: Path, demonstrations: DataConfig, taken_over: Sequence[Path], minutes: float, results: Sequence[EnvResult]
) -> Round:
    """Return what is told of a round.

    Args:
        run: its folder.
        demonstrations: what the first policy was trained on.
        taken_over: recordings of episodes that an expert took over, of all rounds so far.
        minutes: of training, all rounds so far together.
        results: the evaluations of round 0 and of this round.
    """
    counts = np.zeros(3, int)  # episodes, those of them that an expert took over, frames in which an expert acted
    for data in (demonstrations, *map(open_path, map(str, taken_over))):
        episodes = data.read([])
        expert = np.ones(episodes.episode_ends[-1], bool) if episodes.expert is None else episodes.expert
        for frames in map(episodes.slice, data.chosen(episodes).tolist()):
            counts += 1, not expert[frames].all(), expert[frames].sum()
    count, helped, expert_frames = counts.tolist()
    first, latest = results[0], results[-1]
    paired = compare(latest, first)
    return Round(
        run=str(run),
        demonstrations=count - helped,
        taken_over=helped,
        frames=expert_frames,
        minutes=minutes,
        success_rate=latest.success_rate,
        success_rate_ci95=latest.success_rate_ci95,
        difference=paired.success_difference,
        difference_ci95=paired.success_difference_ci95,
        p=paired.p,
    )


def minutes_of(run: Path) -> float:
    """Return how long a run took; 0 where it does not say it."""
    return read_result(run, RunFacts).minutes if (run / RunFacts.file).is_file() else 0.0


def table(rounds: Sequence[Round]) -> str:
    """Return rounds as a table: what each policy learnt from, its success, and the paired difference to the first."""
    rows = [
        ["round", "demonstrations", "frames", "minutes", "success", "to round 0", "p", "%/minute", "%/demonstration"]
    ]
    for number, each in enumerate(rounds):
        low, high = each.success_rate_ci95
        below, above = each.difference_ci95
        episodes, percent = each.demonstrations + each.taken_over, 100 * each.success_rate
        rows.append(
            [
                str(number),
                f"{each.demonstrations} + {each.taken_over} taken over",
                f"{each.frames:,}",
                f"{each.minutes:.1f}",
                f"{each.success_rate:.2f} ({low:.2f} to {high:.2f})",
                f"{each.difference:+.2f} ({below:+.2f} to {above:+.2f})" if number else "",
                f"{each.p:.2g}" if number else "",
                f"{percent / each.minutes:.2g}" if each.minutes else "",
                f"{percent / episodes:.2g}" if episodes else "",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
