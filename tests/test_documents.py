"""The typed reader: what it converts, what it refuses and how, and YAML as version 1.2 reads it."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from robodiff.documents import (
    Above,
    AtLeast,
    Between,
    Document,
    FieldErrors,
    FromTo,
    field_docs,
    hints,
    in_words,
    parse,
    plain,
    read_json,
    typed,
    write_json,
)
from robodiff.errors import RobodiffError, UsageError
from robodiff.yaml_text import dump_yaml, load_yaml


@dataclass(frozen=True, kw_only=True)
class Base(Document):
    """What both have."""

    path: str
    """Where
    it is."""


@dataclass(frozen=True, kw_only=True)
class Sample(Base):
    """A document."""

    count: Annotated[int, AtLeast(1)] = 3
    """How many."""
    dims: tuple[Annotated[int, AtLeast(1)], ...] = (1, 2)
    size: tuple[int, int] | None = None
    mode: Literal["limits", "identity"] = "limits"
    modes: dict[str, str | dict[str, str]] = field(default_factory=dict)
    limit: Annotated[int, AtLeast(0)] | Annotated[float, Between(0, 1)] | None = None
    devices: int | str = "auto"
    rate: Annotated[float, Above(0)] = 1e-4
    betas: tuple[Annotated[float, FromTo(0, 1)], ...] = (0.9,)


def test_values_become_what_annotations_say() -> None:
    sample = typed(Sample, {"path": "x", "dims": [4], "size": [1, 2], "rate": 1, "limit": 0.5, "devices": 2})
    assert (sample.dims, sample.size, sample.limit, sample.devices) == ((4,), (1, 2), 0.5, 2)
    assert isinstance(sample.rate, float)
    assert typed(Sample, plain(sample)) == sample
    assert Sample(path="x", dims=[4]).dims == (4,)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"count": 0}, ["model.count", ">= 1", "found 0"]),
        ({"count": "3"}, ["model.count", "int", "'3'"]),
        ({"count": True}, ["model.count", "int", "true"]),
        ({"count": None}, ["model.count", "null"]),
        ({"dims": [1, 0]}, ["model.dims", "[1]", ">= 1", "found 0"]),
        ({"size": [1]}, ["model.size", "list of two int", "[1]"]),
        ({"mode": "limit"}, ["model.mode", "one of limits, identity", "'limit'"]),
        ({"modes": {"a": 3}}, ["model.modes: a: expected str", "found 3"]),
        ({"limit": 1.5}, ["model.limit", "<= 1", "1.5"]),
        ({"rate": float("inf")}, ["model.rate", "finite", "inf"]),
        ({"count": 2**63}, ["model.count", "expected int", "9223372036854775808"]),
        ({"rate": float("nan")}, ["model.rate", "> 0", "nan"]),
        ({"betas": [0.5, float("nan")]}, ["model.betas"]),
        ({"cout": 1}, ["model.cout", "Did you mean 'count'?"]),
        ({"count": 0, "mode": "x", "rate": -1}, ["model.count", "model.mode", "model.rate"]),
        ({f"k{n}": 0 for n in range(9)}, ["model.k0", "and 6 more"]),
    ],
)
def test_what_does_not_fit_is_named(values: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UsageError) as error:
        typed(Sample, {"path": "x", **values}, "model")
    message = str(error.value)
    assert all(word in message for word in words), message
    assert "\n" not in message
    assert len(message) < 400


def test_every_way_to_make_one_is_checked() -> None:
    sample = Sample(path="x")
    for make in (lambda: Sample(path="x", count=0), lambda: replace(sample, count=0)):
        with pytest.raises(FieldErrors, match="count"):
            make()
    with pytest.raises(UsageError, match=r"model.path is missing"):
        typed(Sample, {}, "model")
    with pytest.raises(UsageError, match="expected options"):
        typed(Sample, [1], "model")


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("1e-4", float, 1e-4),
        ("[3:6]", list[str], ["3:6"]),
        ("5", str | None, "5"),
        ("null", str | None, None),
        ("null", str, "null"),
        ("2", int | str, 2),
        ("auto", int | str, "auto"),
        ("true", bool, True),
        ("{'a': {'0:3': limits}}", dict[str, str | dict[str, str]], {"a": {"0:3": "limits"}}),
        ("[1,", str, "[1,"),
        ("a: b", str, "a: b"),
    ],
)
def test_words_of_a_command_line(text: str, kind: Any, value: Any) -> None:
    assert parse(text, kind) == value


def test_yaml_is_that_of_version_1_2() -> None:
    content = "a: 1e-4\nb: 00:00:05:00\nc: yes\nd: 1_000\ne: 2020-01-01\nf: ~\ng:\nh: .5\ni: 010\nj: '1'\n"
    values = {"a": 1e-4, "b": "00:00:05:00", "c": "yes", "d": "1_000", "e": "2020-01-01", "f": None, "g": None,
              "h": 0.5, "i": 10, "j": "1"}  # fmt: skip
    assert load_yaml(content) == values
    tricky = {"a": "1e-4", "b": "true", "c": "00:05", "d": None, "e": 1e-8, "f": [1, 2.0], "g": "3", "h": "", "i": "~"}
    assert load_yaml(dump_yaml(tricky)) == tricky


@pytest.mark.parametrize(
    "text",
    [
        "[" * 30 + "]" * 30,
        "[" * 5000,
        "9" * 40,
        "x" * 2_000_000,
    ],
)
def test_yaml_bombs_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        load_yaml(text)


def test_a_key_that_is_there_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="line 3 has the key 'a' for the second time"):
        load_yaml("a: 1\nb: {a: 2}\na: 3\n")


def test_aliases_count_unfolded() -> None:
    lines = ["a0: &a0 [1,1,1,1,1,1,1,1]"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 8)}]" for n in range(1, 8)]
    with pytest.raises(UsageError, match="values"):
        load_yaml("\n".join(lines))


def test_json_round_trip_and_faults(tmp_path: Path) -> None:
    path = tmp_path / "sample.json"
    write_json(path, Sample(path="x", rate=0.5))
    assert read_json(path, Sample, "make it again") == Sample(path="x", rate=0.5)
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    for content in (b"{", b"[]", b'{"path": 3}', b'{"path": "x", "count": 0}', b"\xff", b"[" * 10**5):
        path.write_bytes(content)
        with pytest.raises(RobodiffError, match="make it again") as error:
            read_json(path, Sample, "make it again")
        assert str(path) in str(error.value)
        assert len(str(error.value).splitlines()) == 1


def test_help_texts() -> None:
    assert field_docs(Sample) == {"path": "Where it is.", "count": "How many."}
    assert in_words(hints(Sample)["size"]) == "list of two int or null"
    assert in_words(hints(Sample)["limit"]) == "int >= 0 or float >= 0 and <= 1 or null"
