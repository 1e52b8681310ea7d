"""A20: what a sketch knows again, and how little it holds."""

import numpy as np
import pytest
import torch

from federation.blueprint import weights
from federation.learning.generator import architecture as networks
from federation.learning.generator.sampler import sample
from federation.learning.review import sketch as sketches
from federation.learning.review.sketch import Sketch, likeness
from kit.errors import FormatError

KEY = bytes(range(32))
CLASSES = ("a", "b")
TINY = networks.Architecture(
    kind=networks.DIFFUSION.name,
    version=networks.DIFFUSION.version,
    preset="tiny",
    channels=1,
    height=8,
    width=8,
    num_classes=len(CLASSES),
)


def tensors(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return networks.state_arrays(networks.build_network(TINY))


def sketched(arrays, *, key=KEY, classes=CLASSES):
    network = networks.build_network(TINY)
    networks.load_weights(network, arrays)
    images = {
        label: sample(
            network,
            TINY,
            torch.full((sketches.SKETCHED_IMAGES,), CLASSES.index(label)),
            seed=sketches.noise_seed(key, label),
            steps=sketches.SKETCH_STEPS,
            batch_size=sketches.SKETCHED_IMAGES,
        ).numpy()
        for label in classes
    }
    return sketches.sketch(arrays, images, key)


def one_bit(arrays):
    name = max(arrays, key=lambda n: arrays[n].size)
    other = {n: a.copy() for n, a in arrays.items()}
    flat = other[name].reshape(-1)
    flat[:1] = (flat[:1].view(np.uint32) ^ np.uint32(1 << 16)).view(np.float32)
    assert weights.write(other) != weights.write(arrays)
    return other


def noised(arrays, share):
    rng = np.random.default_rng(0)
    return {
        name: (a * (1 + share * rng.standard_normal(a.shape))).astype(np.float32)
        for name, a in arrays.items()
    }


def renumbered(arrays):
    """Renumber the hidden units of the time embedding: what it computes stays the same."""
    order = np.random.default_rng(1).permutation(len(arrays["unet.time_embedding.linear_1.bias"]))
    other = dict(arrays)
    other["unet.time_embedding.linear_1.weight"] = arrays["unet.time_embedding.linear_1.weight"][
        order
    ]
    other["unet.time_embedding.linear_1.bias"] = arrays["unet.time_embedding.linear_1.bias"][order]
    other["unet.time_embedding.linear_2.weight"] = arrays["unet.time_embedding.linear_2.weight"][
        :, order
    ]
    return other


def test_a20_one_changed_bit_a_little_noise_or_other_numbers_of_units_are_a_copy():
    first = tensors(1)
    own = sketched(first)
    assert likeness(own, sketched(one_bit(first))).is_copy
    assert likeness(own, sketched(noised(first, 0.01))).is_copy
    turned = likeness(own, sketched(renumbered(first)))
    assert turned.images >= sketches.ALIKE_IMAGES
    stranger = likeness(own, sketched(tensors(2)))
    assert not stranger.is_copy
    assert stranger.weights < 0.8


def test_a20_another_network_or_no_common_class_cannot_be_compared_in_that_respect():
    own = sketched(tensors(1))
    part = sketched(tensors(1), classes=("b",))
    assert (likeness(own, part).weights, likeness(own, part).images) == (1, None)
    fewer = Sketch(layout="0" * 64, shape=own.shape, weights=own.weights, classes={"c": b"8" * 8})
    assert (likeness(own, fewer).weights, likeness(own, fewer).images) == (None, None)
    assert not likeness(own, fewer).is_copy


def test_a20_a_sketch_holds_a_few_hundred_bits_and_its_key_decides_which():
    first = tensors(1)
    own = sketched(first)
    assert len(own.weights) * 8 == sketches.WEIGHT_BITS
    assert {len(bits) * 8 for bits in own.classes.values()} == {sketches.CLASS_BITS}
    held = sketches.WEIGHT_BITS + len(CLASSES) * sketches.CLASS_BITS
    assert held * 1000 < 16 * sum(array.size for array in first.values())
    other = sketched(first, key=bytes(32))
    assert 0.35 < likeness(own, other).weights < 0.65
    assert sketched(first) == own


def test_a_sketch_is_read_as_a_stranger_s():
    own = sketched(tensors(1))
    table = own.to_table()
    assert Sketch.from_table(table) == own
    for change in (
        {"layout": "short"},
        {"weights": "ab"},
        {"weights": "zz" * 32},
        {"weights": 3},
        {"classes": {"a": "ab"}},
        {"classes": ["a"]},
        {"more": 1},
    ):
        with pytest.raises(FormatError):
            Sketch.from_table(table | change)
