"""Whether what two sources call by one name means the same: shapes, units, and the names of dimensions."""

from collections.abc import Iterable, Mapping

from robodiff.data.episodes import Feature, same_unit, unit_in_words
from robodiff.errors import UsageError, notice


def check_alike(
    first: Mapping[str, Feature], other: Mapping[str, Feature], keys: Iterable[str], sources: tuple[str, str]
) -> None:
    """Refuse features of two sources that do not mean the same.

    Args:
        first: what the one holds.
        other: what the other holds.
        keys: that both have.
        sources: what to call them.

    Raises:
        UsageError: the message names the key and both sources.
    """

    def both(one: object, two: object) -> str:
        return f"{one} in {sources[0]} and {two} in {sources[1]}"

    for key in keys:
        one, two = first[key], other[key]
        if one.shape != two.shape:
            remedy = "\n--data.resize_shape [H,W] brings images to one size" * (one.kind == two.kind == "image")
            raise UsageError(f"{key} is {both(one.shape, two.shape)}{remedy}")
        if not same_unit(one.unit, two.unit):
            units = both(unit_in_words(one.unit), unit_in_words(two.unit))
            raise UsageError(f"{key} is in {units}\nconvert the values of one of them")
        if one.names and two.names and one.names != two.names:
            place = next(d for d, (a, b) in enumerate(zip(one.names, two.names, strict=True)) if a != b)
            names = f"{key}[{place}] is {both(one.names[place], two.names[place])}"
            if sorted(one.names) == sorted(two.names):
                raise UsageError(f"{names}\nbring the dimensions of one into the order of the other")
            notice(f"{names}; taken for the same")
