"""The closed registry of generator architectures: a few names for a few networks.

An architecture is seven short fields. From them alone both sides derive the same network and the
same table of tensors, so a payload carries numbers and never code. Reading the fields needs no
torch; only building the network loads it.
"""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from federation.study import ArchitectureRef, Study
from kit import canonical
from kit.errors import FormatError, KitError

if TYPE_CHECKING:
    import torch

KIND = "edm-unet2d"
VERSION = 1
WIRE_DTYPE = "BF16"

MIN_SIDE_PX = 8
MAX_SIDE_PX = 64
MAX_CLASSES = 1000

Table = dict[str, tuple[str, tuple[int, ...]]]
Arrays = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
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


# DP noise grows with the number of parameters, so the private presets are as small as still draws
# well; `tiny-wide` is what the same images need when no noise is added.
_PRESETS = {
    "tiny": Preset(
        block_channels=(16, 32),
        layers_per_block=1,
        mid_attention=False,
        min_side_px=8,
        max_side_px=16,
    ),
    "tiny-wide": Preset(
        block_channels=(32, 64),
        layers_per_block=1,
        mid_attention=False,
        min_side_px=8,
        max_side_px=16,
    ),
    "small": Preset(
        block_channels=(16, 32, 64),
        layers_per_block=1,
        mid_attention=False,
        min_side_px=16,
        max_side_px=32,
    ),
    "large": Preset(
        block_channels=(32, 64, 64, 128),
        layers_per_block=1,
        mid_attention=True,
        min_side_px=32,
        max_side_px=64,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """One generator: a registry entry, the image shape in pixels and the study's class count."""

    kind: str
    version: int
    preset: str
    channels: int
    height: int
    width: int
    num_classes: int

    def to_table(self) -> dict[str, Any]:
        """Return the fields as JSON integers and strings."""
        return asdict(self)

    @classmethod
    def from_table(cls, value: Any) -> Self:
        """Read what `to_table` wrote.

        Raises:
            FormatError: a field is missing, unknown, not in the registry or out of its range.
        """
        table = canonical.fields(value, set(cls.__slots__), what="architecture")
        if (table["kind"], table["version"]) != (KIND, VERSION) or table["version"] is True:
            raise FormatError(f"architecture is not `{KIND}` version {VERSION}")
        if not isinstance(table["preset"], str) or table["preset"] not in _PRESETS:
            raise FormatError(f"architecture preset is not one of {sorted(_PRESETS)}")
        if table["channels"] not in (1, 3):
            raise FormatError("architecture has neither 1 nor 3 channels")
        canonical.integer(table["channels"], low=1, high=3, what="architecture channels")
        preset = _PRESETS[table["preset"]]
        for side in ("height", "width"):
            canonical.integer(
                table[side],
                low=preset.min_side_px,
                high=preset.max_side_px,
                what=f"architecture {side} of preset {table['preset']}",
            )
        canonical.integer(table["num_classes"], low=1, high=MAX_CLASSES, what="num_classes")
        return cls(**table)


def presets() -> dict[str, Preset]:
    """Return the closed registry: preset name -> network shape."""
    return dict(_PRESETS)


def preset_of(architecture: Architecture) -> Preset:
    """Return the registry entry of an architecture."""
    return _PRESETS[architecture.preset]


def default_preset(height: int, width: int) -> str:
    """Return the smallest preset for images of `height` x `width` pixels.

    Raises:
        KitError: no preset takes this size.
    """
    for name, preset in _PRESETS.items():
        if preset.min_side_px <= min(height, width) and max(height, width) <= preset.max_side_px:
            return name
    raise KitError(
        f"no generator preset takes images of {height} x {width} px",
        hint=f"use sides from {MIN_SIDE_PX} to {MAX_SIDE_PX} px, at most 2:1",
    )


def architecture_for(study: Study, preset: str) -> Architecture:
    """Return the architecture that `preset` names within a study.

    Raises:
        KitError: the study does not allow it, or its images are of another size.
    """
    if ArchitectureRef(kind=KIND, version=VERSION, preset=preset) not in study.architectures:
        allowed = ", ".join(a.preset for a in study.architectures)
        raise KitError(
            f"study `{study.id}` does not allow the generator preset `{preset}`",
            hint=f"it allows: {allowed}",
        )
    return Architecture.from_table(
        {
            "kind": KIND,
            "version": VERSION,
            "preset": preset,
            "channels": study.image.channels,
            "height": study.image.height,
            "width": study.image.width,
            "num_classes": len(study.classes),
        }
    )


def build_network(architecture: Architecture) -> "torch.nn.Module":
    """Return a fresh denoiser D(x; sigma, label), Karras et al. 2022, eq. 7.

    `forward(x [B, C, H, W] float, sigma [B] float, class_labels [B] int64) -> [B, C, H, W]`.
    """
    from federation.learning.generator.network import Denoiser

    return Denoiser(architecture)


def expected_tensors(architecture: Architecture) -> Table:
    """Return name -> (safetensors type, shape) of every tensor a payload must hold, no other."""
    import torch

    with torch.device("meta"):
        state = build_network(architecture).state_dict()
    return {name: (WIRE_DTYPE, tuple(tensor.shape)) for name, tensor in state.items()}


def class_embedding_name(architecture: Architecture) -> str:
    """Return the tensor whose row i belongs to class i, shape [num_classes, features]."""
    preset_of(architecture)
    return "unet.class_embedding.weight"


def state_arrays(network: "torch.nn.Module") -> Arrays:
    """Return every tensor of a network as float32, name -> array."""
    return {
        name: tensor.detach().cpu().float().numpy().copy()
        for name, tensor in network.state_dict().items()
    }


def load_weights(network: "torch.nn.Module", tensors: Arrays) -> None:
    """Set every tensor of `network`; names and shapes must be exactly its own.

    Raises:
        FormatError: a tensor is missing, unknown or of another shape.
    """
    import torch

    own = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    given = {name: tuple(array.shape) for name, array in tensors.items()}
    if own != given:
        raise FormatError("tensors are not those of the architecture")
    state = {n: torch.from_numpy(np.array(a, dtype=np.float32)) for n, a in tensors.items()}
    network.load_state_dict(state, strict=True)
