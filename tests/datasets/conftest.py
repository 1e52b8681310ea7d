"""A study to read data for, and folders of small images."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from federation.build_policy import BuildPolicy
from federation.study import (
    ArchitectureRef,
    ImageRule,
    PersonalData,
    PrivacyPolicy,
    Reviewer,
    Study,
    Unit,
)

MakeStudy = Callable[..., Study]
MakeFolder = Callable[..., Path]


@pytest.fixture
def make_study() -> MakeStudy:
    def make(
        classes: tuple[str, ...] = ("cat", "dog", "eel"),
        *,
        channels: int = 1,
        height: int = 8,
        width: int = 8,
        unit: Unit = Unit.IMAGE,
        minimum: int = 2,
    ) -> Study:
        return Study(
            federation="federation",
            id="study",
            round=1,
            title="Study",
            classes=classes,
            image=ImageRule(channels=channels, height=height, width=width),
            method="federated-factory",
            architectures=(ArchitectureRef(kind="edm-unet2d", version=1, preset="tiny"),),
            privacy=PrivacyPolicy(
                personal_data=PersonalData.REFUSED, unit=unit, epsilon=8.0, delta=1e-5
            ),
            minimum_per_class=minimum,
            build=BuildPolicy(
                version=1, shard_size=8, sampler_steps=2, classifier="resnet", classifier_steps=1
            ),
            quorum=1,
            reviewers=(Reviewer(name="reviewer", public_key="0" * 64),),
            created="2026-01-01T00:00:00Z",
        )

    return make


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Write `counts` distinct grey PNGs per class into a data folder."""

    def make(counts: dict[str, int], *, side: int = 8, name: str = "data") -> Path:
        root = tmp_path / name
        root.mkdir()
        rng = np.random.default_rng(list(name.encode()))
        for label, count in counts.items():
            (root / label).mkdir()
            for index in range(count):
                pixels = rng.integers(0, 256, (side, side), dtype=np.uint8)
                Image.fromarray(pixels).save(root / label / f"{index:03d}.png")
        return root

    return make
