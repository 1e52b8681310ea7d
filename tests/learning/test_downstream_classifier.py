"""The classifier registry: every name builds, initialises from a generator, and is bounded."""

import pytest
import torch

from federation.learning.downstream.classifier import (
    build_classifier,
    classifiers,
    initialise,
)
from kit.errors import KitError


def _built(name: str, **changes: int) -> torch.nn.Module:
    shape = {"channels": 1, "height": 8, "width": 8, "num_classes": 3} | changes
    return build_classifier(name, **shape)


@pytest.mark.parametrize("name", classifiers())
@pytest.mark.parametrize(("channels", "height", "width"), [(1, 8, 8), (3, 28, 28), (1, 64, 40)])
def test_every_classifier_maps_images_of_every_offered_size_to_finite_logits(
    name: str, channels: int, height: int, width: int
) -> None:
    network = _built(name, channels=channels, height=height, width=width)
    initialise(network, torch.Generator().manual_seed(0))
    network.eval()
    logits = network(torch.zeros(2, channels, height, width))
    assert logits.shape == (2, 3)
    assert logits.isfinite().all()


def test_initial_weights_depend_on_the_generator_and_not_on_the_global_one() -> None:
    def weights(seed: int, global_seed: int) -> torch.Tensor:
        torch.manual_seed(global_seed)
        network = _built("resnet-small")
        initialise(network, torch.Generator().manual_seed(seed))
        return torch.cat([p.flatten() for p in network.parameters()])

    assert torch.equal(weights(1, 10), weights(1, 20))
    assert not torch.equal(weights(1, 10), weights(2, 10))


def test_initialise_refuses_a_layer_it_does_not_know() -> None:
    initialise(torch.nn.Sequential(torch.nn.Linear(2, 2)), torch.Generator())
    with pytest.raises(RuntimeError, match="PReLU"):
        initialise(torch.nn.Sequential(torch.nn.PReLU()), torch.Generator())


@pytest.mark.parametrize(
    "changes", [{"channels": 2}, {"height": 7}, {"width": 65}, {"num_classes": 0}]
)
def test_a_shape_outside_the_registry_is_refused(changes: dict[str, int]) -> None:
    assert isinstance(_built("resnet-small"), torch.nn.Module)
    with pytest.raises(KitError, match="classifier"):
        _built("resnet-small", **changes)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(KitError, match="resnet-huge") as caught:
        _built("resnet-huge")
    assert "resnet-small" in str(caught.value.hint)
