"""Read a recording in a call, as tests do: keys are all that is read, ``action`` only where it is named."""

from pathlib import Path
from typing import Any

from robodiff.data.episodes import Episodes
from robodiff.data.formats.lerobot import LeRobotConfig
from robodiff.data.formats.robomimic import RobomimicConfig
from robodiff.data.formats.zarr import ZarrConfig
from robodiff.data.recordings import DataConfig


def read(config: DataConfig, keys: list[str] | None = None) -> Episodes:
    return config.load(config.open(keys), keys)


def read_zarr(path: Path, layout: str | None = None, keys: list[str] | None = None, **options: Any) -> Episodes:
    return read(ZarrConfig(path=str(path), layout=layout, **options), keys)


def read_lerobot(root: Path, keys: list[str] | None = None, **options: Any) -> Episodes:
    return read(LeRobotConfig(root=str(root), **options), keys)


def read_robomimic(path: Path, keys: list[str] | None = None, **options: Any) -> Episodes:
    return read(RobomimicConfig(path=str(path), **options), keys)
