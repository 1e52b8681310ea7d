"""Two kinds of generator in one study, from training to release, forgetting included."""

import numpy as np
import pytest
from PIL import Image

from coordinator import reviews, revocation
from edge_agent import inspection
from edge_agent import runs as agent_runs
from kit import clock
from kit.errors import KitError
from tests.fakes import runs, site

STUDY = {"shard_size": 12, "sampler_steps": 3, "classifier_steps": 5}
PATIENTS = 80


def write_images(root, labels):
    """Discs and crosses with a little noise; as many of each label as of the others."""
    rng = np.random.default_rng(5)
    down, across = np.mgrid[:8, :8] - 3.5
    shapes = ((down**2 + across**2 < 8), (np.abs(down) < 1.2) | (np.abs(across) < 1.2))
    for label, shape in zip(labels, shapes, strict=False):
        (root / label).mkdir(parents=True)
        for number in range(PATIENTS // len(labels)):
            pixels = np.clip(shape * 180 + 40 + rng.normal(0, 20, (8, 8)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(root / label / f"{number:03d}.png")
    return root


def request(data, labels, preset, **changes):
    named = {"study": site.STUDY, "run": site.STUDY, "steps": None, "without_privacy": False}
    named |= {"held_out": 0.0}
    return agent_runs.Request(
        data=data, labels=labels, preset=preset, declared_count=PATIENTS - 10, **named | changes
    )


def train(home, asked):
    told = []
    done = agent_runs.train(home, asked, now=clock.utc_now(), tell=told.append)
    return done, told


def test_a_study_of_two_kinds_trains_reviews_builds_and_forgets(tmp_path):
    labels = ("round", "dark")
    federation = site.found(tmp_path / "one")
    with federation.open() as coordinator:
        study = site.create_study(coordinator, presets=("tiny", "moments"), epsilon=3.0, **STUDY)
    with federation.serving() as coordinator:
        a = site.enrol(coordinator, federation, "a")
        b = site.enrol(coordinator, federation, "b")
    data = write_images(tmp_path / "data", labels)

    # the diffusion preset would be noise here: said, and refused before anything is spent
    told = []
    with pytest.raises(KitError, match="mostly noise"):
        agent_runs.train(a, request(data, labels, "tiny"), now=clock.utc_now(), tell=told.append)
    assert any("advised: --preset moments" in line for line in told)
    with agent_runs.open_ledger(a) as ledger:
        assert not ledger.runs()

    done, told = train(a, request(data, labels, "moments", run="few"))
    assert done.gate_passed
    assert any("two noisy sums" in line for line in told)
    with agent_runs.open_ledger(a) as ledger:
        assert [run.charged for run in ledger.runs()] == [2]
    shown = inspection.inspect(a, "few", now=clock.utc_now())
    assert shown.architecture["kind"] == "class-gaussian"
    runs.write_run(b, study, ("lobed",), seed=3)  # the study's first preset: diffusion

    with federation.serving():
        site.submit(a, "few")
        site.submit(b)
        site.wait_for(lambda: site.settled(federation))
        assert federation.states() == {"a": "pending", "b": "pending"}
    with federation.open() as coordinator:
        assert reviews.sample_sheet(coordinator, federation.digest("a")).startswith(b"\x89PNG")
    site.approve(federation, "a")
    alone = site.build(federation)
    site.approve(federation, "b")
    both = site.build(federation)
    assert set(both.labels) == {"round", "dark", "lobed"}
    with federation.open() as coordinator:
        revocation.revoke(
            coordinator,
            federation.digest("b"),
            reviewer_key=federation.reviewer(),
            reason="withdrawn",
        )
    again = site.build(federation)
    assert again.release == alone.release != both.release  # bit for bit, without the other kind
