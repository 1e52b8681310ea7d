"""Mode `experts`: one expert per blueprint, kept and forgotten with it, joined in one model."""

import signal

import pytest

from coordinator import build_records, builds, descent, experts, jobs, payloads, plans, releases
from coordinator.engines import tasks
from coordinator.jobs import JobKind, Owner
from federation.build_policy import Mode
from federation.release.statement import Role
from kit.errors import KitError
from tests.fakes import forks, four, runs, site
from tests.fakes.terminal import Terminal

SHARDS, EXPERTS = 8, 4


@pytest.fixture
def approved(tmp_path, tmp_path_factory):
    """Four approved blueprints of two classes each."""
    base = tmp_path_factory.getbasetemp()
    return four.copy("approved", "experts", tmp_path / "federation", base)


def weights_of(federation):
    """Return blueprint -> the weights of its expert, as they are kept."""
    with federation.open() as coordinator:
        work = plans.propose(coordinator, site.STUDY)
        return {
            e.blueprint: payloads.load_expert(coordinator, e.blueprint, e.name)
            for e in experts.of(work)
        }


def test_a_single_class_is_refused_before_anything_of_it_is_sent_and_two_are_taken(
    tmp_path, tmp_path_factory
):
    base = tmp_path_factory.getbasetemp()
    federation = four.copy("enrolled", "experts", tmp_path / "federation", base)
    home = federation.home("a")
    [study] = home.studies()
    runs.write_run(home, study, four.LABELS["a"][:1], name="single", seed=9)
    with federation.serving():
        with pytest.raises(KitError, match="takes no blueprint of a single class"):
            site.submit(home, "single")
        assert federation.states() == {}
    four.submit(federation, "a")
    assert federation.states() == {"a": "approved"}


def test_a_plan_refuses_a_single_class_as_well(approved, monkeypatch):
    with approved.open() as coordinator:
        assert plans.propose(coordinator, site.STUDY).study.build.mode is Mode.EXPERTS
        real = plans.Statement.from_bytes

        class One:
            outputs = ("lobed",)

        with monkeypatch.context() as patched:
            patched.setattr(plans.Statement, "from_bytes", lambda _: One)
            with pytest.raises(KitError, match="single class") as refusal:
                plans.propose(coordinator, site.STUDY)
        assert "monolithic" in refusal.value.hint
        assert plans.Statement.from_bytes == real


def test_a_build_of_experts_is_one_model_and_tells_what_each_of_them_loses(approved):
    made = site.build(approved)
    assert (made.shards_generated, made.experts_trained) == (SHARDS, EXPERTS)
    assert made.labels == site.CLASSES
    assert made.parity_difference < 1e-4
    with approved.open() as coordinator:
        [listed] = releases.list_releases(coordinator)
        record = build_records.show(coordinator, made.build)
        with coordinator.state.read() as tx:
            [row] = releases.visible(tx)
    roles = [artefact.role for artefact in descent.release_of(row).artefacts]
    assert Role.GOLDEN_IMAGES in roles
    assert listed.card["policy"]["mode"] == "experts"
    assert listed.card["experts"] == record.quality["experts"] == made.quality["experts"]
    assert [e["images"] for e in made.quality["experts"]] == [4] * EXPERTS
    assert {e["blueprint"] for e in made.quality["experts"]} == set(weights_of(approved))
    kinds = [job.kind for job in record.jobs]
    assert kinds == ["shard"] * SHARDS + ["expert"] * EXPERTS + ["release"]
    shown = Terminal(approved.folder).run("coordinator", "hub", "builds", "show", "1").out
    assert "expert of" in shown
    assert "on held-out synthetic images" in shown
    again = site.build(approved)
    assert (again.release, again.plan) == (made.release, made.plan)
    assert (again.shards_generated, again.experts_trained) == (0, 0)


def test_without_one_blueprint_the_other_experts_keep_their_bits_and_nobody_trains_again(
    approved, tmp_path
):
    never = approved.clone(tmp_path / "never")
    site.build(approved)
    before = weights_of(approved)
    gone = approved.digest(four.SOLE_OWNER)
    with approved.open() as coordinator:
        site.revocation_of(approved, coordinator, four.SOLE_OWNER)
        folder = site.shards_folder(coordinator, gone)
        assert not folder.exists() or not list(folder.iterdir())
    made = site.build(approved)
    assert (made.shards_generated, made.experts_trained) == (0, 0)
    assert made.labels == site.CLASSES[:-1]  # nobody else had the last one
    after = weights_of(approved)
    assert after == {b: w for b, w in before.items() if b != gone}
    with never.open() as coordinator:
        site.revocation_of(never, coordinator, four.SOLE_OWNER)
    fresh = Terminal(never.folder).json("coordinator", "hub", "build", site.STUDY)
    assert fresh["experts_trained"] == EXPERTS - 1
    assert fresh["release"] == made.release
    assert weights_of(never) == after


def test_a_build_that_was_killed_in_an_expert_goes_on_with_it(approved, monkeypatch):
    with monkeypatch.context() as patched:
        killing = forks.killing(payloads.save_expert, on_call=2, first=True)
        patched.setattr(experts.payloads, "save_expert", killing)
        child = forks.start(lambda: site.build(approved))
    assert forks.status_of(child) == -signal.SIGKILL
    made = site.build(approved)
    assert (made.build, made.shards_generated, made.experts_trained) == (1, 0, EXPERTS - 1)


def test_an_expert_is_named_to_a_node_by_its_job_and_made_of_the_same_bits(approved, tmp_path):
    reference = approved.clone(tmp_path / "reference")
    here = site.build(reference)
    with approved.open() as coordinator, Owner(coordinator).living() as owner:
        number = jobs.join(coordinator, plans.propose(coordinator, site.STUDY), engine="test")
        for kind in (JobKind.SHARD, JobKind.EXPERT):
            while job := jobs.lease(coordinator, number, kind, owner):
                told = tasks.make_part(str(approved.hub), number, job.number)
                assert told["generated"]
                jobs.finish(coordinator, job, owner, **told)
        made = builds.build(coordinator, site.STUDY, report=lambda *_: None)
    assert (made.shards_generated, made.experts_trained) == (0, 0)
    assert made.release == here.release
    assert weights_of(approved) == weights_of(reference)
