"""What can happen to files: each mutator changes a folder of files, held in memory, in place and at random.

Those for bytes and for files know nothing of formats. ``edit_document`` changes what a JSON or YAML document says and
leaves it well-formed, so that it gets past the parser; ``edit_line`` and ``edit_table`` do the same to JSON lines and
to parquet files, and ``edit_zip`` does any of this inside an archive. A mutator that finds nothing to act on leaves all
as it is.
"""

import gzip
import io
import json
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import deepcopy
from functools import wraps
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import yaml

Files = dict[str, bytes | Path]
"""Path in the folder -> content; a ``Path`` is where a symbolic link leads."""
Mutator = Callable[[Files, Random], None]
OfContent = Callable[[str, bytes, Random], bytes]
"""(name of the file, content) to content."""

INTEGERS = (0, 1, -1, 2, 3, 4, 5, 6, 7, 8, 64, 255, 2**16, 10**6, 2**31, 2**33, 2**40, 2**63 - 1, -(2**63), 10**30)
TEMPLATES = (
    "data/{}.parquet", "data/{0.real}.parquet", "{episode_index.__class__}", "{chunk_index:9999999999d}", "{", "../..",
    "{episode_index:{file_index}}", "/etc/passwd", "data/../../input/{file_index}.parquet", "{video_key!r}", "{index}",
)  # fmt: skip
NUMBERS = (*INTEGERS, 10**400, 0.5, -0.0, 1e-320, 1e38, 1e308, float("nan"), float("inf"), float("-inf"))
WORDS = (
    "", "\0", "é\ud800", "/", ".", "../../evil", "x", "NaN", "Infinity", "0x7fc00000", "1e9", "null", "data", "action",
    "state", "img", "pusht", "observation.state", "vector", "image", "limits", "mean_std", "identity", "0:2", "1:0",
    "<f4", ">f8", "<f2", "<i8", "|u1", "|b1", "<c16", "|O", "|S3", "<U4", "|V8", "<M8[ns]", "bool", "int8", "int64",
    "uint64", "float16", "float64", "complex128", "string", "r16", "numpy.datetime64", "variable_length_bytes",
    "F64", "F16", "BF16", "I64", "BOOL", "U8", "F8_E4M3", "C64", "C", "F", "big", "v2.1", "v3.0", "video", *TEMPLATES,
)  # fmt: skip
CODECS = tuple(
    {"id": name, "name": name, "configuration": {}}
    for name in (
        "pickle", "json2", "msgpack2", "vlen-utf8", "vlen-array", "zlib", "gzip", "lzma", "bz2", "lz4", "zstd", "blosc",
        "delta", "shuffle", "fletcher32", "crc32c", "bytes", "transpose", "sharding_indexed", "packbits", "none",
    )
)  # fmt: skip
DEEP = "<many brackets>"
STRUCTURES = (
    None, True, False, [], {}, [[]], [None], [1, 2, 3], [7, 2], [7, 5], [0, 0], ["a", "b"], {"a": 1}, DEEP,
    {"0:2": "identity"}, [["a", "<f4"], ["b", "<i8"]], [{"id": "vlen-utf8"}, {"id": "pickle"}],
)  # fmt: skip
FORBIDDEN = "this"
"""A module that nothing imports, and that can be seen to have been imported."""
CLASS_KEYS = (
    "class_path", "init_args", "dict_kwargs", "model", "data", "trainer", "config", "model.class_path", "model+",
    "data.init_args.num_workers", "init_args.class_path", "normalization", "key_map",
)  # fmt: skip
CLASS_OPTIONS = (
    ("LeRobotConfig", "root", "num_workers"), ("LeRobotConfig", "root", "image_transforms"),
    ("LeRobotConfig", "root", "delta_timestamps"), ("RobomimicConfig", "path", "shape_meta"),
    ("RobomimicConfig", "path", "shape_meta.obs"),
)  # fmt: skip
TOKENS = (
    *(b"\0", b"\xff\xfe", b"\n", b"\t", b"- ", b"<<: ", b"? ", b"---\n", b"&a [*a]", b"!!binary x", b"%YAML 9"),
    *(b"!!python/object/apply:os.abort []", b"cos\nabort\n(tR.", b"PK\3\4", b"PK\1\2", b"PK\5\6", b"\x1f\x8b"),
    *(b"\x28\xb5\x2f\xfd", *b'{ } [ ] " , : NaN - 1e999 *b'.split()),
)


def of_one_file(*suffixes: str) -> Callable[[OfContent], Mutator]:
    """Make a mutator of what changes the content of one file; of files with these suffixes, or of any."""

    def decorate(change: OfContent) -> Mutator:
        @wraps(change)
        def mutate(files: Files, random: Random) -> None:
            contents = {name: content for name, content in sorted(files.items()) if isinstance(content, bytes)}
            names = [name for name, content in contents.items() if content and name.endswith(suffixes or "")]
            if names:
                name = random.choice(names)
                files[name] = change(name, contents[name], random)

        return mutate

    return decorate


# Bytes


@of_one_file()
def flip_bits(name: str, content: bytes, random: Random) -> bytes:
    flipped = bytearray(content)
    for _ in range(random.choice((1, 1, 4, 32))):
        flipped[random.randrange(len(flipped))] ^= 1 << random.randrange(8)
    return bytes(flipped)


@of_one_file()
def truncate(name: str, content: bytes, random: Random) -> bytes:
    return content[: _place(content, random)]


@of_one_file()
def insert(name: str, content: bytes, random: Random) -> bytes:
    place = _place(content, random)
    added = random.choice((*TOKENS, random.randbytes(random.randrange(1, 64)), content[place : place + 64]))
    return content[:place] + added + content[place + random.choice((0, 0, len(added), 64)) :]


@of_one_file()
def overwrite_integer(name: str, content: bytes, random: Random) -> bytes:
    """Put a strange integer where a header may keep a length or an offset."""
    size, place = random.choice((2, 4, 8)), _place(content, random)
    added = (random.choice(INTEGERS) % 256**size).to_bytes(size, random.choice(("little", "big")))
    return content[:place] + added + content[place + size :]


@of_one_file()
def bomb(name: str, content: bytes, random: Random) -> bytes:
    """64 kB that unpack to 64 MB."""
    return gzip.compress(bytes(2**20), mtime=0) * 64


def _place(content: bytes, random: Random) -> int:
    """A place within the content: as often as not in its head, where headers are."""
    return random.randrange(min(len(content), random.choice((16, 64, len(content)))))


# Files


def delete(files: Files, random: Random) -> None:
    if files:
        del files[random.choice(sorted(files))]


def swap(files: Files, random: Random) -> None:
    if files:
        a, b = random.choice(sorted(files)), random.choice(sorted(files))
        files[a], files[b] = files[b], files[a]


def copy(files: Files, random: Random) -> None:
    """Put a file's content under another name: a new one, another file's, or that of its own folder."""
    if files:
        name = random.choice(sorted(files))
        folder = str(Path(name).parent)
        names = ("new", f"{folder}/new", f"{folder}/new/zarr.json", folder, *sorted(files))
        files[random.choice(names)] = files[name]


def link(files: Files, random: Random) -> None:
    """Replace a file by a symbolic link: to another, to itself, to a folder, to nothing, to a device."""
    if files:
        name = random.choice(sorted(files))
        other = Path(*[".."] * name.count("/"), random.choice(sorted(files)))
        files[name] = Path(random.choice((str(other), Path(name).name, "..", ".", "absent", "/dev/null", "/dev/zero")))


# Documents


@of_one_file(".json", ".zarray", ".zgroup", ".zattrs", ".yaml", ".safetensors")
def edit_document(name: str, content: bytes, random: Random) -> bytes:
    """Change values, keys and structure of JSON, of YAML, or of the header of safetensors."""
    header_end = 8 + int.from_bytes(content[:8], "little") if name.endswith(".safetensors") else 0
    text = content[8:header_end] if header_end else content
    try:
        tree = yaml.safe_load(text) if name.endswith(".yaml") else json.loads(text)
    except (ValueError, RecursionError, yaml.YAMLError):  # another mutator was here before
        return content
    holder = {"": tree}
    for _ in range(random.choice((1, 1, 1, 2, 5))):
        _edit(holder, random)
    tree = holder.get("")
    deep = "[" * 100_000 + "]" * 100_000  # deeper than could be dumped
    edited = yaml.safe_dump(tree, sort_keys=False) if name.endswith(".yaml") else json.dumps(tree)
    edited = edited.replace(f'"{DEEP}"', deep).replace(DEEP, deep).encode(errors="surrogatepass")
    return len(edited).to_bytes(8, "little") + edited + content[header_end:] if header_end else edited


@of_one_file(".jsonl")
def edit_line(name: str, content: bytes, random: Random) -> bytes:
    """Do that to one of the documents that a file has a line each."""
    lines = content.splitlines() or [b""]
    place = random.randrange(len(lines))
    inside: Files = {"line.json": lines[place] or b"{}"}
    edit_document(inside, random)
    return b"\n".join([*lines[:place], bytes(inside["line.json"]), *lines[place + 1 :]])


@of_one_file(".parquet")
def edit_table(name: str, content: bytes, random: Random) -> bytes:
    """Change values, names, types and the number of the columns, and leave the others as they are."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(io.BytesIO(content))
        holder = {"": table.to_pydict()}
        for _ in range(random.choice((1, 1, 2, 5))):
            _edit(holder, random)
        columns = {key: _column(table, key, values) for key, values in holder[""].items()}
        edited = io.BytesIO()
        pq.write_table(pa.table(columns), edited, row_group_size=random.choice((1, 2, 1000)))
    except Exception:  # another mutator was here before, or no table can hold that, and pyarrow raises many kinds
        return content
    return edited.getvalue()


def _column(table: Any, key: str, values: Any) -> Any:
    """An array of the type that the column had, if it can hold the values."""
    import pyarrow as pa

    with suppress(Exception):
        return pa.array(values, table.schema.field(key).type)
    return pa.array(values)


@of_one_file(".yaml")
def nest_aliases(name: str, content: bytes, random: Random) -> bytes:
    """Put aliases in the place of one value that unfold to 10^9 values."""
    levels = [f"&l{i} [{', '.join([f'*l{i - 1}'] * 10) if i else 'x'}]" for i in range(10)]
    lines = content.decode(errors="replace").splitlines() or [""]
    place = random.randrange(len(lines))
    lines[place] = lines[place].partition(":")[0] + ": *l9"
    return "\n".join([f"aliases: [{', '.join(levels)}]", *lines]).encode()


@of_one_file(".yaml")
def name_class(name: str, content: bytes, random: Random) -> bytes:
    """Name a class of ``FORBIDDEN`` in one place, new or there already, as a mapping, in a list, or as text."""
    try:
        tree = yaml.safe_load(content)
    except (ValueError, RecursionError, yaml.YAMLError):  # another mutator was here before
        return content
    places = list(islice(_places({"": tree}), 10_000))
    container, key = random.choice(places)
    named = {"class_path": f"{FORBIDDEN}.d", "init_args": {}}
    value = random.choice((named, named, [named], {"obs": named}, str(named), named["class_path"]))
    match random.choice(("replace", "key", "key", "data")):
        case "key" if isinstance(container, dict):
            container[random.choice(CLASS_KEYS)] = value
        case "data" if isinstance(tree, dict):
            kind, where, option = random.choice(CLASS_OPTIONS)
            tree["data"] = {"class_path": kind, "init_args": {where: "x", option: value}}
        case _:
            container[key] = value
    return yaml.safe_dump(places[0][0][""], sort_keys=False).encode()


def _edit(holder: dict[str, Any], random: Random) -> None:
    """Change one place of a tree of dicts and lists; the tree as a whole is a place, too, but is seldom chosen."""
    places = list(islice(_places(holder), 10_000))  # the aliases of YAML may unfold to any number
    if not places:
        return
    container, key = random.choice(places[1:] or places)
    match random.choice(("replace", "replace", "replace", "delete", "add", "rename", "swap", "wrap")):
        case "replace":
            container[key] = _strange(container[key], random)
        case "delete":
            del container[key]
        case "add" if isinstance(container, list):
            container.insert(key, _strange(container[key], random))
        case "add":
            container[random.choice(WORDS)] = _strange(container[key], random)
        case "rename" if isinstance(container, dict):
            container[random.choice(WORDS)] = container.pop(key)
        case "swap":
            other, other_key = random.choice(places)
            value = deepcopy(other[other_key])  # a copy: one of the two may hold the other
            other[other_key] = deepcopy(container[key])
            container[key] = value
        case _:
            container[key] = random.choice(([container[key]], {"a": container[key]}, str(container[key])))


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) in a tree of dicts and lists."""
    for key, value in list(tree.items() if isinstance(tree, dict) else enumerate(tree)):
        yield tree, key
        if isinstance(value, dict | list):
            yield from _places(value)


def _strange(value: Any, random: Random) -> Any:
    """A value in the place of another: more often than not of the same kind, since that gets further."""
    if isinstance(value, int | float) and random.random() < 0.6:
        return random.choice((*NUMBERS, value + 1, -value, value * 2))
    if isinstance(value, str) and random.random() < 0.6:
        return random.choice((*WORDS, value + "x", value.upper(), value[:-1]))
    if isinstance(value, list) and random.random() < 0.4:
        return random.choice((value * 2, value[:-1], value[::-1], [*value, random.choice(NUMBERS)], value * 1000))
    return deepcopy(random.choice(random.choice((NUMBERS, WORDS, STRUCTURES, CODECS))))  # it may be edited in its turn


# Archives


@of_one_file(".zip")
def edit_zip(name: str, content: bytes, random: Random) -> bytes:
    """Change the members of an archive, a member's name, or how they are packed."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members: Files = {info.filename: archive.read(info) for info in archive.infolist()}
    except Exception:  # another mutator was here before, and zipfile raises many kinds
        return content
    method = zipfile.ZIP_STORED
    match random.choice(("inside", "inside", "inside", "inside", "name", "bomb", "method")):
        case "name" if members:
            evil = ("../evil", "/etc/evil", "a/../data/zarr.json", "data//zarr.json", "data", "\\x", "x" * 60_000, "")
            members[random.choice(evil)] = members.pop(random.choice(sorted(members)))
        case "bomb" if members:
            members[random.choice(sorted(members))], method = bytes(2**24), zipfile.ZIP_DEFLATED
        case "method":
            method = random.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
        case _:
            inside = (flip_bits, truncate, insert, overwrite_integer, bomb, delete, swap, copy, *[edit_document] * 8)
            random.choice(inside)(members, random)
    packed = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(packed, "w", method) as archive:
        warnings.simplefilter("ignore")  # names that a zip should not hold
        for member, value in sorted(members.items()):
            info = zipfile.ZipInfo(member, date_time=(1980, 1, 1, 0, 0, 0))
            archive.writestr(info, value if isinstance(value, bytes) else str(value), compress_type=method)
    return packed.getvalue()


@of_one_file(".zip")
def overwrite_zip_record(name: str, content: bytes, random: Random) -> bytes:
    """Put a strange integer into a header of an archive: sizes, offsets, flags, methods, counts."""
    starts = [i for i in range(len(content)) if content[i : i + 4] in (b"PK\3\4", b"PK\1\2", b"PK\5\6")]
    if not starts:
        return content
    place, size = random.choice(starts) + random.randrange(4, 46, 2), random.choice((2, 4))
    value = random.choice((0, 1, 2, 8, 12, 14, 99, 2**16 - 1, 2**31, 2**32 - 2)) % 256**size
    return content[:place] + value.to_bytes(size, "little") + content[place + size :]
