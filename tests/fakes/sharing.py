"""A federation whose releases carry their synthetic sets: digits, and generators that draw them.

Two hospitals of two digits each. Their generators are class statistics, made here without the noise
of a private training, so that a handful of steps on their images trains something.
"""

import csv
from functools import cache

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from edge_agent import installed
from federation.learning.generator.class_gaussian import FACTOR, MEAN, RESIDUAL
from federation.learning.generator.spectrum import spectrum
from tests.fakes import runs, site

CLASSES = ("zero", "one", "two", "three")
LABELS = {"a": CLASSES[:2], "b": CLASSES[2:]}
SHARD, STEPS = 48, 60
PER_PATIENT = 3
_KEPT = 36


def digits(label):
    """Every digit of a class: uint8 [N, 8, 8]."""
    images, found = load_digits(return_X_y=True)
    chosen = images[found == CLASSES.index(label)].reshape(-1, 8, 8)
    return np.round(chosen * 255 / 16).astype(np.uint8)


def tensors(labels):
    """The class statistics of some digits; rows of other classes are zero."""
    basis = spectrum(1, 8, 8)
    mean, spread = np.zeros((len(CLASSES), _KEPT)), []
    for label in labels:
        images = digits(label).astype(np.float32)[:, None] / 127.5 - 1
        found = basis.coefficients(images)[:, :_KEPT]
        mean[CLASSES.index(label)] = found.mean(axis=0)
        spread.append(found - found.mean(axis=0))
    covariance = np.cov(np.concatenate(spread).T) + 1e-3 * np.eye(_KEPT)
    values = {MEAN: mean, FACTOR: np.linalg.cholesky(covariance), RESIDUAL: np.full(1, 0.1)}
    return {name: rounded(value.astype(np.float32)) for name, value in values.items()}


def rounded(values):
    """Nearest below that bfloat16 holds."""
    return (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def copy(target, base):
    """Return a fresh copy of a federation with a release, fetched at both sites, at `target`.

    It is made once per session, below `base`.
    """
    return _stage(base).clone(target / "federation")


@cache
def _stage(base):
    federation = make(base / "sharing")
    with federation.serving():
        for name in LABELS:
            installed.fetch(federation.home(name), site.STUDY, got=lambda *_: None)
    return federation


def make(folder, *, private=(), **changes):
    """Found, enrol, submit, approve and build; sites in `private` alone are if any are named."""
    folder.mkdir(parents=True, exist_ok=True)
    federation = site.found(folder)
    settings = {
        "classes": CLASSES,
        "presets": ("moments",),
        "shard_size": SHARD,
        "classifier_steps": STEPS,
        "synthetic_sets": "private",
        "metrics_from": 100,
    }
    with federation.open() as coordinator:
        study = site.create_study(coordinator, **(settings | changes))
    with federation.serving() as coordinator:
        for name, labels in LABELS.items():
            home = site.enrol(coordinator, federation, name)
            is_private = not private or name in private
            runs.write_run(home, study, labels, private=is_private, tensors=tensors(labels))
            site.submit(home)
        site.wait_for(lambda: site.settled(federation))
    for name in LABELS:
        site.approve(federation, name)
    site.build(federation)
    return federation


def write_images(folder, labels, *, most=60):
    """Class folders of real digits with a patient map; returns the folder."""
    rows = []
    for label in labels:
        for number, pixels in enumerate(digits(label)[:most]):
            path = folder / label / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
            rows.append((f"{label}/{number}.png", f"{label}-{number // PER_PATIENT}"))
    with (folder / "patients.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("file", "patient"), *rows])
    return folder
