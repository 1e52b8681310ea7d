"""Which trainer makes which kind of generator: the edge's half of the registry of kinds."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from edge_agent.training import loop, statistics
from edge_agent.training.loop import Job
from edge_agent.training.plan import PrivacyPlan
from edge_agent.training.preset import PrivatePreset, private_preset
from federation.learning.generator.architecture import Architecture
from federation.learning.generator.kinds import DIFFUSION, STATISTICS


class Trained(Protocol):
    """What a trainer leaves: the network whose tensors leave, steps done, rows of metrics."""

    @property
    def average(self) -> torch.nn.Module:
        """The network that ships."""

    @property
    def step(self) -> int:
        """Steps done."""

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """One row per step or release, for the site's own people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainer:
    """How one kind is trained: the free choices of its plan, their reason, and the training.

    `private_preset` is asked with the declared units and the longer side of the images in pixels.
    `measured` are pairs (strength, points of accuracy lost) as `expectation` defines them, rising
    in strength and falling in loss.
    """

    private_preset: Callable[[int, int], PrivatePreset]
    reason: Callable[[PrivacyPlan], str]
    train: Callable[[Job], Trained]
    measured: tuple[tuple[float, float], ...]


_TRAINERS = {
    DIFFUSION.name: Trainer(
        private_preset=private_preset,
        reason=lambda plan: plan.reason,
        train=loop.train,
        measured=((12.0, 84.0), (30.0, 44.0), (70.0, 8.0), (90.0, 5.5), (210.0, 4.5)),
    ),
    STATISTICS.name: Trainer(
        private_preset=statistics.private_preset,
        reason=statistics.reason,
        train=statistics.train,
        measured=((4.5, 72.0), (11.5, 44.0), (29.0, 10.0), (70.0, 3.0)),
    ),
}


def trainer_of(architecture: Architecture) -> Trainer:
    """Return the trainer of an architecture's kind."""
    return _TRAINERS[architecture.kind]
