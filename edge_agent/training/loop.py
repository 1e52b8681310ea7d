"""The training loop, private and not: the same network, average, checkpoints and files.

Invariants:

- A private run's first release, noisy sums per class, is charged and on the disk before it is used;
  it decides which declared classes are trained on, and what the network is warmed up on.
- A step is charged, durably, after its gradients are known to be finite and before its noisy
  update is applied. After a crash the steps charged since the last checkpoint are lost, never
  repeated: training goes on at the number of charged steps.
- Nothing private stops or steers training: the number of steps is the plan's.
"""

import copy
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any, Protocol, Self

import numpy as np
import torch

from edge_agent.datasets.examples import Cohort
from edge_agent.training import checkpoint, gradients
from edge_agent.training.checkpoint import TrainState
from edge_agent.training.class_sums import release
from edge_agent.training.crew import Alone, Crew, joined, own_device
from edge_agent.training.noise import secret_seed, secret_uniform
from edge_agent.training.optimizer import SecretNoiseOptimizer
from edge_agent.training.plan import PrivacyPlan
from edge_agent.training.recipe import Recipe
from edge_agent.training.sampler import Indices, image_draws, poisson_draw, unit_table
from edge_agent.training.warm_up import warm_up
from federation.accounting import curve_of, epsilon_of
from federation.learning.generator import edm
from federation.learning.generator.architecture import (
    Architecture,
    Arrays,
    build_network,
    load_weights,
)
from kit.errors import InterruptedRunError, KitError
from kit.progress import Progress

CHECKPOINT_EVERY_S = 5.0
ROWS_PER_PASS = 128  # rows that go through the network at once: what fits a processor's cache
ROWS_PER_PASS_TINY = 256  # of images of at most 16 px
_ROWS_PER_PASS_CUDA = 4096
_RESUME_HINT = "run the same command again to go on"

ProgressFactory = Callable[[str, int, int], Progress]
Figures = Sequence[float]


class StepLedger(Protocol):
    """The account that a private run's steps are charged to."""

    @property
    def charged(self) -> int:
        """Steps charged so far, in this process or an earlier one."""

    def charge(self, steps: int) -> None:
        """Charge `steps` more, on disk before it returns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Everything one training needs; `plan` and `ledger` are None without privacy.

    `declared` are the positions of the declared classes; of these, a private run trains on the
    ones that have `minimum_per_class` units as far as its noisy counts tell.
    `start` are the weights of a public base to start from; None starts from random ones.
    """

    folder: Path
    architecture: Architecture
    cohort: Cohort
    recipe: Recipe
    steps: int
    flip: bool
    plan: PrivacyPlan | None
    ledger: StepLedger | None
    progress: ProgressFactory
    declared: tuple[int, ...] = ()
    minimum_per_class: int = 0
    start: Arrays | None = None
    crew: Crew = field(default_factory=Alone)


def train(job: Job) -> TrainState:
    """Train to the last step, from the checkpoint of `job.folder` if there is one.

    Raises:
        KitError: the loss is not finite, ledger and checkpoint contradict each other, or no class
            has enough units.
        InterruptedRunError: ctrl-C; the checkpoint holds the last whole step.
    """
    device = own_device()
    state, update = _begin(job, device)
    checkpoint.restore(job.folder, state)
    first = _first_step(job, state)
    spent = _epsilon_by_step(job.plan)

    with _deferred_interrupt() as is_interrupted:
        if job.plan is not None:
            job = _after_first_release(job, job.plan, state, is_interrupted)
        data = Batches.of(job)
        job.crew.begin(task(job), data.images, data.labels)
        progress = job.progress("training", job.steps, first)
        saved_at = started = time.monotonic()
        for step in range(first, job.steps):
            # gradients, then the charge, then the update
            loss = update.gradients(data, job.crew)
            if not math.isfinite(loss):
                raise KitError(
                    f"the loss is not finite at step {step + 1}",
                    hint="look at the images and the data report; nothing of this step was kept",
                )
            if job.ledger is not None:
                job.ledger.charge(1)
            update.apply()

            # the average, which is all that ships
            decay = min(job.recipe.ema_decay, (1 + step) / (10 + step))
            _blend(state.average, state.network, decay)

            # what the site sees: local metrics, progress, checkpoints
            state.step = step + 1
            figures = {"loss": f"{loss:.3f}"}
            row: dict[str, Any] = {"step": state.step, "loss": round(loss, 6)}
            if job.plan is not None:
                row["epsilon"] = round(spent(state.step), 6)
                figures["epsilon"] = f"{row['epsilon']:.2f}"
            row["seconds"] = round(time.monotonic() - started, 3)
            state.metrics.append(row)
            progress.update(state.step, **figures)
            if is_interrupted():
                checkpoint.write(job.folder, state)
                raise InterruptedRunError(
                    f"stopped at step {state.step} of {job.steps}", hint=_RESUME_HINT
                )
            if time.monotonic() - saved_at >= CHECKPOINT_EVERY_S:
                checkpoint.write(job.folder, state)
                saved_at = time.monotonic()
    job.crew.end()
    checkpoint.write(job.folder, state)
    return state


class Batches:
    """Images on the device, and the draws from them."""

    def __init__(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        units: Sequence[str] = (),
        *,
        recipe: Recipe,
        flip: bool,
    ) -> None:
        self.images, self.labels, self._units = images, labels, unit_table(units)
        self._recipe, self._flip, self._device = recipe, flip, own_device()
        self._rows_per_pass = rows_per_pass(self._device, side_px=max(images.shape[-2:]))
        # noise levels and image noise carry no privacy; still from fresh entropy, never kept
        self._generator = torch.Generator(self._device).manual_seed(secret_seed())

    @classmethod
    def of(cls, job: Job) -> Self:
        """Return the batches of a cohort, whose units can be drawn."""
        images, labels = torch.from_numpy(job.cohort.images), torch.from_numpy(job.cohort.labels)
        return cls(images, labels, job.cohort.units, recipe=job.recipe, flip=job.flip)

    def draw(self, plan: PrivacyPlan) -> Indices:
        """Draw one step's units and images, [K, U]."""
        drawn = poisson_draw(len(self._units), sample_rate=plan.sample_rate)
        return image_draws(self._units, drawn, draws=plan.draws_per_unit)

    def any_images(self, count: int) -> Indices:
        """Draw `count` images uniformly, [1, count], for training without privacy."""
        return (secret_uniform(count) * len(self.images)).astype(np.int64)[None]

    def pieces(self, images: Indices) -> Iterator[Indices]:
        """Cut a draw [K, U] into pieces [K, U'] that fit one pass."""
        width = max(1, self._rows_per_pass // len(images))
        for at in range(0, images.shape[1], width):
            yield images[:, at : at + width]

    def loss(self, network: torch.nn.Module, index: Indices) -> torch.Tensor:
        """Return lambda(sigma) ||D(y + n) - y||^2 per row for images `index` (eq. 2 and 8)."""
        rows = torch.from_numpy(index.reshape(-1))
        clean = self.images[rows].to(self._device)
        labels = self.labels[rows].to(self._device)
        if self._flip:
            mirrored = self._random(len(rows), normal=False) < 0.5
            clean = torch.where(mirrored[:, None, None, None], clean.flip(-1), clean)
        normal = self._random(len(rows), normal=True)
        sigma = edm.sigma_of(normal, p_mean=self._recipe.p_mean, p_std=self._recipe.p_std)
        noise = torch.randn(clean.shape, generator=self._generator, device=self._device)
        noisy = clean + sigma.reshape(-1, 1, 1, 1) * noise
        return edm.denoising_loss(network(noisy, sigma, labels), clean, sigma)

    def _random(self, count: int, *, normal: bool) -> torch.Tensor:
        draw = torch.randn if normal else torch.rand
        return draw(count, generator=self._generator, device=self._device)


def rows_per_pass(device: torch.device, *, side_px: int) -> int:
    """Return how many rows go through the network at once: what the device's fast memory holds."""
    if device.type == "cuda":
        return _ROWS_PER_PASS_CUDA
    return ROWS_PER_PASS_TINY if side_px <= 16 else ROWS_PER_PASS


class _Update(Protocol):
    def gradients(self, data: Batches, crew: Crew) -> float:
        """Compute one step's gradients over all ranks and return the mean loss."""

    def sums(self, data: Batches, images: Indices) -> tuple[list[torch.Tensor], Figures]:
        """Return this process's part of the gradients, which `forget` drops, and of the loss."""

    def forget(self) -> None:
        """Drop the sums: what a rank does once rank 0 has them."""

    def apply(self) -> None:
        """Update the network."""


class PrivateUpdate:
    """Per-unit clipping and secret noise around Adam."""

    def __init__(
        self, network: torch.nn.Module, adam: torch.optim.Optimizer, plan: PrivacyPlan
    ) -> None:
        gradients.attach(network, draws=plan.draws_per_unit)
        self._network, self._plan = network, plan
        self._weights = list(network.parameters())
        self._optimizer = SecretNoiseOptimizer(
            adam,
            noise_multiplier=plan.noise_multiplier,
            max_grad_norm=plan.max_grad_norm,
            expected_batch_size=plan.expected_batch_size,
        )
        self._optimizer.zero_grad(set_to_none=True)

    def gradients(self, data: Batches, crew: Crew) -> float:
        """Compute the clipped sum over one Poisson draw; return the mean loss of its rows."""
        own = crew.share(self._weights, data.draw(self._plan))
        sums, figures = self.sums(data, own)
        total, rows = crew.add_up(sums, figures)
        return total / max(rows, 1)

    def sums(self, data: Batches, images: Indices) -> tuple[list[torch.Tensor], Figures]:
        """Clip every unit of a draw [K, U] and add up; an empty draw gives zeros."""
        total, rows = 0.0, 0
        for piece in data.pieces(images):
            loss = data.loss(self._network, piece)
            (loss.sum() / self._plan.draws_per_unit).backward()  # type: ignore[no-untyped-call]
            self._optimizer.accumulate()
            total, rows = total + float(loss.detach().sum()), rows + len(loss)
        return self._optimizer.clipped_sum(), (total, rows)

    def apply(self) -> None:
        """Add noise once to the sum over all ranks, and step."""
        self._optimizer.noisy_step(self._network)

    def forget(self) -> None:
        """Drop the sums."""
        self._optimizer.forget()


class PlainUpdate:
    """Adam on the mean loss of a uniform batch."""

    def __init__(
        self, network: torch.nn.Module, adam: torch.optim.Optimizer, recipe: Recipe
    ) -> None:
        self._network, self._adam, self._batch = network, adam, recipe.batch_size
        self._weights = list(network.parameters())

    def gradients(self, data: Batches, crew: Crew) -> float:
        """Compute the gradient of the mean loss over a batch, and return that loss."""
        own = crew.share(self._weights, data.any_images(self._batch))
        sums, figures = self.sums(data, own)
        (total,) = crew.add_up(sums, figures)
        return total

    def sums(self, data: Batches, images: Indices) -> tuple[list[torch.Tensor], Figures]:
        """Add up gradient and loss over a slice of the batch, each over the batch's size."""
        self.forget()
        loss = torch.zeros(())
        if images.size:
            loss = data.loss(self._network, images).sum() / self._batch
            loss.backward()  # type: ignore[no-untyped-call]
        for weight in self._weights:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        return [w.grad for w in self._weights if w.grad is not None], (float(loss.detach()),)

    def forget(self) -> None:
        """Drop the sums."""
        self._adam.zero_grad(set_to_none=True)

    def apply(self) -> None:
        """Take Adam's step."""
        self._adam.step()


def _begin(job: Job, device: torch.device) -> tuple[TrainState, _Update]:
    with torch.random.fork_rng():
        torch.random.manual_seed(secret_seed())  # the first weights; never kept
        network = build_network(job.architecture).to(device)
    if job.start is not None:
        load_weights(network, job.start)
    average = copy.deepcopy(network).requires_grad_(False)
    update, adam = _update(network, job.recipe, job.plan)
    return TrainState(network=network, average=average, adam=adam, step=0, metrics=[]), update


def _update(
    network: torch.nn.Module, recipe: Recipe, plan: PrivacyPlan | None
) -> tuple[_Update, torch.optim.Optimizer]:
    adam = torch.optim.Adam(network.parameters(), lr=recipe.learning_rate)
    if plan is None:
        return PlainUpdate(network, adam, recipe), adam
    return PrivateUpdate(network, adam, plan), adam


def help_training(folder: Path) -> None:
    """Take part in rank 0's training until it ends; what `torchrun` starts as another rank.

    Reads no file of the site and writes none: what it needs comes from rank 0, which it meets in
    `folder`.

    Raises:
        KitError: the ranks do not fit this machine, or rank 0 stopped.
    """
    with joined(folder) as hand:
        while (begun := hand.begin()) is not None:
            told, images, labels = begun
            recipe, plan = Recipe(**told["recipe"]), told["plan"]
            network = build_network(Architecture.from_table(told["architecture"])).to(own_device())
            update, _ = _update(network, recipe, plan and PrivacyPlan.from_table(plan))
            data = Batches(images.cpu(), labels.cpu(), recipe=recipe, flip=told["flip"])
            while (own := hand.next(list(network.parameters()))) is not None:
                hand.add_up(*update.sums(data, own))
                update.forget()


def task(job: Job) -> dict[str, Any]:
    """Return what another rank needs to know of a job, as JSON values."""
    return {
        "architecture": job.architecture.to_table(),
        "recipe": asdict(job.recipe),
        "plan": None if job.plan is None else job.plan.to_table(),
        "flip": job.flip,
    }


def _first_step(job: Job, state: TrainState) -> int:
    if job.ledger is None:
        return state.step
    charged, first_release = job.ledger.charged, int(state.released is not None)
    if charged < state.step + first_release:
        raise KitError(
            f"the ledger knows {charged} steps of this run, its checkpoint"
            f" {state.step + first_release}",
            hint="the ledger was restored from an older copy; start a new run",
        )
    if charged and state.released is None:
        raise KitError(
            f"{charged} steps of this run were charged, and no checkpoint of them is left",
            hint="they stay spent; start a new run with --run NAME",
        )
    return charged - first_release


def _after_first_release(
    job: Job, plan: PrivacyPlan, state: TrainState, is_interrupted: Callable[[], bool]
) -> Job:
    """Release the class sums, once, warm the network up, and return the job without small classes.

    Raises:
        KitError: an image is not finite, or no class has enough units.
        InterruptedRunError: ctrl-C; what was released is in the checkpoint.
    """
    if state.released is None:
        declared = np.array(job.declared, dtype=np.int64)
        found = release(job.cohort, declared, noise_multiplier=plan.sums_noise_multiplier)
        if not np.isfinite(found.images).all():
            raise KitError(
                "an image holds values that are not finite",
                hint="look at the images and the data report; nothing was charged",
            )
        if job.ledger is not None:
            job.ledger.charge(1)
        state.released = found
        checkpoint.write(job.folder, state)
    enough = state.released.enough(job.minimum_per_class)
    if not enough.any():
        raise KitError(
            f"no declared class seems to have {job.minimum_per_class} units",
            hint="a noisy count decides, and is charged; declare classes that surely have more",
        )
    if not state.is_warm:
        _warm_up(job, plan, state, is_interrupted)
    return replace(job, cohort=job.cohort.only(np.array(job.declared)[enough]))


def _warm_up(
    job: Job, plan: PrivacyPlan, state: TrainState, is_interrupted: Callable[[], bool]
) -> None:
    if state.released is None:
        raise RuntimeError("there is nothing to warm up on before the first release")
    enough = state.released.enough(job.minimum_per_class)
    progress = job.progress("warm-up", plan.warm_up_steps, 0)

    def on_step(done: int) -> None:
        progress.update(done)
        if is_interrupted():
            raise InterruptedRunError("stopped in the warm-up", hint=_RESUME_HINT)

    plain = build_network(job.architecture).to(next(state.network.parameters()).device)
    plain.load_state_dict(state.network.state_dict())
    warm = warm_up(
        plain,
        torch.from_numpy(state.released.means()[enough]),
        torch.tensor(job.declared)[torch.from_numpy(enough)],
        side_px=(job.architecture.height, job.architecture.width),
        steps=plan.warm_up_steps,
        on_step=on_step,
    )
    for network in (state.network, state.average):
        network.load_state_dict(warm.state_dict())
    state.is_warm = True
    checkpoint.write(job.folder, state)


def _epsilon_by_step(plan: PrivacyPlan | None) -> Callable[[int], float]:
    if plan is None:
        return lambda _step: math.inf
    *first, training = plan.events
    before, each = curve_of(first), curve_of([training]) / training.steps
    return lambda step: epsilon_of(before + each * step, plan.delta)


def _blend(average: torch.nn.Module, network: torch.nn.Module, decay: float) -> None:
    with torch.no_grad():
        for mean, latest in zip(average.parameters(), network.parameters(), strict=True):
            mean.lerp_(latest, 1 - decay)


@contextmanager
def _deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Turn ctrl-C into a flag, so that a step is whole when the run stops."""
    seen: list[int] = []
    if current_thread() is not main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, lambda number, _frame: seen.append(number))
    try:
        yield lambda: bool(seen)
    finally:
        signal.signal(signal.SIGINT, before)
