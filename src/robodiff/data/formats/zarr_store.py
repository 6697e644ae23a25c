"""Zarr stores, read with care: which chunks were written, and no chunk decodes to more than its array declares."""

import bz2
import gzip
import io
import json
import lzma
import math
import os
import warnings
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from zarr.abc.store import RangeByteRequest, SuffixByteRequest
from zarr.storage import LocalStore, WrapperStore, ZipStore

from robodiff.data.arrays import Gap
from robodiff.data.formats.pieces import check_room, inside
from robodiff.errors import RobodiffError
from robodiff.files import check_pointer, reading

WHAT = "a zarr group (a folder or a .zip)"
_COMPRESSORS = ("blosc", "lz4", "zstd", "zlib", "gzip", "bz2", "lzma")
"""Codecs that may make of few bytes any number of them."""
_OTHERS = ("bytes", "crc32c", "crc32", "adler32", "fletcher32", "shuffle", "transpose", "delta", "bitround")
_WIDENING = ("fixedscaleoffset", "quantize", "astype", "cast_value", "packbits", "vlen-utf8", "vlen-bytes", "json2")
"""Codecs that do not, and those that may make each number up to eight times as wide."""
_ABSENT = 2**64 - 1
"""In the index of a shard, where a chunk would be that was not written."""


@dataclass(frozen=True)
class Chunks:
    """How the chunks of an array are encoded."""

    size: int
    """Bytes of one that is decoded; of one within a shard, where there are shards."""
    compressor: str | None
    unknown: str
    """A codec of which it is not known how much it makes of a chunk; empty where there is none."""
    shard: tuple[int, ...]
    """Chunks in a shard along each dimension; empty where there are no shards."""
    index_at_end: bool
    index_end: int
    """Bytes of a checksum after the index."""
    index_type: str
    """Of its numbers."""

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> "Chunks | None":
        """Return what ``.zarray`` or ``zarr.json`` says; None where it is that of a group."""
        if metadata.get("node_type", "array") != "array":
            return None
        if metadata["zarr_format"] == 2:
            shape, dtype = metadata["chunks"], metadata["dtype"]
            codecs = [*(metadata.get("filters") or ()), *filter(None, [metadata.get("compressor")])]
        else:
            shape, dtype = metadata["chunk_grid"]["configuration"]["chunk_shape"], metadata["data_type"]
            codecs = metadata["codecs"]
        shard, index, others = (), {}, []
        for sharding in [codec["configuration"] for codec in codecs if codec.get("name") == "sharding_indexed"]:
            index, others = sharding, [codec["name"] for codec in codecs if codec["name"] != "sharding_indexed"]
            shard = tuple(outer // inner for outer, inner in zip(shape, sharding["chunk_shape"], strict=True))
            shape, codecs = sharding["chunk_shape"], sharding["codecs"]
        encoding = {codec["name"]: codec.get("configuration") or {} for codec in index.get("index_codecs", ())}
        others += [name for name in encoding if name not in ("bytes", "crc32c")]
        names = [str(codec.get("id") or codec.get("name")).removeprefix("numcodecs.") for codec in codecs]
        compressors = [name for name in names if name in _COMPRESSORS]
        unknown = [name for name in names if name not in (*_COMPRESSORS, *_OTHERS, *_WIDENING)]
        unknown += [*others, *compressors[1:]]
        try:
            itemsize = np.dtype(dtype).itemsize * (8 if {*names} & {*_WIDENING} else 1)
        except TypeError:  # texts of zarr 3
            itemsize = 2**10
        size, first = math.prod(shape) * itemsize, next(iter(compressors), None)
        at_end = index.get("index_location", "end") == "end"
        order = ">" if encoding.get("bytes", {}).get("endian") == "big" else "<"
        return cls(size, first, next(iter(unknown), ""), shard, at_end, 4 * ("crc32c" in encoding), f"{order}u8")

    def places(self, shard: bytes) -> np.ndarray:
        """Return the first byte and the length of each chunk in a shard, (chunks, 2) uint64, as its index says."""
        size = 16 * math.prod(self.shard)
        start = len(shard) - size - self.index_end if self.index_at_end else 0
        return np.frombuffer(shard[start : start + size], self.index_type).reshape(-1, 2)


class BoundedStore(WrapperStore[Any]):
    """A store whose chunks decode to what their arrays declare, or are refused before any memory is taken."""

    def __init__(self, store: Any, path: Path = Path(), names: Collection[str] = ()) -> None:
        super().__init__(store)
        self.path, self.names = path, names
        self.chunks: dict[str, Chunks] = {}

    def _with_store(self, store: Any) -> "BoundedStore":
        return type(self)(store, self.path, self.names)

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        """Return bytes of a file, checked."""
        value = await self._store.get(key, prototype, byte_range)
        folder, _, name = key.rpartition("/")
        if value is None:
            return None
        if name in (".zarray", "zarr.json"):
            if chunks := Chunks.of(json.loads(value.to_bytes())):
                self.chunks[folder] = chunks
        elif not name.startswith(".z") and (owner := self._owner(key)) is not None:
            self._check(key, self.chunks[owner], value, byte_range)
        return value

    def _owner(self, key: str) -> str | None:
        """Return the array of which a file is a chunk."""
        return next((path for path in self.chunks if key.startswith(f"{path}/" if path else "")), None)

    def _check(self, key: str, chunks: Chunks, value: Any, byte_range: Any) -> None:
        check_pointer(self.path / key, value[:100].to_bytes())
        if chunks.unknown:
            codec = f"cannot tell how much {chunks.unknown} makes of {key}"
            raise RobodiffError(f"{self.path}: {codec}; write it again with one of {', '.join(_COMPRESSORS)}")
        if chunks.compressor is None:
            return
        data = value.to_bytes()
        for part in [data] if not chunks.shard else _in_shard(chunks, data, byte_range):
            if (size := decoded_size(chunks.compressor, part, chunks.size)) > chunks.size:
                declared = f"decodes to more than the {chunks.size:,} bytes that its array declares"
                raise RobodiffError(
                    f"{self.path}: {key} {declared}{f', {size:,}' * (size > chunks.size + 1)}; copy it again"
                )


def _in_shard(chunks: Chunks, data: bytes, byte_range: Any) -> list[bytes]:
    """Return the chunks in what was read of a shard: all of it, one chunk, or the index."""
    if byte_range is None:
        return [data[first : first + length] for first, length in chunks.places(data).tolist() if first != _ABSENT]
    is_index = isinstance(byte_range, SuffixByteRequest) or (
        isinstance(byte_range, RangeByteRequest) and byte_range.start == 0 and not chunks.index_at_end
    )
    return [] if is_index else [data]


def decoded_size(codec: str, data: bytes, most: int) -> int:
    """Return how many bytes a chunk decodes to: what its head says, or ``most + 1`` where it is more than ``most``."""
    if codec == "blosc":
        return int.from_bytes(data[4:8], "little")
    if codec == "lz4":  # as numcodecs writes it
        return int.from_bytes(data[:4], "little")
    if codec == "zstd" and (size := _zstd_size(data)) is not None:
        return size
    try:
        if codec == "zlib":
            return len(zlib.decompressobj().decompress(data, most + 1))
        with _stream(codec, data) as stream:
            return len(stream.read(most + 1))
    except (OSError, EOFError, zlib.error, lzma.LZMAError):  # damaged, which its decoder says
        return 0


def _zstd_size(data: bytes) -> int | None:
    """Return the content size in the head of a Zstandard frame (RFC 8878, 3.1.1.1); None where it does not say it."""
    flags = data[4] if len(data) > 4 else 0
    is_single, width = flags >> 5 & 1, (flags >> 5 & 1, 2, 4, 8)[flags >> 6]
    start = 6 - is_single + (0, 1, 2, 4)[flags & 3]
    return int.from_bytes(data[start : start + width], "little") + 256 * (width == 2) if width else None


def _stream(codec: str, data: bytes) -> Any:
    """Return a file that decodes as it is read."""
    if codec == "zstd":
        import pyarrow as pa

        return pa.CompressedInputStream(pa.BufferReader(data), "zstd")
    return {"gzip": gzip.open, "bz2": bz2.open, "lzma": lzma.open}[codec](io.BytesIO(data))


@contextmanager
def opening(path: Path) -> Iterator[BoundedStore]:
    """Open a folder or a .zip; name it in what goes wrong, and refuse what has no end or takes more than memory holds.

    zarr reads every file as a whole.
    """
    names = set()
    with reading(path, WHAT), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # files beside the arrays, codecs on their way into the zarr 3 standard
        if path.is_file():
            with zipfile.ZipFile(path) as archive:
                for member in archive.infolist():
                    check_room(f"{path}: {member.filename}", (member.file_size,))
                    names.add(member.filename)
        names |= {*_files_in(path)} if path.is_dir() else set()
        store = ZipStore(path, mode="r") if path.is_file() else LocalStore(path, read_only=True)
        yield BoundedStore(store, path, names)


def _files_in(root: Path) -> Iterator[str]:
    """Yield the names of the files in a folder, and those in its folders; links may not lead out of it."""
    folders = [("", (os.path.realpath(root),))]
    while folders:
        prefix, above = folders.pop()
        with os.scandir(root / prefix) as entries:  # not Path: there may be a million chunks
            for entry in entries:
                if entry.is_symlink() and (entry.is_dir() or entry.is_file()):
                    inside(root, Path(entry.path))
                if entry.is_dir():
                    place = os.path.realpath(entry.path)
                    folders += [(f"{prefix}{entry.name}/", (*above, place))] if place not in above else []
                elif entry.is_file():
                    yield f"{prefix}{entry.name}"
                elif os.path.lexists(entry.path):  # a writer's temporaries come and go
                    raise RobodiffError(f"{entry.path}: is neither a file nor a folder; remove it")


def gaps_in(store: BoundedStore, array: Any) -> list[Gap]:
    """Return the frames of an array of which some chunk is absent and which therefore read as its fill value."""
    outer = array.shards or array.chunks
    rows: dict[int, int] = {}  # of a chunk, or of one in a shard: where it ends, by where it starts
    for place in product(*(range(-(-length // size)) for length, size in zip(array.shape, outer, strict=True))):
        key = "/".join(filter(None, (array.path, array.metadata.encode_chunk_key(place))))
        first = place[0] * outer[0]
        if key not in store.names:
            rows[first] = first + outer[0]
        elif array.shards:
            chunks = store.chunks[array.path]
            absent = chunks.places(_file(store.path, key))[:, 0].reshape(chunks.shard) == _ABSENT
            for inner in np.argwhere(absent):
                start = (np.multiply(place, outer) + inner * array.chunks).tolist()
                if all(at < length for at, length in zip(start, array.shape, strict=True)):  # others are never written
                    rows.setdefault(start[0], start[0] + array.chunks[0])
    gaps: list[Gap] = []
    for first, end in sorted(rows.items()):
        end = min(end, array.shape[0])
        if gaps and first <= gaps[-1][1]:
            gaps[-1] = (gaps[-1][0], max(end, gaps[-1][1]))
        else:
            gaps.append((first, end))
    return gaps


def _file(path: Path, key: str) -> bytes:
    if path.is_dir():
        return (path / key).read_bytes()
    with zipfile.ZipFile(path) as archive:
        return archive.read(key)
