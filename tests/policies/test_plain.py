"""Dataclasses out of the plain values of JSON."""

import dataclasses
import json

import pytest

from robodiff.data.episodes import Feature
from robodiff.errors import UsageError
from robodiff.policies.config import DiffusionConfig
from robodiff.policies.plain import from_plain


@pytest.mark.parametrize(
    "value",
    [
        Feature("vector", (2,), "float32", names=("x", "y"), unit="px"),
        Feature("image", (3, 96, 96), "uint8"),
        DiffusionConfig(),
        DiffusionConfig(observation_keys=["observation.state"], down_dims=(8, 16), n_groups=4, clip_sample=False,
                        learning_rate=1, normalization={"action": {"0:1": "limits", "1:2": "identity"}}),
    ],
)  # fmt: skip
def test_through_json_and_back(value: Feature | DiffusionConfig) -> None:
    assert from_plain(type(value), json.loads(json.dumps(dataclasses.asdict(value))), "it") == value


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("horizon", "16", "int, found '16'"),
        ("horizon", 16.0, "int, found 16.0"),
        ("horizon", True, "int, found True"),
        ("learning_rate", "1e-4", "float, found '1e-4'"),
        ("clip_sample", 1, "bool, found 1"),
        ("optimizer_type", "adan", r"Literal\['adam', .*, found 'adan'"),
        ("down_dims", [8, "16"], r"tuple\[int, \.\.\.\], found \[8, '16'\]"),
        ("optimizer_betas", [0.9, 0.99, 0.999], r"tuple\[float, float\], found"),
        ("normalization", {"action": 3}, r"found \{'action': 3\}"),
        ("num_inference_steps", [], r"int \| None, found \[\]"),
    ],
)
def test_wrong_types_are_named(field: str, value: object, expected: str) -> None:
    with pytest.raises(UsageError, match=rf"^model\.{field}: expected .*{expected}"):
        from_plain(DiffusionConfig, {field: value}, "model")


def test_unknown_and_missing_fields_are_named() -> None:
    with pytest.raises(UsageError, match=r"^model has no field 'horizn', 'x'\. Did you mean 'horizon'\?"):
        from_plain(DiffusionConfig, {"horizn": 8, "x": 1}, "model")
    with pytest.raises(UsageError, match=r"feature\.dtype is missing"):
        from_plain(Feature, {"kind": "vector", "shape": [2]}, "feature")
    with pytest.raises(UsageError, match=r"feature: expected dict, found \[\]"):
        from_plain(Feature, [], "feature")
