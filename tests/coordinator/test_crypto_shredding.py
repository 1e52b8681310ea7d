"""A thief with every remaining key, the databases, copies and a backup gets nothing back (A2).

The control of each test is the same attempt before the end: it restores the weights bit for bit.
"""

import tempfile
from datetime import timedelta
from unittest import mock

import pytest

from coordinator import backup, reviews, revocation, submissions
from coordinator.intake import limited
from edge_agent import inspection, outbox, submission
from edge_agent.training import run as training
from federation import dsse
from federation.blueprint import envelope
from federation.blueprint.approval import Decision
from federation.blueprint.errors import RefusalError
from federation.study import RECIPIENT_KEY_TYPE, RecipientKey
from kit import clock
from kit.errors import KitError
from tests.fakes import four, intake, runs, site, states, thief
from tests.fakes.sealing import append, begin_fields

GRACE_HOURS = 48
FROM_STORE = {"own key", "recipient seed", "shards"}
BY_SEED = {"recipient seed"}


@pytest.fixture(autouse=True)
def temporary_files(tmp_path, monkeypatch):
    """What this process and its children write for a while is part of the loot."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


@pytest.fixture
def stage(tmp_path, tmp_path_factory):
    base = tmp_path_factory.getbasetemp()
    return lambda name: four.copy(name, "monolithic", tmp_path / "federation", base)


class Theft:
    """One blueprint, what was copied of it, and all that lies where its thief looks."""

    def __init__(self, federation, name, kept, *more):
        self.federation, self.kept, self.more = federation, kept, more
        self.home = federation.home(name)
        signed = self.home.study_file(site.STUDY, "recipient").read_bytes()
        self.public = RecipientKey.from_bytes(dsse.parse(signed, RECIPIENT_KEY_TYPE).payload).public
        self.weights = (self.home.run(site.STUDY) / training.WEIGHTS).read_bytes()
        self.old_database = states.table_files(federation.hub)

    def attempt(self, **how):
        """Try everything there is, the small and the new first."""
        hub = self.federation.hub
        loot = thief.opened_keys(hub) + thief.files(hub, self.federation.roots, *self.more)
        loot += states.table_files(hub) + self.old_database
        return thief.recover(self.kept, loot, recipient=self.public, **how)

    def succeeds(self, ways):
        found = self.attempt(enough=ways)
        assert set(found) == ways
        assert {found[way] for way in ways - {"shards"}} == {self.weights}

    def fails(self):
        assert self.attempt() == {}
        for key in thief.opened_keys(self.federation.hub):
            with pytest.raises(RefusalError, match="step 17"):
                envelope.unwrap_key(self.kept.wrapped, key[: thief.KEY_BYTES], self.kept.statement)


def set_grace(federation):
    path = federation.hub / "config.toml"
    text = path.read_text()
    path.write_text(text.replace("grace_hours = 0", f"grace_hours = {GRACE_HOURS}"))


@pytest.mark.both_states
def test_a2_nothing_that_remains_after_a_revocation_restores_the_weights(
    stage, tmp_path, temporary_files
):
    federation = stage("released")
    set_grace(federation)
    digest = federation.digest("d")
    kept = thief.Kept.take(federation.home("d"), digest, tmp_path / "kept", hub=federation.hub)
    with federation.open() as coordinator:
        backup.back_up(coordinator, tmp_path / "backup", now=clock.utc_now())
    stolen = (tmp_path / "kept", tmp_path / "backup", temporary_files)
    theft = Theft(federation, "d", kept, *stolen)
    theft.succeeds(FROM_STORE)
    with federation.open() as coordinator:  # its journal lies there while it is open
        assert site.revocation_of(federation, coordinator, "d").done
        theft.succeeds(FROM_STORE)  # the grace period is for undoing it
        coordinator.ahead = timedelta(hours=GRACE_HOURS + 1)
        assert revocation.destroy_due(coordinator) == 1
        theft.fails()
        with federation.database() as database:
            database.execute("VACUUM")
        theft.old_database = []
        theft.fails()
    for data in thief.files(federation.hub, temporary_files):
        assert theft.weights[-64:] not in data  # never there in clear, before or after


def reason_at(federation, name, digest):
    """What the site reads about its blueprint."""
    with federation.serving():
        world = site.visit(federation.home(name))
    return next((b.state, b.reason) for b in world.blueprints if b.digest == digest)


def test_a2_a_rejected_blueprint_is_shredded_and_its_site_reads_why(stage, tmp_path):
    federation = stage("enrolled")
    home = federation.home("d")
    with intake.in_this_process(), federation.serving():
        site.submit(home)
        site.wait_for(lambda: site.settled(federation))
    digest = federation.digest("d")
    kept = thief.Kept.take(home, digest, tmp_path / "kept", hub=federation.hub)
    theft = Theft(federation, "d", kept, tmp_path / "kept")
    theft.succeeds(FROM_STORE - {"shards"})
    with federation.open() as coordinator:
        reviews.decide(
            coordinator,
            digest,
            Decision.REJECT,
            reviewer_key=federation.reviewer(),
            reason="every sample is one image",
        )
    theft.fails()
    assert reason_at(federation, "d", digest) == (
        "rejected",
        "rejected by review: every sample is one image",
    )


def test_a2_a_refused_blueprint_is_shredded_and_its_site_reads_why(stage, tmp_path):
    federation = stage("enrolled")
    home = federation.home("d")
    study = home.study(site.STUDY)
    architecture = runs.networks.architecture_for(study, "moments")
    tensors = runs.random_tensors(architecture, study, four.LABELS["d"], seed=3)
    runs.write_run(
        home, study, four.LABELS["d"], tensors={name: 0 * each for name, each in tensors.items()}
    )
    waits = mock.Mock(side_effect=KitError("a check was stopped from outside"))
    with federation.serving(), mock.patch.object(limited, "run", waits):
        digest = site.submit(home).blueprint
    kept = thief.Kept.take(home, digest, tmp_path / "kept", hub=federation.hub)
    theft = Theft(federation, "d", kept, tmp_path / "kept")
    theft.succeeds(BY_SEED)
    with intake.in_this_process(), federation.serving():
        site.wait_for(lambda: site.settled(federation))
    with federation.open() as coordinator:
        revocation.destroy_due(coordinator)
    theft.fails()
    state, why = reason_at(federation, "d", digest)
    assert state == "refused"
    assert "step 23" in why


class SealedFolder:
    """A sealed blueprint of an outbox, as `begin_fields` reads one."""

    def __init__(self, folder):
        self.statement = outbox.statement(folder)
        self.envelope = (folder / outbox.ENVELOPE).read_bytes()
        self.wrapped_key = (folder / outbox.WRAPPED).read_bytes()


def test_a2_an_upload_that_expired_is_shredded_and_its_site_reads_why(stage, tmp_path):
    federation = stage("enrolled")
    home = federation.home("d")
    item, now = submission.outgoing(home, site.STUDY), clock.utc_now()
    folder = submission.sealed(home, site.STUDY, item, now)
    with federation.open() as coordinator:
        submissions.begin(coordinator, "d", **begin_fields(home, SealedFolder(folder)))
        append(coordinator, "d", folder.name, 0, (folder / outbox.CIPHERTEXT).read_bytes()[:100])
    kept = thief.Kept.take(home, folder.name, tmp_path / "kept", hub=federation.hub)
    theft = Theft(federation, "d", kept, tmp_path / "kept")
    theft.succeeds(BY_SEED)
    later = clock.parse_rfc3339(kept.statement.expires) + timedelta(minutes=1)
    with federation.open(ahead=later - clock.utc_now()) as coordinator:
        revocation.destroy_due(coordinator)
    theft.fails()
    before, after = (inspection.expired(home, now=t) for t in (clock.utc_now(), later))
    assert before == ()
    assert [folder.name[:16] in line and "expired" in line for line in after] == [True]
