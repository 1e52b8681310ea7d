"""What a site may say of a release on its own images: little, rounded, signed, once.

A figure of a site's images describes patients, and two figures before and after one of them is
erased tell of that one (A11). So the number of images is a multiple of 50, a share is no finer than
the images can tell it anyway (the width of a 95 % interval at its widest), a small class keeps the
mean over classes unsaid, and a site speaks once of each release. This is not differential privacy:
a share at the edge of its step moves by one patient.
"""

from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any, Self

from kit import canonical, clock
from kit.errors import FormatError

PAYLOAD_TYPE = "application/vnd.hospital-edge-kit.site-metrics+json"
VERSION = 1
IMAGES_STEP = 50
MIN_IMAGES = 100  # overall, and in each class for `balanced_accuracy_percent`
MAX_IMAGES = 10_000_000
GRAINS_PERCENT = (1, 5, 10, 20)  # each divides the next: what is too coarse is never too fine
_Z = 1.96  # of a normal interval of 95 %


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteMetrics:
    """One site's rounded metrics of one release.

    Attributes:
        release, study_digest: what was evaluated.
        images: how many there were, rounded down to a multiple of 50.
        accuracy_percent: in steps of `grain_percent(images)`.
        balanced_accuracy_percent: mean recall over the classes, as coarse as the smallest of them
            asks for or coarser; None where one has fewer than 100 images.
        time: when it was signed.
        salt: 32 random bytes, hexadecimal: the log has the digest, and rounded figures are few
            enough to try them all.
    """

    release: str
    study_digest: str
    images: int
    accuracy_percent: int
    balanced_accuracy_percent: int | None
    time: str
    salt: str

    @property
    def digest(self) -> str:
        """The hexadecimal SHA-256 that names the report in the log."""
        return canonical.digest(self.to_bytes())

    def to_bytes(self) -> bytes:
        """Return the canonical bytes that are signed."""
        return canonical.encode(asdict(self) | {"version": VERSION})

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse canonical bytes.

        Raises:
            FormatError: a field is missing, unknown or out of range, or says more than it may.
        """
        what = "site metrics"
        table = canonical.fields(
            canonical.decode(data), set(cls.__slots__) | {"version"}, what=what
        )
        canonical.version(table.pop("version"), expected=VERSION, what=what)
        for name in ("release", "study_digest", "salt"):
            canonical.sha256_hex(table[name], what=name)
        clock.parse_rfc3339(table["time"], what="time")
        images = canonical.integer(table["images"], low=MIN_IMAGES, high=MAX_IMAGES, what="images")
        if images % IMAGES_STEP:
            raise FormatError(f"the number of images is no multiple of {IMAGES_STEP}")
        _share(table["accuracy_percent"], images, what="accuracy")
        if table["balanced_accuracy_percent"] is not None:
            _share(table["balanced_accuracy_percent"], images, what="balanced accuracy")
        return cls(**table)


def grain_percent(images: int) -> int:
    """Return the step of a share that so many images tell: at most 20, at least 1.

    The smallest of the steps that is no finer than a 95 % interval of a share of one half is wide.

    Raises:
        FormatError: of so few images no share is told.
    """
    width = 100 * 2 * _Z * 0.5 / sqrt(images) if images > 0 else float("inf")
    for grain in GRAINS_PERCENT:
        if grain >= width:
            return grain
    raise FormatError(f"{images} images are too few to say anything of them")


def rounded_percent(share: float, *, images: int) -> int:
    """Return a share, 0 to 1, as per cent in the step that so many images tell."""
    grain = grain_percent(images)
    return round(100 * share / grain) * grain


def rounded_images(images: int) -> int:
    """Return a number of images rounded down to a multiple of 50."""
    return images // IMAGES_STEP * IMAGES_STEP


def _share(value: Any, images: int, *, what: str) -> None:
    canonical.integer(value, low=0, high=100, what=what)
    if value % grain_percent(images):
        raise FormatError(f"the {what} is given more finely than {images} images may tell it")
