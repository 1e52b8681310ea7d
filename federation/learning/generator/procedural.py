"""Images that a formula draws: shapes, textures and cells, with no licence and no patient behind.

What a public base learns from. Every pseudo-class has a style of its own (family, colours, outline,
band of frequencies), drawn from the seed; every image varies its class's style. NumPy only; one
seed gives the same images on the same NumPy.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from kit.errors import KitError

VERSION = 1  # of the formulas: the same seed draws the same images within one version
MIN_SIDE_PX = 4

Image = NDArray[np.float32]
_Array = NDArray[np.float64]
_CORNERS = 5
_GRAIN = 0.04  # standard deviation of the fine noise on every image, of the range's two
_SMALLEST_STD = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """What the images of one pseudo-class have in common.

    Attributes:
        family: a name in `FAMILIES`.
        back, ink, core: colours of ground, figure and nucleus, [3] in [-1, 1].
        corners: of an outline or a stroke, [K, 2] in [-1, 1].
        size: of a figure, as a share of half the side.
        lobes: waves around a cell's edge.
        band: centre of a texture's frequencies, in cycles per side.
        angle: of a texture's direction, in radians.
        narrowness: of that direction; 0 is none.
    """

    family: str
    back: _Array
    ink: _Array
    core: _Array
    corners: _Array
    size: float
    lobes: int
    band: float
    angle: float
    narrowness: float


def styles(num_classes: int, looks: str, *, seed: int) -> tuple[Style, ...]:
    """Return the styles of `num_classes` pseudo-classes; `looks` is a name in `LOOKS`.

    Raises:
        KitError: there are no such looks.
    """
    if looks not in LOOKS:
        raise KitError(
            f"no procedural images look like `{looks}`", hint=f"take one of {LOOK_NAMES}"
        )
    families = LOOKS[looks]
    rng = np.random.default_rng([VERSION, seed])
    return tuple(_style(families[i % len(families)], rng) for i in range(num_classes))


def draw(
    chosen: Sequence[Style],
    labels: Sequence[int],
    shape: tuple[int, int, int],
    *,
    seed: Sequence[int],
) -> Image:
    """Return images [N, C, H, W] float32 in [-1, 1], one per label, of `shape` (C 1 or 3, H, W).

    Raises:
        KitError: the shape is no image's.
    """
    channels, height, width = shape
    if channels not in (1, 3) or min(height, width) < MIN_SIDE_PX:
        raise KitError(f"procedural images have 1 or 3 channels and {MIN_SIDE_PX} px, not {shape}")
    rng = np.random.default_rng([VERSION, *seed])
    images = np.empty((len(labels), 3, height, width))
    for image, label in zip(images, labels, strict=True):
        image[:] = _image(chosen[label], height, width, rng)
    grey = images.mean(axis=1, keepdims=True) if channels == 1 else images
    return np.clip(grey, -1, 1).astype(np.float32)


def _style(family: str, rng: np.random.Generator) -> Style:
    is_dark = rng.random() < 0.7  # on black ground, as most radiographs are; else on white
    ground, figure = (-0.9, 0.5) if is_dark else (0.8, -0.4)
    return Style(
        family=family,
        back=np.clip(ground + rng.normal(0, 0.1, 3), -1, 1),
        ink=np.clip(figure + rng.normal(0, 0.3, 3), -1, 1),
        core=np.clip(-figure * rng.uniform(0.4, 1.2) + rng.normal(0, 0.2, 3), -1, 1),
        corners=_spread(rng),
        size=rng.uniform(0.45, 0.85),
        lobes=int(rng.integers(2, 6)),
        band=rng.uniform(1.0, 3.5),
        angle=rng.uniform(0, np.pi),
        narrowness=rng.uniform(0, 6),
    )


def _spread(rng: np.random.Generator) -> _Array:
    """Return corners that lie apart: each at least half a unit from the one before."""
    corners = [rng.uniform(-0.8, 0.8, 2)]
    while len(corners) < _CORNERS:
        candidate = rng.uniform(-0.8, 0.8, 2)
        if np.linalg.norm(candidate - corners[-1]) > 0.5:
            corners.append(candidate)
    return np.array(corners)


def _image(style: Style, height: int, width: int, rng: np.random.Generator) -> _Array:
    """Draw one image [3, H, W]: figure over ground, nucleus over figure, grain over all."""
    grid = _placed_grid(height, width, rng)
    figure, core = FAMILIES[style.family](style, grid, rng)
    shade = rng.normal(0, 0.08)
    back, ink, inner = (c[:, None, None] + shade for c in (style.back, style.ink, style.core))
    image: _Array = back + (ink - back) * figure
    image = image + (inner - image) * core
    return image + rng.normal(0, _GRAIN, image.shape)


def _placed_grid(height: int, width: int, rng: np.random.Generator) -> _Array:
    """Return pixel centres [2, H, W], moved, turned a little and scaled at random.

    The longer side spans [-1, 1] before that.
    """
    longer = max(height, width)
    y = (2 * np.arange(height) + 1 - height) / longer
    x = (2 * np.arange(width) + 1 - width) / longer
    grid = np.stack(np.broadcast_arrays(x[None, :], y[:, None]))
    turn, scale = rng.normal(0, 0.15), rng.lognormal(0, 0.12)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) / scale
    moved: _Array = np.tensordot(rotation, grid - rng.normal(0, 0.1, (2, 1, 1)), axes=1)
    return moved


def _softness(grid: _Array) -> float:
    """Return the width of an edge: about a pixel's."""
    return 2 / float(max(grid.shape[1:]))


def _inside(distance: _Array, softness: float) -> _Array:
    """Return coverage in [0, 1] for a signed distance that is negative inside."""
    return np.clip(0.5 - distance / softness, 0, 1)


def _to_segments(grid: _Array, ends: _Array) -> _Array:
    """Return the distance of every pixel to a polyline through `ends` [K, 2]."""
    nearest = np.full(grid.shape[1:], np.inf)
    for start, end in pairwise(ends):
        along = end - start
        away = grid - start[:, None, None]
        share = np.clip(np.tensordot(along, away, axes=1) / max(float(along @ along), 1e-6), 0, 1)
        gap = np.hypot(*(away - along[:, None, None] * share))
        nearest = np.minimum(nearest, gap)
    return nearest


def _stroke(style: Style, grid: _Array, rng: np.random.Generator) -> tuple[_Array, _Array]:
    """Draw an open line of the class's corners with a pen of varying width."""
    ends = style.corners + rng.normal(0, 0.07, style.corners.shape)
    pen = 0.12 + 0.08 * rng.random()
    figure = _inside(_to_segments(grid, ends) - pen, _softness(grid))
    return figure, np.zeros_like(figure)


def _shape(style: Style, grid: _Array, rng: np.random.Generator) -> tuple[_Array, _Array]:
    """Draw a closed outline of the class's corners around the middle, filled or not."""
    order = np.argsort(np.arctan2(style.corners[:, 1], style.corners[:, 0]))
    corners = style.corners[order] + rng.normal(0, 0.07, style.corners.shape)
    closed = np.concatenate([corners, corners[:1]])
    line = _inside(_to_segments(grid, closed) - 0.1, _softness(grid))
    if style.lobes % 2:
        return line, np.zeros_like(line)
    filled = np.maximum(line, _is_within(grid, closed))
    return filled, np.zeros_like(line)


def _is_within(grid: _Array, closed: _Array) -> _Array:
    """Return 1 inside a closed polygon, else 0, by counting crossings to the right."""
    x, y = grid
    odd = np.zeros(x.shape, dtype=bool)
    for (x0, y0), (x1, y1) in pairwise(closed):
        if y0 == y1:
            continue
        spans = (y0 > y) != (y1 > y)
        odd ^= spans & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return odd.astype(np.float64)


def _cell(style: Style, grid: _Array, rng: np.random.Generator) -> tuple[_Array, _Array]:
    """Draw a disc with a wavy edge and a nucleus, lobed as its class is."""
    softness = _softness(grid)
    around, radius = np.arctan2(grid[1], grid[0]), np.hypot(*grid)
    size = style.size * rng.lognormal(0, 0.08)
    wave = 0.08 * np.cos(3 * around + rng.uniform(0, 2 * np.pi))
    body = _inside(radius - size * (1 + wave), softness)
    lobed = 0.35 * np.cos(style.lobes * around + rng.uniform(0, 2 * np.pi))
    off = rng.normal(0, 0.06, 2)[:, None, None]
    nucleus = _inside(np.hypot(*(grid - off)) - 0.55 * size * (1 + lobed), softness)
    return body, np.minimum(body, nucleus)


def _texture(style: Style, grid: _Array, rng: np.random.Generator) -> tuple[_Array, _Array]:
    """Filter noise to the class's band and direction: from clouds to gratings."""
    height, width = grid.shape[1:]
    longer = max(height, width)
    fy, fx = np.fft.fftfreq(height)[:, None] * longer, np.fft.fftfreq(width)[None, :] * longer
    band = np.exp(-((np.hypot(fy, fx) - style.band) ** 2))
    toward = style.angle + rng.normal(0, 0.1)
    direction = np.exp(style.narrowness * (np.cos(2 * (np.arctan2(fy, fx) - toward)) - 1))
    noise = np.fft.fft2(rng.normal(size=(height, width)))
    field = np.fft.ifft2(noise * band * direction).real
    figure = np.clip(0.5 + 0.35 * field / max(float(field.std()), _SMALLEST_STD), 0, 1)
    return figure, np.zeros_like(figure)


Family = Callable[[Style, _Array, np.random.Generator], tuple[_Array, _Array]]

FAMILIES: dict[str, Family] = {
    "stroke": _stroke,
    "shape": _shape,
    "cell": _cell,
    "texture": _texture,
}
LOOKS: dict[str, tuple[str, ...]] = {
    "all": ("stroke", "cell", "texture", "shape"),
    "shapes": ("stroke", "shape"),
    "textures": ("texture",),
    "cells": ("cell",),
}
LOOK_NAMES = ", ".join(LOOKS)
