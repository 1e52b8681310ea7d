import io

import pytest

from coordinator import logbook, payloads, registry, revocation, submissions
from coordinator.errors import NotAllowedError, NotFoundError, StateError
from edge_agent import exchange as wire
from edge_agent import inspection, submission, withdrawal
from edge_agent.exchange import Exchange
from edge_agent.messages import Announcement
from federation.auditlog.events import Kind
from federation.blueprint.errors import RefusalError
from federation.learning.generator import architecture as networks
from federation.release.statement import WITHDRAWAL_TYPE, Withdrawal, sign
from kit import clock
from kit.errors import FormatError, KitError, LimitError
from pki import certificates, keys
from tests.fakes import runs, site
from tests.fakes.sealing import append, begin_fields, sealed

pytestmark = pytest.mark.both_states


def hide_a_branch(home, name="hidden"):
    """A run whose undeclared embedding rows carry something: refused by the first process."""
    study = home.study(site.STUDY)
    labels = site.LABELS[home.config.site]
    architecture = networks.architecture_for(study, "tiny")
    tensors = runs.random_tensors(architecture, study, study.classes, seed=77)
    return runs.write_run(home, study, labels, name=name, tensors=tensors)


def begin(coordinator, home, blueprint, name="a"):
    return submissions.begin(coordinator, name, **begin_fields(home, blueprint))


def whole(coordinator, blueprint, name="a", size=100_000):
    """Append the rest of an upload and commit it."""
    digest, data = blueprint.statement.digest, blueprint.ciphertext
    with submissions.uploading(coordinator, name, digest) as upload:
        for offset in range(upload.size, len(data), size):
            upload.append(offset, data[offset : offset + size])
        return submissions.commit(coordinator, name, digest, upload)


def kinds(coordinator, digest):
    return [e.kind for e in logbook.events(coordinator) if e.subject == digest]


def test_a_submission_becomes_pending_with_receipts_and_is_never_sent_twice(pending):
    digest = pending.digest("a")
    with pending.serving() as coordinator:
        home = pending.home("a")
        before = len(logbook.events(coordinator))
        again = site.submit(home)
        assert (again.blueprint, again.state, again.bytes_sent) == (digest, "pending", 0)
        assert len(logbook.events(coordinator)) == before
        assert kinds(coordinator, digest) == [Kind.BLUEPRINT_RECEIVED, Kind.BLUEPRINT_PENDING]
        site.visit(home)
    found = {path.name.split("-")[1] for path in home.receipts.glob(f"*{digest[:16]}.leaf.json")}
    assert found == {"blueprint.received", "blueprint.pending"}
    assert inspection.audit(home, offline=True).receipts == 2


def test_a_cut_line_costs_no_byte_twice_and_a_refused_payload_is_gone(enrolled, monkeypatch):
    monkeypatch.setattr(wire, "CHUNK_BYTES", 32 << 10)
    home = enrolled.home("a")
    with enrolled.serving() as coordinator:
        name = hide_a_branch(home)
        with pytest.raises(ConnectionError, match="the cable is out"):
            site.submit(home, name, sent=_cut_after(200_000, coordinator))
        durable = staged_bytes(coordinator)
        assert durable >= 32 << 10
        done = site.submit(home, name)
        assert 0 < done.bytes_sent <= done.payload_bytes - durable
        assert done.state == "received"
        site.wait_for(lambda: site.settled(enrolled))
        status = next(s for s in site.visit(home).blueprints if s.digest == done.blueprint)
        assert (status.state, status.reason) == (
            "refused",
            "step 22: the embedding row of an undeclared class is not zero",
        )
        site.wait_for(lambda: Kind.KEY_DESTROYED in kinds(coordinator, done.blueprint))
        assert kinds(coordinator, done.blueprint) == [
            Kind.BLUEPRINT_RECEIVED,
            Kind.BLUEPRINT_REFUSED,
            Kind.KEY_DESTROYED,
        ]
        assert_gone(coordinator, done.blueprint)
        assert not list(home.outbox.iterdir())
        with Exchange.open(home) as exchange:  # an honest run may follow
            honest = sealed(home)
            assert (
                exchange.begin(Announcement(**begin_fields(home, honest))).status.state
                == "receiving"
            )


def staged_bytes(coordinator):
    return sum(path.stat().st_size for path in (coordinator.home.path / "staging").iterdir())


def _cut_after(total, coordinator):
    def sent(done, _whole):
        if done >= total:
            site.wait_for(lambda: staged_bytes(coordinator) >= 32 << 10)
            raise ConnectionError("the cable is out")

    return sent


def assert_gone(coordinator, digest):
    home = coordinator.home
    assert not payloads.keystore(coordinator).has(payloads.BLUEPRINT, digest)
    assert not site.payload_file(coordinator, digest).exists()
    assert not home.staging(digest).exists()
    assert not home.received(digest).exists()
    assert not site.shards_folder(coordinator, digest).exists()


def test_bytes_go_to_the_exact_end_and_never_past_the_signed_length(enrolled):
    home = enrolled.home("a")
    with enrolled.open() as coordinator:
        blueprint = sealed(home)
        digest, data = blueprint.statement.digest, blueprint.ciphertext
        assert begin(coordinator, home, blueprint).durable == 0
        with pytest.raises(FormatError, match="chunk starts at 5, the upload is at 0"):
            append(coordinator, "a", digest, 5, data[5:10])
        with pytest.raises(LimitError, match="a chunk has at most"):
            append(coordinator, "a", digest, 0, bytes((1 << 20) + 1))
        with pytest.raises(LimitError, match="longer than its statement says"):
            append(coordinator, "a", digest, 0, data + b"x")
        append(coordinator, "a", digest, 0, data[:1000])
        with pytest.raises(FormatError, match="chunk starts at 0, the upload is at 1000"):
            append(coordinator, "a", digest, 0, data[:1000])
        assert begin(coordinator, home, blueprint).durable == 1000
        assert submissions.commit(coordinator, "a", digest).state == "receiving"
        assert whole(coordinator, blueprint).state == "received"
        with pytest.raises(StateError, match="takes no more bytes"):
            append(coordinator, "a", digest, len(data), b"x")


def test_an_altered_upload_starts_from_zero_and_the_true_bytes_are_taken(enrolled):
    home = enrolled.home("a")
    with enrolled.serving() as coordinator, Exchange.open(home) as exchange:
        hide_a_branch(home)
        blueprint = sealed(home, run="hidden")
        digest, data = blueprint.statement.digest, blueprint.ciphertext
        exchange.begin(Announcement(**begin_fields(home, blueprint)))
        altered = data[:500] + bytes([data[500] ^ 1]) + data[501:]
        with pytest.raises(KitError, match="the uploaded bytes are not the signed ones") as refusal:
            exchange.upload(digest, io.BytesIO(altered), offset=0, sent=lambda _: None)
        assert "starts from zero" in refusal.value.hint
        assert Kind.BLUEPRINT_RECEIVED not in kinds(coordinator, digest)
        assert exchange.begin(Announcement(**begin_fields(home, blueprint))).durable == 0
        taken = exchange.upload(digest, io.BytesIO(data), offset=0, sent=lambda _: None)
        assert (taken.durable, taken.status.state) == (len(data), "received")


def test_one_blueprint_of_a_site_is_in_play_at_a_time(pending):
    home = pending.home("a")
    with pending.open() as coordinator:
        runs.write_run(home, home.study(site.STUDY), site.LABELS["a"], name="other", seed=9)
        second = sealed(home, run="other")
        with pytest.raises(StateError, match="in this study already") as refusal:
            begin(coordinator, home, second)
        assert "withdraw it" in refusal.value.hint
        revocation.revoke(
            coordinator, pending.digest("a"), reviewer_key=pending.reviewer(), reason="old"
        )
    with pending.serving() as coordinator:
        site.visit(home)  # brings the fresh key to seal to
        with pytest.raises(RefusalError, match="step 8"):
            begin(coordinator, home, second)  # sealed to the key that is gone
        again = sealed(home, run="other")
        assert begin(coordinator, home, again).state == "receiving"


def test_a_blueprint_that_was_revoked_does_not_come_in_again(pending):
    home = pending.home("a")
    with pending.serving() as coordinator:
        revocation.revoke(
            coordinator, pending.digest("a"), reviewer_key=pending.reviewer(), reason="old"
        )
        with pytest.raises(KitError, match="step 14: this blueprint was submitted before"):
            site.submit(home)  # sealed anew to the new key, but the weights are the same
        runs.write_run(home, home.study(site.STUDY), site.LABELS["a"], name="other", seed=9)
        assert begin(coordinator, home, sealed(home, run="other")).state == "receiving"


def test_a_statement_counts_for_its_own_study_only(enrolled):
    home = enrolled.home("a")
    with enrolled.serving() as coordinator:
        other = site.create_study(coordinator, name="other")
        site.visit(home)
        blueprint = sealed(home)
        fields = begin_fields(home, blueprint)
        with Exchange.open(home) as exchange:
            for digest, reason in (
                (other.digest, "step 8"),
                ("0" * 64, "no study"),
                ("nothing", "not a SHA-256"),
            ):
                with pytest.raises(KitError, match=reason):
                    exchange.begin(Announcement(**fields | {"study_digest": digest}))
            lie = sealed(home, study_digest=other.digest)
            with pytest.raises(KitError, match="step 9"):
                exchange.begin(
                    Announcement(
                        **begin_fields(home, lie) | {"study_digest": fields["study_digest"]}
                    )
                )
            assert exchange.begin(Announcement(**fields)).status.state == "receiving"


def test_the_wrapped_key_must_be_the_signed_one(enrolled):
    home = enrolled.home("a")
    with enrolled.open() as coordinator:
        blueprint = sealed(home)
        fields = begin_fields(home, blueprint)
        other = blueprint.wrapped_key[:-1] + bytes([blueprint.wrapped_key[-1] ^ 1])
        with pytest.raises(RefusalError, match="step 15"):
            submissions.begin(coordinator, "a", **fields | {"wrapped_key": other})
        with pytest.raises(LimitError, match="certificate chain"):
            submissions.begin(coordinator, "a", **fields | {"signing_chain": b"x" * 20_000})
        assert submissions.begin(coordinator, "a", **fields).state == "receiving"


def test_a_site_cannot_touch_another_sites_blueprint(enrolled):
    mine, theirs = enrolled.home("a"), enrolled.home("b")
    with enrolled.open() as coordinator:
        blueprint = sealed(mine)
        digest = blueprint.statement.digest
        fields = begin_fields(mine, blueprint)
        with pytest.raises(NotAllowedError, match="not the current one of this site"):
            submissions.begin(coordinator, "b", **fields)
        with pytest.raises(RefusalError, match="step 3"):
            submissions.begin(
                coordinator, "b", **fields | {"signing_chain": theirs.signing_chain.read_bytes()}
            )
        posing = sealed(mine, signer=theirs)
        with pytest.raises(RefusalError, match="step 8"):  # sealed to the key of site a
            submissions.begin(coordinator, "b", **begin_fields(theirs, posing))
        begin(coordinator, mine, blueprint)
        for act in (
            lambda: append(coordinator, "b", digest, 0, b"x"),
            lambda: submissions.commit(coordinator, "b", digest),
            lambda: submissions.one_status(coordinator, "b", digest),
        ):
            with pytest.raises(NotFoundError, match="no such blueprint here"):
                act()
        assert whole(coordinator, blueprint).state == "received"
        assert submissions.one_status(coordinator, "a", digest).state == "received"


def test_a_site_sees_its_own_blueprints_and_no_others(pending):
    with pending.serving():
        for name in site.LABELS:
            seen = [status.digest for status in site.visit(pending.home(name)).blueprints]
            assert seen == [pending.digest(name)]


def order(home, digest, *, signer=None):
    """A withdrawal of `digest` as `signer` would write it."""
    signer = signer or home
    chain = submission.signing_chain(signer)
    paper = Withdrawal(
        blueprint=digest,
        study_digest=home.study(site.STUDY).digest,
        reason_commitment="0" * 64,
        time=clock.rfc3339(clock.utc_now()),
    )
    key = keys.load_signing(signer.key("signing.key"))
    return sign(paper.to_bytes(), WITHDRAWAL_TYPE, key, chain[0]), certificates.pem(*chain)


def test_a_withdrawal_needs_the_sites_own_signing_key(pending):
    mine, theirs = pending.home("a"), pending.home("b")
    digest = pending.digest("a")
    with pending.serving():
        with Exchange.open(mine) as channel:  # a stolen TLS key alone takes nothing back
            with pytest.raises(KitError, match="not signed by `spiffe://test/site/a`"):
                channel.withdraw(*order(mine, digest, signer=theirs))
            envelope, _ = order(mine, digest)
            with pytest.raises(KitError, match="refuses"):
                channel.withdraw(envelope, theirs.signing_chain.read_bytes())
        with Exchange.open(theirs) as channel:
            with pytest.raises(KitError, match="this site has no such blueprint"):
                channel.withdraw(*order(mine, digest, signer=theirs))
            with pytest.raises(KitError, match="not signed by `spiffe://test/site/b`"):
                channel.withdraw(*order(mine, digest))
        assert pending.states()["a"] == "pending"
        done = withdrawal.withdraw(mine, site.STUDY, reason="asked", now=clock.utc_now())
        assert (done.digest, done.state) == (digest, "revoked")
        assert pending.states() == {"a": "revoked", "b": "pending", "c": "pending"}
        with pytest.raises(KitError, match="nothing to withdraw"):
            withdrawal.withdraw(mine, site.STUDY, reason="asked", now=clock.utc_now())
        assert not list(mine.outbox.iterdir())


def test_a_site_revoked_in_mid_upload_does_not_finish(enrolled):
    home = enrolled.home("a")
    with enrolled.open() as coordinator:
        blueprint = sealed(home)
        begin(coordinator, home, blueprint)
        digest, data = blueprint.statement.digest, blueprint.ciphertext
        append(coordinator, "a", digest, 0, data[:1000])
        assert submissions.commit(coordinator, "a", digest).durable == 1000
        registry.revoke_site(coordinator, "a")
        with pytest.raises(NotAllowedError, match="was revoked"):
            append(coordinator, "a", digest, 1000, data[1000:2000])
        with pytest.raises(NotAllowedError, match="was revoked"):
            begin(coordinator, home, blueprint)
        assert Kind.BLUEPRINT_RECEIVED not in kinds(coordinator, digest)


def test_a_newer_statement_replaces_an_upload_that_was_given_up(enrolled):
    home = enrolled.home("a")
    with enrolled.open() as coordinator:
        first, second = sealed(home), sealed(home)
        begin(coordinator, home, first)
        append(coordinator, "a", first.statement.digest, 0, first.ciphertext[:99])
        begin(coordinator, home, second)
        assert not coordinator.home.staging(first.statement.digest).exists()
        with pytest.raises(RefusalError, match="step 14"):
            begin(coordinator, home, first)  # its number is older than the one that is here
        assert whole(coordinator, second).state == "received"


def test_a_run_whose_gate_failed_does_not_leave(enrolled):
    home = enrolled.home("a")
    with enrolled.serving() as coordinator:
        assert begin(coordinator, home, sealed(home)).state == "receiving"
        gate = home.run(site.STUDY) / "gate.json"
        passed = gate.read_bytes()
        runs.give_verdict(home, site.STUDY, passed=False)
        with pytest.raises(KitError, match="did not pass; nothing leaves"):
            site.submit(home)
        assert not list(home.outbox.iterdir())
        with pytest.raises(RefusalError, match="step 13"):
            begin(coordinator, home, sealed(home))
        gate.write_bytes(passed)  # weights that failed once have failed
        with pytest.raises(KitError, match="did not pass; nothing leaves"):
            site.submit(home)


def test_a_gate_report_that_the_ledger_does_not_know_counts_for_nothing(enrolled):
    home = enrolled.home("a")
    gate = home.run(site.STUDY) / "gate.json"
    passed = gate.read_bytes()
    with enrolled.serving():
        for other in (passed.replace(b"[]", b'["edited"]'), passed.replace(b"true", b"false")):
            gate.write_bytes(other)
            with pytest.raises(KitError, match="was not asked about these very weights"):
                site.submit(home)
        gate.unlink()
        with pytest.raises(KitError, match="is not finished"):
            site.submit(home)
        gate.write_bytes(passed)
        assert site.submit(home).state == "received"
