"""From what an operator asks for to a study manifest."""

from dataclasses import dataclass

from coordinator import registry, roots
from coordinator.context import Coordinator
from federation import build_policy
from federation.build_policy import BuildPolicy, Calibration, Mode, Variation
from federation.endorsement import Endorsement
from federation.learning.downstream import classifier as classifiers
from federation.learning.generator import architecture as networks
from federation.release import synthetic
from federation.study import (
    ImageRule,
    PersonalData,
    PrivacyPolicy,
    Reviewer,
    Safeguards,
    Sharing,
    Study,
    SyntheticSets,
    Unit,
)
from kit import clock
from kit.errors import FormatError

METHOD = "federated-factory"
CLASSIFIER = "resnet-small"
HELD_OUT_SHARE = 10  # of a shard: one image in ten, unless the operator says how many
MIN_CLASSES = 2  # a classifier of one class says nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The options of `coordinator study create`; `image` is (channels, height, width)."""

    id: str
    title: str
    classes: tuple[str, ...]
    image: tuple[int, int, int]
    epsilon: float
    delta: float
    unit: str
    personal_data: str
    presets: tuple[str, ...]
    shard_size: int
    sampler_steps: int
    classifier_steps: int
    minimum_per_class: int
    quorum: int
    reviewers: tuple[str, ...]
    outbound_approval: bool = False
    lease_days: int = 0
    endorsed: tuple[Reviewer, ...] = ()
    classifier: str = CLASSIFIER
    augmentation: str = Variation.STANDARD
    calibration: str = Calibration.TEMPERATURE
    mode: str = Mode.MONOLITHIC
    held_out: int | None = None
    synthetic_sets: str = "withheld"
    metrics_from: int = 0


def manifest(coordinator: Coordinator, request: Request) -> Study:
    """Return the checked manifest of a new study.

    Raises:
        FormatError: an option is out of range or no word of the registry.
        KitError: no generator takes this image size.
    """
    channels, height, width = request.image
    if len(request.classes) < MIN_CLASSES:
        raise FormatError(
            f"a study needs {MIN_CLASSES} classes to tell apart; this one has"
            f" {len(request.classes)}",
            hint="list all of them, whichever site has which: --classes benign,malignant",
        )
    presets = request.presets or (networks.default_preset(height, width),)
    try:
        unit, personal = Unit(request.unit), PersonalData(request.personal_data)
        sets = SyntheticSets(request.synthetic_sets)
    except ValueError as error:
        raise FormatError(f"{error}", hint="see `coordinator study create --help`") from error
    study = Study(
        federation=coordinator.config.federation,
        id=request.id,
        round=1,
        title=request.title,
        classes=request.classes,
        image=ImageRule(channels=channels, height=height, width=width),
        method=METHOD,
        architectures=tuple(networks.reference(name) for name in presets),
        privacy=PrivacyPolicy(
            personal_data=personal, unit=unit, epsilon=request.epsilon, delta=request.delta
        ),
        minimum_per_class=request.minimum_per_class,
        build=_build_policy(request),
        quorum=request.quorum,
        reviewers=_reviewers(coordinator, request),
        created=clock.rfc3339(coordinator.now()),
        safeguards=Safeguards(
            outbound_approval=request.outbound_approval, lease_days=request.lease_days
        ),
        sharing=Sharing(synthetic_sets=sets, metrics_from=request.metrics_from),
    )
    if sets is not SyntheticSets.WITHHELD and synthetic.largest_bytes(study) > synthetic.MAX_BYTES:
        raise FormatError(
            f"a synthetic set of {len(study.classes)} classes of {request.shard_size} images may be"
            f" over {synthetic.MAX_BYTES >> 20} MiB, more than a release carries",
            hint="choose a smaller --shard-size, or --synthetic-sets withheld",
        )
    return Study.from_bytes(study.to_bytes())


def _build_policy(request: Request) -> BuildPolicy:
    """Return the policy in its newest version; reading the manifest back checks every figure."""
    _, height, width = request.image
    classifiers.require(request.classifier, height=height, width=width)
    tenth = max(build_policy.MIN_HELD_OUT, request.shard_size // HELD_OUT_SHARE)
    try:
        return BuildPolicy(
            version=build_policy.VERSION,
            shard_size=request.shard_size,
            sampler_steps=request.sampler_steps,
            classifier=request.classifier,
            classifier_steps=request.classifier_steps,
            mode=Mode(request.mode),
            augmentation=Variation(request.augmentation),
            calibration=Calibration(request.calibration),
            held_out=tenth if request.held_out is None else request.held_out,
        )
    except ValueError as error:
        raise FormatError(f"{error}", hint="see `coordinator study create --help`") from error


def _reviewers(coordinator: Coordinator, request: Request) -> tuple[Reviewer, ...]:
    for reviewer in request.endorsed:
        _check_endorsed(coordinator, reviewer)
    if request.reviewers or request.endorsed:
        pairs = [text.partition("=") for text in request.reviewers]
        named = [Reviewer(name=name, public_key=key) for name, _, key in pairs]
        return (*named, *request.endorsed)
    found = roots.reviewers(coordinator.home)
    return tuple(Reviewer(name=name, public_key=key.hex()) for name, key in found.items())


def _check_endorsed(coordinator: Coordinator, reviewer: Reviewer) -> None:
    """Check a site's word as every site will, before it is part of a manifest (A15).

    Raises:
        NotAllowedError: the site is not active.
        KitError: the word is not that site's, or about somebody else, or has ended.
    """
    with coordinator.state.read() as tx:
        row = registry.active_site(tx, reviewer.site)
    Endorsement.verify(
        reviewer,
        federation=coordinator.config.federation,
        certified=row.signing_fingerprint,
        logged=coordinator.now(),
    )
