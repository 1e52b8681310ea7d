"""The whole story on images that are nothing like digits: three channels, 28 px, five classes."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

ROOT = Path(__file__).parents[2]
CLASSES, PER_CLASS, SIDE_PX = 5, 40, 28


def coloured_stripes(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Procedural images: one hue and stripe width per class, random phase and noise."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(CLASSES), PER_CLASS)
    y, x = np.mgrid[:SIDE_PX, :SIDE_PX]
    images = np.empty((len(labels), SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
    for i, label in enumerate(labels):
        wave = 0.5 + 0.5 * np.sin((x + y * label / 3) / (1 + label) + generator.uniform(0, 6))
        hue = np.array([label / 5, 1 - label / 5, 0.5])
        noisy = 255 * wave[..., None] * hue + generator.normal(0, 8, images[i].shape)
        images[i] = noisy.clip(0, 255).astype(np.uint8)
    return images, labels


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_quick_story_tells_itself_on_colour_images_and_forgets_exactly(tmp_path: Path) -> None:
    images, labels = coloured_stripes(0)
    held_out, truth = coloured_stripes(1)
    data = tmp_path / "stripes.npz"
    np.savez(
        data,
        train_images=images,
        train_labels=labels[:, None],
        test_images=held_out,
        test_labels=truth[:, None],
    )
    summary = tmp_path / "summary.json"
    command = [sys.executable, "-m", "demo", "--quick", "--setting", "private", "--data", str(data)]
    command += ["--work", str(tmp_path / "work"), "--summary", str(summary)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=850, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]

    table = json.loads(summary.read_text())
    assert set(table["settings"]) == {"private"}
    setting = table["settings"]["private"]
    assert [len(site["classes"]) for site in setting["sites"]] == [2, 2, 1]
    assert all(site["epsilon"] <= 8 for site in setting["sites"])
    assert setting["revocation"]["identical"] is True
    assert setting["revocation"]["digest_before"] != setting["revocation"]["digest_after"]
    assert setting["bytes"]["submitted"] > 0
    assert "identical" in done.stdout
    assert "research use only" in (tmp_path / "work" / "predictions-private-a.csv").read_text()
