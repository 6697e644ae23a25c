"""Sheets of tiles: every picture is where the player looks for it."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from robodiff.report.tiles import ENCODERS, encode_tiles, fitted, tile_of


@pytest.mark.parametrize("form", sorted(ENCODERS))
@pytest.mark.parametrize(("count", "columns"), [(1, 1), (7, 3), (6, 3), (2, 5)])
def test_every_tile_is_in_its_place(form: str, count: int, columns: int) -> None:
    colours = [(20 + 30 * n, 200 - 20 * n, 40 * n % 255) for n in range(count)]
    tiles = encode_tiles([np.full((16, 24, 3), colour, np.uint8) for colour in colours], columns, form)  # type: ignore[arg-type]
    assert (tiles.width, tiles.height, tiles.columns) == (24, 16, columns)
    assert tiles.url.startswith(f"data:image/{form.lower()};base64,")
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(tiles.url.partition(",")[2]))).convert("RGB"))
    assert sheet.shape == (16 * -(-count // columns), 24 * columns, 3)
    for place, colour in enumerate(colours):
        row, column = divmod(place, columns)
        assert np.abs(sheet[16 * row + 8, 24 * column + 12].astype(int) - colour).max() < 12


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_of_every_kind_become_tiles(channels: int) -> None:
    image = np.zeros((channels, 20, 40), np.uint8)
    image[:, :, 20:] = 250
    tile = tile_of(image, (10, 20))
    assert tile.shape == (10, 20, 3)
    assert (tile[:, 2] < 5).all()
    assert (tile[:, 17] > 245).all()


@pytest.mark.parametrize(
    ("size", "longest", "expected"),
    [((480, 640), 320, (240, 320)), ((640, 480), 320, (320, 240)), ((96, 96), 320, (96, 96)), ((1, 4000), 72, (1, 72))],
)
def test_pictures_fit_and_are_never_enlarged(size: tuple[int, int], longest: int, expected: tuple[int, int]) -> None:
    assert fitted(*size, longest) == expected
