"""A labelled sheet of samples: one row per class, large enough to be looked at."""

import io
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

_TILE_PX = 56  # 8 px digits are readable from 7x on
_GAP_PX = 4
_FONT_PX = 14
_PAPER = (255, 255, 255)
_INK = (0, 0, 0)


def sheet_png(samples: Mapping[str, NDArray[np.float32]]) -> bytes:
    """Return a PNG with one labelled row per class, in the order given.

    `samples` maps a label to images [n, C, H, W] in [-1, 1], C 1 or 3. The file holds pixels only:
    no time, path or text chunk.
    """
    font = ImageFont.load_default(_FONT_PX)
    rows = {label: [_tile(image) for image in images] for label, images in samples.items()}
    tiles = [tile for row in rows.values() for tile in row]
    wide = max((tile.width for tile in tiles), default=_TILE_PX) + _GAP_PX
    high = max((tile.height for tile in tiles), default=_TILE_PX) + _GAP_PX
    margin = _GAP_PX + max((round(font.getlength(label)) for label in rows), default=0) + _GAP_PX
    columns = max((len(row) for row in rows.values()), default=0)
    size = (margin + wide * columns + _GAP_PX, high * max(len(rows), 1) + _GAP_PX)
    sheet = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, (label, row) in enumerate(rows.items()):
        top = _GAP_PX + number * high
        pen.text((_GAP_PX, top + (high - _FONT_PX) // 2), label, fill=_INK, font=font)
        for column, tile in enumerate(row):
            sheet.paste(tile, (margin + column * wide, top))
    stream = io.BytesIO()
    sheet.save(stream, format="PNG")
    return stream.getvalue()


def _tile(image: NDArray[np.float32]) -> Image.Image:
    """Turn one [C, H, W] image in [-1, 1] into RGB, scaled up by whole pixels."""
    levels = np.clip(np.round((image.astype(np.float64) + 1) * 127.5), 0, 255).astype(np.uint8)
    grid = np.repeat(levels, 3, axis=0) if len(levels) == 1 else levels
    tile = Image.fromarray(np.ascontiguousarray(grid.transpose(1, 2, 0)))
    scale = max(1, _TILE_PX // max(tile.size))
    return tile.resize((tile.width * scale, tile.height * scale), Image.Resampling.NEAREST)
