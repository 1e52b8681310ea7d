"""The study manifest: what one task is, agreed before any hospital reads an image.

A study is signed by the federation's study key, which every site pinned at enrolment. Its digest
(SHA-256 of the canonical bytes) names it in every statement, approval, build and release.
"""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self

from federation.build_policy import BuildPolicy
from kit import canonical, clock
from kit.errors import FormatError

VERSION = 1
GUARDED_VERSION = 2  # a manifest that also carries safeguards; without any, version 1 says it all
ENDORSED_VERSION = 3  # a manifest with a reviewer whom a site endorses
SHARING_VERSION = 4  # a manifest that lets more than models and blueprints leave
PAYLOAD_TYPE = "application/vnd.hospital-edge-kit.study+json"
RECIPIENT_KEY_TYPE = "application/vnd.hospital-edge-kit.recipient-key+json"

MAX_CLASSES = 1000
MAX_SIDE_PX = 512
MAX_ROUND = 1_000_000
MAX_QUORUM = 16
MAX_REVIEWERS = 64
MAX_ENDORSEMENT_BYTES = 8192  # an envelope, or a certificate
MAX_LEASE_DAYS = 3660
MIN_METRICS_FROM = 100  # images: of fewer, a share is not known to a fifth
MAX_METRICS_FROM = 1_000_000


_ENDORSED = {"site", "endorsement", "certificate"}


class PersonalData(StrEnum):
    """Whether the study takes blueprints trained without differential privacy."""

    REFUSED = "refused"
    ALLOWED = "allowed"


class SyntheticSets(StrEnum):
    """Whether a release carries the synthetic images beside the model that was trained on them.

    `private`: where every blueprint in it is differentially private; its images then cost no
    privacy (post-processing). `personal-data`: also where one is not: a generator without privacy
    may repeat patients, so such images may be personal data.
    """

    WITHHELD = "withheld"
    PRIVATE = "private"
    PERSONAL_DATA = "personal-data"


class Unit(StrEnum):
    """Whose presence differential privacy hides: one patient's images, or one image."""

    PATIENT = "patient"
    IMAGE = "image"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRule:
    """Shape [channels, height, width] in pixels; intensities become [-1, 1] by the bit depth.

    `intensity` is a constant of the study, never a statistic of the data: `full-range` maps 0 to -1
    and the largest value of the file's bit depth (255 or 65535) to +1.
    """

    channels: int
    height: int
    width: int
    intensity: str = "full-range"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchitectureRef:
    """One entry of the closed architecture registry (`federation.learning.generator`)."""

    kind: str
    version: int
    preset: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyPolicy:
    """What a blueprint must promise: `epsilon` at `delta` over a lifetime, per `unit`."""

    personal_data: PersonalData
    unit: Unit
    epsilon: float
    delta: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reviewer:
    """A person who may approve: a name and an Ed25519 public key (32 bytes, hexadecimal).

    One who is said to be of a `site` comes with that site's signed word and the certificate that
    signed it (base64; `federation.endorsement` says what they must prove).
    """

    name: str
    public_key: str
    site: str = ""
    endorsement: str = ""
    certificate: str = ""

    @classmethod
    def of(cls, table: Any) -> Self:
        """Read the JSON form.

        Raises:
            FormatError: a field is missing, unknown or out of range.
        """
        names = set(cls.__slots__)
        claims_site = isinstance(table, dict) and "site" in table
        canonical.fields(table, names if claims_site else names - _ENDORSED, what="reviewer")
        canonical.name(table["name"], what="reviewer name")
        canonical.sha256_hex(table["public_key"], what="reviewer key")  # 32 bytes as well
        if claims_site:
            canonical.name(table["site"], what="site of a reviewer")
            for field in ("endorsement", "certificate"):
                canonical.b64decode(table[field], limit=2 * MAX_ENDORSEMENT_BYTES)
        return cls(**table)

    def to_table(self) -> dict[str, str]:
        """Return the JSON form; one whom no site endorses has the two first fields only."""
        table = asdict(self)
        return table if self.site else {n: v for n, v in table.items() if n not in _ENDORSED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Safeguards:
    """What a study demands of people, over what every site may demand for itself.

    Attributes:
        outbound_approval: a blueprint comes with the signed word of a second person at its site.
        lease_days: a site serves a release for so long after its last contact; 0 is without end.
    """

    outbound_approval: bool = False
    lease_days: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """What leaves beside blueprints and models, agreed before the first blueprint; else nothing.

    Attributes:
        synthetic_sets: whether the sites get the synthetic images of a release.
        metrics_from: from how many images on a site may send rounded metrics; 0 is never.
    """

    synthetic_sets: SyntheticSets = SyntheticSets.WITHHELD
    metrics_from: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """One task, as every site and the coordinator see it."""

    federation: str
    id: str
    round: int
    title: str
    classes: tuple[str, ...]
    image: ImageRule
    method: str
    architectures: tuple[ArchitectureRef, ...]
    privacy: PrivacyPolicy
    minimum_per_class: int
    build: BuildPolicy
    quorum: int
    reviewers: tuple[Reviewer, ...]
    created: str
    safeguards: Safeguards = Safeguards()
    sharing: Sharing = Sharing()

    def to_bytes(self) -> bytes:
        """Return the canonical bytes that are signed; reals become decimal strings."""
        table = asdict(self) | {"reviewers": [r.to_table() for r in self.reviewers]}
        table["version"] = _version(self.safeguards, self.reviewers, self.sharing)
        table["build"] = self.build.to_table()
        for name, nothing in _OPTIONAL.items():
            if getattr(self, name) == nothing:
                del table[name]
        table["privacy"]["epsilon"] = canonical.real(self.privacy.epsilon)
        table["privacy"]["delta"] = canonical.real(self.privacy.delta)
        return canonical.encode(table)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse and check canonical bytes.

        Raises:
            FormatError: a field is missing, unknown or out of its range.
        """
        names = set(cls.__slots__) | {"version"}
        table = canonical.decode(data)
        absent = {name for name in _OPTIONAL if isinstance(table, dict) and name not in table}
        canonical.fields(table, names - absent, what="study")
        quorum = canonical.integer(table["quorum"], low=1, high=MAX_QUORUM, what="quorum")
        reviewers = _reviewers(table["reviewers"], quorum=quorum)
        safeguards = Safeguards() if "safeguards" in absent else _safeguards(table["safeguards"])
        privacy = _privacy(table["privacy"])
        sharing = Sharing() if "sharing" in absent else _sharing(table["sharing"], privacy)
        version = _version(safeguards, reviewers, sharing)
        canonical.version(table["version"], expected=version, what="study")
        return cls(
            federation=canonical.name(table["federation"], what="federation"),
            id=canonical.name(table["id"], what="study id"),
            round=canonical.integer(table["round"], low=1, high=MAX_ROUND, what="round"),
            title=canonical.label(table["title"], what="title"),
            classes=_classes(table["classes"]),
            image=_image(table["image"]),
            method=canonical.name(table["method"], what="method"),
            architectures=tuple(_architecture(a) for a in _list(table["architectures"])),
            privacy=privacy,
            minimum_per_class=canonical.integer(
                table["minimum_per_class"], low=1, high=10_000, what="minimum_per_class"
            ),
            build=BuildPolicy.of(table["build"]),
            quorum=quorum,
            reviewers=reviewers,
            created=clock.rfc3339(clock.parse_rfc3339(table["created"], what="created")),
            safeguards=safeguards,
            sharing=sharing,
        )

    @property
    def digest(self) -> str:
        """The hexadecimal SHA-256 that names this study."""
        return canonical.digest(self.to_bytes())


_OPTIONAL = {"safeguards": Safeguards(), "sharing": Sharing()}  # left out where they say nothing


def _version(safeguards: Safeguards, reviewers: tuple[Reviewer, ...], sharing: Sharing) -> int:
    """Return the version of a manifest: the lowest that can say what it says."""
    if sharing != Sharing():
        return SHARING_VERSION
    if any(reviewer.site for reviewer in reviewers):
        return ENDORSED_VERSION
    return VERSION if safeguards == Safeguards() else GUARDED_VERSION


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise FormatError("a list of the study is missing or empty")
    return value


def _classes(value: Any) -> tuple[str, ...]:
    classes = tuple(canonical.label(c, what="class") for c in _list(value))
    if len(set(classes)) != len(classes) or len(classes) > MAX_CLASSES:
        raise FormatError(f"classes must be distinct and at most {MAX_CLASSES}")
    return classes


def _image(value: Any) -> ImageRule:
    table = canonical.fields(value, set(ImageRule.__slots__), what="image rule")
    if table["channels"] not in (1, 3) or table["intensity"] != "full-range":
        raise FormatError("an image has 1 or 3 channels and `full-range` intensity")
    for side in ("height", "width"):
        canonical.integer(table[side], low=8, high=MAX_SIDE_PX, what=side)
    return ImageRule(**table)


def _architecture(value: Any) -> ArchitectureRef:
    table = canonical.fields(value, set(ArchitectureRef.__slots__), what="architecture")
    canonical.name(table["kind"], what="architecture kind")
    canonical.name(table["preset"], what="preset")
    canonical.integer(table["version"], low=1, high=1000, what="architecture version")
    return ArchitectureRef(**table)


def _privacy(value: Any) -> PrivacyPolicy:
    table = canonical.fields(value, set(PrivacyPolicy.__slots__), what="privacy policy")
    try:
        personal, unit = PersonalData(table["personal_data"]), Unit(table["unit"])
    except ValueError as error:
        raise FormatError(f"privacy policy: {error}") from error
    epsilon = canonical.to_float(table["epsilon"], what="epsilon")
    delta = canonical.to_float(table["delta"], what="delta")
    if not 0 < epsilon <= 100 or not 0 < delta <= 1e-5:
        raise FormatError("privacy policy wants 0 < epsilon <= 100 and 0 < delta <= 1e-5")
    return PrivacyPolicy(personal_data=personal, unit=unit, epsilon=epsilon, delta=delta)


def _safeguards(value: Any) -> Safeguards:
    table = canonical.fields(value, set(Safeguards.__slots__), what="safeguards")
    if not isinstance(table["outbound_approval"], bool):
        raise FormatError("outbound_approval is not true or false")
    canonical.integer(table["lease_days"], low=0, high=MAX_LEASE_DAYS, what="lease_days")
    found = Safeguards(**table)
    if found == Safeguards():  # one study has one byte string
        raise FormatError("safeguards that demand nothing are left out")
    return found


def _sharing(value: Any, privacy: PrivacyPolicy) -> Sharing:
    table = canonical.fields(value, set(Sharing.__slots__), what="sharing")
    try:
        sets = SyntheticSets(table["synthetic_sets"])
    except ValueError as error:
        raise FormatError(f"sharing: {error}") from error
    if sets is SyntheticSets.PERSONAL_DATA and privacy.personal_data is PersonalData.REFUSED:
        raise FormatError("synthetic sets with personal data want a study that allows such data")
    least = canonical.integer(
        table["metrics_from"], low=0, high=MAX_METRICS_FROM, what="metrics_from"
    )
    if 0 < least < MIN_METRICS_FROM:
        raise FormatError(f"metrics_from is 0, or {MIN_METRICS_FROM} images or more")
    found = Sharing(synthetic_sets=sets, metrics_from=least)
    if found == Sharing():  # one study has one byte string
        raise FormatError("sharing that shares nothing is left out")
    return found


def _reviewers(value: Any, *, quorum: int) -> tuple[Reviewer, ...]:
    reviewers = [Reviewer.of(item) for item in _list(value)]
    if len(reviewers) > MAX_REVIEWERS:
        raise FormatError(f"a study has at most {MAX_REVIEWERS} reviewers")
    if len({r.name for r in reviewers}) != len(reviewers):
        raise FormatError("reviewers must have distinct names")
    if len({r.public_key for r in reviewers}) < quorum:
        raise FormatError("the quorum is larger than the number of reviewers")
    return tuple(reviewers)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipientKey:
    """The X-Wing public key that one site seals to, for one study and round.

    Signed by the key that the offline study key delegated this to for the study and round, or by
    the study key itself (`federation.delegation`), and named by the log.
    """

    study_digest: str
    round: int
    site: str
    public: bytes

    def to_bytes(self) -> bytes:
        """Return the canonical bytes that are signed."""
        table = asdict(self) | {"version": VERSION, "public": canonical.b64encode(self.public)}
        return canonical.encode(table)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse canonical bytes.

        Raises:
            FormatError: a field is missing, unknown or out of range.
        """
        names = set(cls.__slots__) | {"version"}
        table = canonical.fields(canonical.decode(data), names, what="recipient key")
        canonical.version(table["version"], expected=VERSION, what="recipient key")
        return cls(
            study_digest=canonical.sha256_hex(table["study_digest"], what="study digest"),
            round=canonical.integer(table["round"], low=1, high=MAX_ROUND, what="round"),
            site=canonical.name(table["site"], what="site id"),
            public=canonical.b64decode(table["public"]),
        )
