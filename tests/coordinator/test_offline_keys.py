"""A16: root and study key are not in the home, and a production federation serves without them."""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives import serialization

from coordinator import (
    audit,
    ceremony,
    delegations,
    enrolments,
    expiries,
    founding,
    keyfinder,
    registry,
    renewals,
    roots,
    separation,
    state,
)
from coordinator.context import Coordinator
from coordinator.errors import NotFoundError, StateError
from coordinator.home import CONFIG, CoordinatorConfig, Home
from edge_agent import enrolment
from edge_agent.errors import TrustError
from federation import dsse
from federation.auditlog.events import Event, Kind
from federation.study import RECIPIENT_KEY_TYPE
from kit import canonical, clock, config
from kit.errors import FormatError, KitError
from pki import keys, protecting, protection, tokens, unlocking
from pki.errors import IdentityError
from tests.fakes import site, softhsm
from tests.fakes.secrets import CHEAP, Words

WORDS = "nine careful words of this test"


@pytest.fixture
def passphrase(monkeypatch):
    """Cheap protections, and the words that open them, for one test."""
    monkeypatch.setattr(protection, "COST", CHEAP)
    unlocking.use(Words((WORDS,)))
    yield
    unlocking.use(unlocking._Nobody())


def settings(**changes):
    table = {
        "federation": "lung",
        "hosts": "127.0.0.1",
        "exchange_port": 0,
        "enrol_port": 0,
        "listen": "127.0.0.1",
        "threads": 1,
        "revocation_grace_hours": 0,
    }
    return CoordinatorConfig(**table | changes)


def found(folder, **changes):
    return founding.found(
        folder / "srv" / "hub", settings(**changes), reviewer="first", now=clock.utc_now()
    )


def opened(hub):
    return site.ShiftedCoordinator.open(hub)


def serves(hub):
    from coordinator import grpc_server

    with opened(hub) as coordinator, grpc_server.serving(coordinator):
        return True


def test_a16_nothing_that_init_leaves_in_the_home_signs_for_root_or_study(tmp_path):
    made = found(tmp_path)
    assert made.roots == tmp_path / "srv" / "hub-roots"
    away = {path.name: keys.public_of(path) for path in made.roots.iterdir()}
    assert set(away) == {"root.key", "study.key", "reviewer-first.key"}
    assert {oct(path.stat().st_mode & 0o777) for path in made.roots.iterdir()} == {"0o600"}
    inside = [keys.public_of(path) for path in (made.home / "keys").glob("*.key")]
    assert len(inside) == 4  # issuing CA, log, documents, repository: they work every day
    assert not [key for key in inside if key in away.values()]
    with opened(made.home) as coordinator:
        assert roots.study_public(coordinator.home) == keys.public_bytes(away["study.key"])
        other = keys.load_signing(coordinator.home.key("log.key"))
        with pytest.raises(FormatError, match="signed by the study key"):
            site.create_study(coordinator, signer=other)
        assert site.create_study(coordinator, signer=roots.study_key(coordinator.home, None)).digest


@pytest.mark.parametrize("kept", ["beside", "sibling", "renamed", "where init wrote them"])
def test_a16_a_production_federation_serves_only_once_the_keys_have_left(tmp_path, kept):
    given = str(tmp_path / "stick") if kept == "where init wrote them" else ""
    made = found(tmp_path, roots=given)
    if kept == "sibling":
        made.roots.rename(made.home.parent / "offline")
    elif kept == "renamed":
        (made.home.parent / "other").mkdir()
        (made.roots / "study.key").rename(made.home.parent / "other" / "notes.pem")
        shutil.move(made.roots, tmp_path / "far" / "away")
    with pytest.raises(StateError, match="this machine can read it") as refused:
        serves(made.home)
    assert "--roots DIR" in refused.value.hint
    for folder in (made.roots, made.home.parent / "offline", made.home.parent / "other"):
        if folder.is_dir():
            shutil.move(folder, tmp_path / "safe" / folder.name)
    assert serves(made.home)


def in_tar(pem):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        entry = tarfile.TarInfo("keys/a.key")
        entry.size = len(pem)
        archive.addfile(entry, io.BytesIO(pem))
    return packed.getvalue()


def other_form(pem, encoding, form):
    key = serialization.load_pem_private_key(pem, password=None)
    return key.private_bytes(encoding, form, serialization.NoEncryption())


ENCODINGS, FORMS = serialization.Encoding, serialization.PrivateFormat
DISGUISES = {
    "keystore/old/study.key": ("study.key", bytes),
    "backup/2026/notes": ("root.key", bytes),
    "keys/root.key.bak": ("root.key", bytes),
    "logs/settings.json": ("study.key", lambda pem: json.dumps({"k": pem.decode()}).encode()),
    "shards/keys.tar": ("root.key", in_tar),
    "a/b/c/two.txt": ("root.key", lambda pem: keys.pem(keys.new_tls_key()) + b"text\n" + pem),
    "study.der": ("study.key", lambda pem: other_form(pem, ENCODINGS.DER, FORMS.PKCS8)),
    "x/root.der": ("root.key", lambda pem: other_form(pem, ENCODINGS.DER, FORMS.PKCS8)),
    "root.sec1": ("root.key", lambda p: other_form(p, ENCODINGS.PEM, FORMS.TraditionalOpenSSL)),
    "id_study": ("study.key", lambda p: other_form(p, ENCODINGS.PEM, FORMS.OpenSSH)),
    "staging/seed": ("study.key", lambda pem: other_form(pem, ENCODINGS.Raw, FORMS.Raw)),
}


def test_a16_an_offline_key_is_found_anywhere_in_the_home_by_content(tmp_path):
    made = found(tmp_path)
    medium = tmp_path / "safe" / "medium"
    site.carry_away(made.roots, medium)
    home = Home.open(made.home)
    # What may stay: public halves, certificates, other keys, a large file, a link back up.
    (made.home / "old").mkdir()
    (made.home / "old" / "up").symlink_to(made.home)
    shutil.copytree(made.home / "certificates", made.home / "old" / "certificates")
    (made.home / "old" / "other.pem").write_bytes(keys.pem(keys.new_tls_key()))
    (made.home / "old" / "payload").write_bytes(bytes(keyfinder.MAX_FILE_BYTES + 1))
    assert ceremony.still_here(home) == []
    assert serves(made.home)
    for place, (name, disguise) in DISGUISES.items():
        path = made.home / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(disguise((medium / name).read_bytes()))
        assert [(seen.name, seen.path) for seen in ceremony.still_here(home)] == [(name, path)]
        with pytest.raises(StateError, match="in the home of the coordinator") as refused:
            serves(made.home)
        assert "shred -u" in refused.value.hint
        path.unlink()
    (made.home / "old" / "medium").symlink_to(medium)
    with pytest.raises(StateError, match="in the home of the coordinator"):
        serves(made.home)
    (made.home / "old" / "medium").unlink()
    assert serves(made.home)


@pytest.mark.sqlite
def test_a16_the_search_leaves_an_open_database_its_locks(tmp_path):
    """A descriptor of it that is closed here would let the next process delete the journal."""
    made = found(tmp_path)
    site.carry_away(made.roots, tmp_path / "safe" / "medium")
    look = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('SELECT 1 FROM log').close()"
    with Coordinator.open(made.home) as coordinator, coordinator.state.kept_open():
        (made.home / "old").mkdir()
        database = coordinator.home.state.file
        os.link(database, made.home / "old" / "same")
        ceremony.require_separated(coordinator.home)
        journal = coordinator.home.database_files[1]
        assert journal.exists()
        subprocess.run([sys.executable, "-c", look, database], check=True)
        assert journal.exists()
        # reading it as any file shows that the look would have found the journal free
        database.read_bytes()
        subprocess.run([sys.executable, "-c", look, database], check=True)
        assert not journal.exists()


def test_a16_the_search_is_bounded_and_takes_the_smallest_files_first(tmp_path, monkeypatch):
    monkeypatch.setattr(keyfinder, "MAX_TOTAL_BYTES", 4000)
    (tmp_path / "a").mkdir()
    for number in range(20):
        (tmp_path / "a" / f"{number:02d}.shard").write_bytes(bytes(1000))
    (tmp_path / "z").write_bytes(keys.pem(keys.new_signing_key()))
    files = keyfinder.small_files(tmp_path)
    assert files[0] == tmp_path / "z"
    assert len(files) == 4
    monkeypatch.setattr(keyfinder, "MAX_TOTAL_BYTES", 40_000)
    assert len(keyfinder.small_files(tmp_path)) == 21


@pytest.mark.usefixtures("passphrase")
def test_a16_the_check_knows_a_sealed_key_by_its_name_and_passes_over_a_reference(tmp_path):
    made = found(tmp_path)
    medium = tmp_path / "safe" / "medium"
    site.carry_away(made.roots, medium)
    home = Home.open(made.home)
    sealed = protection.seal_alone((medium / "study.key").read_bytes(), WORDS)
    left = made.home / "keys" / "study.key"
    (made.home / "old").mkdir()
    for place in (left, made.home / "old" / "study.key", made.roots / "study.key"):
        keys.files.write_secret(place, sealed)
        assert [seen.path for seen in ceremony.still_here(home)] == [place]
        place.unlink()
    keys.files.write_secret(made.roots / "study.key", tokens.MAGIC + b"{}")
    keys.save(made.roots / "root.key", keys.new_tls_key())  # some other federation's, in clear
    assert ceremony.still_here(home) == []
    assert serves(made.home)


def test_a16_the_demo_serves_beside_its_roots_and_never_with_them_inside(tmp_path):
    made = found(tmp_path, federation="demo")
    assert serves(made.home)
    shutil.copy(made.roots / "study.key", made.home / "keys" / "study.key")
    with pytest.raises(StateError, match="in the home of the coordinator") as refused:
        serves(made.home)
    assert "keys separate" in refused.value.hint


def test_a16_what_needs_an_offline_key_says_in_one_line_what_to_bring(tmp_path):
    made, other = found(tmp_path), found(tmp_path / "other")
    medium = tmp_path / "safe" / "medium"
    site.carry_away(made.roots, medium)
    with opened(made.home) as coordinator:
        home = coordinator.home
        with pytest.raises(NotFoundError, match="the study key is not at") as absent:
            roots.study_key(home, None)
        assert "bring the medium that holds `study.key`" in absent.value.hint
        with pytest.raises(NotFoundError, match="the root key is not at"):
            renewals.renew_issuing(coordinator, tmp_path)
        with pytest.raises(IdentityError, match="not the study key of this federation"):
            roots.study_key(home, other.roots)
        with pytest.raises(IdentityError, match="not the root key of this federation"):
            renewals.renew_issuing(coordinator, other.roots)
        assert roots.study_key(home, medium)
        assert renewals.renew_issuing(coordinator, medium).certificate == "issuing CA"


@pytest.mark.softhsm
def test_a16_root_and_study_key_may_live_in_a_token(tmp_path, monkeypatch):
    uri, environment = softhsm.make(tmp_path / "softhsm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    unlocking.use(None, pins=Words((softhsm.PIN,)))
    try:
        made = founding.found(
            tmp_path / "srv" / "hub",
            settings(),
            reviewer="first",
            now=clock.utc_now(),
            token=tokens.TokenUri.parse(uri),
        )
        kept = {path.name: protecting.how_kept(path) for path in made.roots.iterdir()}
        assert (kept["root.key"], kept["study.key"]) == (protecting.TOKEN, protecting.TOKEN)
        assert kept["reviewer-first.key"] == protecting.CLEAR
        assert serves(made.home)  # what lies beside the home is no private key
        with opened(made.home) as coordinator:
            assert site.create_study(coordinator, signer=roots.study_key(coordinator.home, None))
            assert renewals.renew_issuing(coordinator).certificate == "issuing CA"
            assert audit.verify(coordinator)
        other, absent = tmp_path / "srv" / "other", uri.replace("token=north", "token=south")
        with pytest.raises(KitError, match="south"):
            founding.found(
                other,
                settings(),
                reviewer="first",
                now=clock.utc_now(),
                token=tokens.TokenUri.parse(absent),
            )
        assert not list(tmp_path.glob("srv/*other*"))
    finally:
        unlocking.use(unlocking._Nobody())


def test_a_founding_takes_nobody_elses_folder_and_leaves_nothing_behind(tmp_path):
    made = found(tmp_path)
    before = {path: path.read_bytes() for path in made.roots.iterdir()}
    shutil.rmtree(made.home)
    with pytest.raises(StateError, match="exists already"):
        found(tmp_path)
    with pytest.raises(StateError, match="lies in the home"):
        found(tmp_path, roots=str(made.home / "roots"))
    with pytest.raises(FormatError):
        found(tmp_path, roots=str(tmp_path / "elsewhere"), federation="no good name")
    assert {path: path.read_bytes() for path in made.roots.iterdir()} == before
    assert not (tmp_path / "elsewhere").exists()
    assert found(tmp_path, roots=str(tmp_path / "elsewhere")).roots.is_dir()


def put_back_inside(federation):
    """Make a home as an early version did: offline keys inside, no public halves, no delegation."""
    hub = federation.hub
    for path in federation.roots.iterdir():
        shutil.move(path, hub / "keys" / path.name)
    for path in (hub / "certificates").glob("*.pem"):
        if path.name in ("study.pem", "reviewer-reviewer-1.pem"):
            path.unlink()
    for path in (hub / "keys").glob("delegate-*.key"):
        path.unlink()
    with federation.open() as coordinator, coordinator.write() as tx:
        signer = keys.load_signing(hub / "keys" / "study.key")
        keyid = key_id(signer)
        for row in tx.all(state.recipient_keys.select()):
            payload = dsse.parse(row.envelope, RECIPIENT_KEY_TYPE).payload
            own = dsse.sign(payload, RECIPIENT_KEY_TYPE, signer, keyid=keyid)
            table = state.recipient_keys
            tx.execute(table.update().where(table.c.kid == row.kid).values(envelope=own))
        tx.execute(state.delegations.delete())


def key_id(key):
    return canonical.digest(keys.public_bytes(key))


@pytest.mark.usefixtures("passphrase")
@pytest.mark.parametrize("sealed", [False, True])
def test_a16_a_home_with_keys_inside_is_separated_by_one_command(enrolled, sealed):
    put_back_inside(enrolled)
    hub = enrolled.hub
    if sealed:
        protecting.protect(Home.open(hub).secrets, lambda: WORDS)
    with pytest.raises(StateError, match="in the home of the coordinator"), enrolled.serving():
        pass
    shutil.rmtree(enrolled.roots)
    with enrolled.open() as coordinator:
        done = separation.separate(coordinator, enrolled.roots)
        assert done.moved == ("root.key", "study.key", "reviewer-reviewer-1.key")
        assert done.delegated == (site.STUDY,)
        with pytest.raises(NotFoundError, match="no offline key lies in this home"):
            separation.separate(coordinator, enrolled.roots)
        assert not list((hub / "keys").glob("study.key")) + list((hub / "keys").glob("root.key"))
        assert keys.public_bytes(site.study_key(coordinator)) == coordinator.study_public
        assert enrolled.reviewer()
        assert audit.verify(coordinator)
    with enrolled.serving():
        for name in site.LABELS:
            site.visit(enrolled.home(name))
            assert enrolled.home(name).study_file(site.STUDY, "delegation").is_file()
        assert site.submit(enrolled.home("a")).state == "received"
        site.wait_for(lambda: site.settled(enrolled))
    assert enrolled.states() == {"a": "pending"}


def test_a16_a_separation_that_was_interrupted_goes_on(enrolled):
    put_back_inside(enrolled)
    with enrolled.open() as coordinator:
        enrolled.roots.mkdir(parents=True, exist_ok=True)
        keys.files.write_secret(
            enrolled.roots / "root.key", (enrolled.hub / "keys" / "root.key").read_bytes()
        )
        assert len(separation.separate(coordinator, enrolled.roots).moved) == 3
        keys.save(enrolled.hub / "keys" / "study.key", keys.new_signing_key())
        with pytest.raises(KitError, match="is another key than"):
            separation.separate(coordinator, enrolled.roots)


def entries(coordinator, kind):
    with coordinator.state.read() as tx:
        events = [Event.from_leaf(row.leaf) for row in tx.all(state.log.select())]
    return [event for event in events if event.kind is kind]


def test_a16_recipient_keys_are_signed_by_a_delegate_for_one_study_and_a_time(enrolled):
    home = enrolled.home("a")
    with enrolled.serving() as coordinator:
        [file] = (enrolled.hub / "keys").glob("delegate-*.key")
        [logged] = entries(coordinator, Kind.RECIPIENTS_DELEGATED)
        with coordinator.state.read() as tx:
            assert set(delegations.digests(tx).values()) == {logged.subject}
        coordinator.ahead = timedelta(days=175)
        [warning] = [w for w in expiries.warnings(coordinator) if "keys of study" in w.name]
        assert "coordinator study extend shapes --roots DIR" in warning.remedy
        coordinator.ahead = timedelta(0)
        signer = site.study_key(coordinator)
        with pytest.raises(FormatError, match="signed by the study key"):
            registry.extend_study(coordinator, site.STUDY, signer=keys.load_signing(file))
        made = registry.extend_study(coordinator, site.STUDY, signer=signer, days=30)
        [fresh] = (enrolled.hub / "keys").glob("delegate-*.key")
        assert fresh.name != file.name  # the old delegate's key is gone
        assert made.digest == entries(coordinator, Kind.RECIPIENTS_DELEGATED)[-1].subject
        before = home.read(home.study_file(site.STUDY, "recipient"), "key")
        site.visit(home)
        assert home.read(home.study_file(site.STUDY, "recipient"), "key") != before
        assert audit.verify(coordinator)
        registry.close_study(coordinator, site.STUDY)
        assert not list((enrolled.hub / "keys").glob("delegate-*.key"))
        with pytest.raises(StateError, match="closed"):
            registry.extend_study(coordinator, site.STUDY, signer=signer)


def test_a16_nothing_is_sealed_once_the_delegation_has_ended_and_contacts_go_on(enrolled):
    from edge_agent import submission

    home = enrolled.home("a")
    item = submission.outgoing(home, site.STUDY)
    now = clock.utc_now()
    assert submission.sealed(home, site.STUDY, item, now)
    with pytest.raises(KitError, match="right to hand out keys of study `shapes` ended") as ended:
        submission.sealed(home, site.STUDY, item, now + timedelta(days=181))
    assert "coordinator study extend shapes" in ended.value.hint
    with enrolled.serving():
        assert site.visit(home)


def test_a16_a_home_restored_without_its_delegates_key_still_revokes_and_says_what_lacks(enrolled):
    for path in (enrolled.hub / "keys").glob("delegate-*.key"):
        path.unlink()
    with enrolled.open() as coordinator:
        registry.revoke_site(coordinator, "c")
        assert [w for w in expiries.warnings(coordinator) if "keys of study" in w.name]
        registry.extend_study(coordinator, site.STUDY, signer=site.study_key(coordinator), days=100)
        assert not [w for w in expiries.warnings(coordinator) if "keys of study" in w.name]
    with enrolled.serving():
        assert site.visit(enrolled.home("a")).studies[0].recipient_key


def test_a16_another_study_key_in_the_home_is_noticed(enrolled):
    with enrolled.open() as coordinator:
        assert audit.verify(coordinator)
    path = enrolled.hub / "certificates" / "study.pem"
    before = path.read_bytes()
    path.write_bytes(keys.public_pem(keys.public_bytes(keys.new_signing_key())))
    with enrolled.open() as coordinator:
        for act in (audit.verify, lambda c: enrolments.issue_token(c, "late")):
            with pytest.raises(StateError, match="the study key in `certificates` is not"):
                act(coordinator)
    path.write_bytes(before)
    with enrolled.open() as coordinator:
        assert audit.verify(coordinator)
        assert enrolments.issue_token(coordinator, "late").pins.study_key


def test_a16_a_site_refuses_a_token_that_pins_a_thiefs_study_key(enrolled):
    """Should a changed home give one out all the same: the site reads the log's first entry."""
    thief = keys.public_bytes(keys.new_signing_key())
    with enrolled.serving() as coordinator:
        honest = enrolments.issue_token(coordinator, "late")
        pins = replace(honest.pins, study_key=thief)
        token = enrolled.folder / "late.token"
        token.write_bytes(replace(honest, pins=pins).to_bytes())
        path = enrolled.folder / "late"
        enrolments.confirm(coordinator, "late", site.ask(path, token))
        enrolment.enrol(path, None, epsilon=8.0, delta=1e-5)
        with pytest.raises(TrustError, match="not the one the log begins with"):
            site.visit(enrolled.home("late"))
        assert not list(enrolled.home("late").path.glob("studies/*"))
        assert site.visit(site.enrol(coordinator, enrolled, "good")).studies


def test_a16_the_keys_of_another_user_count_as_gone(tmp_path):
    """What this process cannot read, it cannot use: a folder of another account's is away."""
    made = found(tmp_path)
    for path in made.roots.iterdir():
        path.chmod(0)
    expected = [] if os.geteuid() else ["root.key", "study.key"]  # root reads everything
    assert [seen.name for seen in ceremony.still_here(Home.open(made.home))] == expected
    assert config.load(made.home / CONFIG, CoordinatorConfig).roots == ""
