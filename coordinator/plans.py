"""The plan of a build: everything that the bits of its release depend on, as one digest."""

import json
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from coordinator import registry, reviews, state
from coordinator.context import Coordinator
from coordinator.errors import StateError
from coordinator.submissions import BlueprintState
from federation.blueprint.statement import Statement
from federation.study import Study
from kit import canonical, seeds
from kit.files import sha256_file

PLAN_VERSION = 2
DISTRIBUTION = "hospital-edge-kit"
_LIBRARIES = ("diffusers", "onnx")  # beside those of the numerics fingerprint


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One approved blueprint in a plan."""

    weights_sha256: str
    blueprint: str
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """All that a shard depends on beside its blueprint and class.

    `seeds` commits to the study's secret, from which every seed follows by the names in the inputs
    and the policy, and tells nothing about it (A6). `numerics` holds the pinned threads.
    """

    study: Study
    seeds: str
    numerics: dict[str, Any]
    code: dict[str, str]

    @property
    def threads(self) -> int:
        """The threads that everything is computed on."""
        return int(self.numerics["threads"])

    @property
    def digest(self) -> str:
        """The hexadecimal SHA-256 of the canonical setting."""
        return canonical.digest(canonical.encode({"study": self.study.digest, **self.to_table()}))

    def to_table(self) -> dict[str, Any]:
        """Return what stands in the plan, the study apart."""
        return {"seeds": self.seeds, "numerics": self.numerics, "code": self.code}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything the bits of a release depend on; its digest names it."""

    setting: Setting
    inputs: tuple[Input, ...]

    @property
    def study(self) -> Study:
        """The study that is built."""
        return self.setting.study

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes that some approved blueprint declares, in study order."""
        declared = {label for entry in self.inputs for label in entry.outputs}
        return tuple(label for label in self.study.classes if label in declared)

    def to_bytes(self) -> bytes:
        """Return the canonical plan; sites and statement digests are no part of it."""
        return canonical.encode(
            {
                "version": PLAN_VERSION,
                "study": self.study.digest,
                "policy": json.loads(self.study.to_bytes())["build"],
                "inputs": [
                    {"weights": entry.weights_sha256, "outputs": list(entry.outputs)}
                    for entry in self.inputs
                ],
                "labels": list(self.labels),
                **self.setting.to_table(),
            }
        )

    @property
    def digest(self) -> str:
        """The hexadecimal SHA-256 of the canonical plan."""
        return canonical.digest(self.to_bytes())


def setting_of(document: bytes, study: Study) -> Setting:
    """Return the setting that a plan of this home names."""
    table = canonical.decode(document)
    return Setting(
        study=study, seeds=table["seeds"], numerics=table["numerics"], code=table["code"]
    )


def propose(coordinator: Coordinator, study_name: str) -> Plan:
    """Return what a build of a study would do now.

    Raises:
        NotFoundError: no such study.
        StateError: no approved blueprint, or one that no quorum of reviewers signed for.
    """
    from federation.learning.downstream.numerics import numerics_fingerprint

    table = state.blueprints
    with coordinator.state.read() as tx:
        study_row = registry.find_study(tx, study_name)
        rows = tx.all(
            sa.select(table).where(
                table.c.study_digest == study_row.digest,
                table.c.state == BlueprintState.APPROVED,
            )
        )
        study = Study.from_bytes(study_row.manifest)
        for row in rows:
            reviews.require_quorum(tx, row.digest, study)
            study.build.require_outputs(Statement.from_bytes(row.statement).outputs)
    if not rows:
        raise StateError(
            f"study `{canonical.printable(study_name)}` has no approved blueprint",
            hint="see `coordinator list`, then `coordinator approve`",
        )
    inputs = [
        Input(
            weights_sha256=row.weights_sha256,
            blueprint=row.digest,
            outputs=Statement.from_bytes(row.statement).outputs,
        )
        for row in rows
    ]
    secret = coordinator.study_secret(study.digest)
    setting = Setting(
        study=study,
        seeds=canonical.digest(seeds.derive(secret, "commitment")),
        numerics=dict(numerics_fingerprint(coordinator.config.threads)),
        code=code_version(),
    )
    ordered = sorted(inputs, key=lambda entry: entry.weights_sha256)
    return Plan(setting=setting, inputs=tuple(ordered))


@cache
def code_version() -> dict[str, str]:
    """Return what of the code the bits depend on: versions, and a digest of what computes them."""
    from federation import learning

    folder = Path(learning.__file__).parent
    files = {
        path.relative_to(folder).as_posix(): sha256_file(path) for path in folder.rglob("*.py")
    }
    versions = {name: metadata.version(name) for name in (DISTRIBUTION, *_LIBRARIES)}
    return versions | {"learning": canonical.digest(canonical.encode(files))}
