"""A recording that grows episode by episode: a zarr folder, or what is made of one at the end."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from robodiff.data.episodes import Feature
from robodiff.data.formats.convert import convert, format_of
from robodiff.data.formats.zarr_writer import ZarrWriter, building, pack_zip
from robodiff.data.naming import AGENT_FILES
from robodiff.data.recordings import Format, open_path
from robodiff.errors import RobodiffError, UsageError, notice
from robodiff.files import locked, naming

Images = bool | list[str]
"""Whether images are recorded, or of which cameras."""


def format_to_grow(out: Path, name: str | None) -> Format:
    """Return the format of a name, else that which the path says, else zarr.

    Raises:
        UsageError: there is none, or each agent would get a file of its own.
    """
    if AGENT_FILES in str(out):
        raise UsageError(f"{out}: collect all agents in one recording; robodiff data convert makes a file for each")
    return format_of(out, name, "zarr")


def images_to_grow(form: Format, asked: Images, features: Callable[[Images], Mapping[str, Feature]]) -> Images:
    """Return the images that are recorded: those that were asked for or, where none were, those that a format needs.

    Args:
        form: the format.
        asked: for.
        features: from images to all that is recorded with them.
    """
    if form.keys is None or asked:
        return asked
    every = features(True)
    return [key.rpartition(".")[2] for key in form.keys(every) if every[key].kind == "image"]


@contextmanager
def growing(
    out: Path, form: Format, fps: float, recipe: Mapping[str, Any], features: Mapping[str, Feature]
) -> Iterator[ZarrWriter]:
    """Yield what appends to a recording, a new one or one that was cut off; close it, and make of it what is asked for.

    If the body raises, what was appended stays where it grows, and the same call goes on with it. Where nothing is
    appended to a new one, nothing is made.

    Args:
        out: where it goes.
        form: of what is at ``out`` in the end.
        fps: frames per second.
        recipe: how the episodes are made; see ``ZarrWriter``.
        features: of the keys.

    Raises:
        UsageError: something is at ``out`` that cannot be gone on with.
        RobodiffError: another recording grows there, or the format cannot hold this one; then it stays where it grew.
    """
    is_zip = form.short_name == "zarr" and out.suffix == ".zip"
    grows_there = form.short_name == "zarr" and not is_zip
    if not grows_there and out.exists():
        raise UsageError(f"{out}: exists already; choose another --out")
    folder = out if grows_there else building(out)
    is_new = not folder.exists()
    with locked(folder), naming(folder):
        writer = ZarrWriter(folder, fps, recipe=recipe, features=features)
        yield writer
        if not writer.episodes:
            if is_new or not grows_there:
                shutil.rmtree(folder)
            return
        writer.close()
        if grows_there:
            return
        if is_zip:
            pack_zip(folder, out)
            return
        try:
            lost = convert(open_path(str(folder)).read_chosen(), out, form=form.short_name)
        except RobodiffError as error:
            raise RobodiffError(f"{error}\nthe demonstrations are in {folder}, for robodiff data convert") from error
        shutil.rmtree(folder)
    if lost:
        notice(f"{out} has no place for {', '.join(lost)}; left out")
