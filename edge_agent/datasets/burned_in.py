"""Names burned into pixels: regions of an image that look like a line of text (threat A22).

Scanners and old viewers write a patient's name into the picture itself, where no metadata filter
finds it, and a generator would learn it. This is a lamp, not a guarantee: it looks for rows of
small, thin, evenly bright shapes, and people must look at what it points to. Handwriting, text
along a curve and very faint text pass unseen.

The steps are those of Wu et al. 1999 ("TextFinder"): strokes by a morphological top-hat, connected
components, and components that line up.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

MIN_SIDE_PX = 48  # no name can be read in less
_STROKE_PX = 9  # strokes are thinner, most anatomy is thicker
_CONTRAST = 0.3  # above the surroundings, of the full range
_HEIGHT_PX = (5, 64)  # of a letter
_FILL = (0.12, 0.95)  # part of a letter's box that is stroke
_MIN_LETTERS = 4
_EVENNESS = 0.12  # standard deviation of the letters' brightness, of the full range
_MAX_COMPONENTS = 4000  # more is texture, not text


@dataclass(frozen=True, slots=True, order=True)
class Region:
    """A box of pixels: rows [top, bottom), columns [left, right)."""

    top: int
    left: int
    bottom: int
    right: int

    def __str__(self) -> str:
        """Return the box as people read it."""
        return f"rows {self.top} to {self.bottom}, columns {self.left} to {self.right}"


@dataclass(frozen=True, slots=True)
class _Letter:
    box: Region
    brightness: float

    @property
    def height(self) -> int:
        return self.box.bottom - self.box.top


def text_regions(pixels: NDArray[np.float32]) -> tuple[Region, ...]:
    """Return what looks like lines of text, from the top, in pixels [C, H, W] in [0, 1].

    Images under 48 px a side hold no legible name and give nothing.
    """
    grey = pixels.mean(axis=0)
    if min(grey.shape) < MIN_SIDE_PX:
        return ()
    found = [line for polarity in (grey, 1 - grey) for line in _lines(_letters(polarity))]
    return tuple(sorted(_hull(line) for line in found))


def _letters(grey: NDArray[np.float32]) -> list[_Letter]:
    """Return thin bright components of a letter's size, from left to right."""
    strokes = ndimage.white_tophat(grey, size=_STROKE_PX) > _CONTRAST
    marked, count = ndimage.label(strokes, structure=np.ones((3, 3)))
    if not count or count > _MAX_COMPONENTS:
        return []
    letters = []
    brightness = ndimage.mean(grey, marked, np.arange(1, count + 1))
    for index, where in enumerate(ndimage.find_objects(marked)):
        rows, columns = where
        box = Region(rows.start, columns.start, rows.stop, columns.stop)
        height, width = box.bottom - box.top, box.right - box.left
        fill = float((marked[where] == index + 1).mean())
        is_upright = _HEIGHT_PX[0] <= height <= _HEIGHT_PX[1] and width <= 3 * height
        if is_upright and _FILL[0] <= fill <= _FILL[1]:
            letters.append(_Letter(box, float(brightness[index])))
    return sorted(letters, key=lambda letter: letter.box.left)


def _lines(letters: Sequence[_Letter]) -> list[list[_Letter]]:
    """Return rows of letters that share a height, a baseline and a brightness."""
    open_lines: list[list[_Letter]] = []
    for letter in letters:
        for line in open_lines:
            if _continues(line[-1], letter):
                line.append(letter)
                break
        else:
            open_lines.append([letter])
    return [line for line in open_lines if _is_text(line)]


def _continues(last: _Letter, letter: _Letter) -> bool:
    one, other = last.box, letter.box
    smaller, larger = sorted((last.height, letter.height))
    shared = min(one.bottom, other.bottom) - max(one.top, other.top)
    gap = other.left - one.right
    return larger <= 2 * smaller and shared >= 0.6 * smaller and -1 <= gap <= 1.5 * larger


def _is_text(line: Sequence[_Letter]) -> bool:
    if len(line) < _MIN_LETTERS:
        return False
    heights = np.array([letter.height for letter in line], dtype=np.float64)
    feet = np.array([letter.box.bottom for letter in line], dtype=np.float64)
    bright = np.array([letter.brightness for letter in line])
    typical = float(np.median(heights))
    on_one_line = np.abs(feet - np.median(feet)) <= 0.25 * typical
    return bool(
        on_one_line.mean() >= 0.7 and heights.std() <= 0.35 * typical and bright.std() <= _EVENNESS
    )


def _hull(line: Sequence[_Letter]) -> Region:
    boxes = [letter.box for letter in line]
    return Region(
        min(box.top for box in boxes),
        min(box.left for box in boxes),
        max(box.bottom for box in boxes),
        max(box.right for box in boxes),
    )
