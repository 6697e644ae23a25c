"""Several runs of one command: lists of numbers (``--seeds 1,2,3``), and one process's share (``--shard 1/4``)."""

from collections.abc import Mapping
from typing import Annotated, TypeVar

from robodiff.documents import Matching
from robodiff.errors import UsageError

Numbers = Annotated[str, Matching(r"^\d{1,10}(,\d{1,10})*$", "whole numbers with commas between, such as 1,2,3")]
"""The text of a list of numbers, which ``numbers`` reads."""
Shard = Annotated[str, Matching(r"^\d{1,6}/\d{1,6}$", "i/n, such as 1/4")]
"""The text of a share of the runs, which ``of_shard`` takes."""

K = TypeVar("K")
V = TypeVar("V")


def numbers(option: str, text: str) -> list[int]:
    """Return the numbers of a list, as they were given.

    Raises:
        UsageError: the same twice.
    """
    values = [int(part) for part in text.split(",")]
    if twins := [value for value in values if values.count(value) > 1]:
        raise UsageError(f"--{option} {text}: has {twins[0]} twice; leave out one of them")
    return values


def of_shard(runs: Mapping[K, V], shard: str | None) -> dict[K, V]:
    """Return what one process is to do: the i-th of each n runs, counted from 1, or all of them.

    Raises:
        UsageError: there is no such share.
    """
    if shard is None:
        return dict(runs)
    own, count = map(int, shard.split("/"))
    if not 1 <= own <= count:
        raise UsageError(f"--shard {shard}: i of i/n goes from 1 to n; write 1/{count} to {count}/{count}")
    return {key: run for place, (key, run) in enumerate(runs.items(), start=1) if place % count == own % count}
