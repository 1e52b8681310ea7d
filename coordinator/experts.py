"""Experts: the classifier of one blueprint, trained on its shards alone and kept as they are.

An expert depends on its blueprint, the study's secret and the plan's setting, and on no other
blueprint: revoking one leaves the others' experts in place, and shreds its own with its key.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from coordinator import payloads, shards
from coordinator.context import Coordinator
from coordinator.errors import StateError
from coordinator.plans import Input, Plan, Setting
from coordinator.shards import Shard
from federation.build_policy import Mode
from kit import canonical, seeds

if TYPE_CHECKING:
    from federation.learning.methods import product_of_experts


@dataclass(frozen=True, slots=True, kw_only=True)
class Expert:
    """Which expert; `name` is that of its file, by everything that its bits depend on."""

    blueprint: str
    weights_sha256: str
    shards: tuple[Shard, ...]
    name: str

    @property
    def work(self) -> str:
        """What names training it in every build that needs it."""
        return f"{self.blueprint}/{self.name}"


def of(work: Plan) -> tuple[Expert, ...]:
    """Return every expert of a plan, by their weights; none in another mode."""
    if work.study.build.mode is not Mode.EXPERTS:
        return ()
    return tuple(of_input(work.setting, entry) for entry in work.inputs)


def of_input(setting: Setting, entry: Input) -> Expert:
    """Return the expert of one blueprint."""
    own = shards.of_input(setting, entry)
    key = "/".join(["expert", setting.digest, *(shard.name for shard in own)])
    return Expert(
        blueprint=entry.blueprint,
        weights_sha256=entry.weights_sha256,
        shards=own,
        name=canonical.digest(key.encode())[:32],
    )


def load(
    coordinator: Coordinator, setting: Setting, expert: Expert
) -> "product_of_experts.Expert | None":
    """Return a kept expert, or None when it has to be trained.

    Raises:
        RefusalError: the file was altered.
        NotFoundError: the blueprint's key was destroyed.
    """
    from safetensors.torch import load as read

    from federation.learning.methods import product_of_experts

    data = payloads.load_expert(coordinator, expert.blueprint, expert.name)
    if data is None:
        return None
    study = setting.study
    shape = (study.image.channels, study.image.height, study.image.width)
    classes = tuple(study.classes.index(shard.label) for shard in expert.shards)
    found = product_of_experts.blank(study.build, shape, classes)
    found.network.load_state_dict(read(data))
    return found


class Trainer:
    """Trains the experts of a setting that are not kept."""

    def __init__(self, coordinator: Coordinator, setting: Setting) -> None:
        self._coordinator, self._setting = coordinator, setting

    def make(self, expert: Expert) -> bool:
        """Have an expert kept, on the threads that are pinned now; says whether it was trained.

        Raises:
            RefusalError: a file was altered.
            NotFoundError: the blueprint's key was destroyed.
            StateError: a shard is gone from its store.
            KitError: this machine computes other bits than those that the plan names.
        """
        from safetensors.torch import save

        from federation.learning.methods import product_of_experts

        coordinator, setting = self._coordinator, self._setting
        if payloads.load_expert(coordinator, expert.blueprint, expert.name) is not None:
            return False
        shards.require_setting(setting)
        study = setting.study
        version = str(study.build.version)
        secret = coordinator.study_secret(study.digest)
        images = [
            (study.classes.index(s.label), whole(coordinator, setting, s)) for s in expert.shards
        ]
        trained = product_of_experts.train_expert(
            images,
            study.build,
            classes=len(study.classes),
            seed=seeds.seed(secret, "expert", expert.weights_sha256, version),
        )
        data = save(trained.network.state_dict())
        payloads.save_expert(coordinator, expert.blueprint, expert.name, data)
        return True


def whole(coordinator: Coordinator, setting: Setting, shard: Shard) -> shards.Images:
    """Return the images of a shard that has to be there.

    Raises:
        StateError: it is gone from its store.
    """
    images = shards.load(coordinator, setting.study, shard)
    if images is None:
        raise StateError(
            f"a shard of blueprint `{shard.blueprint[:16]}` is gone from its store",
            hint="run the build again",
        )
    return images
