"""What people in a hurry type, and what both command lines answer them."""

import contextlib
import dataclasses
import socket
import ssl

import pytest
import sqlalchemy as sa

from coordinator import roots, state
from coordinator.home import CONFIG, CoordinatorConfig
from kit import config
from pki import enrolment
from tests.exchange.test_erasure import PATIENT, charge, runs_with
from tests.fakes import site
from tests.fakes.commands import run
from tests.fakes.terminal import Terminal, free_ports


def lines(result):
    """The error and the hint of a command that failed in two lines, or more before them."""
    assert result.code not in (0, 130), result
    error, hint = result.err.splitlines()[-2:]
    assert ": error: " in error, result.err
    assert ": hint: " in hint, result.err
    return error.partition(": error: ")[2], hint.partition(": hint: ")[2]


def test_a_site_is_invited_once_and_no_file_is_written_over_unless_asked(enrolled, tmp_path):
    hub, first, second = enrolled.hub, tmp_path / "first.token", tmp_path / "second.token"
    words = ("coordinator", "token", "new", "--home", hub)
    assert run(*words, "--out", first).code == 0
    kept = first.read_bytes()
    error, hint = lines(run(*words, "--out", second))
    assert error.startswith("site `new` was invited already; its token is good until 20")
    assert "--replace" in hint
    assert not second.exists()
    error, hint = lines(run("coordinator", "token", "other", "--home", hub, "--out", first))
    assert error == f"`{first}` exists already; no token was made"
    assert "--replace" in hint
    assert first.read_bytes() == kept
    assert run(*words, "--out", first, "--replace").code == 0
    assert first.read_bytes() != kept
    counts = enrolment.secret_hash(enrolment.Token.from_bytes(first.read_bytes()).secret)
    with enrolled.open() as coordinator, coordinator.state.read() as tx:
        query = sa.select(state.sites.c.token_hash).where(state.sites.c.id == "new")
        assert tx.one(query).token_hash == counts


def test_an_expired_invitation_needs_no_word_to_be_replaced(enrolled, tmp_path):
    with enrolled.serving() as coordinator:
        coordinator.ahead = -2 * enrolment.TOKEN_LIFETIME
        site.token_file(coordinator, "new", tmp_path)
    words = ("coordinator", "token", "new", "--home", enrolled.hub, "--out", tmp_path / "again")
    assert run(*words).code == 0


def test_a_study_needs_two_classes_and_an_id_of_its_own(enrolled):
    shape = ("--channels", 1, "--height", 8, "--width", 8)
    words = ("--home", enrolled.hub, "--roots", enrolled.roots, *shape)
    error, hint = lines(run("coordinator", "study", "create", "one", *words, "--classes", "only"))
    assert error == "a study needs 2 classes to tell apart; this one has 1"
    assert "--classes" in hint
    two = ("coordinator", "study", "create", "two", *words, "--classes", "a,b")
    assert run(*two).code == 0
    error, hint = lines(run(*two))
    assert error == "study `two` exists already"
    assert "another id" in hint


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (("--key", "--home"), "`approve` needs a reason"),
        (("--reason", "--home"), "`approve` needs a reviewer's signature"),
        (("--key", "--reason"), "`approve` needs the coordinator's folder"),
    ],
)
def test_approve_says_exactly_what_is_missing(pending, tmp_path, given, error):
    key = pending.roots / roots.reviewer_file("reviewer-1")
    options = {"--key": key, "--home": pending.hub, "--reason": "fine"}
    digest = pending.digest("a")[:12]
    chosen = [word for name in given for word in (name, options[name])]
    assert lines(run("coordinator", "approve", digest, *chosen))[0] == error
    whole = [word for pair in options.items() for word in pair]
    assert run("coordinator", "approve", digest, *whole).code == 0


def test_a_wrong_file_is_named_with_what_belongs_there(pending, tmp_path):
    wrong, hub, home = tmp_path / "photo.png", pending.hub, pending.folder / "a"
    wrong.write_bytes(b"\x89PNG\r\n")
    key = pending.roots / roots.reviewer_file("reviewer-1")
    digest = pending.digest("a")[:12]
    elsewhere = ("--key", key, "--reason", "x", "--record", tmp_path / "out")
    shape = ("--channels", 1, "--height", 8, "--width", 8, "--classes", "a,b")
    study = ("two", "--home", hub, "--roots", pending.roots, *shape)
    cases = {
        ("edge-agent", "enroll", "--home", tmp_path / "n", "--token", wrong): "token file",
        ("edge-agent", "doctor", "--home", tmp_path / "n", "--token", wrong): "token file",
        ("edge-agent", "audit", "accept", "--home", home, "--record", wrong): "recovery record",
        ("coordinator", "approve", digest, "--home", hub, "--record", wrong): "signed record",
        ("coordinator", "approve", wrong, *elsewhere): "file to sign",
        ("coordinator", "study", "create", *study, "--endorsed", wrong): "endorsed reviewer",
        ("coordinator", "base", "publish", wrong, "--home", hub): "base",
        (
            *("coordinator", "authority", "add", "x", "--home", hub),
            *("--certificate", wrong, "--site", "x"),
        ): "certificate",
    }
    for words, what in cases.items():
        error, hint = lines(run(*words))
        assert error.startswith(f"`{wrong}` is no {what}: "), error
        assert hint, words
        absent = [tmp_path / "gone" if word == wrong else word for word in words]
        error, hint = lines(run(*absent))
        assert error == f"{what} `{tmp_path / 'gone'}` does not exist"
        assert hint, words
    assert not (tmp_path / "n").exists()


def test_a_wrong_word_is_answered_with_the_help_of_its_own_command(enrolled):
    for words, command in (
        (("edge-agent", "withdraw", "--nope"), "edge-agent withdraw"),
        (("edge-agent", "keys", "nope"), "edge-agent keys"),
        (("coordinator", "study", "create", "--nope"), "coordinator study create"),
        (("coordinator", "nope"), "coordinator"),
    ):
        assert lines(run(*words))[1] == f"see `{command} --help`"
        assert run(*command.split(), "--help").code == 0


def test_the_home_of_the_other_side_is_named_as_that(enrolled):
    hub, home = enrolled.hub, enrolled.folder / "a"
    error, hint = lines(run("coordinator", "sites", "list", "--home", home))
    assert "unknown key `site`" in error
    assert hint == "this is the home of an edge agent: give the coordinator's own with --home"
    error, hint = lines(run("edge-agent", "status", "--home", hub))
    assert hint == "this is the home of a coordinator: give this site's own with --home"
    assert run("coordinator", "sites", "list", "--home", hub).code == 0
    assert run("edge-agent", "keys", "list", "--home", home).code == 0


def test_options_of_the_program_are_looked_for_after_the_command(enrolled, tmp_path):
    for program, home in (("coordinator", enrolled.hub), ("edge-agent", enrolled.folder / "a")):
        words = ("keys", "list", "--home", home)
        error, hint = lines(run(program, *words, "--passphrase-file", tmp_path / "words"))
        assert "no such option" in error.lower()
        assert hint == (
            f"it stands before the command: `{program} --passphrase-file FILE COMMAND ...`"
        )
        (tmp_path / "words").write_text("words of this test")
        (tmp_path / "words").chmod(0o600)
        assert run(program, "--passphrase-file", tmp_path / "words", *words).code == 0


def test_a_withdrawal_shows_what_goes_and_asks_first(pending):
    home = pending.folder / "a"
    words = ("edge-agent", "withdraw", "--home", home, "--study", site.STUDY, "--reason", "x")
    error, hint = lines(run(*words))
    assert error == "nobody is at a terminal to answer: Withdraw? [y/N]"
    assert hint.endswith("give --yes")
    with pending.serving():
        said_no = run(*words, typed="n\n")
        assert said_no.code == 1
        assert "nothing was withdrawn" in said_no.err
        site.visit(pending.home("a"))
        assert pending.states()["a"] == "pending"
        said_yes = run(*words, typed="y\n")
        assert said_yes.code == 0, said_yes.err
        assert f"to be taken back: blueprint `{pending.digest('a')[:16]}`" in said_yes.err
        assert pending.states()["a"] == "revoked"


def test_an_erasure_shows_what_goes_and_asks_first(enrolled):
    home = enrolled.home("a")
    run_id = charge(home, site.STUDY, [PATIENT, "somebody"])
    weights = home.run(site.STUDY) / "weights.safetensors"
    words = ("edge-agent", "withdraw", "--home", home.path, "--patient", PATIENT, "--reason", "x")
    with enrolled.serving():
        site.submit(home)
        asked = run(*words)
        assert lines(asked)[0] == "nobody is at a terminal to answer: Erase this patient? [y/N]"
        assert run(*words, typed="\n").code == 1
        assert weights.is_file()
        for part in (run_id, site.STUDY, enrolled.digest("a")[:16]):
            assert part in asked.err
        assert PATIENT not in asked.err
        done = run(*words, "--yes")
        assert done.code == 0, done.err
        assert "ask" not in done.err
        assert not weights.exists()
    assert runs_with(home, PATIENT) == {run_id}


def test_status_is_a_table_that_names_the_newest_release(released):
    home = released.home("a")
    with released.serving():
        said = run("edge-agent", "status", "--home", home.path)
    assert said.code == 0, said.err
    rows = said.out.splitlines()
    studies, blueprints, releases = (
        rows.index(name) for name in ("studies", "blueprints", "releases")
    )
    assert rows[studies + 1].split() == ["study", "state", "classes"]
    assert rows[studies + 2].split() == [site.STUDY, "open", ",".join(site.CLASSES)]
    assert rows[blueprints + 2].split()[:3] == [released.digest("a")[:16], site.STUDY, "approved"]
    cells = dict(zip(rows[releases + 1].split(), rows[releases + 2].split(), strict=True))
    assert cells["state"] == "newest"
    listed = run("coordinator", "releases", "--home", released.hub).out.splitlines()
    assert dict(zip(listed[0].split(), listed[1].split(), strict=True)) == cells


def test_who_withdrew_says_you_to_the_site_itself_and_names_it_to_others(pending):
    settings = config.load(pending.hub / CONFIG, CoordinatorConfig)
    config.save(pending.hub / CONFIG, dataclasses.replace(settings, revocation_grace_hours=72))
    words = ("--home", pending.folder / "a", "--study", site.STUDY, "--reason", "x", "--yes")
    with pending.serving():
        mine = run("edge-agent", "withdraw", *words)
        assert f"your blueprint `{pending.digest('a')[:16]}` was revoked by you" in mine.err
        other = run("edge-agent", "status", "--home", pending.folder / "b")
        assert f"blueprint `{pending.digest('a')[:16]}` was revoked by its site, `s-" in other.err
        assert "your blueprint" not in other.err


def test_what_a_stranger_does_to_the_port_is_no_line_for_people(enrolled, tmp_path):
    exchange, enrol = free_ports(2)
    settings = config.load(enrolled.hub / CONFIG, CoordinatorConfig)
    ports = {"exchange_port": exchange, "enrol_port": enrol}
    config.save(enrolled.hub / CONFIG, dataclasses.replace(settings, **ports))
    log = tmp_path / "serve.log"
    stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    stranger.check_hostname, stranger.verify_mode = False, ssl.CERT_NONE
    with Terminal(enrolled.folder).serving(log):
        with (
            socket.create_connection(("127.0.0.1", exchange), timeout=10) as line,
            contextlib.suppress(OSError),
            stranger.wrap_socket(line) as channel,
        ):
            channel.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            while channel.recv(100):
                pass
        assert run("coordinator", "sites", "list", "--home", enrolled.hub).code == 0
    assert all(line.startswith("coordinator: ") for line in log.read_text().splitlines())
    assert "sites on" in log.read_text()
