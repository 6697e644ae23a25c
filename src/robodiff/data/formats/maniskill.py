"""ManiSkill's and RoboFactory's trajectories: an HDF5 file with ``traj_<n>``, and a JSON file of the same name.

There is one observation more than actions, which is dropped. ``obs/agent/qpos`` is ``observation.state`` here, cameras
``obs/sensor_data/<x>/rgb`` are ``observation.images.<x>``. Of several agents, numbered by the end of their names, keys
have ``agents.<i>.`` before them; what is no agent's is shared by all.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec

from robodiff.data.episodes import ACTION, episode_numbers
from robodiff.data.formats import hdf5
from robodiff.data.formats.pieces import Gathered, Piece, by_number
from robodiff.data.recordings import DataConfig, Format, Recording
from robodiff.documents import read_json
from robodiff.errors import RobodiffError, notice

FPS = 20.0
_TRAJECTORY = re.compile(r"traj_\d+")
_CAMERA = re.compile(r"obs/sensor_data/([^/]+)/rgb")
_OF_AGENT = re.compile(r"(.+?)_agent_?(\d+)")


@dataclass(frozen=True)
class _SimConfig:
    control_freq: Annotated[float, msgspec.Meta(gt=0)] | None = None


@dataclass(frozen=True)
class _EnvKwargs:
    sim_config: _SimConfig = field(default_factory=_SimConfig)


@dataclass(frozen=True)
class _EnvInfo:
    env_id: str | None = None
    control_freq: Annotated[float, msgspec.Meta(gt=0)] | None = None
    env_kwargs: _EnvKwargs = field(default_factory=_EnvKwargs)


@dataclass(frozen=True)
class _Episode:
    episode_id: int
    episode_seed: int | list[int] | None = None
    success: bool | list[bool] | None = None


@dataclass(frozen=True)
class _Sidecar:
    """What the JSON file beside the trajectories says."""

    env_info: _EnvInfo = field(default_factory=_EnvInfo)
    episodes: list[_Episode] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class ManiSkillConfig(DataConfig):
    """Trajectories of ManiSkill or RoboFactory, recorded with observations."""

    path: str
    """The HDF5 file."""

    def open(self, keys: Sequence[str] | None = None) -> Recording:  # noqa: D102
        path = Path(self.path).expanduser()
        sidecar = _sidecar(path.with_suffix(".json"))
        with hdf5.opened(path) as file:
            every = sorted(filter(_TRAJECTORY.fullmatch, file), key=by_number)
            numbers = episode_numbers(self.path, self.episodes, len(every))
            names = [every[number] for number in numbers]
            episodes = [_cut(path, name, hdf5.pieces(path, file[name], skip=("env_states",))) for name in names]
        info = sidecar.env_info
        fps = self.fps or info.control_freq or info.env_kwargs.sim_config.control_freq
        if fps is None:
            notice(f"{self.path}: does not say its rate; taken as ManiSkill's {FPS:g} frames a second (data.fps)")
        table: dict[str, list[Any]] = {"episode_index": numbers}
        rows = {row.episode_id: row for row in sidecar.episodes}
        about = [rows.get(int(name.removeprefix("traj_"))) for name in names]
        for column, values in (("success", [row and row.success for row in about]),
                               ("seed", [row and row.episode_seed for row in about])):  # fmt: skip
            if any(isinstance(value, bool | int) for value in values):
                table[column] = [value if isinstance(value, bool | int) else None for value in values]
        attributes = {} if info.env_id is None else {"env_id": info.env_id}
        pieces = {key: piece for episode in episodes for key, piece in episode.items()}
        return Gathered(self.path, episodes, names, _names(pieces), fps or FPS, table, attributes).recording(self)


def _sidecar(path: Path) -> _Sidecar:
    if not path.is_file():
        return _Sidecar()
    try:
        return read_json(path, _Sidecar, "")
    except RobodiffError as error:
        notice(f"{str(error).rstrip('; ')}; what it says is not used")
        return _Sidecar()


def _cut(path: Path, name: str, pieces: dict[str, Piece]) -> dict[str, Piece]:
    """Drop the last observation, which has no action."""
    actions = [piece for key, piece in pieces.items() if key.startswith("actions")]
    if not actions or not any(key.startswith("obs") for key in pieces):
        raise RobodiffError(f"{path}: {name} has no {'observations' if actions else 'actions'}; replay them with "
                            "ManiSkill's replay_trajectory and --obs-mode rgb or state")  # fmt: skip
    frames = actions[0].frames
    return {
        key: piece.until(frames) if key.startswith("obs") and piece.frames == frames + 1 else piece
        for key, piece in pieces.items()
    }


def _names(pieces: Mapping[str, Piece]) -> dict[str, str]:
    """Return by their places what arrays are called here."""
    agents = _agents(pieces)
    names: dict[str, str] = {}
    for key, piece in pieces.items():
        parts = key.split("/")
        agent = agents.get(parts[1] if parts[0] == "actions" else parts[2] if parts[:2] == ["obs", "agent"] else "") \
            if len(parts) > 1 else None  # fmt: skip
        if parts[0] == "actions":
            name = ACTION
        elif camera := _CAMERA.fullmatch(key):
            own = _OF_AGENT.fullmatch(camera[1])
            agent = int(own[2]) if own and len(agents) > 1 else None
            name = f"observation.images.{own[1] if own and agent is not None else camera[1]}"
        elif parts[0] != "obs" or piece.kind != "vector" or parts[1:2] in (["sensor_data"], ["sensor_param"]):
            continue
        else:
            rest = parts[3 if agent is not None else 2 if parts[1:2] in (["agent"], ["extra"]) else 1 :]
            name = "observation.state" if rest in ([], ["qpos"]) else f"observation.{'_'.join(rest)}"
        name = name if agent is None or len(agents) == 1 else f"agents.{agent}.{name}"
        names[key] = f"observation.{'_'.join(parts[1:])}" if name in names.values() else name
    return names


def _agents(pieces: Iterable[str]) -> dict[str, int]:
    """Return by their names the numbers of the agents that have actions of their own, which end their names."""
    names = sorted({key.split("/")[1] for key in pieces if key.startswith("actions/")}, key=by_number)
    ends = [re.search(r"\d+$", name) for name in names]
    numbers = {int(end[0]) for end in ends if end}
    return {name: int(end[0]) if end and len(numbers) == len(names) else place
            for place, (name, end) in enumerate(zip(names, ends, strict=True))}  # fmt: skip


def _recognise(path: Path) -> bool:
    if not path.is_file() or not hdf5.is_hdf5(path):
        return False
    with hdf5.opened(path) as file:
        return any(map(_TRAJECTORY.fullmatch, file))


FORMAT = Format("ManiSkill's trajectories", ManiSkillConfig, _recognise)
