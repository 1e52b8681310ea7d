"""The ML-BOM of a release: CycloneDX 1.6 (ECMA-424) in canonical JSON.

One `machine-learning-model` component. What it was made from stands as its pedigree: every ancestor
is a blueprint, known by its digest alone, with the privacy that its site declared. No site, path or
clock of a machine is in it, so one release and one statement give one file.

Written by hand: the library of the format has no model card class. Its validator reads these files
in `tests/release/test_bom.py`.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from federation.release.statement import RESEARCH_USE, Artefact
from federation.study import Study
from kit import canonical

MEDIA_TYPE = "application/vnd.cyclonedx+json"
SPECIFICATION = "1.6"
MAX_BYTES = 8 << 20  # some 4,000 ancestors, the most that a release has, at 600 bytes
_PREFIX = "hospital-edge-kit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ancestor:
    """One blueprint that went into a release, and what its site declared about privacy.

    `mechanism` is `none` for one with personal data in it; epsilon and delta are None then.
    """

    digest: str
    outputs: tuple[str, ...]
    unit: str
    mechanism: str
    epsilon: float | None
    delta: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Making:
    """How a model was made, as far as people read it.

    `images_per_shard` is the number of synthetic images of one class of one blueprint;
    `synthetic_set` the SHA-256 of those that are published beside the model, if any are.
    """

    study: Study
    labels: tuple[str, ...]
    plan: str
    created: str
    images_per_shard: int
    classifier: str
    ancestors: Sequence[Ancestor]
    synthetic_set: str | None = None


def write(model: Artefact, making: Making) -> bytes:
    """Return the ML-BOM of a model."""
    from federation.release.onnx_lint import IR_VERSION, OPSET

    ancestors = sorted(making.ancestors, key=lambda ancestor: ancestor.digest)
    reference = f"release:{model.sha256}"
    component = {
        "type": "machine-learning-model",
        "bom-ref": reference,
        "name": making.study.id,
        "version": model.sha256,
        "description": f"{making.study.title}; {RESEARCH_USE}",
        "mime-type": model.media_type,
        "hashes": [{"alg": "SHA-256", "content": model.sha256}],
        "licenses": [{"license": {"name": model.licence}}],
        "pedigree": {"ancestors": [_ancestor(ancestor) for ancestor in ancestors]},
        "modelCard": _card(making),
        "properties": _properties(
            study=making.study.digest,
            round=str(making.study.round),
            plan=making.plan,
            opset=str(OPSET),
            ir=str(IR_VERSION),
            labels=", ".join(making.labels),
            **_largest_epsilon(ancestors),
        ),
    }
    return canonical.encode(
        {
            "$schema": f"http://cyclonedx.org/schema/bom-{SPECIFICATION}.schema.json",
            "bomFormat": "CycloneDX",
            "specVersion": SPECIFICATION,
            "serialNumber": _serial(model.sha256, making.created),
            "version": 1,
            "metadata": {"timestamp": making.created, "component": component},
            "components": [],
            "dependencies": [{"ref": reference, "dependsOn": []}],
        }
    )


def ancestors_in(data: bytes) -> tuple[str, ...]:
    """Return the digests of the blueprints that an ML-BOM written here names, sorted.

    Raises:
        FormatError: the bytes are not canonical JSON.
        KeyError: they are no ML-BOM.
    """
    table = canonical.decode(data, limit=MAX_BYTES)
    pedigree = table["metadata"]["component"]["pedigree"]
    return tuple(sorted(ancestor["version"] for ancestor in pedigree["ancestors"]))


def _ancestor(ancestor: Ancestor) -> dict[str, Any]:
    figures = {"unit": ancestor.unit, "mechanism": ancestor.mechanism}
    if ancestor.epsilon is not None and ancestor.delta is not None:
        figures |= {
            "epsilon": canonical.real(ancestor.epsilon),
            "delta": canonical.real(ancestor.delta),
        }
    return {
        "type": "machine-learning-model",
        "bom-ref": f"blueprint:{ancestor.digest}",
        "name": "blueprint",
        "version": ancestor.digest,
        "description": "a site's generator, named by the digest of its signed statement;"
        " privacy as declared by the site, arithmetic rechecked",
        "properties": _properties(outputs=", ".join(ancestor.outputs), **figures),
    }


def _largest_epsilon(ancestors: Sequence[Ancestor]) -> dict[str, str]:
    """Return the bound for somebody in one ancestor; none if an ancestor holds personal data."""
    declared = [ancestor.epsilon for ancestor in ancestors]
    known = [epsilon for epsilon in declared if epsilon is not None]
    if not known or len(known) < len(declared):
        return {}
    return {"largest-ancestor-epsilon": canonical.real(max(known))}


def _card(making: Making) -> dict[str, Any]:
    from federation.release.onnx_lint import INPUT_NAME, OUTPUT_NAME

    image, published = making.study.image, making.synthetic_set
    contents = {"contents": {"properties": _properties(sha256=published)}} if published else {}
    return {
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": "image classification",
            "architectureFamily": "convolutional neural network",
            "modelArchitecture": making.classifier,
            "datasets": [
                {
                    "type": "dataset",
                    "name": f"{making.study.id} synthetic images",
                    "description": f"{making.images_per_shard} images of"
                    f" {image.channels} x {image.height} x {image.width} per class and blueprint,"
                    " drawn from the ancestors; no site's own image is in it",
                    "classification": "synthetic",
                    **contents,
                }
            ],
            "inputs": [{"format": f"{INPUT_NAME}: float32 [N, {image.channels}, h, w] in 0 to 1"}],
            "outputs": [{"format": f"{OUTPUT_NAME}: float32 [N, {len(making.labels)}]"}],
        },
        "considerations": {"technicalLimitations": [RESEARCH_USE]},
    }


def _properties(**values: str) -> list[dict[str, str]]:
    return [{"name": f"{_PREFIX}:{name}", "value": values[name]} for name in sorted(values)]


def _serial(digest: str, created: str) -> str:
    """Return a serial number that is the same for the same release and time (RFC 9562, v8)."""
    seed = bytes.fromhex(canonical.digest(f"{digest} {created}".encode()))[:16]
    value = bytearray(seed)
    value[6] = value[6] & 0x0F | 0x80
    value[8] = value[8] & 0x3F | 0x80
    return uuid.UUID(bytes=bytes(value)).urn
