"""Experts: each of one blueprint's shards alone, joined as distributions over all labels."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from federation.build_policy import BuildPolicy, Mode
from federation.learning.downstream import strangers
from federation.learning.downstream.export import check_parity, export_onnx
from federation.learning.downstream.numerics import pinned_threads
from federation.learning.downstream.pixels import to_bytes
from federation.learning.methods.product_of_experts import (
    Expert,
    ProductOfExperts,
    blank,
    product,
    train_expert,
)
from federation.release.onnx_lint import ModelContract, lint
from kit.errors import KitError

CLASSES = tuple(f"digit {i}" for i in range(10))
POLICY = BuildPolicy(
    version=2,
    shard_size=40,
    sampler_steps=2,
    classifier="resnet-small",
    classifier_steps=3,
    mode=Mode.EXPERTS,
    held_out=8,
)


def _shards(*classes: int, count: int = 40) -> list[tuple[int, np.ndarray]]:
    digits = load_digits()
    images = to_bytes((digits.images / 8 - 1).astype(np.float32)[:, None])
    return [(c, images[digits.target == c][:count]) for c in classes]


def _expert(shards, *, policy: BuildPolicy = POLICY, seed: int = 0) -> Expert:
    with pinned_threads(1):
        return train_expert(shards, policy, classes=len(CLASSES), seed=seed)


def _digest(network: torch.nn.Module) -> str:
    state = network.state_dict()
    return hashlib.sha256(b"".join(state[name].numpy().tobytes() for name in state)).hexdigest()


def _product(experts, shards):
    return product(experts, shards, classes=CLASSES, policy=POLICY, threads=1)


def test_without_an_expert_the_others_are_the_same_bits_and_the_product_is_theirs_alone() -> None:
    sets = [_shards(0, 1), _shards(1, 2), _shards(3, 4)]
    experts = [_expert(own, seed=at) for at, own in enumerate(sets)]
    before = [_digest(expert.network) for expert in experts]
    whole = _product(experts, sets)
    assert whole.labels == tuple(CLASSES[c] for c in (0, 1, 2, 3, 4))
    rest = _product(experts[:2], sets[:2])
    assert rest.labels == tuple(CLASSES[c] for c in (0, 1, 2))
    assert [_digest(expert.network) for expert in experts] == before
    never = [_expert(own, seed=at) for at, own in enumerate(sets[:2])]
    assert [_digest(expert.network) for expert in never] == before[:2]
    assert _digest(_product(never, sets[:2]).network) == _digest(rest.network)
    changed = [(c, images ^ np.uint8(1)) for c, images in sets[0]]
    assert _digest(_expert(changed).network) != before[0]


def test_every_expert_is_a_distribution_over_all_labels() -> None:
    expert = _expert(_shards(2, 5))
    x = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    alone = torch.softmax(expert.network(x), dim=1)
    found = torch.softmax(ProductOfExperts([expert], (1, 2, 5, 7))(x), dim=1)
    assert torch.allclose(found[:, [1, 2]], alone[:, :2], atol=1e-6)
    assert torch.allclose(found[:, [0, 3]], alone[:, 2:] / 2, atol=1e-6)
    knows_all = torch.softmax(ProductOfExperts([expert], (2, 5))(x), dim=1)
    assert torch.allclose(knows_all, alone[:, :2] / alone[:, :2].sum(1, keepdim=True), atol=1e-6)
    twice = torch.softmax(ProductOfExperts([expert, expert], (1, 2, 5, 7))(x), dim=1)
    square = found**2
    assert torch.allclose(twice, square / square.sum(1, keepdim=True), atol=1e-6)


@pytest.mark.parametrize("name", ["resnet-small", "resnet-small-groupnorm"])
def test_the_onnx_of_a_product_keeps_the_contract_and_agrees_with_torch(name: str) -> None:
    policy = replace(POLICY, classifier=name)
    sets = [_shards(0, 1), _shards(1, 9)]
    experts = [_expert(own, policy=policy) for own in sets]
    model = product(experts, sets, classes=CLASSES, policy=policy, threads=1)
    shape = {"channels": 1, "height": 8, "width": 8}
    data = export_onnx(model.network, **shape, labels=model.labels)
    lint(data, contract=ModelContract(**shape, labels=model.labels))
    for size in ((8, 8), (21, 13)):
        images = np.random.default_rng(0).random((5, 1, *size), dtype=np.float32)
        assert check_parity(model.network, data, images, height=8, width=8) < 1e-5
    again = export_onnx(model.network, **shape, labels=model.labels)
    assert again == data


def test_experts_that_never_met_read_each_others_digits() -> None:
    policy = replace(POLICY, classifier_steps=80, calibration="temperature", shard_size=100)
    sets = [_shards(0, 1, count=100), _shards(3, 4, count=100)]
    experts = [_expert(own, policy=policy, seed=at) for at, own in enumerate(sets)]
    model = product(experts, sets, classes=CLASSES, policy=policy, threads=1)
    tests = _shards(0, 1, 3, 4, count=170)
    hits = []
    for column, (_, images) in enumerate(tests):
        x = torch.from_numpy(images[100:].astype(np.float32) / 127.5 - 1)
        hits.append((model.network(x).argmax(1) == column).float().mean().item())
    assert np.mean(hits) > 0.8  # 0.25 by chance, 0.5 where the other's images are guessed at
    assert model.calibrated.temperature != 1.0
    assert all(report.images == 16 for report in model.experts)
    assert all(report.accuracy > 0.8 for report in model.experts)


def test_an_expert_of_one_class_and_a_product_of_none_are_refused() -> None:
    assert _expert(_shards(0, 1)).classes == (0, 1)
    with pytest.raises(KitError, match="single class"):
        _expert(_shards(0))
    with pytest.raises(KitError, match="nothing to build"):
        _product([], [])


def test_weights_that_were_kept_make_the_same_expert() -> None:
    expert = _expert(_shards(0, 1))
    other = blank(POLICY, (1, 8, 8), (0, 1))
    other.network.load_state_dict(expert.network.state_dict())
    x = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(other.network(x), expert.network(x))


@pytest.mark.parametrize("size", [(8, 8), (9, 14)])
def test_strangers_have_the_pixels_of_the_images_and_not_their_order(size) -> None:
    images = torch.rand(12, 1, *size, generator=torch.Generator().manual_seed(0))

    def made(seed: int) -> torch.Tensor:
        return strangers.strange(images, torch.Generator().manual_seed(seed))

    found = made(1)
    assert found.shape == images.shape
    assert torch.equal(found, made(1))
    assert not torch.equal(found, made(2))
    assert not any(torch.allclose(a, b) for a in found for b in images)
    if size == (8, 8):
        tiles = strangers.shuffled(images, torch.Generator().manual_seed(1), side=4)
        assert torch.equal(tiles.flatten(1).sort(1).values, images.flatten(1).sort(1).values)
