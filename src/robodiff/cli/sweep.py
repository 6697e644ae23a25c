"""``robodiff eval --sweep``: many ways of acting with one policy, in one table."""

import re
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from robodiff.cli import outcomes
from robodiff.cli.options import read_value
from robodiff.deploy.artefact import is_exported
from robodiff.documents import hints, typed
from robodiff.errors import UsageError, nearest
from robodiff.evaluation.config import EvalConfig
from robodiff.evaluation.members import Members
from robodiff.progress import bar, say


def joined(arguments: Sequence[str]) -> list[str]:
    """Return a command line on which what follows ``--sweep``, as in ``steps=1,2 best_of=1,8``, is one value."""
    words: list[str] = []
    for word in arguments:
        follows = words[-2:-1] == ["--sweep"] or (words and words[-1].startswith("--sweep="))
        if follows and re.match(r"\w+=", word):
            words[-1] += f" {word}"
        else:
            words.append(word)
    return words


def sweep(members: Members, words: str, write: bool, config: EvalConfig, out: Path, console: Console) -> None:
    """Measure, print and, with ``write``, make what comes off best the policy's own way of acting.

    Args:
        members: which policies.
        words: the grid, as in ``steps=1,2 best_of=1,8``.
        write: whether to change the policies.
        config: where, and how many episodes of each way.
        out: folder to write to.
        console: to print on.

    Raises:
        UsageError: a grid that cannot be read, or a policy that cannot act so, or cannot be changed.
    """
    from robodiff.evaluation.sweep import Grid, open_ways, run_sweep, write_way  # needs torch

    values: dict[str, object] = {}
    for word in words.split():
        name, sign, listed = word.partition("=")
        if not sign or name not in hints(Grid):
            expected = f"expected NAME=VALUE,VALUE,... of {', '.join(hints(Grid))}"
            advice = "" if name in hints(Grid) else nearest(name, hints(Grid))
            raise UsageError(f"--sweep: {expected}; found {word!r}.{advice}")
        if name in values:
            raise UsageError(f"--sweep: {name} is there twice; list its values after one another: {name}={listed},...")
        values[name] = read_value(f"sweep {name}", f"[{listed}]", hints(Grid)[name])
    if write and (fixed := [path for path in members.values() if is_exported(path) or not Path(path).is_dir()]):
        raise UsageError(f"--write: {fixed[0]} is no policy in a folder here that could be changed; leave out --write")
    ways = open_ways(members, config, typed(Grid, values))
    with bar(console, "episodes", config.episodes * len(ways), "measuring how long chunks take") as advance:
        result = run_sweep(ways, out, config, advance)
    say(console, outcomes.sweep(out, result))
    if not write:
        return
    if result.chosen == 0:
        say(console, "nothing was written: the policy's own way of acting stays")
        return
    folders = ", ".join(map(str, write_way(members, result)))
    again = "what was measured before is of the policy as it was, and these seeds have chosen; measure it on others"
    say(console, f"written to {folders}: {result.cells[result.chosen].way}; before {result.cells[0].way}")
    say(console, f"{again}: robodiff eval {' '.join(dict.fromkeys(members.values()))} --env {config.env}")
