"""The free choices of a private training: from public figures alone, with their reasons."""

import math
from dataclasses import dataclass

_MAX_BATCH = 1024
_LARGE_SITE = 5000
_SMALL_IMAGE_PX = 16
_LEARNING_RATE = 2e-3
_ENOUGH_SIGNAL = 500.0
_LEAST, _MOST = 0.1, 0.5  # share of the class sums


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivatePreset:
    """What a plan is made with.

    Attributes:
        expected_batch_size: B, units a step.
        steps: noisy steps.
        draws_per_unit: K, noise draws averaged inside one clip.
        max_grad_norm: C, the clip.
        sums_share: part of the run's Renyi divergence for the class sums; None leaves it to
            `sums_share`, by what signal the steps have.
        warm_up_steps: steps on the central images, which cost nothing.
    """

    expected_batch_size: int
    steps: int
    draws_per_unit: int
    max_grad_norm: float
    sums_share: float | None
    warm_up_steps: int


def private_preset(n_declared: int, side_px: int) -> PrivatePreset:
    """Return the choices for a site that declares `n_declared` units of images of `side_px`.

    Epsilon decides the rest, through `signal`.

    *Batch and steps.* At a fixed epsilon the accumulated noise sigma / (B sqrt(steps)) hardly
    depends on B and the steps once q is above 0.1 (RDP, delta 1e-5: within 7 % of the full batch
    at q = 0.3), so time sets them: a third of a small site, 128 for a middle one, an eighth of a
    large one. On 8 px images (N 400 to 550) 100 steps drew as well as 300, at epsilon 8 and at 1
    (benchmarks/README.md); larger images have more to learn and keep 300. The 1000 of a large site
    follow DPDM and DP-FETA. Neither of these two was measured here.

    *Clip.* Adam divides by the size of what it gets, so C changes nothing once every unit is
    clipped: on digits the norms before it lie between 150 and 650, at the start and after the
    warm-up, and C = 0.001 (DP-FETA) is as good as 1.

    *Draws.* The cost of a step grows with K, its privacy does not. The literature's 8 to 32 are for
    days on several GPUs; 4 is what a hospital's processor bears.

    *Warm-up.* 8 px was tried here (docs/adr/0022); larger images follow DP-FETA (28 and 32 px).
    """
    batch = min(n_declared // 3, max(128, n_declared // 8), _MAX_BATCH)
    return PrivatePreset(
        expected_batch_size=batch,
        steps=_steps(n_declared, side_px),
        draws_per_unit=4,
        max_grad_norm=1.0,
        sums_share=None,
        warm_up_steps=150,
    )


def _steps(n_declared: int, side_px: int) -> int:
    if n_declared >= _LARGE_SITE:
        return 1000
    return 100 if side_px <= _SMALL_IMAGE_PX else 300


def why(signal_of_steps: float) -> str:
    """Say in one line what the figures of a plan follow from."""
    share, rate = sums_share(signal_of_steps), learning_rate(signal_of_steps)
    return (
        "batch and steps follow from the declared number and time, the clip bounds every unit and "
        f"Adam scales the rest; signal over noise is {signal_of_steps:.3g} of the "
        f"{_ENOUGH_SIGNAL:g} that are enough, so about {share:.0%} of the bound go to the classes' "
        f"sums, and the learning rate is {rate:.2g}"
    )


def signal(expected_batch_size: int, steps: int, noise_multiplier: float) -> float:
    """Return how far the steps add up over their noise: B sqrt(steps) / sigma.

    About 600 at epsilon 8, 260 at 3 and 100 at 1 with 400 units, whatever the steps.
    """
    return expected_batch_size * math.sqrt(steps) / noise_multiplier


def sums_share(signal_of_steps: float) -> float:
    """Return the part of the run's Renyi divergence that the class sums get: a tenth to a half.

    A tenth makes the noise of the steps a twentieth larger. Divergence goes with the square of the
    signal: below `_ENOUGH_SIGNAL` the share grows so that the means keep the noise they had there,
    up to a half, because few noisy numbers are learnt where many noisy gradients are not.
    """
    return min(_MOST, max(_LEAST, _LEAST * (_ENOUGH_SIGNAL / signal_of_steps) ** 2))


def learning_rate(signal_of_steps: float) -> float:
    """Return Adam's rate: 0.002, less where noise outweighs what the steps add up.

    Steps of full size walk away from what the warm-up has learnt; proportional ones stay near it.
    """
    return _LEARNING_RATE * min(1.0, signal_of_steps / _ENOUGH_SIGNAL)
