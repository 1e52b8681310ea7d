"""Shards: the synthetic images of one class of one blueprint, generated whole and kept sealed.

A shard depends on its blueprint, its class, the study's secret and the plan's setting alone: no
other blueprint changes a bit of it, and one that is kept is read, never made again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coordinator import payloads, registry, reviews
from coordinator.context import Coordinator
from coordinator.plans import Input, Plan, Setting, code_version
from federation.blueprint.statement import Statement
from federation.study import Study
from kit import canonical, seeds
from kit.errors import KitError

Images = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """Which shard; `name` is that of its file, by everything that its bits depend on."""

    blueprint: str
    weights_sha256: str
    label: str
    name: str

    @property
    def work(self) -> str:
        """What names making it in every build that needs it."""
        return f"{self.blueprint}/{self.name}"


def of(work: Plan) -> tuple[Shard, ...]:
    """Return every shard of a plan: inputs by their weights, classes in study order."""
    return tuple(shard for entry in work.inputs for shard in of_input(work.setting, entry))


def of_input(setting: Setting, entry: Input) -> tuple[Shard, ...]:
    """Return the shards of one blueprint, classes in study order."""
    return tuple(
        Shard(
            blueprint=entry.blueprint,
            weights_sha256=entry.weights_sha256,
            label=label,
            name=_name(setting, label),
        )
        for label in setting.study.classes
        if label in entry.outputs
    )


def load(coordinator: Coordinator, study: Study, shard: Shard) -> Images | None:
    """Return a kept shard, or None when it has to be generated.

    Raises:
        RefusalError: the file was altered.
        NotFoundError: the blueprint's key was destroyed.
    """
    image = study.image
    shape = (study.build.shard_size, image.channels, image.height, image.width)
    return payloads.load_shard(coordinator, shard.blueprint, shard.name, shape)


def differences(setting: Setting, here: Mapping[str, Any]) -> list[str]:
    """Say in which respects a machine with `here` computes other bits than a setting names."""
    said = setting.numerics | setting.code
    return [
        f"{key} is `{here.get(key)}`, not `{said.get(key)}`"
        for key in sorted({*here, *said})
        if here.get(key) != said.get(key)
    ]


def require_setting(setting: Setting) -> None:
    """Refuse to compute on a machine whose bits are others.

    Raises:
        KitError: versions, processor or threads are not those that the plan names.
    """
    from federation.learning.downstream.numerics import numerics_fingerprint

    other = differences(setting, dict(numerics_fingerprint(setting.threads)) | code_version())
    if other:
        raise KitError(
            f"this machine computes other bits than those of the plan: {'; '.join(other)}",
            hint="install the same versions on a machine of the same kind, or leave it out",
        )


class Maker:
    """Makes the shards of a setting that are not kept; has one network in memory at a time."""

    def __init__(self, coordinator: Coordinator, setting: Setting) -> None:
        self._coordinator, self._setting = coordinator, setting
        self._loaded: tuple[str, Any, Any] | None = None

    def make(self, shard: Shard) -> bool:
        """Have a shard kept, on the threads that are pinned now; says whether it was generated.

        Raises:
            RefusalError: a file was altered.
            NotFoundError: the blueprint's key was destroyed.
            KitError: this machine computes other bits than those that the plan names.
        """
        if load(self._coordinator, self._setting.study, shard) is not None:
            return False
        require_setting(self._setting)
        images = self._generate(shard)
        payloads.save_shard(self._coordinator, shard.blueprint, shard.name, images)
        return True

    def _generate(self, shard: Shard) -> Images:
        from federation.learning.methods import federated_factory

        study = self._setting.study
        network, architecture = self._network(shard)
        secret = self._coordinator.study_secret(study.digest)
        version = str(study.build.version)
        return federated_factory.shard(
            network,
            architecture,
            study.classes.index(shard.label),
            size=study.build.shard_size,
            seed=seeds.seed(secret, "shard", shard.weights_sha256, shard.label, version),
            sampler_steps=study.build.sampler_steps,
        )

    def _network(self, shard: Shard) -> tuple[Any, Any]:
        from federation.learning.generator import architecture as networks

        if self._loaded is not None and self._loaded[0] == shard.blueprint:
            return self._loaded[1:]
        with self._coordinator.state.read() as tx:
            row = reviews.find(tx, shard.blueprint)
            study_row = registry.find_study(tx, row.study_digest)
        statement = Statement.from_bytes(row.statement)
        architecture = networks.Architecture.from_table(statement.architecture)
        network = networks.build_network(architecture)
        table = reviews.tensor_table(study_row, statement)
        tensors = payloads.open_weights(self._coordinator, statement, table)
        networks.load_weights(network, tensors)
        self._loaded = (shard.blueprint, network, architecture)
        return network, architecture


def _name(setting: Setting, label: str) -> str:
    study = setting.study
    key = f"{setting.digest}/{study.build.version}/{study.classes.index(label)}"
    return canonical.digest(key.encode())[:32]
