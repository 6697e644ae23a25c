"""A file for each agent of a team, such as ``LiftBarrier-rf_Agent{agent}_150.zarr``: one recording of all of them.

What an agent's file calls ``agents.<id>.<key>``, and its own other files do not, is named here as there. Files that
name no agents, as RoboFactory's do, hold what is their agent's alone.
"""

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from robodiff.data.episodes import Finding
from robodiff.data.naming import AGENT_FILES, AGENTS, in_order
from robodiff.data.recordings import DataConfig, Format, Recording, open_path
from robodiff.data.stored import Stored
from robodiff.errors import RobodiffError
from robodiff.files import with_home


@dataclass(frozen=True, kw_only=True)
class AgentFilesConfig(DataConfig):
    """Demonstrations of several agents, with a recording of any format for each."""

    path: str
    """The recordings, with {agent} in place of the agent's id."""

    def open(self, keys: Sequence[str] | None = None) -> Recording:  # noqa: D102
        options = {"episodes": self.episodes, "resize_shape": self.resize_shape, "cache_dir": self.cache_dir}
        paths = agent_files(self.path)
        recordings = {agent: open_path(path, **options).open() for agent, path in paths.items()}
        first = next(iter(recordings.values()))
        arrays: dict[str, Stored] = {}
        names: set[str | None] = set()
        for agent, recording in recordings.items():
            if recording.fps != first.fps:
                rates = f"{recording.fps or 0:g} frames a second, but {first.source} {first.fps or 0:g}"
                raise RobodiffError(f"{recording.source}: has {rates}; convert one of them with --fps first")
            if not _same_episodes(recording, first):
                other = f"its episodes are not those of {first.source}"
                raise RobodiffError(f"{recording.source}: {other}; take the files of one recording")
            own = {key: stored.name for key, stored in recording.arrays.items()}
            if not any(name and name.startswith(AGENTS) for name in own.values()):
                own = {key: name and f"{AGENTS}{agent}.{name}" for key, name in own.items()}
            new = {key: name for key, name in own.items() if name is None or name not in names}  # else it is shared
            for key, name in new.items():
                stored = recording.arrays[key]
                faults, gaps = (_of(agent, findings) for findings in (stored.faults, stored.unwritten))
                arrays[f"{agent}/{key}"] = replace(stored, name=name, faults=faults, unwritten=gaps)
            if not new.keys() & own.keys():
                raise RobodiffError(f"{recording.source}: holds nothing of agent {agent}; copy its own file there")
            names |= {*own.values()}
        findings = [each for agent, recording in recordings.items() for each in _of(agent, recording.findings)]
        return replace(first, source=self.path, arrays=arrays, layout=None, findings=findings)


def _same_episodes(one: Recording, other: Recording) -> bool:
    """Tell whether recordings are of the same episodes, as far as their ends and seeds tell."""
    seeds = [recording.table.get("seed") for recording in (one, other)]
    return np.array_equal(one.episode_ends, other.episode_ends) and (None in seeds or seeds[0] == seeds[1])


def agent_files(path: str) -> dict[str, str]:
    """Return by the ids of the agents the files that a path with ``{agent}`` names.

    Raises:
        RobodiffError: there are none.
    """
    path = with_home(path)
    pattern = re.compile(r"(\w+)".join(map(re.escape, path.split(AGENT_FILES, 1))))
    files = glob.glob("*".join(map(glob.escape, path.split(AGENT_FILES, 1))))
    every = {match[1]: file for file in files if (match := pattern.fullmatch(file))}
    if not every:
        raise RobodiffError(f"{path}: no such files; {AGENT_FILES} stands for an agent's id, such as 0")
    return {agent: every[agent] for agent in in_order(every)}


def _of(agent: str, findings: Sequence[Finding]) -> list[Finding]:
    return [replace(each, message=f"agent {agent}: {each.message}") for each in findings]


def _recognise(path: Path) -> bool:
    return AGENT_FILES in str(path) and not path.exists()


FORMAT = Format("a file for each agent", AgentFilesConfig, _recognise)
