import numpy as np
import pytest
import torch

from federation.blueprint import weights
from federation.learning.generator import architecture as arch
from federation.learning.generator.class_gaussian import FACTOR, MEAN, RESIDUAL
from federation.learning.generator.sampler import sample
from federation.learning.generator.spectrum import spectrum
from federation.learning.methods import federated_factory

SHAPES = [(1, 8, 8), (3, 8, 13), (1, 28, 28), (3, 64, 50)]
KEPT = {1: 36, 3: 60}


def moments(channels=1, height=8, width=8, num_classes=3):
    named = arch.reference("moments")
    return arch.Architecture(
        kind=named.kind,
        version=named.version,
        preset="moments",
        channels=channels,
        height=height,
        width=width,
        num_classes=num_classes,
    )


def network_of(architecture, *, mean=0.0, factor=0.0, residual=0.0):
    kept = KEPT[architecture.channels]
    network = arch.build_network(architecture)
    tensors = {
        MEAN: np.full((architecture.num_classes, kept), mean, np.float32),
        FACTOR: (factor * np.eye(kept)).astype(np.float32),
        RESIDUAL: np.array([residual], np.float32),
    }
    arch.load_weights(network, tensors)
    return network


@pytest.mark.parametrize("shape", SHAPES)
def test_the_table_is_exact_and_as_small_as_it_says(shape):
    described = moments(*shape)
    kept = KEPT[shape[0]]
    table = arch.expected_tensors(described)
    assert table == {
        MEAN: ("BF16", (3, kept)),
        FACTOR: ("BF16", (kept, kept)),
        RESIDUAL: ("BF16", (1,)),
    }
    assert arch.class_embedding_name(described) == MEAN
    built = arch.state_arrays(arch.build_network(described))
    assert {name: array.shape for name, array in built.items()} == {
        name: shape for name, (_, shape) in table.items()
    }


@pytest.mark.parametrize("shape", SHAPES)
def test_the_basis_is_orthonormal_and_coarse_first(shape):
    basis = spectrum(*shape)
    rng = np.random.default_rng(1)
    images = rng.uniform(-1, 1, (4, *shape)).astype(np.float32)
    found = basis.coefficients(images)
    energy = (images.astype(np.float64) ** 2).sum(axis=(1, 2, 3))
    assert np.allclose((found**2).sum(axis=1), energy)
    assert sorted(basis.order) == list(range(np.prod(shape)))
    assert (np.diff(basis.power) <= 0).all()
    flat = np.full((1, *shape), 0.5, np.float32)  # one grey: the first coefficient alone
    assert np.allclose(basis.coefficients(flat)[0, 1:], 0, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_drawing_undoes_the_coefficients(shape):
    """An image of coarse coefficients alone is drawn again as it was."""
    described = moments(*shape)
    kept = KEPT[shape[0]]
    network = network_of(described)
    rng = np.random.default_rng(2)
    wanted = rng.normal(0, 0.3, (3, kept)).astype(np.float32)
    arch.load_weights(network, arch.state_arrays(network) | {MEAN: wanted})
    with torch.no_grad():
        images = network(torch.randn(3, *shape), torch.arange(3))
    found = spectrum(*shape).coefficients(images.numpy())
    assert np.allclose(found[:, :kept], wanted, atol=1e-5)
    assert np.allclose(found[:, kept:], 0, atol=1e-5)


def test_draws_have_the_law_that_the_tensors_say():
    described = moments()
    network = network_of(described, mean=0.1, factor=0.2, residual=0.5)
    noise = torch.randn(4000, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        images = network(noise, torch.zeros(4000, dtype=torch.long))
    found = spectrum(1, 8, 8).coefficients(images.numpy())
    coarse, fine = found[:, :36], found[:, 36:]
    assert np.abs(coarse.mean(axis=0) - 0.1).max() < 5 * 0.2 / np.sqrt(4000)
    assert np.abs(coarse.std(axis=0) / 0.2 - 1).max() < 5 / np.sqrt(2 * 4000)
    assert (fine**2).sum(axis=1).mean() == pytest.approx(0.25, rel=0.05)


def test_every_value_takes_part_in_a_draw():
    described = moments()
    noise = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(4))
    network = network_of(described, mean=0.1, factor=0.2, residual=0.5)
    network(noise, torch.arange(3)).sin().sum().backward()
    for name, tensor in network.named_parameters():
        assert bool((tensor.grad != 0).all()), name


def test_samples_depend_on_seed_position_and_label_only():
    described = moments()
    torch.manual_seed(5)
    network = arch.build_network(described)
    how = {"seed": 5, "steps": 3, "batch_size": 4}
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    images = sample(network, described, labels, **how)
    assert images.shape == (6, 1, 8, 8)
    assert float(images.abs().max()) <= 1
    assert torch.equal(images, sample(network, described, labels, **how))
    assert torch.equal(images[:3], sample(network, described, labels[:3], **how))
    assert torch.equal(images, sample(network, described, labels, **how | {"steps": 18}))
    assert not torch.equal(images, sample(network, described, labels, **how | {"seed": 6}))


def test_shards_of_equal_weights_have_equal_bits():
    described = moments()
    torch.manual_seed(6)
    network = arch.build_network(described)
    again = arch.build_network(described)
    arch.load_weights(again, arch.state_arrays(network))
    how = {"size": 70, "seed": 9, "sampler_steps": 3}
    one = federated_factory.shard(network, described, 1, **how)
    assert np.array_equal(one, federated_factory.shard(again, described, 1, **how))
    assert not np.array_equal(one, federated_factory.shard(network, described, 2, **how))


def test_bfloat16_on_the_wire_hardly_changes_a_sample():
    described = moments()
    torch.manual_seed(7)
    network, received = arch.build_network(described), arch.build_network(described)
    data = weights.write(arch.state_arrays(network))
    arch.load_weights(received, weights.read(data, arch.expected_tensors(described)))
    how = {"seed": 1, "steps": 2, "batch_size": 12}
    labels = torch.arange(3).repeat(4)
    before, after = (sample(n, described, labels, **how) for n in (network, received))
    assert not torch.equal(before, after)
    assert float((before - after).square().mean().sqrt()) < 0.01  # of a range of 2


def test_no_two_kinds_share_a_preset():
    names = [preset for kind in arch.KINDS.values() for preset in kind.presets]
    assert len(set(names)) == len(names)
    assert set(names) == set(arch.presets())
