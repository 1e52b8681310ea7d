"""A slice of the mutation fuzz; `make fuzz` runs all of it and prints the table."""

import subprocess
import sys

import pytest

from tests.fakes.forge import Forge
from tests.fuzz import models, mutation, truth


@pytest.fixture(scope="module")
def forge():
    return Forge()


@pytest.fixture(scope="module")
def tally(forge):
    return mutation.fuzz(1_500, seed=mutation.DEFAULT_SEED, forge=forge)


def test_nothing_opens_that_no_honest_site_could_have_sent(forge, tally):
    forge.verifier.open(forge.honest)
    assert tally.accepted == []
    assert sum(tally.refused.values()) + tally.honest == tally.made == 1_500
    assert 2 * tally.signed_again >= tally.made


def test_every_step_refuses_its_share(tally):
    assert min(tally.refused[step] for step in mutation.STEPS) >= 15


def test_an_untruth_is_refused_by_the_step_it_was_made_for(tally):
    for step in range(6, 15):
        layer = f"step {step} untrue"
        others = [(name, at) for name, at in tally.by_layer if name == layer and at != step]
        assert tally.by_layer[layer, step] > 0
        assert others == []


def test_a_true_word_is_known_as_one_and_an_untrue_one_is_not(forge):
    """The check that excuses an accepted mutation must not excuse everything."""
    parameters = "predicate.privacy.parameters."
    set_to = mutation.changes.setting
    assert truth.could_be_honest(forge, forge.honest)
    assert truth.could_be_honest(forge, forge.seal())
    assert truth.could_be_honest(forge, forge.signed(set_to(parameters + "steps", 40)))
    every_class = set_to("predicate.outputs", ["cat", "dog", "eel"])
    assert truth.could_be_honest(forge, forge.signed(every_class))
    forge.verifier.open(forge.signed(every_class))
    for change in (
        set_to("predicate.outputs", ["cat"]),
        set_to("predicate.outputs", ["dog", "cat"]),
        set_to(parameters + "steps", 60),
        set_to(parameters + "epsilon", "0.2"),
        set_to(parameters + "delta", "0.0001"),
        set_to("predicate.expires", "2026-03-03T12:00:00Z"),
        set_to("predicate.privacy.ledger.counter", 2),
        set_to("predicate.context.seq", 8),
    ):
        assert not truth.could_be_honest(forge, forge.signed(change))

    def hide(bits):
        bits["label.weight"][2, 0] = 0x8000

    assert not truth.could_be_honest(forge, forge.seal(data=forge.raw_weights(hide)))


def test_the_same_seed_makes_the_same_mutations(forge):
    first, second = (mutation.fuzz(150, seed=7, forge=forge) for _ in range(2))
    assert first.by_layer == second.by_layer
    assert first.by_layer != mutation.fuzz(150, seed=8, forge=forge).by_layer


def command(count):
    line = [sys.executable, "-m", "tests.fuzz.mutation", "--seed", "5", "--count", str(count)]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)


def test_the_command_prints_the_table_and_fails_when_a_step_is_rare():
    enough = command(600)
    assert enough.returncode == 0, enough.stderr
    assert "accepted otherwise 0; seed 5" in enough.stdout
    few = command(100)
    assert few.returncode == 1
    assert "steps that refused fewer than 1:" in few.stderr


def test_models_that_show_nothing_are_refused_by_step_23():
    found = models.fuzz(4, seed=3)  # which opens an honest one first
    assert found[""] == 0
    assert sum(found.values()) == 4
