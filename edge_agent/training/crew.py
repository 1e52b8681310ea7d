"""The processes that share one training step, one per local GPU, as `torchrun` starts them.

Rank 0 trains: it alone reads images and ledger, draws who takes part, adds the noise, updates the
weights and writes files. The others are hands: in each step they get the weights and the drawn
images' positions, take their slice, and give back the clipped sum over it. So

- the units of a step are one Poisson draw, cut into slices that share none: the union over the
  ranks has the law of a single process, and so has epsilon;
- noise is added once, to the sum over all ranks, whatever their number;
- nothing random and nothing about ranks is in a checkpoint: a run may go on with another number.

Who takes part in a step is secret. The slices travel between processes of one machine only:
several machines are refused, the processes' sockets are bound to the loopback interface, and they
find each other by a file in the site's own folder, not by a store that listens. `torchrun` has a
store of its own, on every interface, which nothing here reads or writes.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist

from edge_agent.training.sampler import Indices
from kit.errors import KitError

_STOP, _BEGIN, _STEP, _END = range(4)
_HEADER = 3  # what follows, and its two lengths
# A rank waits here while rank 0 reads and decodes every image, or draws samples for the gate.
_PATIENCE = timedelta(hours=6)
_LOOPBACK = "lo"

Tensors = Sequence[torch.Tensor]


class Crew(Protocol):
    """What the training loop asks of the processes that share its steps."""

    def begin(self, task: Mapping[str, Any], images: torch.Tensor, labels: torch.Tensor) -> None:
        """Tell every rank what is trained: settings as JSON values, and the images."""

    def share(self, weights: Tensors, images: Indices) -> Indices:
        """Give every rank weights and draw [K, U]; return this process's columns of it."""

    def add_up(self, sums: Tensors, figures: Sequence[float]) -> list[float]:
        """Add every rank's `sums` into this process's, in place; return the added figures."""

    def end(self) -> None:
        """Say that this training is over."""


class Alone:
    """One process, which does everything itself."""

    def begin(self, task: Mapping[str, Any], images: torch.Tensor, labels: torch.Tensor) -> None:
        """There is nobody to tell."""

    def share(self, weights: Tensors, images: Indices) -> Indices:
        """All columns are this process's."""
        return images

    def add_up(self, sums: Tensors, figures: Sequence[float]) -> list[float]:
        """Its own sums are the total."""
        return list(figures)

    def end(self) -> None:
        """There is nobody to tell."""


class Lead:
    """Rank 0 of several: tells the others, and adds up what they give back."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def begin(self, task: Mapping[str, Any], images: torch.Tensor, labels: torch.Tensor) -> None:
        """Tell every rank what is trained: settings as JSON values, and the images."""
        table = {"task": dict(task), "images": list(images.shape)}
        document = np.frombuffer(json.dumps(table).encode(), dtype=np.uint8)
        self._header(_BEGIN, len(document), 0)
        self._send(torch.from_numpy(document.copy()))
        self._send(images)
        self._send(labels)

    def share(self, weights: Tensors, images: Indices) -> Indices:
        """Give every rank weights and draw [K, U]; return this process's columns of it."""
        self._header(_STEP, *images.shape)
        self._send(_flat(weights))
        self._send(torch.from_numpy(np.ascontiguousarray(images)))
        return slice_of(images, rank=0, ranks=dist.get_world_size())

    def add_up(self, sums: Tensors, figures: Sequence[float]) -> list[float]:
        """Add every rank's `sums` into this process's, in place; return the added figures."""
        flat, counts = _reduced(sums, figures, self._device)
        _unflatten(flat, sums)
        return counts

    def end(self) -> None:
        """Say that this training is over."""
        self._header(_END, 0, 0)

    def stop(self) -> None:
        """Let every other rank exit."""
        self._header(_STOP, 0, 0)

    def _header(self, kind: int, first: int, second: int) -> None:
        self._send(torch.tensor([kind, first, second], dtype=torch.int64))

    def _send(self, tensor: torch.Tensor) -> None:
        with _named_failure():
            dist.broadcast(tensor.to(self._device), src=0)


class Hand:
    """Any other rank: does what rank 0 says."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._is_stopped = device, False

    def begin(self) -> tuple[dict[str, Any], torch.Tensor, torch.Tensor] | None:
        """Return settings, images and labels of the next training; None once rank 0 is done."""
        if self._is_stopped:
            return None
        kind, length, _ = self._header()
        if kind == _STOP:
            return None
        document = self._receive((length,), torch.uint8)
        table = json.loads(bytes(document.cpu().numpy()))
        images = self._receive(tuple(table["images"]), torch.float32)
        return table["task"], images, self._receive((len(images),), torch.int64)

    def next(self, weights: Tensors) -> Indices | None:
        """Set `weights` and return this rank's columns of the draw; None at the end."""
        kind, draws, units = self._header()
        self._is_stopped = kind == _STOP
        if kind != _STEP:
            return None
        flat = self._receive((sum(w.numel() for w in weights),), torch.float32)
        _unflatten(flat, weights)
        images = self._receive((draws, units), torch.int64).cpu().numpy()
        return slice_of(images, rank=dist.get_rank(), ranks=dist.get_world_size())

    def add_up(self, sums: Tensors, figures: Sequence[float]) -> None:
        """Give rank 0 this rank's sums."""
        _reduced(sums, figures, self._device)

    def _header(self) -> tuple[int, int, int]:
        kind, first, second = self._receive((_HEADER,), torch.int64).tolist()
        return kind, first, second

    def _receive(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        tensor = torch.empty(shape, dtype=dtype, device=self._device)
        with _named_failure():
            dist.broadcast(tensor, src=0)
        return tensor


def slice_of(images: Indices, *, rank: int, ranks: int) -> Indices:
    """Return the columns of rank `rank`: every column of [K, U] is in exactly one slice."""
    return np.ascontiguousarray(images[:, rank::ranks])


def is_hand() -> bool:
    """Say whether `torchrun` started this process to help another one."""
    return int(os.environ.get("RANK", "0")) > 0


def own_device() -> torch.device:
    """Return this rank's own GPU, or the processor where there is none."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


@contextmanager
def led(folder: Path) -> Iterator[Crew]:
    """Yield the crew of rank 0, or `Alone` where `torchrun` started no others.

    `folder` is readable by this user only; the ranks meet there.

    Raises:
        KitError: the ranks are on several machines, or have no GPU each.
    """
    if _ranks() < 2:
        yield Alone()
        return
    with _group(folder):
        crew = Lead(own_device())
        try:
            yield crew
        except BaseException:
            with suppress(KitError):  # whatever stopped this rank is what the operator reads
                crew.stop()
            raise
        crew.stop()


@contextmanager
def joined(folder: Path) -> Iterator[Hand]:
    """Yield the part of a rank other than 0, which meets the others in `folder`.

    Raises:
        KitError: the ranks are on several machines, or have no GPU each.
    """
    with _group(folder):
        yield Hand(own_device())


@contextmanager
def _group(folder: Path) -> Iterator[None]:
    if int(os.environ.get("LOCAL_WORLD_SIZE", "0")) != _ranks():
        raise KitError(
            "training runs on the GPUs of one machine only",
            hint="start it with torchrun --standalone --nproc-per-node=<GPUs>",
        )
    has_gpus = torch.cuda.is_available()
    if has_gpus and torch.cuda.device_count() < _ranks():
        raise KitError(
            f"{_ranks()} processes, but {torch.cuda.device_count()} GPUs",
            hint="give torchrun --nproc-per-node at most the number of GPUs",
        )
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ[name] = _LOOPBACK
    if has_gpus:
        torch.cuda.set_device(own_device())
    meeting = folder / f".ranks-{os.environ['TORCHELASTIC_RUN_ID']}-{os.environ['MASTER_PORT']}"
    with _named_failure():
        dist.init_process_group(
            "nccl" if has_gpus else "gloo",
            store=dist.FileStore(str(meeting), _ranks()),  # type: ignore[attr-defined]
            rank=int(os.environ["RANK"]),
            world_size=_ranks(),
            timeout=_PATIENCE,
        )
    try:
        yield
    finally:
        dist.destroy_process_group()
        meeting.unlink(missing_ok=True)


def _ranks() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _reduced(
    sums: Tensors, figures: Sequence[float], on: torch.device
) -> tuple[torch.Tensor, list[float]]:
    """Add over all ranks; the result is rank 0's, the others hold what the reduction left."""
    flat = _flat(sums).to(on)
    counts = torch.tensor(figures, dtype=torch.float64, device=on)
    with _named_failure():
        dist.reduce(flat, dst=0)
        dist.reduce(counts, dst=0)
    return flat, [float(value) for value in counts]


def _flat(tensors: Tensors) -> torch.Tensor:
    return torch.cat([tensor.detach().reshape(-1).float() for tensor in tensors])


def _unflatten(flat: torch.Tensor, tensors: Tensors) -> None:
    at = 0
    for tensor in tensors:
        piece = flat[at : at + tensor.numel()]
        tensor.detach().copy_(piece.view_as(tensor))
        at += tensor.numel()


@contextmanager
def _named_failure() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, dist.DistError) as error:
        raise KitError(
            "another process of this training stopped answering",
            hint="look at its messages above; run the same command again to go on",
        ) from error
