"""How a command line is read."""

from robodiff.cli.eval_options import EvalOptions
from robodiff.cli.options import read_options, split


def test_an_option_is_also_known_with_hyphens() -> None:
    options = read_options(EvalOptions, "eval", ["a", "--env", "pusht", "--against", "b-c", "--until-decided"])
    assert options.until_decided
    assert options.against == "b-c"


def test_hyphens_stay_in_the_keys_of_a_mapping_and_in_values() -> None:
    words = ["--model.learning-rate=1e-3", "--model.normalization.observation.left-arm", "min-max", "a-policy"]
    assert [*split(words)] == [
        ("model.learning_rate", "1e-3"),
        ("model.normalization.observation.left-arm", "min-max"),
        (None, "a-policy"),
    ]
