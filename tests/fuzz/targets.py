"""What is fuzzed: for each reader how its valid files are made, how they are read, and what must hold of the result."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fuzz import mutations as m


@dataclass(frozen=True)
class Target:
    """A reader. Imports are within the functions, so that a configuration is parsed without torch and without zarr."""

    base: Callable[[Path], None]
    """Write valid files into a folder."""
    load: Callable[[Path], None]
    """Read the folder's files, and fail with AssertionError where what was read breaks its contract."""
    mutators: tuple[m.Mutator, ...]


def _zarr(zarr_format: int) -> Callable[[Path], None]:
    """A recording that uses several codecs, and none."""

    def base(folder: Path) -> None:
        import numcodecs
        import numpy as np
        import zarr
        from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

        random = np.random.default_rng(0)
        group: Any = zarr.open_group(folder / "demos.zarr", mode="w", zarr_format=zarr_format)  # type: ignore[arg-type]
        layout = "pusht" if zarr_format == 3 else None
        group.attrs["robodiff"] = {
            "layout": layout,
            "fps": 10.0,
            "recipe": {},
            "complete": zarr_format == 3,
            "units": {},
        }
        old = {"gzip": numcodecs.Zlib(), "zstd": numcodecs.Zstd(), "blosc": numcodecs.Blosc()}
        codecs = old if zarr_format == 2 else {"gzip": GzipCodec(), "zstd": ZstdCodec(), "blosc": BloscCodec()}
        names = ("state", "img") if layout else ("observation.state", "observation.image")
        arrays = (
            ("data", names[0], random.uniform(0, 512, (7, 5)).astype(np.float32), codecs["gzip"]),
            ("data", names[1], random.integers(0, 256, (7, 4, 6, 3)).astype(np.uint8), codecs["blosc"]),
            ("data", "action", random.uniform(0, 512, (7, 2)), None),
            ("meta", "episode_ends", np.array([3, 7]), None),
            ("meta", "seed", np.array([1, 2]), codecs["zstd"]),
        )
        for where, name, array, codec in arrays:
            group.create_array(f"{where}/{name}", data=array, chunks=(4, *array.shape[1:]), compressors=codec)

    return base


def _zip(folder: Path) -> None:
    from robodiff.data.formats.zarr_writer import pack_zip

    _zarr(3)(folder)
    pack_zip(folder / "demos.zarr", folder / "demos.zarr.zip")


def _read_zarr(name: str) -> Callable[[Path], None]:
    def load(folder: Path) -> None:
        from tests.readers import read_zarr

        _check_episodes(read_zarr(folder / name))

    return load


def _robomimic(folder: Path) -> None:
    from tests.conftest import write_robomimic_file

    write_robomimic_file(folder / "demos.hdf5", demos=2, size=4)


def _read_robomimic(folder: Path) -> None:
    from tests.readers import read_robomimic

    _check_episodes(read_robomimic(folder / "demos.hdf5"))


def _lerobot(images: str) -> Callable[[Path], None]:
    """Two episodes with a camera and numbers; with PNGs as v2.1 has them, else as v3.0."""

    def base(folder: Path) -> None:
        import numpy as np

        from robodiff.data.formats.lerobot.writer import LeRobotWriter

        random = np.random.default_rng(0)
        size = (2, 4) if images == "png" else (64, 64)
        writer = LeRobotWriter(folder / "set", 10, images)  # type: ignore[arg-type]
        for length in (3, 4):
            writer.append(
                {
                    "observation.image": random.integers(0, 256, (length, 3, *size)).astype(np.uint8),
                    "observation.state": random.normal(size=(length, 3)),
                    "action": random.normal(size=(length, 2)),
                },
                task="push",
                success=True,
            )
        writer.close()
        if images == "png":
            _make_v21(folder / "set")

    return base


def _make_v21(root: Path) -> None:
    """Put down a data set with PNGs as the older format has it."""
    import json

    import pyarrow.parquet as pq

    info, template = (
        json.loads((root / "meta/info.json").read_text()),
        "data/{episode_chunk:03d}/{episode_index}.parquet",
    )
    (root / "meta/info.json").write_text(json.dumps({**info, "codebase_version": "v2.1", "data_path": template}))
    (data,), (rows,) = root.glob("data/*/*.parquet"), root.glob("meta/episodes/*/*.parquet")
    table, lines = pq.read_table(data), []
    (root / "data/000").mkdir()
    for row in pq.read_table(rows, columns=["episode_index", "tasks", "length", "dataset_from_index"]).to_pylist():
        part = table.slice(row.pop("dataset_from_index"), row["length"])
        pq.write_table(part, root / template.format(episode_chunk=0, episode_index=row["episode_index"]))
        lines.append(json.dumps(row))
    (root / "meta/episodes.jsonl").write_text("\n".join(lines) + "\n")
    for old in (data, rows, root / "meta/tasks.parquet", root / "meta/stats.json"):
        old.unlink()


def _read_lerobot(folder: Path) -> None:
    from tests.readers import read_lerobot

    _check_episodes(read_lerobot(folder / "set"))


def _of_others(write: str, name: str) -> Callable[[Path], None]:
    """A recording of two short episodes with small cameras, as ``tests/recordings.py`` writes them."""

    def base(folder: Path) -> None:
        from tests import recordings

        episode, size = recordings.episode, recordings.SIZE
        recordings.SIZE = (4, 6)
        recordings.episode = lambda number: {key: values[: 4 + number] for key, values in episode(number).items()}
        try:
            getattr(recordings, write)(
                folder / name, episodes=2, **({"compress": True} if write == "write_aloha" else {})
            )
        finally:
            recordings.episode, recordings.SIZE = episode, size

    return base


def _open(name: str) -> Callable[[Path], None]:
    def load(folder: Path) -> None:
        from robodiff.data.recordings import open_path

        _check_episodes(open_path(str(folder / name)).read())

    return load


def _check_episodes(episodes: Any) -> None:
    import numpy as np

    ends = episodes.episode_ends
    assert ends.dtype == np.int64
    assert len(ends) > 0
    assert (np.diff(ends, prepend=0) > 0).all()
    assert np.isfinite(episodes.fps)
    assert episodes.fps > 0
    assert all(len(column) == len(ends) for column in episodes.table.values())
    assert episodes.features.keys() == episodes.arrays.keys()
    for key, array in episodes.arrays.items():
        feature = episodes.features[key]
        assert array.shape == (ends[-1], *feature.shape)
        assert 0 not in array.shape
        assert (feature.kind, array.ndim, array.dtype) in (("image", 4, np.uint8), ("vector", 2, np.float32))
        assert np.isfinite(array).all()


def _policy(folder: Path) -> None:
    import numpy as np
    import torch

    from robodiff.data.episodes import Feature
    from robodiff.data.normalize import Statistics
    from robodiff.policies.checkpoint import save_policy
    from robodiff.policies.denoisers import DiffusionConfig
    from robodiff.policies.diffusion import DiffusionPolicy

    torch.manual_seed(0)
    small = DiffusionConfig(
        down_dims=(4, 8), n_groups=2, diffusion_step_embed_dim=4, kernel_size=3, num_train_timesteps=4, horizon=4,
        n_action_steps=2, normalization={"action": {"0:1": "identity", "1:2": "limits"}},
    )  # fmt: skip
    features = {
        "observation.state": Feature("vector", (3,), "float32", unit="px", names=("x", "y", "angle")),
        "action": Feature("vector", (2,), "float32", unit="px"),
    }
    policy = DiffusionPolicy(small, features, fps=10.0)
    dims = {key: feature.shape[0] for key, feature in features.items()}
    policy.normalizer.fit({k: Statistics(np.zeros(d), np.ones(d), np.ones(d) / 2, np.ones(d)) for k, d in dims.items()})
    save_policy(policy, folder / "policy")


def _load_policy(folder: Path) -> None:
    import torch

    from robodiff.policies.checkpoint import load_policy

    policy = load_policy(folder / "policy")
    config, features = policy.config, policy.features
    observation = {k: torch.zeros(1, config.n_obs_steps, *features[k].shape) for k in policy.observation_keys}
    actions = policy.predict_chunk(observation).actions
    assert actions.shape == (1, config.horizon, *features["action"].shape)
    assert actions.dtype == torch.float32
    assert torch.isfinite(torch.tensor(policy.fps))
    assert policy.fps > 0


def _preset(folder: Path) -> None:
    from importlib.resources import files

    (folder / "config.yaml").write_bytes((files("robodiff.configs") / "pusht_keypoints.yaml").read_bytes())


def _parse(folder: Path) -> None:
    from robodiff.cli import fit

    fit.train = lambda config, *_, **__: config  # parse only
    try:
        fit.run(["--config", str(folder / "config.yaml")])
    finally:
        assert "torch" not in sys.modules
        assert m.FORBIDDEN not in sys.modules


BYTES = (m.flip_bits, m.truncate, m.insert, m.overwrite_integer)
FILES = (m.delete, m.swap, m.copy, m.link)
DOCUMENTS = (*[m.edit_document] * 6, *[m.edit_line] * 3, *[m.edit_table] * 6)
TARGETS = {
    "zarr2": Target(_zarr(2), _read_zarr("demos.zarr"), (*BYTES, *FILES, m.bomb, *[m.edit_document] * 9)),
    "zarr3": Target(_zarr(3), _read_zarr("demos.zarr"), (*BYTES, *FILES, m.bomb, *[m.edit_document] * 9)),
    "zip": Target(_zip, _read_zarr("demos.zarr.zip"), (*BYTES, m.link, m.overwrite_zip_record, *[m.edit_zip] * 9)),
    "hdf5": Target(_robomimic, _read_robomimic, (*BYTES, *FILES)),
    "aloha": Target(_of_others("write_aloha", "demos"), _open("demos"), (*BYTES, *FILES)),
    "maniskill": Target(
        _of_others("write_maniskill", "demos.h5"), _open("demos.h5"), (*BYTES, *FILES, *[m.edit_document] * 3)
    ),
    "npz": Target(_of_others("write_npz", "demos.npz"), _open("demos.npz"), (*BYTES, *FILES, *[m.edit_zip] * 6)),
    "csv": Target(_of_others("write_table", "demos.csv"), _open("demos.csv"), (*BYTES, *FILES)),
    "parquet": Target(
        _of_others("write_table", "demos.parquet"), _open("demos.parquet"), (*BYTES, *FILES, *[m.edit_table] * 6)
    ),
    "mapped": Target(_of_others("write_odd", "odd"), _open("odd"), (*BYTES, *FILES)),
    "lerobot2": Target(_lerobot("png"), _read_lerobot, (*BYTES, *FILES, *DOCUMENTS)),
    "lerobot3": Target(_lerobot("h264"), _read_lerobot, (*BYTES, *FILES, *DOCUMENTS)),
    "policy": Target(_policy, _load_policy, (*BYTES, *FILES, *[m.edit_document] * 9)),
    "config": Target(_preset, _parse, (*BYTES, m.link, m.nest_aliases, *[m.name_class] * 3, *[m.edit_document] * 9)),
}
