"""Training: a function of arrays, settings and one seed; and it learns."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from federation.learning.downstream.augmentation import Augmentation, augment
from federation.learning.downstream.numerics import numerics_fingerprint, pinned_threads
from federation.learning.downstream.pixels import Images, Joined, from_bytes, to_bytes
from federation.learning.downstream.train import (
    learning_rates,
    predict_logits,
    train_classifier,
)
from kit import canonical
from kit.errors import KitError

ROOT = Path(__file__).parents[2]

_PROGRAM = """
import hashlib, sys
import numpy as np, torch
torch.manual_seed(int(sys.argv[1]))
np.random.seed(int(sys.argv[1]))
from federation.learning.downstream.train import train_classifier
draws = np.random.default_rng(0)
images = draws.uniform(-1, 1, (40, 1, 8, 8)).astype(np.float32)
labels = (np.arange(40) % 3).astype(np.int64)
trained = train_classifier(images, labels, classifier="resnet-small", num_classes=3, steps=4,
                           seed=int(sys.argv[2]), threads=1)
state = trained.network.state_dict()
digest = hashlib.sha256()
for name in sorted(state):
    digest.update(name.encode() + state[name].numpy().tobytes())
print(digest.hexdigest())
"""


def _digits() -> tuple[np.ndarray, np.ndarray]:
    digits = load_digits()
    images = (digits.images / 8 - 1).astype(np.float32)[:, None]
    return images, digits.target.astype(np.int64)


def _fresh_process(global_seed: int, seed: int, hash_seed: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(global_seed), str(seed)],
        cwd=ROOT,
        env={"PYTHONHASHSEED": hash_seed, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_two_fresh_processes_train_identical_weights_and_another_seed_does_not() -> None:
    first = _fresh_process(global_seed=1, seed=7, hash_seed="1")
    assert first == _fresh_process(global_seed=2, seed=7, hash_seed="2")
    assert first != _fresh_process(global_seed=1, seed=8, hash_seed="1")


def test_a_few_hundred_steps_read_real_digits() -> None:
    images, labels = _digits()
    trained = train_classifier(
        images[:1000],
        labels[:1000],
        classifier="resnet-small",
        num_classes=10,
        steps=120,
        seed=0,
        threads=1,
    )
    predicted = predict_logits(trained.network, torch.from_numpy(images[1400:])).argmax(dim=1)
    assert not trained.network.training
    assert trained.train_accuracy > 0.9
    assert (predicted.numpy() == labels[1400:]).mean() > 0.85


def test_classes_are_balanced_by_sampling_alone() -> None:
    draws = np.random.default_rng(0)
    images = draws.uniform(-0.2, 0.2, (210, 1, 8, 8)).astype(np.float32)
    labels = np.array([0] * 200 + [1] * 10, dtype=np.int64)
    images[labels == 1, :, :4] += 0.5
    trained = train_classifier(
        images, labels, classifier="resnet-small", num_classes=2, steps=60, seed=0, threads=1
    )
    predicted = predict_logits(trained.network, torch.from_numpy(images)).argmax(dim=1).numpy()
    assert (predicted[labels == 1] == 1).mean() > 0.8
    assert (predicted[labels == 0] == 0).mean() > 0.8


def test_augmentation_moves_and_noises_but_never_mirrors() -> None:
    left = -torch.ones(256, 1, 8, 8)
    left[..., :2] = 1
    generator = torch.Generator().manual_seed(0)
    changed = augment(left, generator)
    assert changed.shape == left.shape
    assert not torch.equal(changed[0], changed[1])
    brightest = changed.mean(dim=(1, 2)).argmax(dim=1)
    assert (brightest <= 3).all()


def test_symmetric_augmentation_draws_every_orientation_alike_and_changes_nothing_else() -> None:
    still = Augmentation(
        shift=0, rotation_rad=0, scale=0, contrast=0, brightness=0, noise=0, symmetric=True
    )
    square = torch.arange(9.0).reshape(1, 1, 3, 3).repeat(1600, 1, 1, 1) / 9
    found = augment(square, torch.Generator().manual_seed(0), limits=still)
    _, counts = (found * 1000).round().unique(dim=0, return_counts=True)
    assert len(counts) == 8
    assert counts.min() > 130  # 200 each; 5 sigma below
    wide = torch.arange(6.0).reshape(1, 1, 2, 3).repeat(400, 1, 1, 1) / 6
    turned = augment(wide, torch.Generator().manual_seed(0), limits=still)
    assert len((turned * 1000).round().unique(dim=0)) == 4


def test_training_without_augmentation_is_another_and_an_unknown_word_is_refused() -> None:
    images, labels = _digits()

    def train(word: str) -> float:
        settings = {"classifier": "resnet-small", "num_classes": 10, "steps": 3, "seed": 0}
        return train_classifier(
            images[:64], labels[:64], **settings, threads=1, augmentation=word
        ).last_loss

    assert len({train(word) for word in ("none", "standard", "symmetric")}) == 3
    with pytest.raises(KitError, match="flips") as refusal:
        train("flips")
    assert "symmetric" in refusal.value.hint


def test_images_kept_elsewhere_in_bytes_and_in_parts_train_the_same_bits() -> None:
    images, labels = _digits()
    stored = to_bytes(images[:60])
    parts = Joined([stored[:20], stored[20:40], stored[40:]])
    assert parts.shape == stored.shape
    chosen = np.array([59, 0, 21, 21, 40])
    assert np.array_equal(parts[chosen], stored[chosen])

    def weights(kept: Images) -> list[bytes]:
        settings = {"classifier": "resnet-small", "num_classes": 10, "steps": 3, "seed": 0}
        network = train_classifier(kept, labels[:60], **settings, threads=1).network
        return [p.detach().numpy().tobytes() for p in network.parameters()]

    assert weights(parts) == weights(stored) == weights(from_bytes(stored))
    assert weights(parts) != weights(to_bytes(-images[:60]))


def test_no_augmentation_within_zero_limits() -> None:
    images = torch.rand(4, 3, 9, 12, generator=torch.Generator().manual_seed(0))
    still = Augmentation(shift=0, rotation_rad=0, scale=0, contrast=0, brightness=0, noise=0)
    changed = augment(images, torch.Generator(), limits=still)
    assert torch.allclose(changed, images, atol=1e-5)


def test_the_learning_rate_rises_once_and_ends_near_zero() -> None:
    rates = learning_rates(100, peak=2.0)
    assert len(rates) == 100
    assert max(rates) == 2.0
    top = rates.index(2.0)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert 0 < rates[-1] < 0.01
    assert len(learning_rates(1, peak=1.0)) == 1


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("dtype", "float32"),
        ("empty", "at least one image"),
        ("short labels", "one per image"),
        ("high label", "labels must be 0 to 1"),
        ("nan", "not finite"),
    ],
)
def test_arrays_that_are_no_training_set_are_refused(fault: str, message: str) -> None:
    images = np.zeros((4, 1, 8, 8), dtype=np.float32)
    labels = np.array([0, 1, 0, 1], dtype=np.int64)

    def run(images: np.ndarray, labels: np.ndarray) -> int:
        settings = {"classifier": "resnet-small", "num_classes": 2, "steps": 1, "seed": 0}
        return train_classifier(images, labels, **settings).steps

    assert run(images, labels) == 1
    broken = {
        "dtype": (images.astype(np.float64), labels),
        "empty": (images[:0], labels[:0]),
        "short labels": (images, labels[:3]),
        "high label": (images, labels * 2),
        "nan": (np.full_like(images, np.nan), labels),
    }
    with pytest.raises(KitError, match=message):
        run(*broken[fault])


def test_pinned_threads_are_restored_and_bounded() -> None:
    before = (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled())
    with pinned_threads(1):
        assert torch.get_num_threads() == 1
        assert torch.are_deterministic_algorithms_enabled()
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before
    with pytest.raises(KitError, match="threads"), pinned_threads(0):
        pass


def test_the_numerics_fingerprint_is_canonical_and_tells_thread_counts_apart() -> None:
    one, again, two = (canonical.encode(numerics_fingerprint(n)) for n in (1, 1, 2))
    assert one == again
    assert hashlib.sha256(one).digest() != hashlib.sha256(two).digest()
