"""Everything that the aids say of one blueprint among the others of its study."""

from collections.abc import Sequence

from federation.learning.downstream.distances import reduced
from federation.learning.review import appearance
from federation.learning.review.drawn import Drawn
from federation.learning.review.finding import Finding, Outcome
from federation.learning.review.influence import influence
from federation.learning.review.labels import Judged, agreeing, classes, labels
from federation.learning.review.probe import Features
from federation.learning.review.trigger import trigger


def examine(drawn: Drawn, others: Sequence[Drawn], *, seed: int) -> list[Finding]:
    """Return one finding per aid, without any file, key or private image.

    Others that show nothing, or that the majority contradicts, are no measure and are left out
    before this blueprint is judged.

    Args:
        drawn: the blueprint that a person is asked about.
        others: blueprints of other sites in the same study, the same image shape.
        seed: of the random features, secret.
    """
    drawn = _reduced(drawn)
    channels, height, width = next(iter(drawn.images.values())).shape[1:]
    features = Features((channels, height, width), seed)
    judged = _judged(drawn, features)
    measures = [_reduced(other) for other in others]
    measures = [o for o in measures if not appearance.shows_nothing(o.images)]
    measures = [o for o in measures if not _is_stranger(o, [*measures, drawn])]
    rest = [_judged(other, features) for other in measures]
    trusted = agreeing(judged, [r for r in rest if not _is_flagged(classes(r.features))])
    names = {each.name for each in trusted}
    measures = [other for other in measures if other.name in names]
    return [
        appearance.constant(drawn, measures),
        appearance.duplicates(drawn),
        appearance.noise(drawn),
        appearance.unlike(drawn, measures),
        classes(judged.features),
        labels(judged, trusted),
        trigger(drawn, measures),
        influence(judged, trusted),
    ]


def _is_stranger(drawn: Drawn, everyone: Sequence[Drawn]) -> bool:
    rest = [other for other in everyone if other.name != drawn.name]
    return _is_flagged(appearance.unlike(drawn, rest))


def _is_flagged(finding: Finding) -> bool:
    return finding.outcome is Outcome.FLAGGED


def _judged(drawn: Drawn, features: Features) -> Judged:
    found = {label: features.of(images) for label, images in drawn.images.items()}
    return Judged.of(drawn.name, found)


def _reduced(drawn: Drawn) -> Drawn:
    images = {label: reduced(found) for label, found in drawn.images.items()}
    return Drawn(name=drawn.name, images=images)
