"""A base: weights that no patient's image went into, from which a site's training may start.

One file says what it is: the length of its manifest (8 bytes, little-endian), the manifest
(canonical JSON), and `weights.safetensors` as a blueprint holds it. SHA-256 of the whole file names
it: in the release that publishes it, in the log, and as `base` in the statement of every blueprint
that was trained from it.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, Self

from federation.blueprint import limits
from federation.blueprint.weights import Arrays, Table, read, write
from kit import canonical
from kit.errors import FormatError

VERSION = 1
MEDIA_TYPE = "application/vnd.hospital-edge-kit.base"
LICENCE = "Apache-2.0"  # the kit's own: formulas of the kit drew every image
MAX_MANIFEST_BYTES = 16 * 1024
_LENGTH_BYTES = 8
MAX_BYTES = _LENGTH_BYTES + MAX_MANIFEST_BYTES + limits.MAX_PAYLOAD_BYTES


class Origin(StrEnum):
    """What a base was trained on: a closed set, and patients are not in it."""

    PROCEDURAL = "procedural"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a base is, and everything that its weights are a function of.

    Attributes:
        study: digest of the study it was made for.
        architecture: as in a blueprint.
        origin: what it was trained on.
        recipe: the training's figures, which make the same weights again on the same `numerics`.
        numerics: digest of the numerics fingerprint of the machine that made it.
        weights_sha256: of `weights.safetensors`.
    """

    study: str
    architecture: dict[str, Any]
    origin: Origin
    recipe: dict[str, Any]
    numerics: str
    weights_sha256: str

    def to_bytes(self) -> bytes:
        """Return the canonical bytes."""
        return canonical.encode(asdict(self) | {"version": VERSION})

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse canonical bytes; the architecture is still only an object.

        Raises:
            FormatError: a field is missing, unknown or out of range.
        """
        table = canonical.fields(
            canonical.decode(data, limit=MAX_MANIFEST_BYTES),
            set(cls.__slots__) | {"version"},
            what="manifest of a base",
        )
        canonical.version(table.pop("version"), expected=VERSION, what="manifest of a base")
        for name in ("study", "numerics", "weights_sha256"):
            canonical.sha256_hex(table[name], what=f"a base's {name}")
        for name in ("architecture", "recipe"):
            if not isinstance(table[name], dict):
                raise FormatError(f"a base's {name} is not an object")
        try:
            table["origin"] = Origin(table["origin"])
        except ValueError as error:
            raise FormatError("a base's origin is not in the registry") from error
        return cls(**table)


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A base whose file was read whole."""

    manifest: Manifest
    weights: bytes

    @property
    def digest(self) -> str:
        """The hexadecimal SHA-256 that names the base."""
        return canonical.digest(self.to_bytes())

    def to_bytes(self) -> bytes:
        """Return the file."""
        head = self.manifest.to_bytes()
        return len(head).to_bytes(_LENGTH_BYTES, "little") + head + self.weights

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read a file; that its weights are the architecture's, `arrays` says.

        Raises:
            FormatError: it is no base, or its weights are not those of its manifest.
        """
        length = int.from_bytes(data[:_LENGTH_BYTES], "little")
        if len(data) > MAX_BYTES or not 0 < length <= MAX_MANIFEST_BYTES:
            raise FormatError("the file is no base", hint="`coordinator base make` writes one")
        head, rest = data[_LENGTH_BYTES:][:length], data[_LENGTH_BYTES + length :]
        found = cls(manifest=Manifest.from_bytes(head), weights=rest)
        if canonical.digest(rest) != found.manifest.weights_sha256:
            raise FormatError("the base's weights are not those that its manifest names")
        return found

    def arrays(self, architecture: Mapping[str, Any], table: Table) -> Arrays:
        """Return the tensors, name -> float32, of a base for exactly this architecture.

        `table` is the architecture's; the checks are those of a blueprint's weights.

        Raises:
            FormatError: it is for another architecture, or a tensor or value is off.
        """
        own = self.manifest.architecture
        if own != dict(architecture):
            raise FormatError(
                "the base is of another architecture than what is trained from it",
                hint=f"the base's preset is `{canonical.printable(own.get('preset'))}`",
            )
        return read(self.weights, table)


def make(tensors: Arrays, manifest: Manifest) -> Base:
    """Return the base of tensors that bfloat16 holds exactly: writing then rounds nothing.

    `manifest` names no weights yet.

    Raises:
        FormatError: a value is not finite or over its limit.
    """
    data = write(tensors)
    return Base(manifest=replace(manifest, weights_sha256=canonical.digest(data)), weights=data)
