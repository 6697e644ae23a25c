"""Every number of every document and option: not finite, negative or of an absurd size, it is refused."""

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

import pytest

import robodiff
from robodiff.cli.fit import FitOptions
from robodiff.data.recordings import DataConfig
from robodiff.documents import Document, convert, hints, in_words
from robodiff.errors import UsageError
from robodiff.training.config import TrainerConfig

for module in pkgutil.walk_packages(robodiff.__path__, "robodiff."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)

ABSURD = (float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 2**70, -(2**70))
NEGATIVE_MEANS = {
    "devices": "Lightning's word for all of them",
    "action_discrete": "values of classes, such as -1 and 1",
    "delta_timestamps": "seconds before now",
    "gripper_closed": "an angle, as gripper_open is",
    "gripper_open": "an angle",
    "num_workers": "has no effect",
    "recorded_closed": "in whatever unit it was recorded, as recorded_open is",
    "recorded_open": "in whatever unit it was recorded",
    "episodes": "refused where the recording says how many it has",
    "val_episodes": "refused where they are not among those that are used",
    "resize_shape": "refused by its configuration",
    "format_version": "compared with the one that is read",
    "lift": "strokes downwards",
    "turn": "strokes, or an angle, the other way round",
    "x": "a place beyond the picture's edge",
    "y": "likewise",
}
"""Fields that no bound keeps from being negative, and why."""


def kinds(kind: type = Document) -> Iterator[type]:
    for each in kind.__subclasses__():
        if each.__module__.startswith("robodiff."):
            yield each
        yield from kinds(each)


NUMBERS = sorted(
    {
        f"{kind.__name__}.{name}": (kind, name)
        for kind in kinds()
        for name, annotation in hints(kind).items()
        if {"int", "float"} & {*in_words(annotation).split()}
    }.items()
)


def accepted(annotation: Any, value: float) -> list[Any]:
    """The forms in which a field takes a number: alone, in lists, in mappings."""
    taken = []
    for form in (value, [value], [value, value], {"a": value}, {"a": [value]}):
        try:
            convert(form, annotation)
        except ValueError:
            continue
        taken.append(form)
    return taken


@pytest.mark.kind("a number that is not finite, negative or absurd")
@pytest.mark.parametrize(("kind", "name"), [each for _, each in NUMBERS], ids=[name for name, _ in NUMBERS])
def test_every_number_is_bounded(kind: type, name: str) -> None:
    annotation = hints(kind)[name]
    assert [form for value in ABSURD for form in accepted(annotation, value)] == []
    if name not in NEGATIVE_MEANS and (kind, name) != (FitOptions, "seed_everything"):  # the configuration's bounds it
        assert [form for value in (-1, -1.0, -1e-300) for form in accepted(annotation, value)] == []


def test_all_documents_are_looked_at() -> None:
    names = [name for name, _ in NUMBERS]
    assert {"TrainerConfig.checkpoint_every_minutes", "DiffusionConfig.down_dims", "EvalOptions.steps"} <= {*names}
    assert len(names) > 100
    used = {name for _, (_, name) in NUMBERS}
    assert NEGATIVE_MEANS.keys() <= used  # none has gone


@pytest.mark.kind("a number that is not finite, negative or absurd")
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 1e30])
def test_python_is_held_to_the_same_bounds(value: float) -> None:
    with pytest.raises(UsageError, match="checkpoint_every_minutes"):
        TrainerConfig(max_steps=1, checkpoint_every_minutes=value)


@pytest.mark.parametrize("kind", [each for each in kinds(DataConfig) if "path" in hints(each)])
def test_a_size_of_images_is_positive(kind: type) -> None:
    with pytest.raises(UsageError, match="resize_shape"):
        kind(path="x", resize_shape=-1)
