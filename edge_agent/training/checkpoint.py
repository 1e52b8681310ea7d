"""A run's checkpoint: one file, whole or not at all, and nothing random in it.

It holds the network, its average, Adam's moments, a private run's first release and, in the header,
the step it stands at and the metrics so far. The state of random generators is left out on
purpose: a resumed run draws fresh noise, so that no kept file can help to subtract what was added.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from edge_agent.training.class_sums import Release
from kit.errors import KitError
from kit.files import write_atomic

NAME = "checkpoint.safetensors"
_HEADER = "training"


@dataclass(slots=True, kw_only=True)
class TrainState:
    """What training changes: the network, its average, the optimiser, the step, the metrics.

    A private run has `released` its class sums before the first step; `is_warm` says that the
    network was trained on them, as far as it is.
    """

    network: torch.nn.Module
    average: torch.nn.Module
    adam: torch.optim.Optimizer
    step: int
    metrics: list[dict[str, Any]]
    released: Release | None = None
    is_warm: bool = False


def write(folder: Path, state: TrainState) -> None:
    """Write the checkpoint of `folder` atomically, readable by its owner only."""
    header = json.dumps(
        {"step": state.step, "metrics": state.metrics, "is_warm": state.is_warm, **_noise(state)}
    )
    write_atomic(folder / NAME, save(_tensors(state), {_HEADER: header}), mode=0o600)


def restore(folder: Path, state: TrainState) -> bool:
    """Set `state` to the checkpoint of `folder`; False if there is none.

    Raises:
        KitError: the file is damaged or belongs to another network.
    """
    path = folder / NAME
    if not path.exists():
        return False
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()[_HEADER])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        _load(state, tensors)
        state.step, state.metrics = int(header["step"]), list(header["metrics"])
        state.is_warm = bool(header["is_warm"])
        if "count_noise" in header:
            state.released = Release(
                counts=tensors["released.counts"].numpy(),
                images=tensors["released.images"].numpy(),
                count_noise=float(header["count_noise"]),
                image_noise=float(header["image_noise"]),
            )
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise KitError(
            f"checkpoint `{path}` cannot be read",
            hint="remove this run's folder and start a new run; its charged steps stay spent",
        ) from error
    return True


def remove(folder: Path) -> None:
    """Delete the checkpoint of a finished run, and what a kill may have left beside it."""
    (folder / NAME).unlink(missing_ok=True)
    for part in folder.glob(f".{NAME}.*"):
        part.unlink()


def _noise(state: TrainState) -> dict[str, float]:
    found = state.released
    if found is None:
        return {}
    return {"count_noise": found.count_noise, "image_noise": found.image_noise}


def _tensors(state: TrainState) -> dict[str, torch.Tensor]:
    tensors = {f"network.{n}": t for n, t in state.network.state_dict().items()}
    tensors |= {f"average.{n}": t for n, t in state.average.state_dict().items()}
    for name, parameter in state.network.named_parameters():
        for key, value in state.adam.state.get(parameter, {}).items():
            tensors[f"adam.{key}.{name}"] = value
    if state.released is not None:
        tensors["released.counts"] = torch.from_numpy(state.released.counts)
        tensors["released.images"] = torch.from_numpy(state.released.images)
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _load(state: TrainState, tensors: dict[str, torch.Tensor]) -> None:
    def part(prefix: str) -> dict[str, torch.Tensor]:
        return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}

    state.network.load_state_dict(part("network."), strict=True)
    state.average.load_state_dict(part("average."), strict=True)
    keys = {name.split(".")[1] for name in tensors if name.startswith("adam.")}
    for name, parameter in state.network.named_parameters():
        moments = {key: tensors[f"adam.{key}.{name}"] for key in keys}
        if moments:
            state.adam.state[parameter] = {
                key: value if key == "step" else value.to(parameter.device)
                for key, value in moments.items()
            }
