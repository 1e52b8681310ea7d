"""DP-FedAvg: federated averaging of a classifier whose local steps are DP-SGD at every hospital.

McMahan et al. 2017, algorithm 1, with the local steps of Abadi et al. 2016, algorithm 1: Poisson
sampling of units, one clip per unit, noise before the step. The server adds momentum to the mean
update (FedAvgM, Hsu et al. 2019) and reports the moving average of its models, which costs no
privacy. A unit's gradient is the mean over a few augmented draws before it is clipped, as the
generator's is.

The promise is the kit's own: (epsilon, delta) for every unit over all rounds, to whoever sees
everything that leaves a hospital. A hospital is charged for its own steps, rounds x local steps,
and all hospitals together for no more, because their units are disjoint (parallel composition).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from benchmarks.baselines import average
from edge_agent.training import gradients
from edge_agent.training.optimizer import SecretNoiseOptimizer
from edge_agent.training.sampler import UnitTable, image_draws, poisson_draw, unit_table
from federation.accounting import DpEvent, noise_multiplier_for
from federation.learning.downstream.classifier import build_classifier, initialise
from federation.learning.downstream.train import Augmentation, augment, generator

SMALL = "tanh-cnn"
_ROWS_PER_PASS = 512
_SMALL_WIDTHS = (16, 32)
_SMALL_GRID = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class DpFedAvgPlan:
    """Settings, tuned on deals that no row of the table uses.

    Attributes:
        classifier: `tanh-cnn`, or a name of the classifier registry that has no BatchNorm.
        rounds: exchanges.
        local_steps: noisy steps of every hospital in a round.
        sample_rate: q, chance of each unit to be in a step.
        draws: K, augmented copies of a unit inside its clip.
        max_grad_norm: C.
        learning_rate: of the local steps.
        momentum: of the server.
        average_decay: of the moving average over rounds.
        shift: largest augmenting shift, of the side; the other augmentations are as in a build.
    """

    classifier: str = SMALL
    rounds: int = 100
    local_steps: int = 1
    sample_rate: float = 0.3
    draws: int = 4
    max_grad_norm: float = 1.0
    learning_rate: float = 0.5
    momentum: float = 0.9
    average_decay: float = 0.95
    shift: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateSite:
    """One hospital: its images, their labels and units, and the public number it declares."""

    images: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    units: tuple[str, ...]
    n_declared: int


def event_for(plan: DpFedAvgPlan, *, epsilon: float, delta: float) -> DpEvent:
    """Return all that one hospital's units are charged for over all rounds.

    Raises:
        KitError: no noise keeps so many steps within `epsilon`.
    """
    steps = plan.rounds * plan.local_steps
    noise = noise_multiplier_for(
        epsilon=epsilon, delta=delta, sample_rate=plan.sample_rate, steps=steps
    )
    return DpEvent(sample_rate=plan.sample_rate, noise_multiplier=noise, steps=steps)


def small_network(*, channels: int, num_classes: int) -> nn.Module:
    """Return two convolutions with tanh and a linear layer.

    Bounded activations suit clipped gradients (Papernot et al. 2021, arXiv:2007.14191), and every
    parameter less is noise less.
    """
    narrow, wide = _SMALL_WIDTHS
    return nn.Sequential(
        nn.Conv2d(channels, narrow, kernel_size=3, padding=1),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Conv2d(narrow, wide, kernel_size=3, padding=1),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(_SMALL_GRID),
        nn.Flatten(),
        nn.Linear(wide * _SMALL_GRID**2, num_classes),
    )


def train(
    sites: Sequence[PrivateSite],
    plan: DpFedAvgPlan,
    event: DpEvent,
    *,
    num_classes: int,
    seed: int,
) -> nn.Module:
    """Return the averaged classifier; noise and draws are secret, so no two runs are equal.

    Args:
        sites: the hospitals; every one takes part in every round.
        plan: the settings.
        event: what each of them spends, from `event_for`.
        num_classes: logits.
        seed: of the first weights and the augmentation.
    """
    network = _fresh(sites, plan, num_classes, seed)
    gradients.attach(network, draws=plan.draws)
    hospitals = [
        _Hospital(site, plan, event, network, seed=seed + i) for i, site in enumerate(sites)
    ]
    shared, velocity = _copy(network), {n: torch.zeros_like(t) for n, t in _copy(network).items()}
    smooth = dict(shared)
    for number in range(plan.rounds):
        states = []
        for hospital in hospitals:
            network.load_state_dict(shared)
            for _ in range(plan.local_steps):
                hospital.step()
            states.append(_copy(network))
        mean = average(states, [site.n_declared for site in sites])
        decay = min(plan.average_decay, (1 + number) / (10 + number))
        for name, tensor in shared.items():
            velocity[name] = plan.momentum * velocity[name] + (mean[name] - tensor)
            shared[name] = tensor + velocity[name]
            smooth[name] = smooth[name].lerp(shared[name], 1 - decay)
    network.load_state_dict(smooth)
    network.eval()
    return network


class _Hospital:
    """One hospital's DP-SGD steps on whatever weights the network holds."""

    def __init__(
        self,
        site: PrivateSite,
        plan: DpFedAvgPlan,
        event: DpEvent,
        network: nn.Module,
        *,
        seed: int,
    ) -> None:
        self._images, self._labels = torch.from_numpy(site.images), torch.from_numpy(site.labels)
        self._units: UnitTable = unit_table(site.units)
        self._network, self._plan, self._event = network, plan, event
        self._changes = generator(seed, "augmentation")
        self._limits = Augmentation(shift=plan.shift)
        self._optimizer = SecretNoiseOptimizer(
            torch.optim.SGD(network.parameters(), lr=plan.learning_rate),
            noise_multiplier=event.noise_multiplier,
            max_grad_norm=plan.max_grad_norm,
            expected_batch_size=event.sample_rate * site.n_declared,
        )

    def step(self) -> None:
        draws = self._plan.draws
        drawn = poisson_draw(len(self._units), sample_rate=self._event.sample_rate)
        index = image_draws(self._units, drawn, draws=draws)
        width = max(1, _ROWS_PER_PASS // draws)
        self._optimizer.zero_grad(set_to_none=True)
        for at in range(0, len(drawn), width):
            rows = torch.from_numpy(index[:, at : at + width].reshape(-1))
            images = augment(self._images[rows], self._changes, limits=self._limits)
            loss = F.cross_entropy(self._network(images), self._labels[rows], reduction="sum")
            (loss / draws).backward()  # type: ignore[no-untyped-call]
            self._optimizer.accumulate()
        self._optimizer.noisy_step(self._network)


def _fresh(
    sites: Sequence[PrivateSite], plan: DpFedAvgPlan, num_classes: int, seed: int
) -> nn.Module:
    _, channels, height, width = sites[0].images.shape
    if plan.classifier == SMALL:
        network = small_network(channels=channels, num_classes=num_classes)
    else:
        network = build_classifier(
            plan.classifier, channels=channels, height=height, width=width, num_classes=num_classes
        )
    initialise(network, generator(seed, "initial weights"))
    return network


def _copy(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}
