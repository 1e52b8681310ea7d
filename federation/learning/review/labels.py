"""Do the images show what the labels say? Asked of the blueprint itself, and of the others."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from federation.learning.review.finding import Aid, Finding, Outcome, conclude, named
from federation.learning.review.probe import Probe, Statistics, Values, halves

AGREEMENT = 0.25  # of a class's images are taken for that class
TOLD_APART = 0.5  # of the way from guessing to certainty
Features = Mapping[str, Values]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One blueprint in features, and the statistics that probes are made of."""

    name: str
    features: Features
    statistics: Statistics

    @classmethod
    def of(cls, name: str, features: Features) -> "Judged":
        """Return a blueprint by its features."""
        return cls(name=name, features=features, statistics=Statistics.of(features))


def classes(features: Features) -> Finding:
    """Flag a blueprint whose own classes cannot be told apart: it has learnt nothing of them."""
    if len(features) < 2:
        return Finding(
            aid=Aid.CLASSES,
            outcome=Outcome.CANNOT_TELL,
            measure=None,
            threshold=TOLD_APART,
            words="one class alone; nothing to tell it from",
        )
    told = np.mean([_told(*halves(features)), _told(*halves(features)[::-1])])
    chance = 1 / len(features)
    measure = float((told - chance) / (1 - chance))
    return Finding(
        aid=Aid.CLASSES,
        outcome=conclude(["all"] if measure < TOLD_APART else [], []),
        measure=measure,
        threshold=TOLD_APART,
        words=f"{told:.0%} of its images are told apart by class; guessing gives {chance:.0%}",
    )


def _told(first: Features, second: Features) -> float:
    shares = Probe([Statistics.of(first)]).agreement(second)
    return float(np.mean(list(shares.values())))


def labels(judged: Judged, others: Sequence[Judged]) -> Finding:
    """Flag classes that a probe of the other blueprints takes for something else."""
    known = {label for other in others for label in other.features}
    untold = [label for label in judged.features if label not in known]
    probe = Probe([other.statistics for other in others]) if others else None
    if probe is None or len(untold) == len(judged.features) or len(probe.classes) < 2:
        return Finding(
            aid=Aid.LABELS,
            outcome=Outcome.CANNOT_TELL,
            measure=None,
            threshold=AGREEMENT,
            words=f"nobody else declares {named(judged.features)}, or nothing besides",
        )
    shares = {
        label: probe.shares(rows) for label, rows in judged.features.items() if label in known
    }
    agreement = {label: taken[label] for label, taken in shares.items()}
    flagged = sorted((a for a in agreement if agreement[a] < AGREEMENT), key=agreement.__getitem__)
    words = f"the others' probe agrees with {min(agreement.values()):.0%} or more of every class"
    if flagged:
        words = "; ".join(_taken(label, shares[label]) for label in flagged[:3])
        words += f"; {len(flagged) - 3} more classes" if len(flagged) > 3 else ""
        alone = [a for a in flagged if sum(a in other.features for other in others) == 1]
        if alone:
            words += f"; one other blueprint alone has {named(alone)}: it may be the wrong one"
    if untold:
        words += f"; cannot tell of {named(untold)}: nobody else declares them"
    return Finding(
        aid=Aid.LABELS,
        outcome=conclude(flagged, untold),
        measure=min(agreement.values()),
        threshold=AGREEMENT,
        words=words,
    )


def _taken(label: str, shares: Mapping[str, float]) -> str:
    rival = max((other for other in shares if other != label), key=shares.__getitem__)
    return f"{label}: {shares[label]:.0%} taken for it, {shares[rival]:.0%} for {rival}"


def agreeing(judged: Judged, others: Sequence[Judged]) -> list[Judged]:
    """Return the others without those that a majority, this blueprint included, contradicts.

    The one that agrees least goes first, and what is left is asked again: a poisoned blueprint
    would otherwise make the clean ones beside it look wrong. Where two are alone with a class and
    disagree, nobody knows which is wrong, and both stay.
    """
    kept = list(others)
    while kept:
        agreement = {each.name: _least(each, [judged, *kept]) for each in (judged, *kept)}
        worst = min(agreement, key=agreement.__getitem__)
        if agreement[worst] >= AGREEMENT or worst == judged.name:
            break
        kept = [each for each in kept if each.name != worst]
    return kept


def _least(each: Judged, everyone: Sequence[Judged]) -> float:
    """Return the rest's least agreement with a class that two or more of them declare; or 1."""
    rest = [other for other in everyone if other.name != each.name]
    declared = Counter(label for other in rest for label in other.features)
    asked = {label: rows for label, rows in each.features.items() if declared[label] > 1}
    found = Probe([other.statistics for other in rest]).agreement(asked) if asked else {}
    return min(found.values(), default=1.0)
