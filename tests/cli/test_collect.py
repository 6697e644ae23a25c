"""``robodiff collect``: what is on disk after it ends, is killed, or goes on; the demonstrations in the package."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from robodiff.data.config import BUILTIN
from robodiff.data.formats.zarr import read_zarr
from robodiff.envs.collect import collect
from robodiff.envs.pusht.env import render_observation

Run = Callable[..., tuple[int, str, str]]


def test_collects_goes_on_and_packs(robodiff: Run, tmp_path: Path) -> None:
    code, out, err = robodiff("collect", "pusht", "--episodes", 1, "--out", tmp_path / "d.zarr", "--seed", 3)
    assert (code, err) == (0, "")
    assert "1 demonstrations" in out
    code, out, _ = robodiff("collect", "pusht", "--episodes", 2, "--out", tmp_path / "d.zarr", "--seed", 3)
    assert code == 0
    assert "has 1 episodes already; going on" in out
    code, out, _ = robodiff("collect", "pusht", "--episodes", 2, "--out", tmp_path / "whole.zarr.zip", "--seed", 3)
    assert code == 0
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["d.zarr", "whole.zarr.zip"]
    parts, whole = read_zarr(tmp_path / "d.zarr"), read_zarr(tmp_path / "whole.zarr.zip")
    for key, array in whole.arrays.items():
        np.testing.assert_array_equal(parts.arrays[key], array)
    assert whole.table["seed"] == parts.table["seed"]
    assert all(whole.table["success"])
    assert whole.fps == 10


def test_images_are_rendered_from_the_states(robodiff: Run, tmp_path: Path) -> None:
    assert robodiff("collect", "pusht", "--episodes", 1, "--out", tmp_path / "d.zarr", "--images", "true")[0] == 0
    images = read_zarr(tmp_path / "d.zarr").arrays["observation.image"]
    demonstration = next(iter(collect("pusht", 1)))
    assert images.shape[1:] == (3, 96, 96)
    np.testing.assert_array_equal(images[5], render_observation(demonstration["state"][5]))


def test_a_killed_collection_keeps_what_it_had(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "robodiff",
        "collect",
        "pusht",
        "--episodes",
        "500",
        "--out",
        str(tmp_path / "d.zarr"),
    ]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    ends = tmp_path / "d.zarr" / "meta" / "episode_ends" / "zarr.json"
    while not ends.exists() or json.loads(ends.read_text())["shape"][0] < 3:  # at least two are whole
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = read_zarr(tmp_path / "d.zarr")
    assert len(kept) >= 2
    first = next(iter(collect("pusht", 1)))
    np.testing.assert_array_equal(kept.arrays["action"][: kept.episode_ends[0]], first["action"])


def test_refused(robodiff: Run, tmp_path: Path) -> None:
    out = tmp_path / "d.zarr"
    for arguments, message in (
        (("pushy", "--episodes", 1, "--out", out), "Did you mean 'pusht'?"),
        (("pusht", "--episodes", 0, "--out", out), "episodes must be at least 1, found 0"),
        (("pusht", "--out", out), "episodes"),
        (("pusht", "--episodes", 1), "out"),
        (("pusht", "--episodes", 1, "--out", out, "--worker", 2), "Did you mean 'workers'?"),
    ):
        code, _, err = robodiff("collect", *arguments)
        assert (code, "Traceback" in err) == (2, False), err
        assert message in err
        assert not out.exists()
    assert robodiff("collect", "pusht", "--episodes", 1, "--out", out)[0] == 0
    code, _, err = robodiff("collect", "pusht", "--episodes", 2, "--out", out, "--corrections", 0.5)
    assert code == 1
    assert "holds another recording" in err


def test_what_others_wrote_is_not_touched(robodiff: Run, tmp_path: Path) -> None:
    others = tmp_path / "stuff"
    others.mkdir()
    (others / "notes.txt").write_text("mine")
    (others / "movie.partial").write_text("half")
    code, _, err = robodiff("collect", "pusht", "--episodes", 1, "--out", others)
    assert (code, "holds something that robodiff did not write" in err) == (1, True), err
    assert robodiff("collect", "pusht", "--episodes", 1, "--out", tmp_path / "stuff.zip")[0] == 0
    assert sorted(path.name for path in others.iterdir()) == ["movie.partial", "notes.txt"]
    whole = tmp_path / "whole.zarr"
    assert robodiff("collect", "pusht", "--episodes", 1, "--out", whole)[0] == 0
    before = (whole / "zarr.json").read_bytes()
    assert robodiff("collect", "pusht", "--episodes", 1, "--out", whole, "--seed", 9)[0] == 1
    assert (whole / "zarr.json").read_bytes() == before


def test_the_demonstrations_in_the_package_can_be_made_again() -> None:
    path = BUILTIN["pusht"]
    assert path.stat().st_size < 1_000_000
    built_in = read_zarr(path)
    assert 280 <= len(built_in) <= 350
    import zarr

    with zarr.storage.ZipStore(path, mode="r") as store:
        recipe = dict(zarr.open_group(store, mode="r").attrs["robodiff"]["recipe"])  # type: ignore[index, call-overload]
    seed = built_in.table["seed"][7]
    again = next(iter(collect(recipe["env"], 1, seed, corrections=recipe["corrections"])))
    frames = built_in.slice(7)
    assert again["seed"] == seed
    assert len(again["action"]) == frames.stop - frames.start
    # exact with the wheels that made them; others may round a contact differently
    np.testing.assert_allclose(built_in.arrays["action"][frames], again["action"], atol=1e-3)
    np.testing.assert_allclose(built_in.arrays["observation.state"][frames], again["state"][:, :2], atol=1e-3)
