from dataclasses import replace

import numpy as np
import pytest
import torch

from federation.blueprint import weights
from federation.learning.downstream.numerics import pinned_threads
from federation.learning.generator import edm, procedural
from federation.learning.generator.architecture import (
    Architecture,
    build_network,
    expected_tensors,
    load_weights,
)
from federation.learning.generator.kinds import STATISTICS
from federation.learning.generator.pretrain import MAX_STEPS, Recipe, pretrain
from kit.errors import FormatError

ARCHITECTURE = Architecture(
    kind="edm-unet2d", version=1, preset="tiny", channels=1, height=8, width=8, num_classes=3
)
RECIPE = Recipe(seed=5, steps=3)


def made(recipe=RECIPE):
    with pinned_threads(1):
        return pretrain(ARCHITECTURE, recipe, report=lambda _done, _total: None)


def loss(tensors):
    """The denoising loss on procedural images that the training never saw."""
    network = build_network(ARCHITECTURE)
    load_weights(network, tensors)
    styles = procedural.styles(3, RECIPE.looks, seed=RECIPE.seed)
    labels = [i % 3 for i in range(60)]
    clean = torch.from_numpy(procedural.draw(styles, labels, (1, 8, 8), seed=(99, 0)))
    generator = torch.Generator().manual_seed(1)
    sigma = edm.sigma_of(torch.randn(60, generator=generator), p_mean=-0.5, p_std=1.0)
    noisy = clean + sigma.reshape(-1, 1, 1, 1) * torch.randn(clean.shape, generator=generator)
    with torch.inference_mode():
        found = edm.denoising_loss(network(noisy, sigma, torch.tensor(labels)), clean, sigma)
    return float(found.mean())


def test_a_recipe_gives_the_same_bits_and_its_seed_others():
    first, again, other = made(), made(), made(replace(RECIPE, seed=6))
    assert all((first[name] == again[name]).all() for name in first)
    assert any((first[name] != other[name]).any() for name in first)


def test_the_state_of_the_process_is_no_part_of_the_recipe():
    torch.manual_seed(1)
    first = made()
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.rand(1) == after  # nor does training change it
    torch.manual_seed(2)
    again = made()
    assert all((first[name] == again[name]).all() for name in first)


def test_rounding_at_the_writer_changes_nothing():
    tensors = made()
    data = weights.write(tensors)
    assert data == weights.write(tensors)
    read = weights.read(data, expected_tensors(ARCHITECTURE))
    assert all((read[name] == tensors[name]).all() for name in tensors)
    unrounded = {name: array + np.float32(1e-4) for name, array in tensors.items()}
    assert weights.write(unrounded) != weights.write(unrounded)  # what the check would miss


def test_training_learns_the_images():
    assert loss(made(replace(RECIPE, steps=60))) < 0.5 * loss(made(replace(RECIPE, steps=1)))


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"looks": "patients"},
        {"seed": -1},
        {"steps": 0},
        {"steps": MAX_STEPS + 1},
        {"steps": True},
        {"rate": 1},
    ],
    ids=str,
)
def test_a_recipe_out_of_range_is_refused(change):
    table = RECIPE.to_table()
    assert Recipe.from_table(table) == RECIPE
    with pytest.raises(FormatError):
        Recipe.from_table(table | change)


def test_a_generator_of_statistics_starts_from_nothing():
    assert made()
    statistics = replace(ARCHITECTURE, kind=STATISTICS.name, preset=next(iter(STATISTICS.presets)))
    with pytest.raises(FormatError, match="starts from no base"):
        pretrain(statistics, RECIPE, report=lambda _done, _total: None)
