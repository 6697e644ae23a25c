"""What two sources call by one name: the same, or an error that names both."""

import pytest

from robodiff.data.alike import check_alike
from robodiff.data.episodes import Feature, Unit
from robodiff.errors import UsageError


def check(first: Feature, other: Feature) -> None:
    check_alike({"k": first}, {"k": other}, ["k"], ("A", "B"))


def vector(*names: str, unit: Unit = None) -> Feature:
    return Feature("vector", (2,), "float32", names or None, unit)


def test_what_means_the_same_passes(capsys: pytest.CaptureFixture[str]) -> None:
    check(vector("x", "y", unit="deg"), vector("x", "y", unit="degrees"))
    check(vector("x", "y"), vector(unit="rad"))  # what one does not say goes with anything
    assert capsys.readouterr().err == ""
    check(vector("x", "y"), vector("x", "gripper"))
    assert "k[1] is y in A and gripper in B; taken for the same" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("first", "other", "message"),
    [
        (vector(), Feature("vector", (3,), "float32"), r"k is (2,) in A and (3,) in B"),
        (
            Feature("image", (3, 8, 8), "uint8"),
            Feature("image", (3, 4, 8), "uint8"),
            "--data.resize_shape [H,W] brings",
        ),
        (vector(unit="rad"), vector(unit="deg"), "k is in rad in A and deg in B\nconvert the values of one of them"),
        (vector("x", "y"), vector("y", "x"), "k[0] is x in A and y in B\nbring the dimensions of one into the order"),
    ],
)
def test_what_differs_is_named(first: Feature, other: Feature, message: str) -> None:
    with pytest.raises(UsageError) as error:
        check(first, other)
    assert message in str(error.value)
