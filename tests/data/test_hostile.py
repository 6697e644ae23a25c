"""Files that were made to do harm: they are refused by name, before memory is taken and without leaving the file."""

import bz2
import gzip
import json
import lzma
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numcodecs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from robodiff.data.check import examine, read_sound
from robodiff.data.formats.parquet import read_parquet
from robodiff.data.formats.zarr_store import decoded_size
from robodiff.data.recordings import open_path
from robodiff.data.windows import WindowShape
from robodiff.errors import RobodiffError, notice
from robodiff.text import printable

WINDOW = WindowShape(n_obs_steps=2, horizon=16, n_action_steps=8)
bombs = pytest.mark.kind("files that decode to far more than they declare")
links = pytest.mark.kind("HDF5 files that lead out of themselves")


def zeros(size: int) -> bytes:
    return bytes(size)


def recording(path: Path, zarr_format: int, compressor: object, **more: object) -> Path:
    group = zarr.open_group(path, mode="w", zarr_format=zarr_format)  # type: ignore[arg-type]
    for key in ("state", "action"):
        codec = {"compressors": compressor} if compressor is not None else {}
        group.create_array(f"data/{key}", shape=(60, 2), chunks=(20, 2), dtype="f4", **codec, **more)[:] = 1  # type: ignore[arg-type]
    group.create_array("meta/episode_ends", data=np.array([30, 60]))
    return path


BLOSC, ZSTD = numcodecs.Blosc("zstd", 9), numcodecs.Zstd(3)
V2: list[tuple[object, Callable[[bytes], bytes]]] = [
    (BLOSC, BLOSC.encode), (ZSTD, ZSTD.encode), (numcodecs.LZ4(), numcodecs.LZ4().encode),
    (numcodecs.Zlib(9), zlib.compress), (numcodecs.GZip(9), gzip.compress), (numcodecs.BZ2(9), bz2.compress),
    (numcodecs.LZMA(), lzma.compress)]  # fmt: skip


@bombs
@pytest.mark.parametrize(("codec", "compress"), V2, ids=lambda value: getattr(value, "codec_id", ""))
def test_chunks_of_zarr_2(tmp_path: Path, codec: object, compress: Callable[[bytes], bytes]) -> None:
    path = recording(tmp_path / "d.zarr", 2, codec)
    assert len(open_path(str(path), fps=10.0).read()) == 2
    (path / "data/action/1.0").write_bytes(compress(zeros(2**24)))
    with pytest.raises(RobodiffError, match=r"data/action/1\.0 decodes to more than the 160 bytes that its array decl"):
        open_path(str(path), fps=10.0).read()


@bombs
@pytest.mark.parametrize("place", ["alone", "in a shard"])
def test_chunks_of_zarr_3(tmp_path: Path, place: str) -> None:
    path = recording(tmp_path / "d.zarr", 3, None, **({} if place == "alone" else {"shards": (60, 2)}))
    bomb = ZSTD.encode(zeros(2**24))
    if place == "alone":
        (path / "data/action/c/1/0").write_bytes(bomb)
    else:  # a shard of one chunk, and its index with a checksum
        absent = [2**64 - 1] * 4
        index = np.array([0, len(bomb), *absent], "<u8").tobytes()
        crc = bytes(numcodecs.registry.get_codec({"id": "crc32c"}).encode(index))[:4]
        (path / "data/action/c/0/0").write_bytes(bomb + index + crc)
    with pytest.raises(RobodiffError, match=r"data/action/c/\d/0 decodes to more than the 160 bytes that its array"):
        open_path(str(path), fps=10.0, accept_unwritten=True).read()


@bombs
def test_codecs_one_within_another(tmp_path: Path) -> None:
    path = recording(tmp_path / "d.zarr", 2, BLOSC, filters=[numcodecs.Zstd()])
    with pytest.raises(RobodiffError, match="data/action is encoded by blosc, of which it is not known how much"):
        open_path(str(path), fps=10.0).read()


@bombs
def test_frames_of_zstandard_that_do_not_say_their_size() -> None:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(zeros(10**6))
    data = sink.getvalue().to_pybytes()
    assert [decoded_size("zstd", data, most) for most in (1000, 10**6, 2 * 10**6)] == [1001, 10**6, 10**6]


@bombs
def test_chunks_of_hdf5(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robodiff.data.formats.hdf5.LARGEST_INFLATED", 2**20)
    path = hdf5(tmp_path / "d.hdf5")
    with h5py.File(path, "r+") as file:
        del file["data/demo_1/actions"]
        dataset = file.create_dataset("data/demo_1/actions", (40, 2), "f4", chunks=(40, 2), compression="gzip")
        dataset.id.write_direct_chunk((0, 0), zlib.compress(zeros(2**24)))
    with pytest.raises(
        RobodiffError, match="chunk at frame 0 of /data/demo_1/actions inflates to more than the 320 by"
    ):
        open_path(str(path)).read()


@bombs
def test_hdf5_that_is_compressed_twice(tmp_path: Path) -> None:
    path = hdf5(tmp_path / "d.hdf5")
    with h5py.File(path, "r+") as file:
        del file["data/demo_1/actions"]
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((40, 2))
        for _ in range(2):
            properties.set_deflate(9)
        space = h5py.h5s.create_simple((40, 2))
        dataset = h5py.h5d.create(file.id, b"data/demo_1/actions", h5py.h5t.NATIVE_FLOAT, space, properties)
        dataset.write_direct_chunk((0, 0), zlib.compress(zlib.compress(zeros(2**20))))
    with pytest.raises(RobodiffError, match="/data/demo_1/actions is compressed twice"):
        open_path(str(path)).read()


@pytest.mark.kind("links that lead out of a recording, or stand for what is not there")
def test_folders_that_are_links(tmp_path: Path) -> None:
    path = recording(tmp_path / "d.zarr", 3, None)
    expected = open_path(str(path), fps=10.0).read().arrays["action"]
    (path / "data/action/c").rename(path / "kept")
    (path / "data/action/c").symlink_to(path / "kept")
    np.testing.assert_array_equal(open_path(str(path), fps=10.0).read().arrays["action"], expected)
    (path / "kept/again").symlink_to(path / "data")  # in a circle
    np.testing.assert_array_equal(open_path(str(path), fps=10.0).read().arrays["action"], expected)
    (path / "kept/again").unlink()
    (path / "kept").rename(tmp_path / "elsewhere")
    (path / "data/action/c").unlink()
    (path / "data/action/c").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RobodiffError, match="data/action/c: leads out of the recording"):
        open_path(str(path), fps=10.0).read()


@pytest.mark.kind("links that lead out of a recording, or stand for what is not there")
@pytest.mark.parametrize("codec", [None, ZSTD])
def test_chunks_that_are_pointers_of_git_lfs(tmp_path: Path, codec: object) -> None:
    path = recording(tmp_path / "d.zarr", 2, codec)
    (path / "data/action/1.0").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    with pytest.raises(RobodiffError, match=r"data/action/1.0: is a pointer of Git LFS.*git lfs pull"):
        open_path(str(path), fps=10.0).read()


def hdf5(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        for number in range(4):
            random = np.random.default_rng(number)
            file[f"data/demo_{number}/actions"] = random.normal(size=(40, 2)).cumsum(0).astype("f4")
            file[f"data/demo_{number}/obs/eef"] = random.normal(size=(40, 3)).cumsum(0).astype("f4")
        file["data"].attrs["env_args"] = json.dumps({"env_kwargs": {"control_freq": 20}})
    return path


def external_link(file: h5py.File, pipe: Path) -> None:
    file["data/demo_1/obs/eef"] = h5py.ExternalLink(str(pipe), "/x")


def external_group(file: h5py.File, pipe: Path) -> None:
    file["data/demo_9"] = h5py.ExternalLink(str(pipe), "/x")


def soft_link_through_an_external_one(file: h5py.File, pipe: Path) -> None:
    file["out"] = h5py.ExternalLink(str(pipe), "/")
    file["data/demo_1/obs/eef"] = h5py.SoftLink("/out/x")


def external_storage(file: h5py.File, pipe: Path) -> None:
    file.create_dataset("data/demo_1/obs/eef", (40, 3), "f4", external=[(str(pipe), 0, h5py.h5f.UNLIMITED)])


def virtual(file: h5py.File, pipe: Path) -> None:
    """Of no fixed length: even the shape is that of the other file."""
    layout = h5py.VirtualLayout((40, 3), "f4", maxshape=(None, 3))
    layout[: h5py.h5s.UNLIMITED] = h5py.VirtualSource(str(pipe), "x", (40, 3), maxshape=(None, 3))[
        : h5py.h5s.UNLIMITED]  # fmt: skip
    file.create_virtual_dataset("data/demo_1/obs/eef", layout)


@links
@pytest.mark.parametrize(
    "lead_out", [external_link, external_group, soft_link_through_an_external_one, external_storage, virtual]
)
def test_hdf5_that_leads_out_of_itself(tmp_path: Path, lead_out: Callable[[h5py.File, Path], None]) -> None:
    """To a pipe, from which a read would not return."""
    path = hdf5(tmp_path / "d.hdf5")
    os.mkfifo(pipe := tmp_path / "pipe")
    with h5py.File(path, "r+") as file:
        del file["data/demo_1/obs/eef"]
        lead_out(file, pipe)
    with pytest.raises(RobodiffError, match=r"(demo_\d|out).* (is a link to another file|lies in other files); copy"):
        read_sound(open_path(str(path)), None)
    assert "fatal" in {finding.severity for finding in examine(open_path(str(path)), WINDOW)}


@pytest.mark.kind("a name that acts instead of being shown")
def test_names_do_not_reach_the_terminal_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from robodiff.cli.main import main

    path = tmp_path / "d.hdf5"
    with h5py.File(hdf5(path), "r+") as file:
        for number in range(4):
            file[f"data/demo_{number}/obs/a\x1b]0;owned\x07\x9b2J"] = np.ones((40, 2), "f4")
            file[f"data/demo_{number}"].attrs["operator"] = "\x1b[31mred"
    notice.cache_clear()
    for arguments in (["data", "info", str(path)], ["data", "check", str(path)]):
        main(arguments)
    output = capsys.readouterr()
    assert not any(c in output.out + output.err for c in "\x1b\x07\x9b")
    assert r"a\x1b]0;owned\x07\x9b2J" in output.out
    assert printable("\u202ename \ud800 1\n\t2") == "\\u202ename \\ud800 1\n\t2"


@bombs
@pytest.mark.parametrize("kind", ["numbers", "lists", "texts"])
def test_parquet_that_repeats_a_value(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run lengths hold it in a few bytes, however many rows there are."""
    rows = 20_000
    column = {"numbers": pa.array(np.ones(50 * rows)), "texts": pa.array(["x" * 1000] * rows),
              "lists": pa.FixedSizeListArray.from_arrays(pa.array(np.ones(50 * rows)), 50)}[kind]  # fmt: skip
    path = tmp_path / "d.parquet"
    pq.write_table(pa.table({"state": column, "action": np.arange(len(column)) % 7}), path)
    assert path.stat().st_size < 200_000
    monkeypatch.setattr("robodiff.data.formats.pieces.memory_free", lambda: 3 * 4_000_000)
    with pytest.raises(RobodiffError, match=r"d\.parquet takes 0\.0 GB, more than memory has room for"):
        read_parquet(path)
    if kind != "numbers":
        assert read_parquet(path, {"action"}.__contains__).num_rows == rows


def test_parquet_is_read_as_it_is(tmp_path: Path) -> None:
    table = pa.table({"a": [1.5, None, 2.0], "b": [b"x", None, b"z"], "c": [[1, 2], [3, 4], None]})
    pq.write_table(table, tmp_path / "d.parquet", row_group_size=2)
    assert read_parquet(tmp_path / "d.parquet").equals(table)
    assert read_parquet(tmp_path / "d.parquet", {"c", "b"}.__contains__).equals(table.select(["b", "c"]))
