"""Two processes that share a training's steps, over gloo, as `torchrun` starts them."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from safetensors import safe_open

from edge_agent.training import checkpoint
from edge_agent.training.crew import slice_of
from edge_agent.training.sampler import image_draws, unit_table
from tests.fakes import ranked as ranked_run
from tests.training.test_training_run import FILES

ROOT = Path(__file__).parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]


def ranked(*arguments, ranks=2):
    script = [f"--nproc-per-node={ranks}", "-m", "tests.fakes.ranked", *map(str, arguments)]
    return subprocess.run(
        [*TORCHRUN, *script], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )


def evidence(*arguments):
    with tempfile.TemporaryDirectory() as meeting:
        done = ranked("evidence", meeting, *arguments)
        assert not list(Path(meeting).iterdir())
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_slices_share_no_unit_and_leave_none_out():
    table = unit_table([f"u{i}" for i in range(11)])
    drawn = image_draws(table, table.start, draws=3)
    slices = [slice_of(drawn, rank=rank, ranks=4) for rank in range(4)]
    columns = sorted(tuple(column) for part in slices for column in part.T.tolist())
    assert columns == sorted(tuple(column) for column in drawn.T.tolist())
    assert slice_of(drawn[:, :1], rank=1, ranks=2).shape == (3, 0)


@pytest.fixture(scope="module")
def of_two_processes():
    return evidence()


def test_the_union_of_two_ranks_has_the_law_of_one_and_its_noise_once(of_two_processes):
    assert of_two_processes.pop("ranks") == 2
    assert set(of_two_processes.values()) == {True}


@pytest.mark.parametrize(
    ("plant", "caught_by"),
    [
        ("noise_at_every_rank", "noise_is_sigma_c"),
        ("every_rank_takes_the_whole_draw", "draw_has_mean_qn"),
    ],
)
def test_a_bug_of_several_processes_is_caught(plant, caught_by, of_two_processes):
    assert not evidence(plant)[caught_by]
    assert of_two_processes[caught_by]


def test_a_run_of_two_ranks_goes_on_with_one(tmp_path):
    folder, charged = tmp_path / "run", tmp_path / "run.charged"
    stopped = ranked("run", folder, 2)
    assert stopped.returncode != 0
    assert charged.read_text() == "2"
    with safe_open(folder / checkpoint.NAME, framework="pt") as file:
        kinds = {name.split(".")[0] for name in file.keys()}  # noqa: SIM118
        assert set(file.metadata()) == {"training"}
    assert kinds == {"network", "average", "adam", "released"}

    account = ranked_run.Account(charged, stop=0)
    privacy = dict(ranked_run.train(folder, account).privacy)
    assert account.charged == 1 + 4  # the class sums and the plan's steps, whatever the ranks
    assert {path.name for path in folder.iterdir()} == FILES
    fresh = ranked_run.Account(tmp_path / "alone.charged", stop=0)
    assert ranked_run.train(tmp_path / "alone", fresh).privacy == privacy
