"""Training choices that no privacy depends on: a change here never needs a new plan."""

from dataclasses import dataclass

from edge_agent.training.plan import PrivacyPlan
from edge_agent.training.preset import learning_rate
from federation.learning.generator.architecture import Architecture


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Optimiser, averaging and noise-level law.

    Attributes:
        learning_rate: of Adam.
        ema_decay: of the averaged weights, the only ones that leave.
        p_mean, p_std: the log-normal law of sigma (Karras et al. 2022, table 1).
        steps, batch_size: of training without privacy; a privacy plan has its own.
    """

    learning_rate: float
    ema_decay: float
    p_mean: float
    p_std: float
    steps: int
    batch_size: int


def recipe_for(architecture: Architecture, *, plan: PrivacyPlan | None) -> Recipe:
    """Return the recipe for a network under a privacy plan, or without privacy.

    Under noise a few hundred steps must do, so the rate is high and the average short, and the
    noise levels are higher than the paper's (P_mean -1.2): fine detail drowns anyway.
    """
    side = architecture.side_px
    if plan is not None:
        return Recipe(
            learning_rate=learning_rate(plan.signal),
            ema_decay=0.98,
            p_mean=-0.5,
            p_std=1.2,
            steps=0,
            batch_size=0,
        )
    return Recipe(
        learning_rate=2e-3 if side <= 16 else 1e-3,
        ema_decay=0.99,
        p_mean=-0.8,
        p_std=1.2,
        steps=500 if side <= 16 else 1500,
        batch_size=64,
    )
