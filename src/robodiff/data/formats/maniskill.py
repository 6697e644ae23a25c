"""ManiSkill's and RoboFactory's trajectories: an HDF5 file with ``traj_<n>``, and a JSON file of the same name.

There is one observation more than actions, which is dropped. ``obs/agent/qpos`` is ``observation.state`` here, cameras
``obs/sensor_data/<x>/rgb`` are ``observation.images.<x>``. Of several agents, numbered by the end of their names, keys
have ``agents.<i>.`` before them; what is no agent's is shared by all.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from robodiff.data.arrays import episode_numbers
from robodiff.data.episodes import ACTION
from robodiff.data.formats import hdf5
from robodiff.data.formats.pieces import Gathered, Piece, by_number, control_frequency, without_last
from robodiff.data.recordings import DataConfig, Format, Recording
from robodiff.documents import read_json
from robodiff.errors import RobodiffError, notice

FPS = 20.0
_TRAJECTORY = re.compile(r"traj_\d+")
_PLACE = re.compile(
    r"actions(/(?P<actor>[^/]+).*)?|obs/sensor_data/(?P<camera>[^/]+)/rgb"
    r"|obs(?!/sensor_)(?P<agent>/agent)?(/extra)?(/(?P<rest>.+))?"
)
_OF_AGENT = re.compile(r"(.+?)_agent_?(\d+)")


@dataclass(frozen=True)
class _Episode:
    episode_id: int
    episode_seed: int | list[int] | None = None
    success: bool | list[bool] | None = None


@dataclass(frozen=True)
class _Sidecar:
    """What the JSON file beside the trajectories says."""

    env_info: dict[str, Any] = field(default_factory=dict)
    episodes: list[_Episode] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class ManiSkillConfig(DataConfig):
    """Trajectories of ManiSkill or RoboFactory, recorded with observations."""

    path: str
    """The HDF5 file."""

    def open(self, keys: Sequence[str] | None = None) -> Recording:  # noqa: D102
        path = self.place
        sidecar = _sidecar(path.with_suffix(".json"))
        with hdf5.opened(path) as file:
            every = sorted(filter(_TRAJECTORY.fullmatch, file), key=by_number)
            others = [name for name in file if not _TRAJECTORY.fullmatch(name)]
            numbers = episode_numbers(self.path, self.episodes, len(every))
            names = [every[number] for number in numbers]
            inner = dict.fromkeys(key for name in names for key in file[name])
            episodes = [hdf5.pieces(path, file[name], skip=("env_states",)) for name in names]
        pieces = {key: piece for episode in episodes for key, piece in episode.items()}
        if not {"actions", "obs"} <= {key.partition("/")[0] for key in pieces}:
            raise RobodiffError(f"{path}: has no observations or no actions; use replay_trajectory --obs-mode")
        fps = self.fps or control_frequency(sidecar.env_info)
        if fps is None:
            notice(f"{self.path}: does not say its rate; taken as ManiSkill's {FPS:g} frames a second (data.fps)")
        rows = {row.episode_id: row for row in sidecar.episodes}
        about = [rows.get(int(name.removeprefix("traj_"))) for name in names]
        columns = {
            "success": [row.success if row and isinstance(row.success, bool) else None for row in about],
            "seed": [row.episode_seed if row and isinstance(row.episode_seed, int) else None for row in about],
        }
        table = {name: column for name, column in columns.items() if any(value is not None for value in column)}
        attributes = {name: value for name, value in sidecar.env_info.items() if name == "env_id"}
        recording = Gathered(
            self.path,
            [without_last(episode, "actions") for episode in episodes],
            names,
            _names(pieces),
            fps or FPS,
            {"episode_index": numbers, **table},
            attributes,
        ).recording(self)
        return replace(recording, others=[*others, *(key for key in inner if key == "env_states")])


def _sidecar(path: Path) -> _Sidecar:
    try:
        return read_json(path, _Sidecar, "what it says is not used") if path.is_file() else _Sidecar()
    except RobodiffError as error:
        notice(str(error))
        return _Sidecar()


def _names(pieces: Mapping[str, Piece]) -> dict[str, str]:
    """Return by their places what arrays are called here."""
    agents = _agents(pieces)
    names: dict[str, str] = {}
    for key, piece in pieces.items():
        place = _PLACE.fullmatch(key)
        if place is None:
            continue
        agent, rest = agents.get(place["actor"]), place["rest"] or ""
        if key.startswith("actions"):
            name = ACTION
        elif camera := place["camera"]:
            own = _OF_AGENT.fullmatch(camera) if len(agents) > 1 else None
            camera, agent = (own[1], int(own[2])) if own else (camera, None)
            name = f"observation.images.{camera}"
        elif piece.kind == "vector":
            owner, _, inner = rest.partition("/")
            if place["agent"] and owner in agents:
                agent, rest = agents[owner], inner
            name = f"observation.{rest.replace('/', '_')}" if rest not in ("", "qpos") else "observation.state"
        else:
            continue
        name = name if agent is None or len(agents) == 1 else f"agents.{agent}.{name}"
        names[key] = f"observation.{key.partition('/')[2].replace('/', '_')}" if name in names.values() else name
    return names


def _agents(keys: Iterable[str]) -> dict[str | None, int]:
    """Return by their names the numbers of the agents that have actions of their own, which end their names."""
    names = sorted({key.split("/")[1] for key in keys if key.startswith("actions/")}, key=by_number)
    ends = [re.search(r"\d+$", name) for name in names]
    numbers = [int(end[0]) for end in ends if end]
    is_numbered = len({*numbers}) == len(names)
    return dict(zip(names, numbers if is_numbered else range(len(names)), strict=True))


def _recognise(path: Path) -> bool:
    if not hdf5.is_hdf5(path):
        return False
    with hdf5.opened(path) as file:
        return any(map(_TRAJECTORY.fullmatch, file))


FORMAT = Format("ManiSkill's trajectories", ManiSkillConfig, _recognise)
