"""What a private run can be expected to lose, said before it is trained.

Nothing here looks at an image. How much of a class is left above the noise is, for every kind, told
by its *strength*: declared units per declared class over the noise of one release that costs the
whole run's epsilon (at a fixed epsilon the accumulated noise hardly depends on how it is spread
over steps). Loss against strength was measured on handwritten digits of 8 px; see
docs/adr/0024-class-statistics-for-small-cohorts.md for every figure. Larger images have more to be
told with the same noise: expect to lose more, never less.
"""

import math
from dataclasses import dataclass

import numpy as np

from edge_agent.training.plan import PrivacyPlan
from edge_agent.training.trainers import Trainer, trainer_of
from federation.accounting import DpEvent, compose, noise_multiplier_for
from federation.learning.generator import architecture as networks
from federation.learning.generator.kinds import STATISTICS
from federation.study import Study
from kit.errors import KitError

NOISE_POINTS = 40.0  # of accuracy: what is lost where samples are mostly noise
WARN_POINTS = 5.0
USEFUL_POINTS = 10.0  # the loss that the offers of more patients and more epsilon aim at
LEAST_NOISE = 0.5  # of one release: an epsilon above ten, which no study should be advised to take


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """The loss to expect, in points of accuracy against the same kind without privacy."""

    points: float
    lines: tuple[str, ...]

    @property
    def is_noise(self) -> bool:
        """Whether what would be sent is mostly noise."""
        return self.points >= NOISE_POINTS

    def require_accepted(self, *, is_accepted: bool) -> None:
        """Refuse to spend a budget on noise, unless somebody said so in so many words.

        Raises:
            KitError: what would be sent is mostly noise, and it was not accepted.
        """
        if self.is_noise and not is_accepted:
            raise KitError(
                f"this run would lose about {self.points:.0f} points of accuracy: mostly noise",
                hint="take what is offered above; or give --accept-expected-loss, knowingly",
            )


def expectation(study: Study, preset: str, plan: PrivacyPlan, classes: int) -> Expectation:
    """Return what a run of `preset` under `plan` is expected to lose, and what works better.

    Args:
        study: whose architectures are the alternatives.
        preset: the generator that is to be trained.
        plan: its privacy plan.
        classes: how many the site declares.
    """
    trainer = trainer_of(networks.architecture_for(study, preset))
    noise = noise_multiplier_for(epsilon=plan.epsilon, delta=plan.delta, sample_rate=1.0, steps=1)
    strength = plan.n_declared / (classes * noise)
    points = loss(trainer, strength)
    about = (
        f"{plan.n_declared} {plan.unit}s in {classes} classes at epsilon {plan.epsilon:.3g}: "
        f"expect about {points:.0f} points of accuracy less than without privacy "
        f"(measured on digits of 8 px; expect worse for larger images)"
    )
    if points < WARN_POINTS:
        return Expectation(points=points, lines=(about,))
    lines = [f"warning: {about}", *_other_presets(study, preset, strength, points)]
    wanted = strength_for(trainer, USEFUL_POINTS)
    if strength < wanted:
        units = math.ceil(wanted * classes * noise / 10) * 10
        it_takes = f"it takes about {units} {plan.unit}s"
        less_noise = strength * noise / wanted
        if less_noise >= LEAST_NOISE:
            event = DpEvent(sample_rate=1.0, noise_multiplier=less_noise, steps=1)
            it_takes += f", or a study with epsilon {compose([event], plan.delta):.2g}"
        lost = math.ceil(loss(trainer, wanted))
        lines.append(f"to lose no more than {lost} points with `{preset}` {it_takes}")
    return Expectation(points=points, lines=tuple(lines))


def _other_presets(study: Study, preset: str, strength: float, points: float) -> list[str]:
    """Say which preset that the study allows loses least, or which one it does not allow would."""
    kinds = {name: trainer_of(networks.architecture_for(study, name)) for name in _allowed(study)}
    losses = {name: loss(trainer, strength) for name, trainer in kinds.items()}
    best = min(losses, key=lambda name: losses[name])
    if losses[best] < points:
        return [
            f"advised: --preset {best}, which the study allows and which loses about "
            f"{losses[best]:.0f} points here"
        ]
    statistics = STATISTICS.presets
    if not any(name in statistics for name in losses):
        return [
            f"the study allows no preset for small cohorts ({', '.join(statistics)}): "
            "its coordinator could make one that does"
        ]
    return [f"`{preset}` is the best that the study allows for so few"]


def _allowed(study: Study) -> list[str]:
    return [entry.preset for entry in study.architectures]


def loss(trainer: Trainer, strength: float) -> float:
    """Return the points lost at `strength`, between measured ones; the ends go on flat."""
    strengths, points = zip(*trainer.measured, strict=True)
    return float(np.interp(math.log(strength), np.log(strengths), points))


def strength_for(trainer: Trainer, points: float) -> float:
    """Return the least strength that loses at most `points`, or the largest that was measured."""
    strengths, losses = zip(*trainer.measured, strict=True)
    return math.exp(float(np.interp(-points, [-p for p in losses], np.log(strengths))))
