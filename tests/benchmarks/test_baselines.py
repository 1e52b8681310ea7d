"""The baselines: one set of arrays, honest bytes, FedAvg that really averages."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from benchmarks.baselines import (
    FedAvgPlan,
    average,
    centralized,
    exchanged_bytes,
    fedavg,
    load_sites,
    one_exchange,
)
from federation.learning.downstream.classifier import build_classifier
from kit.errors import KitError

ROOT = Path(__file__).parents[2]
CLASSES = {"north": (0, 1), "south": (2,)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hospitals with disjoint classes of real handwritten digits."""
    root = tmp_path_factory.mktemp("sites")
    digits = load_digits()
    for site, classes in CLASSES.items():
        for label in classes:
            images = digits.images[digits.target == label][:40]
            for number, image in enumerate(images):
                split = "train" if number < 30 else "held-out"
                path = root / site / split / f"digit {label}" / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.rint(image / 16 * 255).astype(np.uint8)).save(path)
    return root


def test_folders_become_arrays_with_one_class_list(folder: Path) -> None:
    sites, classes = load_sites(folder)
    assert classes == ("digit 0", "digit 1", "digit 2")
    assert [s.site for s in sites] == ["north", "south"]
    assert sites[0].train_images.shape == (60, 1, 8, 8)
    assert sites[0].train_images.min() == -1
    assert sites[0].train_images.max() == 1
    assert set(sites[1].held_out_labels.tolist()) == {2}


def test_a_folder_without_hospitals_or_splits_is_refused(folder: Path, tmp_path: Path) -> None:
    assert load_sites(folder)
    with pytest.raises(KitError, match="no folder per hospital"):
        load_sites(tmp_path)
    (tmp_path / "north" / "train").mkdir(parents=True)
    with pytest.raises(KitError, match="does not exist"):
        load_sites(tmp_path)


def test_pooled_training_beats_one_exchange_and_one_silo_on_disjoint_classes(folder: Path) -> None:
    sites, classes = load_sites(folder)
    pooled = centralized(sites, num_classes=len(classes), steps=60, seed=0)
    once = one_exchange(sites, num_classes=len(classes), steps=30, seed=0)
    assert pooled.metrics.accuracy > 0.9
    assert once.silos["south"].accuracy == pytest.approx(1 / 3)
    assert once.silos["north"].accuracy <= 2 / 3
    assert once.averaged.metrics.accuracy < pooled.metrics.accuracy
    assert (once.averaged.rounds, pooled.rounds, pooled.bytes) == (1, 0, 0)


def test_fedavg_learns_over_rounds_and_repeats_bit_for_bit(folder: Path) -> None:
    sites, classes = load_sites(folder)

    def run(rounds: int, seed: int = 0):
        plan = FedAvgPlan(rounds=rounds, local_steps=4)
        return fedavg(sites, plan, num_classes=len(classes), seed=seed)

    short, long = run(1), run(12)
    assert long.metrics.accuracy > 0.8 > short.metrics.accuracy
    assert long.bytes == 12 * short.bytes
    assert run(2) == run(2)
    assert run(2).metrics != run(2, seed=1).metrics


def test_the_average_weighs_sites_by_their_images() -> None:
    one = {"w": torch.tensor([0.0, 4.0]), "seen": torch.tensor(3)}
    two = {"w": torch.tensor([4.0, 0.0]), "seen": torch.tensor(9)}
    mean = average([one, two], [3, 1])
    assert mean["w"].tolist() == [1.0, 3.0]
    assert mean["seen"].item() == 3


def test_bytes_count_every_float_up_and_down_for_all_sites_and_rounds() -> None:
    network = build_classifier("resnet-small", channels=1, height=8, width=8, num_classes=10)
    parameters = sum(p.numel() for p in network.parameters())
    statistics = sum(b.numel() for b in network.buffers() if b.is_floating_point())
    assert statistics > 0
    assert exchanged_bytes(network, sites=3, rounds=60) == 2 * 4 * (parameters + statistics) * 180


def test_the_script_prints_a_table_and_writes_every_row(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "rows.json"
    command = [sys.executable, "-m", "benchmarks.baselines", "--sites", str(folder)]
    options = ["--json", str(target), "--steps=10", "--rounds=20", "--workers=1", "--quick"]
    done = subprocess.run(
        [*command, *options], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "centralized" in done.stdout
    rows = json.loads(target.read_text())
    assert {"fedavg_one_exchange", "fedavg_many_rounds", "centralized"} <= set(rows)
    for name, rounds in [("fedavg_one_exchange", 1), ("fedavg_many_rounds", 2)]:
        assert rows[name]["rounds"] == rounds
        assert rows[name]["bytes"] > 0
        assert 0 <= rows[name]["accuracy"] <= 1
    assert set(rows["single_silo"]) == {"north", "south"}
    target.unlink()
    command[-1] = str(tmp_path / "nowhere")
    refused = subprocess.run(
        [*command, *options], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert refused.returncode == 1
    assert refused.stderr.startswith("baselines: error: ")
    assert not target.exists()
