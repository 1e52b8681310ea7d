"""Asking the gate about a run: weights read, images held against them, the verdict kept.

Invariants:

- What is examined are the very bytes that would leave, named by their SHA-256.
- The samples' seed and the report's salt derive from that digest under the site's secret: to ask
  again gives the same answer, and nobody outside can guess the report behind its digest.
- Every verdict is an entry of the privacy ledger. Weights that failed once have failed, and a
  report that the ledger does not know counts for nothing: deleting or editing `gate.json` changes
  no verdict.
"""

import hashlib
import hmac
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.datasets.examples import Cohort
from edge_agent.gate.membership import membership
from edge_agent.gate.near_copies import near_copies, usual_of
from edge_agent.gate.one_run import one_run
from edge_agent.gate.pixels import UnitImages
from edge_agent.gate.review import review
from edge_agent.gate.support import support
from edge_agent.gate.verdict import GateReport
from edge_agent.ledger import GateVerdict, Ledger
from edge_agent.training.folder import ARCHITECTURE, GATE, PRIVACY, WEIGHTS
from federation.study import Study
from kit import canonical
from kit.errors import KitError
from kit.files import read_limited, sha256_file, write_atomic

if TYPE_CHECKING:
    import torch

    from federation.learning.generator.architecture import Architecture

SAMPLES_PER_CLASS = 64
MIN_UNITS = 4
MAX_SCORED_UNITS = 2_000  # trained units, beside those whose coins count; more tell little
MAX_SCORED_IMAGES = 4  # of one unit
_MAX_JSON_BYTES = 1 << 24

Scores = dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What the run says of itself; None trained without privacy."""

    epsilon: float | None
    delta: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Subjects:
    """Whom the gate asks about: `included` are the trained units whose coins fell so."""

    trained: Cohort
    held_out: Cohort
    included: frozenset[str]


def examine(
    folder: Path, study: Study, labels: tuple[str, ...], subjects: Subjects, secret: bytes
) -> bytes:
    """Ask everything about a finished run; returns the report's bytes, `gate.json`.

    Raises:
        KitError: the samples are not finite, or there are under `MIN_UNITS` units.
    """
    weights = sha256_file(folder / WEIGHTS)
    network, architecture = _network(folder)
    samples, sample_labels = _samples(
        network, architecture, study, labels, seed=_seed(secret, weights)
    )
    report = judge(
        samples,
        sample_labels,
        subjects,
        _scores(network, architecture, subjects),
        claim=_claim(folder),
        minimum_per_class=study.minimum_per_class,
    )
    salt = hmac.digest(secret, b"gate: salt\0" + weights.encode(), hashlib.sha256).hex()
    table = report.to_table() | {"weights": weights, "salt": salt, "lines": report.lines()}
    return (json.dumps(table, indent=2) + "\n").encode()


def judge(
    samples: NDArray[np.float32],
    sample_labels: NDArray[np.int64],
    subjects: Subjects,
    scores: Scores,
    *,
    claim: Claim,
    minimum_per_class: int,
) -> GateReport:
    """Ask the five questions of samples and scores.

    Args:
        samples: float32 [n, C, H, W] in [-1, 1], the generator's; 64 or more per class tell most.
        sample_labels: int64 [n], positions in the study's class list.
        subjects: whom it was trained on, and who sat out.
        scores: a membership score of every unit that is asked about.
        claim: the run's epsilon and delta.
        minimum_per_class: the study's.

    Raises:
        KitError: a sample is not finite, or there are under `MIN_UNITS` trained units.
        RuntimeError: shapes do not fit each other.
    """
    trained = subjects.trained
    if samples.shape[1:] != trained.images.shape[1:] or sample_labels.shape != samples.shape[:1]:
        raise RuntimeError("samples and cohort have different shapes")
    if not len(samples) or not np.isfinite(samples).all():
        raise KitError("the generator gave no samples, or values that are not finite")
    images = UnitImages(trained)
    if images.units < MIN_UNITS:
        raise KitError(
            f"the gate cannot judge a generator of under {MIN_UNITS} units",
            hint="train on more patients or images",
        )
    usual = usual_of(images, subjects.held_out)
    nearest = float(np.median(usual.nearest))
    held_out = set(subjects.held_out.units)
    tossed = sorted(unit for unit in scores if unit in held_out | subjects.included)
    return GateReport(
        checks=(
            review(samples, sample_labels, minimum_per_class=minimum_per_class),
            support(samples, sample_labels, trained.labels, nearest=nearest),
            near_copies(samples, images, usual),
            membership(
                _of(scores, sorted(scores.keys() - held_out)),
                _of(scores, sorted(held_out & scores.keys())),
                epsilon=claim.epsilon,
                delta=claim.delta,
            ),
            one_run(
                _of(scores, tossed),
                np.array([unit not in held_out for unit in tossed], dtype=np.bool_),
                epsilon=claim.epsilon,
                delta=claim.delta,
            ),
        )
    )


def settle(folder: Path, report: bytes, ledger: Ledger) -> bool:
    """Remember a report in the ledger and beside the run; returns the verdict that stands."""
    table = json.loads(report)
    ledger.record_verdict(
        GateVerdict(
            weights=table["weights"], report=canonical.digest(report), passed=table["passed"]
        )
    )
    write_atomic(folder / GATE, report, mode=0o600)
    return all(v.passed for v in ledger.verdicts(table["weights"]))


def standing(folder: Path, ledger: Ledger) -> GateVerdict | None:
    """Return the verdict that stands for a run; None if it was not asked, or not about these bytes.

    The report on the disk has to be one that the ledger knows for the weights on the disk, and one
    failure among all that it knows for them is enough.
    """
    if not (folder / GATE).is_file():
        return None
    data = read_limited(folder / GATE, limit=_MAX_JSON_BYTES, what="gate report")
    verdicts = ledger.verdicts(sha256_file(folder / WEIGHTS))
    report = canonical.digest(data)
    if report not in {v.report for v in verdicts}:
        return None
    return GateVerdict(
        weights=verdicts[0].weights, report=report, passed=all(v.passed for v in verdicts)
    )


def _network(folder: Path) -> "tuple[torch.nn.Module, Architecture]":
    from federation.blueprint import weights
    from federation.learning.generator import architecture as networks

    table = canonical.decode((folder / ARCHITECTURE).read_bytes())
    architecture = networks.Architecture.from_table(table)
    network = networks.build_network(architecture)
    data = (folder / WEIGHTS).read_bytes()
    networks.load_weights(network, weights.read(data, networks.expected_tensors(architecture)))
    return network, architecture


def _samples(
    network: "torch.nn.Module",
    architecture: "Architecture",
    study: Study,
    labels: tuple[str, ...],
    *,
    seed: int,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    import torch

    from federation.learning.generator.sampler import sample

    indices = [study.classes.index(label) for label in study.classes if label in labels]
    wanted = torch.tensor(indices).repeat_interleave(SAMPLES_PER_CLASS)
    images = sample(
        network,
        architecture,
        wanted,
        seed=seed,
        steps=study.build.sampler_steps,
        batch_size=SAMPLES_PER_CLASS,
    )
    return images.numpy(), wanted.numpy()


def _scores(network: "torch.nn.Module", architecture: "Architecture", subjects: Subjects) -> Scores:
    """Score the held-out units, those with a coin, and a bounded number of other trained ones."""
    from edge_agent.gate.scores import unit_scores

    if not len(subjects.held_out.images):
        return {}
    others = sorted(set(subjects.trained.units) - subjects.included)
    asked = subjects.included | frozenset(others[:: -(-len(others) // MAX_SCORED_UNITS) or 1])
    included = unit_scores(network, architecture, _few(subjects.trained, asked))
    everyone = frozenset(subjects.held_out.units)
    return included | unit_scores(network, architecture, _few(subjects.held_out, everyone))


def _few(cohort: Cohort, units: frozenset[str]) -> Cohort:
    """Return the first images, by their digests, of some units."""
    seen: dict[str, int] = {}
    kept = []
    for index in sorted(range(len(cohort.units)), key=lambda i: cohort.digests[i]):
        unit = cohort.units[index]
        seen[unit] = seen.get(unit, 0) + 1
        if unit in units and seen[unit] <= MAX_SCORED_IMAGES:
            kept.append(index)
    return cohort.part(np.array(kept, dtype=np.int64))


def _of(scores: Scores, units: list[str]) -> NDArray[np.float64]:
    return np.array([scores[unit] for unit in units], dtype=np.float64)


def _claim(folder: Path) -> Claim:
    data = read_limited(folder / PRIVACY, limit=_MAX_JSON_BYTES, what="privacy report")
    table: dict[str, Any] = json.loads(data)
    epsilon = table.get("epsilon")
    return Claim(
        epsilon=None if epsilon is None else float(epsilon), delta=float(table.get("delta", 0.0))
    )


def _seed(secret: bytes, weights: str) -> int:
    drawn = hmac.digest(secret, b"gate: samples\0" + weights.encode(), hashlib.sha256)
    return int.from_bytes(drawn[:8], "big") >> 2
