"""A22: names burned into pixels are pointed out before training."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from sklearn.datasets import load_sample_images

from edge_agent.datasets.burned_in import text_regions
from edge_agent.datasets.load import load_cohort


def body(side: int, seed: int) -> np.ndarray:
    """A soft round shape with a speckle, bright in the middle: no letters anywhere."""
    generator = np.random.default_rng(seed)
    soft = ndimage.gaussian_filter(generator.normal(size=(side, side)), side / 24)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    inside = 0.7 * (soft - soft.min()) / np.ptp(soft) * (np.hypot(y, x) < 0.9)
    return np.clip(inside + generator.normal(0, 0.03, inside.shape), 0, 1).astype(np.float32)


def burned(pixels: np.ndarray, text: str, *, size: int, at: int, is_dark: bool) -> np.ndarray:
    picture = Image.fromarray(np.uint8(255 * pixels))
    font = ImageFont.load_default(size)
    ImageDraw.Draw(picture).text((4, at), text, fill=0 if is_dark else 255, font=font)
    return np.asarray(picture, dtype=np.float32) / 255


@pytest.mark.parametrize(("side", "size"), [(64, 10), (128, 10), (128, 16), (256, 24), (512, 16)])
def test_a22_a_name_in_the_pixels_is_found_where_it_stands(side, size) -> None:
    found = 0
    for seed in range(10):
        clean, at = body(side, seed), 4 + 3 * seed
        assert text_regions(clean[None]) == ()
        shown = burned(
            clean, "DOE JANE 1961"[: side // size * 3 // 2], size=size, at=at, is_dark=False
        )
        regions = text_regions(shown[None])
        found += any(r.top >= at - 1 and r.bottom <= at + 2 * size for r in regions)
    assert found >= 8  # a lamp, not a guarantee


def test_a22_dark_letters_on_a_bright_image_are_found() -> None:
    bright = 1 - 0.5 * body(128, 1)
    assert text_regions(bright[None]) == ()
    assert text_regions(burned(bright, "DOE JANE", size=12, at=20, is_dark=True)[None])


def test_a22_what_only_resembles_letters_raises_no_alarm() -> None:
    grid = np.zeros((1, 128, 128), dtype=np.float32)
    grid[:, ::8] = grid[:, :, ::8] = 1
    blocks = np.zeros((1, 128, 128), dtype=np.float32)
    for left in range(5, 120, 14):
        blocks[0, 60:70, left : left + 8] = 1
    noise = np.random.default_rng(0).uniform(size=(1, 128, 128)).astype(np.float32)
    flower = np.moveaxis(load_sample_images().images[1], 2, 0).astype(np.float32) / 255
    assert [text_regions(image) for image in (grid, blocks, noise, flower)] == [()] * 4
    marked = burned(flower[0], "DOE JANE 1961", size=20, at=30, is_dark=False)
    assert text_regions(np.stack([marked] * 3))  # the same picture, with a name


def test_a22_the_data_report_points_to_the_file_and_the_place(tmp_path, make_study) -> None:
    study = make_study()
    label = study.classes[0]
    folder = tmp_path / "data" / label
    folder.mkdir(parents=True)
    for number in range(12):
        pixels = body(128, number)
        if number == 3:
            pixels = burned(pixels, "DOE JANE", size=14, at=40, is_dark=False)
        Image.fromarray(np.uint8(255 * pixels)).save(folder / f"{number}.png")
    _, report = load_cohort(tmp_path / "data", study, [label])
    assert {found.file for found in report.text} == {f"{label}/3.png"}
    said = "\n".join(report.lines())
    assert "1 images seem to hold text" in said
    assert f"text?: `{label}/3.png` in rows" in said
