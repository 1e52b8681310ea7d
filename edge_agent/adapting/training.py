"""`adapt`: train the study's classifier on a release's synthetic images and real ones of this site.

FederatedFactory's local mode (methods page), with two things of our own: the site's classes keep
their synthetic images beside the real ones, and part of the real units is held out to judge by.

Invariants:

- Whole units are held out, each always the same way at this site, so that adapting again does not
  move a patient from one side to the other.
- The baseline is trained as the adapted model is, on the site's real images alone.
- No figure and no model of this module leaves the site.
"""

import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edge_agent import erased, installed, rollout
from edge_agent.adapting import models, records
from edge_agent.adapting.records import Record
from edge_agent.datasets.examples import Cohort
from edge_agent.datasets.load import load_cohort
from edge_agent.erased import Erased
from edge_agent.home import Home
from edge_agent.inference import InstalledModel
from edge_agent.installed import CHAIN, ENVELOPE
from federation.learning.downstream import export
from federation.learning.downstream.metrics import Metrics
from federation.learning.downstream.metrics import evaluate as measure
from federation.learning.downstream.pixels import from_bytes
from federation.learning.downstream.train import predict_logits, train_classifier
from federation.release.synthetic import SyntheticSet
from federation.study import Study
from kit import canonical, clock, door, seeds
from kit.errors import KitError

HELD_OUT = 0.2  # of the units of each class, as the published code holds out of a client's images
MIN_UNITS = 10  # with fewer, two or less are held out: nobody could tell two models apart
_PARITY_IMAGES = 64

Images = NDArray[np.float32]
Labels = NDArray[np.int64]
Predict = Callable[[Images], NDArray[np.floating[Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The options of `edge-agent adapt`; `steps` None takes the study's."""

    study: str
    release: str
    data: Path
    name: str
    split: str = "train"
    steps: int | None = None
    replace: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """How one model did on held-out images.

    `on_own` are real images of this site, of its own classes alone; `on_synthetic` synthetic images
    of every class of the release. The release itself was trained on the latter.
    """

    model: str
    on_own: Metrics
    on_synthetic: Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What `adapt` made, for people at this site."""

    name: str
    model: str
    release: str
    study: str
    labels: tuple[str, ...]
    own_classes: tuple[str, ...]
    unit: str
    units: int
    held_out_units: int
    synthetic_images: int
    judged: tuple[Judged, ...]
    notice: str

    def to_text(self) -> str:
        """Return it for people."""
        table = door.to_table(self)
        table["judged"] = [_HEAD, *((j.model, *_shown(j)) for j in self.judged)]
        return door.sections(table)


_HEAD = ("model", "own images", "balanced", "synthetic images", "balanced")


def _shown(judged: Judged) -> tuple[str, ...]:
    return tuple(
        text
        for metrics in (judged.on_own, judged.on_synthetic)
        for text in (f"{metrics.accuracy:.3f}", f"{metrics.balanced_accuracy:.3f}")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """Images float32 [N, C, H, W] in [-1, 1] with columns of the adapted model, int64 [N]."""

    images: Images
    labels: Labels

    def beside(self, other: "_Part") -> "_Part":
        return _Part(
            images=np.concatenate([self.images, other.images]),
            labels=np.concatenate([self.labels, other.labels]),
        )

    def at(self, places: NDArray[np.bool_]) -> "_Part":
        return _Part(images=self.images[places], labels=self.labels[places])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Material:
    """Everything that is trained on and judged by."""

    labels: tuple[str, ...]
    synthetic: _Part
    own: _Part
    held_synthetic: _Part
    held_own: _Part
    held_units: int


def adapt(home: Home, request: Request, *, now: datetime, tell: Callable[[str], None]) -> Outcome:
    """Train, judge beside a baseline and the release as it is, and keep the result under its name.

    Raises:
        KitError: the release must not be used or carries no synthetic set, the data or the name do
            not do, or the exported model differs from the trained one. Nothing is kept then.
    """
    study = home.study(request.study)
    _check_name(home, request)
    digest = rollout.find(home, study, request.release)
    found = installed.load(home, study.id, now=now, digest=digest)
    synthetic = installed.synthetic_set(home, found)
    cohort = _read(home, request, study, tell)
    material = _material(home, study, synthetic, cohort)
    trainer = _Trainer(study, request.steps, digest, len(material.labels), tell)
    network = trainer.train(material.synthetic.beside(material.own), "the adapted model")
    data = _export(study, material, network, digest)
    baseline = trainer.train(material.own, "the baseline, this site's real images alone")
    judged = (
        _judged("adapted", _of_network(network), material),
        _judged("own images alone", _of_network(baseline), material),
        _judged(
            "release as it is",
            _of_release(rollout.opened(home, study.id, found), material.labels),
            material,
        ),
    )
    outcome = Outcome(
        name=request.name,
        model=canonical.digest(data),
        release=digest,
        study=study.id,
        labels=material.labels,
        own_classes=tuple(study.classes[c] for c in np.unique(cohort.labels)),
        unit=str(cohort.unit_kind),
        units=len(set(cohort.units)),
        held_out_units=material.held_units,
        synthetic_images=synthetic.count,
        judged=judged,
        notice=models.NOTICE,
    )
    _keep(home, outcome, cohort, data, now=now)
    return outcome


def _check_name(home: Home, request: Request) -> None:
    """Want a name that nothing else has here, before any image is read.

    Raises:
        KitError: it is no name, a study's or a run's, or an adapted model's that is to stay.
    """
    name = canonical.name(request.name, what="name of an adapted model")
    if name in {study.id for study in home.studies()} or (home.path / "runs" / name).exists():
        raise KitError(
            f"`{name}` is the name of a study or run here", hint="give another one with --name"
        )
    if records.exists(home, name) and not request.replace:
        raise KitError(
            f"an adapted model called `{name}` is here already",
            hint="give another --name, or --replace",
        )


def _read(home: Home, request: Request, study: Study, tell: Callable[[str], None]) -> Cohort:
    gone = Erased(home)
    cohort, report = load_cohort(
        request.data, study, study.classes, split=request.split, is_erased=gone.covers
    )
    gone.add(*report.erased_images)
    for line in report.lines():
        tell(line)
    units = len(set(cohort.units))
    if units < MIN_UNITS:
        raise KitError(
            f"`{request.data}` has images of {units} units ({cohort.unit_kind}s); {MIN_UNITS} are"
            " the fewest to adapt to",
            hint="use the release as it is",
        )
    return cohort


def _material(home: Home, study: Study, found: SyntheticSet, cohort: Cohort) -> _Material:
    """Divide synthetic and own images into those to train on and those to judge by."""
    own = {study.classes[c] for c in np.unique(cohort.labels)}
    labels = tuple(c for c in study.classes if c in own | set(found.labels))
    column = np.array([labels.index(c) if c in labels else -1 for c in study.classes])
    real = _Part(images=cohort.images, labels=column[cohort.labels])
    held_units = _held_out(home, cohort)
    is_held = np.array([unit in held_units for unit in cohort.units])
    kept, judged = [], []
    for label, images in zip(found.labels, found.images, strict=True):
        part = _Part(
            images=from_bytes(images),
            labels=np.full(len(images), labels.index(label), dtype=np.int64),
        )
        held = np.arange(len(images)) < round(HELD_OUT * len(images))
        kept.append(part.at(~held))
        judged.append(part.at(held))
    return _Material(
        labels=labels,
        synthetic=_joined(kept),
        own=real.at(~is_held),
        held_synthetic=_joined(judged),
        held_own=real.at(is_held),
        held_units=len(held_units),
    )


def _joined(parts: Sequence[_Part]) -> _Part:
    first, *others = parts
    for part in others:
        first = first.beside(part)
    return first


def _held_out(home: Home, cohort: Cohort) -> frozenset[str]:
    """Return the units that are judged by: of each class a share, by a keyed hash of the unit.

    A unit of several classes counts with the first of them, and is held out whole.
    """
    secret = home.unit_secret()
    first: dict[str, int] = {}
    for unit, label in zip(cohort.units, cohort.labels, strict=True):
        first[unit] = min(first.get(unit, int(label)), int(label))
    found: set[str] = set()
    for label in sorted(set(first.values())):
        units = [unit for unit, at in first.items() if at == label]
        units.sort(key=lambda unit: hmac.digest(secret, b"adapt: " + unit.encode(), "sha256"))
        found.update(units[: round(HELD_OUT * len(units))])
    if not found:  # many classes of a unit or two each
        found.add(min(first, key=lambda unit: hmac.digest(secret, unit.encode(), "sha256")))
    return frozenset(found)


@dataclass(frozen=True, slots=True)
class _Trainer:
    study: Study
    steps: int | None
    release: str
    classes: int
    tell: Callable[[str], None]

    def train(self, part: _Part, what: str) -> torch.nn.Module:
        self.tell(f"training {what}: {len(part.images)} images")
        return train_classifier(
            part.images,
            part.labels,
            classifier=self.study.build.classifier,
            num_classes=self.classes,
            steps=self.study.build.classifier_steps if self.steps is None else self.steps,
            seed=seeds.seed(bytes.fromhex(self.release), "adapt"),
            augmentation=self.study.build.augmentation,
        ).network


def _export(study: Study, material: _Material, network: torch.nn.Module, release: str) -> bytes:
    image = study.image
    data = export.export_onnx(
        network,
        channels=image.channels,
        height=image.height,
        width=image.width,
        labels=material.labels,
        metadata={"study": study.digest, "release": release},
    )
    some = (material.held_own.images[:_PARITY_IMAGES] + 1) / np.float32(2)
    export.check_parity(network, data, some, height=image.height, width=image.width)
    return data


def _judged(model: str, predict: Predict, material: _Material) -> Judged:
    own, synthetic = material.held_own, material.held_synthetic
    return Judged(
        model=model,
        on_own=measure(predict(own.images), own.labels),
        on_synthetic=measure(predict(synthetic.images), synthetic.labels),
    )


def _of_network(network: torch.nn.Module) -> Predict:
    def predict(images: Images) -> NDArray[np.floating[Any]]:
        logits = predict_logits(network, torch.from_numpy(images))
        found: NDArray[np.floating[Any]] = torch.softmax(logits, dim=1).numpy()
        return found

    return predict


def _of_release(model: InstalledModel, labels: Sequence[str]) -> Predict:
    """Return the release's answers in the columns of the adapted model; 0 for a class it lacks."""
    columns = [labels.index(label) for label in model.labels]

    def predict(images: Images) -> NDArray[np.floating[Any]]:
        found = np.zeros((len(images), len(labels)))
        found[:, columns] = model.predict(list((images + 1) / 2))
        return found

    return predict


def _keep(home: Home, outcome: Outcome, cohort: Cohort, data: bytes, *, now: datetime) -> None:
    """Keep the model with the signed statement of the release that it descends from."""
    record = Record(
        name=outcome.name,
        model=outcome.model,
        release=outcome.release,
        study=outcome.study,
        labels=outcome.labels,
        created=clock.rfc3339(now),
        units=records.hashes(home, cohort.account_keys()),
        figures={each.model: _figures(each) for each in outcome.judged},
    )
    source = installed.folder_of(home, outcome.release)
    files = {name: home.read(source / name, "release") for name in (ENVELOPE, CHAIN)}
    records.keep(home, record, {records.MODEL: data, **files})
    if erased.holds(home, record.units):  # noted while the model was trained
        records.delete_units(home, record.units)
        raise KitError(
            "a patient was erased here while the model was trained; it is deleted",
            hint="run the same command again: it leaves the patient out",
        )


def _figures(judged: Judged) -> dict[str, Any]:
    """Return the figures as canonical JSON holds them."""
    return {
        "own": _plain(judged.on_own.to_table()),
        "synthetic": _plain(judged.on_synthetic.to_table()),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return canonical.real(value) if isinstance(value, float) else value
