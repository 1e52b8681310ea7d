"""Training a base on procedural images: public in, public out, every bit a function of the recipe.

No privacy is needed, for nobody's image goes in, and none is spent. Bits depend on threads and
instruction set as a build's do: `downstream.numerics` pins the one and puts both on record.
"""

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import torch

from federation.learning.generator import edm, procedural
from federation.learning.generator.architecture import (
    Architecture,
    Arrays,
    build_network,
    state_arrays,
)
from federation.learning.generator.kinds import DIFFUSION
from kit import canonical
from kit.errors import FormatError

MAX_STEPS = 1_000_000
MAX_SEED = canonical.MAX_INTEGER
BATCH_SIZE = 64
_LEARNING_RATE, _EMA_DECAY = 2e-3, 0.995
_P_MEAN, _P_STD = -0.6, 1.2  # between the laws of the private recipe and of the plain one


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What a base's weights are a function of, beside the architecture.

    `version` is that of this module and of `procedural`: another formula is another number.
    """

    version: int = procedural.VERSION
    looks: str = "all"
    seed: int = 0
    steps: int = 2000

    def to_table(self) -> dict[str, Any]:
        """Return the fields as JSON integers and strings."""
        return asdict(self)

    @classmethod
    def from_table(cls, value: Any) -> Self:
        """Read what `to_table` wrote.

        Raises:
            FormatError: a field is missing, unknown or out of its range.
        """
        table = canonical.fields(value, set(cls.__slots__), what="recipe of a base")
        canonical.version(table["version"], expected=procedural.VERSION, what="recipe of a base")
        if table["looks"] not in procedural.LOOKS:
            raise FormatError(f"a base's images look like one of {procedural.LOOK_NAMES}")
        canonical.integer(table["seed"], low=0, high=MAX_SEED, what="seed of a base")
        canonical.integer(table["steps"], low=1, high=MAX_STEPS, what="steps of a base")
        return cls(**table)


def require_trainable(architecture: Architecture) -> None:
    """Check that a generator is of a kind that training can start from a base.

    Raises:
        FormatError: it is made of statistics, which start from nothing.
    """
    if architecture.kind != DIFFUSION.name:
        raise FormatError(
            f"a generator of kind `{architecture.kind}` starts from no base",
            hint="leave out the base, or take a preset of another kind with --preset",
        )


def pretrain(
    architecture: Architecture, recipe: Recipe, *, report: Callable[[int, int], None]
) -> Arrays:
    """Return a base's tensors, name -> float32 array, each value one that bfloat16 holds exactly.

    The caller pins threads; `report(done, total)` follows the steps.

    Raises:
        FormatError: the generator is of a kind that is not trained by steps.
    """
    require_trainable(architecture)
    generator = torch.Generator().manual_seed(recipe.seed)
    with torch.random.fork_rng(devices=()):
        torch.random.manual_seed(recipe.seed)
        network = build_network(architecture)
    average = copy.deepcopy(network).requires_grad_(False)
    adam = torch.optim.Adam(network.parameters(), lr=_LEARNING_RATE)
    shape = (architecture.channels, architecture.height, architecture.width)
    styles = procedural.styles(architecture.num_classes, recipe.looks, seed=recipe.seed)
    for step in range(recipe.steps):
        labels = torch.randint(architecture.num_classes, (BATCH_SIZE,), generator=generator)
        seed = (recipe.seed, step)
        clean = torch.from_numpy(procedural.draw(styles, labels.tolist(), shape, seed=seed))
        loss = _loss(network, clean, labels, generator)
        adam.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        _blend(average, network, min(_EMA_DECAY, (1 + step) / (10 + step)))
        report(step + 1, recipe.steps)
    return {name: _nearest(array) for name, array in state_arrays(average).items()}


def _loss(
    network: torch.nn.Module,
    clean: torch.Tensor,
    labels: torch.Tensor,
    generator: torch.Generator,
) -> torch.Tensor:
    normal = torch.randn(len(clean), generator=generator)
    sigma = edm.sigma_of(normal, p_mean=_P_MEAN, p_std=_P_STD)
    noise = torch.randn(clean.shape, generator=generator)
    noisy = clean + sigma.reshape(-1, 1, 1, 1) * noise
    return edm.denoising_loss(network(noisy, sigma, labels), clean, sigma).mean()


def _blend(average: torch.nn.Module, network: torch.nn.Module, decay: float) -> None:
    with torch.no_grad():
        for mean, latest in zip(average.parameters(), network.parameters(), strict=True):
            mean.lerp_(latest, 1 - decay)


def _nearest(array: np.ndarray[Any, np.dtype[np.float32]]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Round to the nearest bfloat16, which rounding at sealing then leaves as it is."""
    return torch.from_numpy(array).bfloat16().float().numpy()
