"""What rounding to bfloat16 costs: a generator with its float32 weights and with those that leave.

For each seed one site with all ten digits trains a generator, without privacy, whose weights are
the sharper for it. The same seeds then draw samples from the weights as they are and as
`federation.blueprint.weights` rounds them; a support vector machine that is trained on the samples
alone is judged on held-out real images.

`python -m benchmarks.rounding [--seeds 3] [--steps 150] [--json FILE] [--quick]`
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.svm import SVC

from edge_agent.training.warm_up import BATCH_SIZE, LEARNING_RATE
from federation.blueprint import weights
from federation.learning.generator import architecture as networks
from federation.learning.generator import edm
from federation.learning.generator.kinds import DIFFUSION
from federation.learning.generator.sampler import sample

HELD_OUT, PER_CLASS, SAMPLER_STEPS = 395, 60, 8
ARCHITECTURE = networks.Architecture(
    kind=DIFFUSION.name,
    version=DIFFUSION.version,
    preset="tiny",
    channels=1,
    height=8,
    width=8,
    num_classes=10,
)


def main() -> int:
    """Measure every seed and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rounding", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--quick", action="store_true", help="one seed, ten steps")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.seeds, chosen.steps = 1, 10
    rows = [_one(seed, chosen.steps) for seed in range(chosen.seeds)]
    if chosen.json:
        chosen.json.write_text(json.dumps(rows, indent=2) + "\n")
    print(f"{'seed':>4}{'float32':>10}{'bfloat16':>10}{'difference':>12}{'pixel RMS':>11}")
    for row in rows:
        lost = row["rounded"] - row["exact"]
        print(
            f"{row['seed']:>4}{row['exact']:>10.4f}{row['rounded']:>10.4f}{lost:>12.4f}"
            f"{row['pixel_rms']:>11.4f}"
        )
    return 0


def _one(seed: int, steps: int) -> dict[str, Any]:
    digits = load_digits()
    images = (digits.images / 8 - 1).astype(np.float32)[:, None]
    order = np.random.default_rng(seed).permutation(len(images))
    held_out, own = order[:HELD_OUT], order[HELD_OUT:]
    exact = _train(images[own], digits.target[own], seed, steps)
    data = weights.write(exact)
    rounded = weights.read(data, networks.expected_tensors(ARCHITECTURE))
    drawn = [_samples(tensors, seed) for tensors in (exact, rounded)]
    scores = [_score(part, images[held_out], digits.target[held_out]) for part in drawn]
    difference = float(np.sqrt(((drawn[0] - drawn[1]) ** 2).mean()))
    return {"seed": seed, "exact": scores[0], "rounded": scores[1], "pixel_rms": difference}


def _train(images: Any, labels: Any, seed: int, steps: int) -> networks.Arrays:
    torch.manual_seed(seed)
    network = networks.build_network(ARCHITECTURE)
    adam = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    clean, classes = torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64))
    for _ in range(steps):
        drawn = torch.randint(len(clean), (BATCH_SIZE,))
        sigma = edm.sigma_of(torch.randn(BATCH_SIZE), p_mean=-0.8, p_std=1.2)
        noisy = clean[drawn] + sigma.reshape(-1, 1, 1, 1) * torch.randn_like(clean[drawn])
        denoised = network(noisy, sigma, classes[drawn])
        loss = edm.denoising_loss(denoised, clean[drawn], sigma).mean()
        adam.zero_grad(set_to_none=True)
        loss.backward()
        adam.step()
    return networks.state_arrays(network)


def _samples(tensors: networks.Arrays, seed: int) -> Any:
    network = networks.build_network(ARCHITECTURE)
    networks.load_weights(network, tensors)
    labels = torch.arange(10).repeat_interleave(PER_CLASS)
    drawn = sample(
        network, ARCHITECTURE, labels, seed=seed, steps=SAMPLER_STEPS, batch_size=len(labels)
    )
    return drawn.numpy()


def _score(drawn: Any, images: Any, labels: Any) -> float:
    machine = SVC(C=10, gamma=0.02)
    machine.fit(drawn.reshape(len(drawn), -1), np.arange(10).repeat(PER_CLASS))
    return round(float(machine.score(images.reshape(len(images), -1), labels)), 4)


if __name__ == "__main__":
    sys.exit(main())
