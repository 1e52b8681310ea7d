"""FederatedFactory: shards depend on one blueprint alone, and the release on the set of shards."""

import hashlib

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from federation.learning.downstream.calibration import HeldOut
from federation.learning.downstream.pixels import from_bytes, to_bytes
from federation.learning.downstream.support import support_estimate
from federation.learning.generator.architecture import Architecture, build_network
from federation.learning.methods.federated_factory import (
    SHARD_BATCH,
    ReleaseModel,
    check_samples,
    release_model,
    shard,
)
from kit.errors import KitError

ARCHITECTURE = Architecture(
    kind="edm-unet2d", version=1, preset="tiny", channels=1, height=8, width=8, num_classes=4
)


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return build_network(ARCHITECTURE).eval()


def _shard(network: torch.nn.Module, label: int = 1, *, size: int = 3, seed: int = 5) -> np.ndarray:
    return shard(network, ARCHITECTURE, label, size=size, seed=seed, sampler_steps=2)


def _digits(*classes: int, count: int = 60) -> list[tuple[int, np.ndarray]]:
    digits = load_digits()
    images = to_bytes((digits.images / 8 - 1).astype(np.float32)[:, None])
    return [(c, images[digits.target == c][:count]) for c in classes]


def _release(shards: list[tuple[int, np.ndarray]], *, steps: int = 3, seed: int = 0, **more):
    return release_model(
        shards,
        classes=[f"digit {i}" for i in range(10)],
        classifier="resnet-small",
        steps=steps,
        seed=seed,
        threads=1,
        **more,
    )


def _digest(model: ReleaseModel) -> str:
    state = model.network.state_dict()
    parts = [name.encode() + state[name].numpy().tobytes() for name in sorted(state)]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def test_a_shard_is_a_function_of_network_class_seed_and_steps(network: torch.nn.Module) -> None:
    first = _shard(network)
    torch.manual_seed(99)
    assert first.shape == (3, 1, 8, 8)
    assert first.dtype == np.uint8
    assert np.array_equal(first, _shard(network))
    assert not np.array_equal(first, _shard(network, seed=6))
    assert not np.array_equal(first, _shard(network, label=2))


def test_a_smaller_shard_is_the_beginning_of_a_larger_one(network: torch.nn.Module) -> None:
    larger = _shard(network, size=SHARD_BATCH + 2)
    assert np.array_equal(larger[:3], _shard(network, size=3))
    assert not np.array_equal(larger[SHARD_BATCH:], larger[:2])


@pytest.mark.parametrize(("label", "size"), [(4, 3), (-1, 3), (0, 0)])
def test_a_shard_outside_the_architecture_is_refused(
    network: torch.nn.Module, label: int, size: int
) -> None:
    assert len(_shard(network, 3, size=1)) == 1
    with pytest.raises(KitError, match="out of range"):
        _shard(network, label, size=size)


def test_eight_bits_go_there_and_back_exactly() -> None:
    every = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    assert np.array_equal(to_bytes(from_bytes(every)), every)
    assert from_bytes(every).min() == -1
    assert from_bytes(every).max() == 1
    assert to_bytes(np.array([[-3.0, 3.0]], dtype=np.float32)).tolist() == [[0, 255]]


def test_a_release_learns_real_classes_and_names_them_in_study_order() -> None:
    model = _release(_digits(7, 0, 4), steps=60)
    assert model.labels == ("digit 0", "digit 4", "digit 7")
    assert model.shards == (1, 1, 1)
    assert model.trained.train_accuracy > 0.95
    zeros = torch.from_numpy(from_bytes(_digits(0)[0][1]))
    assert (model.network(zeros).argmax(dim=1) == 0).float().mean() > 0.9


def test_without_a_blueprint_the_release_is_that_of_a_federation_that_never_had_it() -> None:
    a, b, c = _digits(0, 1, 2, count=20)
    with_c = _release([a, b, c])
    without_c = _release([s for s in (a, b, c) if s is not c])
    never_had = _release(_digits(0, 1, count=20))
    assert _digest(without_c) == _digest(never_had)
    assert _digest(with_c) != _digest(never_had)
    assert without_c.labels == ("digit 0", "digit 1")
    changed = (a[0], a[1] ^ np.eye(8, dtype=np.uint8))
    assert _digest(_release([changed, b])) != _digest(never_had)


def test_two_sites_of_one_class_share_a_label() -> None:
    a, b = _digits(3, 8, count=16)
    model = _release([a, b, (3, a[1][:, :, ::-1].copy())])
    assert model.labels == ("digit 3", "digit 8")
    assert model.shards == (2, 1)


def test_held_out_images_are_not_trained_on_and_calibrate_the_logits() -> None:
    shards = _digits(0, 1, 4, count=40)
    plain = _release(shards, steps=40)
    assert plain.calibrated is None
    kept = HeldOut(images=10, calibration="none")
    fitted = HeldOut(images=10, calibration="temperature")
    first, second = (_release(shards, steps=40, held_out=rule) for rule in (kept, fitted))
    assert first.trained.images == plain.trained.images - 30
    assert _digest(first) != _digest(plain)
    assert first.calibrated.images == 15
    x = torch.from_numpy(from_bytes(shards[0][1]))
    factor = second.calibrated.temperature
    assert factor != 1.0
    assert torch.allclose(second.network(x) * factor, first.network(x), atol=1e-4)
    changed = [(c, np.concatenate([s[:30], 255 - s[30:]])) for c, s in shards]
    assert _digest(_release(changed, steps=40, held_out=kept)) == _digest(first)
    assert _digest(_release(changed, steps=40, held_out=fitted)) != _digest(second)


def test_a_release_from_nothing_or_from_unequal_shards_is_refused() -> None:
    a, b = _digits(0, 1, count=8)
    assert _release([a, b]).labels
    with pytest.raises(KitError, match="nothing to build"):
        _release([])
    with pytest.raises(KitError, match="shape"):
        _release([a, (1, b[1][:4])])
    with pytest.raises(KitError, match="not one of"):
        _release([a, (10, b[1])])


def test_the_support_estimate_finds_the_size_of_a_replayed_training_set() -> None:
    draws = np.random.default_rng(0)
    replayed = draws.random((60, 1, 8, 8))[draws.integers(0, 60, 256)]
    noisy = 2 * replayed - 1 + 0.005 * draws.standard_normal(replayed.shape)
    found = support_estimate(to_bytes(noisy.astype(np.float32)))
    assert found.distinct <= 60
    assert found.support == pytest.approx(60, rel=0.15)
    assert found.replays(15)
    assert not found.replays(10)
    fresh = support_estimate(to_bytes(draws.uniform(-1, 1, (256, 1, 8, 8)).astype(np.float32)))
    assert (fresh.distinct, fresh.support) == (256, None)
    assert not fresh.replays(10**9)


def test_the_support_estimate_solves_its_equation() -> None:
    images = np.repeat(np.arange(5, dtype=np.uint8) * 50, 4).reshape(20, 1, 1, 1)
    found = support_estimate(images)
    assert found.distinct == 5
    m = found.support
    assert m * (1 - (1 - 1 / m) ** 20) == pytest.approx(5)


def test_different_real_images_are_not_taken_for_duplicates() -> None:
    (_, images), *_ = _digits(3, count=150)
    found = support_estimate(images)
    assert found.distinct >= 0.97 * len(images)


@pytest.mark.parametrize(
    ("fault", "message"),
    [("nan", "finite"), ("flat", "constant"), ("same", "all the same"), ("none", "no samples")],
)
def test_samples_that_show_nothing_are_refused(fault: str, message: str) -> None:
    (_, images), *_ = _digits(5, count=20)
    good = from_bytes(images)
    check_samples(good)
    check_samples(images)
    broken = {
        "nan": np.full_like(good, np.nan),
        "flat": np.zeros_like(good),
        "same": np.repeat(good[:1], 20, axis=0),
        "none": good[:0],
    }
    with pytest.raises(KitError, match=message):
        check_samples(broken[fault])
