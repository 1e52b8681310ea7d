"""What the processes of one training do in the tests; `torchrun` starts this file.

`evidence MEETING [PLANT]`: rank 0 prints what a reader of the updates can tell, as JSON; the
ranks meet in the folder MEETING, and PLANT names a bug of several processes, planted from outside.
`run FOLDER [STOP]`: one training run into FOLDER, that stops by ctrl-C at step STOP.
"""

import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from torch import distributed as dist

from edge_agent.training import crew, loop
from edge_agent.training.plan import plan_for
from edge_agent.training.run import RunResult, TrainOptions, train_run
from federation.learning.generator.architecture import architecture_for
from federation.study import Unit
from kit.errors import InterruptedRunError
from tests.training import conftest as fixtures
from tests.training import test_wiring_proofs as wiring

STOPPED = 3


def noise_at_every_rank(patch: pytest.MonkeyPatch) -> None:
    real = loop.PrivateUpdate.sums

    def sums(self, data, images):
        clipped, figures = real(self, data, images)
        std = self._plan.noise_multiplier * self._plan.max_grad_norm
        for tensor in clipped:
            tensor.add_(wiring.noise.secret_noise(tensor.shape, std=std))
        return clipped, figures

    patch.setattr(loop.PrivateUpdate, "sums", sums)


def every_rank_takes_the_whole_draw(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(crew, "slice_of", lambda images, *, rank, ranks: images)


def evidence(meeting: str, plant: str = "") -> None:
    with pytest.MonkeyPatch.context() as patch:
        if plant:
            globals()[plant](patch)
        if crew.is_hand():
            patch.setattr(loop, "build_network", lambda _architecture: wiring.Probe())
            loop.help_training(Path(meeting))
            return
        with crew.led(Path(meeting)) as those:
            found = {name: bool(seen) for name, seen in asdict(wiring.evidence(those)).items()}
            print(json.dumps(found | {"ranks": dist.get_world_size()}))


def run(folder: str, stop: str = "0") -> None:
    meeting = Path(folder).parent
    if crew.is_hand():
        loop.help_training(meeting)
        return
    account = Account(Path(folder).with_suffix(".charged"), stop=int(stop))
    with crew.led(meeting) as those:
        train(Path(folder), account, those)


def train(folder: Path, account: "Account", those: crew.Crew | None = None) -> RunResult:
    study, cohort = fixtures.make_study(), fixtures.make_cohort()
    plan = plan_for(study, n_declared=60, unit=Unit.IMAGE, steps=4)
    options = TrainOptions(declared_labels=("left", "right"), plan=plan)
    architecture = architecture_for(study, "tiny")
    return train_run(folder, study, architecture, cohort, options, account, crew=those)


class Account:
    """A ledger of one number in a file; sends ctrl-C when step `stop` is charged."""

    def __init__(self, path: Path, *, stop: int) -> None:
        self._path, self._stop = path, stop

    @property
    def charged(self) -> int:
        return int(self._path.read_text()) if self._path.exists() else 0

    def charge(self, steps: int) -> None:
        self._path.write_text(str(self.charged + steps))
        if self.charged == self._stop:
            os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    try:
        {"evidence": evidence, "run": run}[sys.argv[1]](*sys.argv[2:])
    except InterruptedRunError:
        sys.exit(STOPPED)
