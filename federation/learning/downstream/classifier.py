"""Classifiers by name: a closed registry, so that a study's word means one network for ever.

Every network maps float images [B, C, H, W] in [-1, 1] to logits [B, num_classes], and is built
from convolutions, normalisations, ReLU, sums, one mean and one linear layer only: what `export`
can write. Weights are drawn by `initialise` from a generator, never from torch's global state.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from kit.errors import KitError

MIN_SIDE_PX = 8
MAX_SIDE_PX = 64
_LAST_SIDE_PX = 4  # the side at which the mean over positions is taken, or just under
_GROUP = 8  # channels per group of GroupNorm

Norm = Callable[[int], nn.Module]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Size:
    """How large a network is: channels of the first stage and at most, blocks per scale.

    Images with a side of `halved_from_px` or more are halved by the first convolution.
    """

    width: int
    most: int
    blocks: int
    halved_from_px: int


# 32 channels were no better on the handwritten digits; unhalved, two cores would take minutes.
_SMALL = _Size(width=24, most=96, blocks=1, halved_from_px=24)
_LARGE = _Size(width=64, most=256, blocks=2, halved_from_px=48)


class _Block(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016, figure 5 left)."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = _conv3(inputs, outputs, stride=stride)
        self.norm1 = norm(outputs)
        self.conv2 = _conv3(outputs, outputs, stride=1)
        self.norm2 = norm(outputs)
        self.relu = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, kernel_size=1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(projection, norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu(self.norm1(self.conv1(x)))
        h = self.norm2(self.conv2(h))
        return torch.relu(h + self.shortcut(x))


class _ResNet(nn.Module):
    """Stem, blocks for each scale down to about 4 px, mean over positions, linear layer."""

    def __init__(
        self, *, channels: int, side_px: int, num_classes: int, norm: Norm, size: _Size
    ) -> None:
        super().__init__()
        stride, width = 2 if side_px >= size.halved_from_px else 1, size.width
        self.stem = nn.Sequential(_conv3(channels, width, stride=stride), norm(width), nn.ReLU())
        side_px = -(-side_px // stride)
        blocks = [_Block(width, width, stride=1, norm=norm) for _ in range(size.blocks)]
        while side_px > _LAST_SIDE_PX:
            wider = min(2 * width, size.most)
            blocks.append(_Block(width, wider, stride=2, norm=norm))
            blocks += [_Block(wider, wider, stride=1, norm=norm) for _ in range(size.blocks - 1)]
            side_px, width = -(-side_px // 2), wider
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.head(self.flatten(self.pool(self.blocks(self.stem(x)))))
        return h


def _conv3(inputs: int, outputs: int, *, stride: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)


def _group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(channels // _GROUP, channels)


_REGISTRY: dict[str, Callable[..., nn.Module]] = {
    "resnet-small": partial(_ResNet, norm=nn.BatchNorm2d, size=_SMALL),
    "resnet-small-groupnorm": partial(_ResNet, norm=_group_norm, size=_SMALL),
    "resnet-large": partial(_ResNet, norm=nn.BatchNorm2d, size=_LARGE),
}


def classifiers() -> tuple[str, ...]:
    """Return the names a study may use."""
    return tuple(_REGISTRY)


def require(name: str, *, height: int, width: int) -> None:
    """Refuse a name that is not in the registry, or a size in pixels that it does not offer.

    Raises:
        KitError: the name is unknown, or a side is out of range.
    """
    if name not in _REGISTRY:
        raise KitError(
            f"there is no classifier `{name}`", hint=f"use one of {', '.join(_REGISTRY)}"
        )
    for side_px in (height, width):
        if not MIN_SIDE_PX <= side_px <= MAX_SIDE_PX:
            raise KitError(
                f"classifier `{name}` takes images of {MIN_SIDE_PX} to {MAX_SIDE_PX} px,"
                f" not {height}x{width}"
            )


def build_classifier(
    name: str, *, channels: int, height: int, width: int, num_classes: int
) -> nn.Module:
    """Return the network `name`; its weights are unset until `initialise` has run.

    Args:
        name: an entry of `classifiers()`.
        channels: 1 or 3.
        height: pixels, 8 to 64.
        width: pixels, 8 to 64.
        num_classes: logits per image, at least 1.

    Raises:
        KitError: the name is unknown or the shape is outside what the registry offers.
    """
    require(name, height=height, width=width)
    if channels not in (1, 3) or num_classes < 1:
        raise KitError("a classifier wants 1 or 3 channels and at least one class")
    side_px = min(height, width)
    return _REGISTRY[name](channels=channels, side_px=side_px, num_classes=num_classes)


def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Set all weights: He-normal convolutions and linear layers, unit norms, zero biases.

    Raises:
        RuntimeError: the network has a layer with weights that this function does not know.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(
                module.weight, mode="fan_out", nonlinearity="relu", generator=generator
            )
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
        elif next(module.parameters(recurse=False), None) is not None:
            raise RuntimeError(f"no initialisation for {type(module).__name__}")


@torch.no_grad()
def scale_logits(network: nn.Module, factor: float) -> None:
    """Multiply every logit of a registered network by `factor`, in its last layer."""
    head = network.get_submodule("head")
    if not isinstance(head, nn.Linear):
        raise TypeError("a classifier ends with a linear layer")
    head.weight.mul_(factor)
    head.bias.mul_(factor)
