"""A second run at a site: each unit's own account decides on its part, and nothing else moves."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from edge_agent import runs
from edge_agent.training.folder import PRIVACY
from kit import clock, config
from kit.errors import KitError
from tests.fakes import site

LIFETIME = 10.0


def write_images(folder, numbers):
    (folder / "round").mkdir(parents=True)
    for number in numbers:
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "round" / f"{number:03d}.png")
    rows = [f"round/{number:03d}.png,p-{number}" for number in numbers]
    (folder / "patients.csv").write_text("\n".join(["file,patient", *rows]) + "\n")
    return folder


def train(home, data, name, epsilon=None):
    """Train one step; returns what was said and what leaves about privacy."""
    told = []
    request = runs.Request(
        study=site.STUDY,
        data=data,
        labels=("round",),
        declared_count=60,
        epsilon=epsilon,
        run=name,
        preset="tiny",
        without_privacy=False,
        steps=1,
        held_out=0.0,
        accept_expected_loss=True,
    )
    runs.train(home, request, now=clock.utc_now(), tell=told.append)
    return told, json.loads((home.run(name) / PRIVACY).read_text())


def test_who_was_trained_on_before_sits_out_and_the_noise_says_nothing_of_it(enrolled, tmp_path):
    home = enrolled.home("a")
    budget = dataclasses.replace(home.config, lifetime_epsilon=str(LIFETIME))
    config.save(home.config_path, budget)
    first = write_images(tmp_path / "first", range(64))
    train(home, first, "first")

    mixed = write_images(tmp_path / "mixed", range(61, 125))  # three who come back
    told, declared = train(home, mixed, "mixed")
    assert [line for line in told if line.startswith("3 patients have no room left")]
    assert train(home, mixed, "mixed")[1] == declared  # the same command finds the same run
    fresh = write_images(tmp_path / "fresh", range(200, 264))
    told, of_fresh = train(home, fresh, "fresh")
    assert not [line for line in told if "no room left" in line]
    assert of_fresh == declared  # sigma, steps and epsilon are those of people never seen

    with pytest.raises(KitError, match=r"64 patients have no room left .* fewer than the 60"):
        train(home, first, "once-more")
    with runs.open_ledger(home) as ledger:
        assert "once-more" not in {run.run_id.rpartition("-")[0] for run in ledger.runs()}
        assert ledger.spent(["p-0"]) <= 8 < ledger.budget.epsilon
    train(home, first, "less", epsilon=1.0)
    with runs.open_ledger(home) as ledger:
        assert 8 < ledger.spent(["p-0"]) <= LIFETIME


def test_an_epsilon_beyond_the_lifetime_budget_is_refused(enrolled, tmp_path):
    data = write_images(tmp_path / "data", range(64))
    home = enrolled.home("a")
    lifetime = runs.budget(home).epsilon
    for beyond in (lifetime + 1, 0.0, -1.0):
        with pytest.raises(KitError, match="not within this site's lifetime budget"):
            train(home, data, "run", epsilon=beyond)
    assert train(home, data, "run", epsilon=lifetime / 2)[1]["epsilon"] <= lifetime / 2
