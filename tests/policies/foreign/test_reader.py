"""Pickles of others: what is no tensor and no plain value is refused by its name, and nothing of it is run."""

import builtins
import os
import pickle
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import pytest
import torch
from tests.policies.foreign import pickles

from robodiff.errors import RobodiffError, UsageError
from robodiff.policies.foreign.reader import Inert, check_weights, plain_values, read_checkpoint

ATTACK = pytest.mark.kind("a file that would run code")


def write(path: Path, pickled: bytes, **files: bytes) -> Path:
    """A file of torch's form whose pickle is given byte by byte."""
    with ZipFile(path, "w", ZIP_STORED) as archive:
        for name, content in {"data.pkl": pickled, "version": b"3\n", "byteorder": b"little", **files}.items():
            archive.writestr(f"archive/{name}", content)
    return path


def test_a_configuration_is_taken_of_records_that_do_nothing(tmp_path: Path) -> None:
    cfg = {"a": 1, "b": {"c": [1, 2.5, {"d": None}], "e": "text"}, "f": True}
    path = pickles.save({"cfg": cfg, "w": torch.ones(2), "pickles": {"x": pickles.dumped(3)}}, tmp_path / "a.ckpt")
    content = read_checkpoint(path)
    assert type(content["cfg"]) is Inert
    assert plain_values(path, content["cfg"]) == cfg
    assert content["pickles"]["x"] == pickles.dumped(3)  # which is not opened
    assert not {"omegaconf", "dill"} & {*sys.modules}


class Calls:
    """Would call something when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@ATTACK
@pytest.mark.parametrize("place", ["cfg", "pickles", "state_dicts"])
@pytest.mark.parametrize(
    ("function", "argument", "name"),
    [
        (os.system, "touch {}", f"{os.name}.system"),
        (builtins.eval, "open('{}', 'w')", "eval"),
        (builtins.exec, "open('{}', 'w')", "exec"),
        (builtins.getattr, "{}", "getattr"),
        (pickle.loads, "{}", "pickle.loads"),
        (builtins.__import__, "{}", "__import__"),
    ],
)
def test_what_would_be_called_is_named(
    function: Callable[..., Any], argument: str, name: str, place: str, tmp_path: Path
) -> None:
    marker = tmp_path / "marker"
    evil = Calls(function, argument.format(marker))
    content = {"cfg": {"a": evil}} if place == "cfg" else {place: {"a": evil}}
    path = pickles.save(content, tmp_path / "evil.ckpt")
    with pytest.raises(UsageError, match=rf"names \S*{name}, which reading it would call; refused") as refused:
        read_checkpoint(path)
    assert len(str(refused.value).splitlines()) == 2
    assert not marker.exists()


GLOBALS = {
    "a class of a known module": b"comegaconf.base\nContainer\n)\x81.",
    "another function of dill": b"cdill._dill\n_create_type\n)R.",
    "what follows a known name": b"cdill._dill\n_load_type.__globals__\n)R.",
    "a record's attribute": b"crobodiff.policies.foreign.reader\nInert\n)\x81.",
}


@ATTACK
@pytest.mark.parametrize("pickled", GLOBALS.values(), ids=GLOBALS.keys())
def test_names_beside_the_known_ones(pickled: bytes, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"names \S+, which reading it would call; refused"):
        read_checkpoint(write(tmp_path / "evil.ckpt", b"\x80\x02" + pickled))


FLOATS, CPU = b"ctorch\nFloatStorage\n", b"X\x03\x00\x00\x00cpuK\x04tQ."
KNOWN = {
    "strange arguments": b"cdill._dill\n_load_type\n(X\x02\x00\x00\x00os]}tR.",
    "a tensor of nothing": b"ctorch._utils\n_rebuild_tensor_v2\n(NK\x00)tR.",
    "a tensor of a record": b"ctorch._utils\n_rebuild_tensor_v2\n(ctyping\nAny\nK\x00)))tR.",
    "a dictionary of a number": b"ccollections\nOrderedDict\nK\x05\x85R.",
    "a storage of no file": b"(X\x07\x00\x00\x00storage" + FLOATS + b"X\x01\x00\x00\x009" + CPU,
    "a storage beside the file": b"(X\x07\x00\x00\x00storage" + FLOATS + b"X\x05\x00\x00\x00../.." + CPU,
    "a state that is none": b"comegaconf.nodes\nAnyNode\n)\x81K\x01b.",
    "a memo that is not there": b"h\x07.",
    "an empty stack": b"0.",
    "a number without an end": b"\x8a\xff.",
    "an attribute that is set": b"ccollections\nOrderedDict\n)R}X\x05\x00\x00\x00itemsK\x01sb.",
    "a mark alone": b"(.",
    "nothing": b"",
}  # fmt: skip


@ATTACK
@pytest.mark.parametrize("pickled", KNOWN.values(), ids=KNOWN.keys())
def test_known_names_of_strange_values(pickled: bytes, tmp_path: Path) -> None:
    """They are read as values that nothing is made of, or refused in a line."""
    path = write(tmp_path / "strange.ckpt", b"\x80\x02}X\x01\x00\x00\x00a" + pickled[:-1] + b"s.")
    with pytest.raises(RobodiffError) as refused:
        check_weights(path, read_checkpoint(path))
    assert str(refused.value).startswith(f"{path}: ")
    assert len(str(refused.value).splitlines()) <= 2


@ATTACK
def test_what_unfolds_without_an_end(tmp_path: Path) -> None:
    bomb: list[Any] = []
    for _ in range(40):
        bomb = [bomb, bomb]
    endless: list[Any] = []
    endless.append(endless)
    itself = Inert()
    itself.state = {"_content": itself}
    path = tmp_path / "bomb.ckpt"
    for value in (bomb, endless, [0] * 20_000, itself):
        if value is not itself:
            torch.save({"cfg": value}, path)
            value = read_checkpoint(path)["cfg"]
        with pytest.raises(UsageError, match="holds a configuration of more than 10000 values, or nested more than 20"):
            plain_values(path, value)
    deep = b"\x80\x02" + b"]" * 10**5 + b"a" * (10**5 - 1) + b"."
    with pytest.raises(UsageError, match="expected a dictionary of weights"):
        read_checkpoint(write(path, deep))


@ATTACK
def test_a_compressed_file_is_not_unfolded(tmp_path: Path) -> None:
    with ZipFile(tmp_path / "bomb.ckpt", "w", ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**8))
    with pytest.raises(UsageError, match=r"was compressed after torch\.save wrote it"):
        read_checkpoint(tmp_path / "bomb.ckpt")


@ATTACK
def test_a_file_that_was_cut_off_anywhere(tmp_path: Path) -> None:
    path = pickles.save({"cfg": {"a": 1}, "w": torch.ones(20)}, tmp_path / "whole.ckpt")
    whole, cut = path.read_bytes(), tmp_path / "cut.ckpt"
    for size in range(0, len(whole), len(whole) // 40):
        cut.write_bytes(whole[:size])
        with pytest.raises(RobodiffError, match=f"^{cut}: "):
            read_checkpoint(cut)


def test_weights_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    path.write_bytes(bytes(1000))
    for value in (None, {}, [torch.zeros(1)], {"a": 1}, {"a": torch.zeros(2).to_sparse()},
                  {"a": torch.zeros(2, device="meta")}):  # fmt: skip
        with pytest.raises(UsageError, match="expected weights, tensors by their names"):
            check_weights(path, value)
    with pytest.raises(UsageError, match="its tensors are larger than the file"):
        check_weights(path, {"a": torch.zeros(1).expand(10**12)})
    assert check_weights(path, OrderedDict(a=torch.ones(2)))["a"].sum() == 2
    with pytest.raises(UsageError, match="which is no plain value"):
        plain_values(path, {"a": torch.zeros(2)})
