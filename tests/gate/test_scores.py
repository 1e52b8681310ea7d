"""Scores of single images: whoever moved the weights scores higher, of any kind of generator."""

import numpy as np
import torch

from edge_agent.gate import scores
from federation.learning.generator import class_gaussian
from federation.learning.generator.architecture import Architecture, build_network, load_weights
from federation.learning.generator.spectrum import spectrum
from tests.gate.cohorts import digits, make_cohort


def architecture(kind, preset):
    return Architecture(
        kind=kind, version=1, preset=preset, channels=1, height=8, width=8, num_classes=10
    )


class Remembers(torch.nn.Module):
    """The denoiser that is optimal for a few images: their mean, weighted by the noise's law."""

    def __init__(self, images):
        super().__init__()
        self.images = torch.nn.Parameter(torch.from_numpy(images))

    def forward(self, x, sigma, _labels):
        squares = torch.cdist(x.flatten(1), self.images.flatten(1)).square()
        weights = (-squares / (2 * sigma[:, None] ** 2)).softmax(dim=1)
        return (weights @ self.images.flatten(1)).reshape(x.shape)


def test_a_denoiser_that_remembers_scores_its_images_above_all_others():
    images, labels = digits()
    network = Remembers(images[:50])
    found = scores.residual_scores(network, images[:200], labels[:200])
    assert found[:50].min() > found[50:].max()


def test_class_statistics_score_whom_they_are_made_of_above_others():
    images, labels = digits()
    order = np.flatnonzero(labels == 3)
    known, others = order[:45], order[45:90]
    shape = architecture("class-gaussian", "moments")
    network = build_network(shape)
    coarse = spectrum(1, 8, 8).coefficients(images[known])[:, : network.mean.weight.shape[1]]
    means = np.zeros(network.mean.weight.shape, dtype=np.float32)
    means[3] = coarse.mean(axis=0)
    spread, turned = np.linalg.eigh(np.cov(coarse.T))
    tensors = {
        class_gaussian.MEAN: means,
        class_gaussian.FACTOR: (turned * np.sqrt(spread.clip(0))).astype(np.float32),
        class_gaussian.RESIDUAL: np.zeros(1, dtype=np.float32),
    }
    load_weights(network, tensors)
    found = scores.unit_scores(network, shape, make_cohort(images, labels).part(order[:90]))
    inside = [found[str(i)] for i in known]
    outside = [found[str(i)] for i in others]
    assert np.mean(np.array(inside)[:, None] > np.array(outside)) > 0.9


def test_a_unit_scores_the_mean_of_its_images():
    images, labels = digits()
    network = Remembers(images[:5])
    cohort = make_cohort(images[:4], labels[:4], units=["a", "a", "b", "a"])
    each = scores.residual_scores(network, images[:4], labels[:4])
    found = scores.unit_scores(network, architecture("edm-unet2d", "tiny"), cohort)
    assert found == {"a": np.mean(each[[0, 1, 3]]), "b": each[2]}
