"""The kinds of generator: what tells one from another, in one closed registry.

A kind is a network, its presets, the tensor whose rows belong to the classes, and how noise becomes
images. Whoever checks, samples or shows a generator asks the registry and never which kind it has
before it. Reading the registry needs no torch; only building and drawing load it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from federation.learning.generator.architecture import Architecture

MIN_SIDE_PX = 8
MAX_SIDE_PX = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class UNetPreset:
    """The shape of one UNet: feature channels per resolution, and the sides it is meant for.

    `mid_attention` puts one self-attention block at the lowest resolution.
    """

    block_channels: tuple[int, ...]
    layers_per_block: int
    mid_attention: bool
    min_side_px: int
    max_side_px: int

    @property
    def multiple_px(self) -> int:
        """Sides inside the network are multiples of this: one halving per block but the last."""
        return 1 << (len(self.block_channels) - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class MomentsPreset:
    """How many cosine coefficients have a mean and a covariance, of grey and of colour images."""

    grey_coefficients: int
    colour_coefficients: int
    min_side_px: int = MIN_SIDE_PX
    max_side_px: int = MAX_SIDE_PX

    def coefficients(self, channels: int) -> int:
        """Return how many coefficients are kept; the smallest image has 64 or 192."""
        return self.grey_coefficients if channels == 1 else self.colour_coefficients


Preset = UNetPreset | MomentsPreset
Draw = Callable[
    ["torch.nn.Module", "Architecture", "torch.Tensor", "torch.Tensor", int], "torch.Tensor"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of generator.

    Attributes:
        name, version: what a study and a payload call it.
        presets: preset name -> its shape; no two kinds share a name.
        class_rows: the tensor whose row i belongs to class i of the study.
        build: architecture -> a fresh network.
        draw: (network, architecture, white noise [B, C, H, W], labels [B], steps) -> images
            [B, C, H, W], not yet clipped; every image depends on its own noise and label only.
    """

    name: str
    version: int
    presets: Mapping[str, Preset]
    class_rows: str
    build: Callable[["Architecture"], "torch.nn.Module"]
    draw: Draw


def _denoiser(architecture: "Architecture") -> "torch.nn.Module":
    from federation.learning.generator.network import Denoiser

    return Denoiser(architecture)


def _denoise(
    network: "torch.nn.Module",
    architecture: "Architecture",
    noise: "torch.Tensor",
    labels: "torch.Tensor",
    steps: int,
) -> "torch.Tensor":
    from federation.learning.generator.sampler import heun, schedule, sigma_max

    return heun(network, noise, labels, schedule(steps, highest=sigma_max(architecture)))


def _class_gaussian(architecture: "Architecture") -> "torch.nn.Module":
    from federation.learning.generator.class_gaussian import ClassGaussian

    return ClassGaussian(architecture)


def _at_once(
    network: "torch.nn.Module",
    _architecture: "Architecture",
    noise: "torch.Tensor",
    labels: "torch.Tensor",
    _steps: int,
) -> "torch.Tensor":
    images: torch.Tensor = network(noise, labels)
    return images


# DP noise grows with the number of parameters, so the private presets are as small as still draws
# well; `tiny-wide` is what the same images need when no noise is added.
DIFFUSION = Kind(
    name="edm-unet2d",
    version=1,
    presets={
        "tiny": UNetPreset(
            block_channels=(16, 32),
            layers_per_block=1,
            mid_attention=False,
            min_side_px=8,
            max_side_px=16,
        ),
        "tiny-wide": UNetPreset(
            block_channels=(32, 64),
            layers_per_block=1,
            mid_attention=False,
            min_side_px=8,
            max_side_px=16,
        ),
        "small": UNetPreset(
            block_channels=(16, 32, 64),
            layers_per_block=1,
            mid_attention=False,
            min_side_px=16,
            max_side_px=32,
        ),
        "large": UNetPreset(
            block_channels=(32, 64, 64, 128),
            layers_per_block=1,
            mid_attention=True,
            min_side_px=32,
            max_side_px=64,
        ),
    },
    class_rows="unet.class_embedding.weight",
    build=_denoiser,
    draw=_denoise,
)

# For small cohorts: a few thousand numbers, released by a handful of noisy sums.
STATISTICS = Kind(
    name="class-gaussian",
    version=1,
    presets={"moments": MomentsPreset(grey_coefficients=36, colour_coefficients=60)},
    class_rows="mean.weight",
    build=_class_gaussian,
    draw=_at_once,
)

KINDS = {kind.name: kind for kind in (DIFFUSION, STATISTICS)}
BY_PRESET = {preset: kind for kind in KINDS.values() for preset in kind.presets}
