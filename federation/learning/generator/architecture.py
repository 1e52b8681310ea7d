"""The closed registry of generator architectures: a few names for a few networks.

An architecture is seven short fields. From them alone both sides derive the same network and the
same table of tensors, so a payload carries numbers and never code. Reading the fields needs no
torch; only building the network loads it.
"""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from federation.learning.generator.kinds import (
    BY_PRESET,
    DIFFUSION,
    KINDS,
    MAX_SIDE_PX,
    MIN_SIDE_PX,
    Kind,
    Preset,
)
from federation.study import ArchitectureRef, Study
from kit import canonical
from kit.errors import FormatError, KitError

if TYPE_CHECKING:
    import torch

WIRE_DTYPE = "BF16"

MAX_CLASSES = 1000

Table = dict[str, tuple[str, tuple[int, ...]]]
Arrays = dict[str, NDArray[np.float32]]


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

    @property
    def side_px(self) -> int:
        """The longer side of the images."""
        return max(self.height, self.width)

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
        kind = KINDS.get(table["kind"]) if isinstance(table["kind"], str) else None
        if kind is None:
            raise FormatError(f"architecture kind is not one of {sorted(KINDS)}")
        if table["version"] is True or table["version"] != kind.version:
            raise FormatError(f"architecture is not `{kind.name}` version {kind.version}")
        if not isinstance(table["preset"], str) or table["preset"] not in kind.presets:
            raise FormatError(f"architecture preset is not one of {sorted(kind.presets)}")
        if table["channels"] not in (1, 3):
            raise FormatError("architecture has neither 1 nor 3 channels")
        canonical.integer(table["channels"], low=1, high=3, what="architecture channels")
        preset = kind.presets[table["preset"]]
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
    """Return the closed registry: preset name -> shape, over all kinds."""
    return {name: kind.presets[name] for name, kind in BY_PRESET.items()}


def kind_of(architecture: Architecture) -> Kind:
    """Return the registry entry of an architecture's kind."""
    return KINDS[architecture.kind]


def preset_of(architecture: Architecture) -> Preset:
    """Return the registry entry of an architecture's preset."""
    return kind_of(architecture).presets[architecture.preset]


def reference(preset: str) -> ArchitectureRef:
    """Return what a study's manifest says to allow `preset`.

    Raises:
        KitError: there is no such preset.
    """
    kind = BY_PRESET.get(preset)
    if kind is None:
        raise KitError(
            f"there is no generator preset `{canonical.printable(preset)}`",
            hint=f"use some of {', '.join(BY_PRESET)}",
        )
    return ArchitectureRef(kind=kind.name, version=kind.version, preset=preset)


def default_preset(height: int, width: int) -> str:
    """Return the smallest diffusion preset for images of `height` x `width` pixels.

    Raises:
        KitError: no preset takes this size.
    """
    for name, preset in DIFFUSION.presets.items():
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
    allowing = [entry for entry in study.architectures if entry.preset == preset]
    if preset not in BY_PRESET or allowing != [reference(preset)]:
        allowed = ", ".join(a.preset for a in study.architectures)
        raise KitError(
            f"study `{study.id}` does not allow the generator preset `{preset}`",
            hint=f"it allows: {allowed}",
        )
    return Architecture.from_table(
        {
            "kind": BY_PRESET[preset].name,
            "version": BY_PRESET[preset].version,
            "preset": preset,
            "channels": study.image.channels,
            "height": study.image.height,
            "width": study.image.width,
            "num_classes": len(study.classes),
        }
    )


def build_network(architecture: Architecture) -> "torch.nn.Module":
    """Return a fresh network of the architecture's kind."""
    return kind_of(architecture).build(architecture)


def expected_tensors(architecture: Architecture) -> Table:
    """Return name -> (safetensors type, shape) of every tensor a payload must hold, no other."""
    import torch

    with torch.device("meta"):
        state = build_network(architecture).state_dict()
    return {name: (WIRE_DTYPE, tuple(tensor.shape)) for name, tensor in state.items()}


def class_embedding_name(architecture: Architecture) -> str:
    """Return the tensor whose row i belongs to class i, shape [num_classes, features]."""
    return kind_of(architecture).class_rows


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
