"""S11, a stolen disk: with a passphrase, no private key of either side lies on it in clear."""

import dataclasses
import json
import os
import signal
import subprocess
import sys

import pytest

from coordinator import founding, payloads, protection
from coordinator.context import Coordinator
from coordinator.home import CoordinatorConfig, Home
from edge_agent import enrolment, renewal
from edge_agent.exchange import Exchange
from kit import clock
from kit.errors import KitError
from kit.files import exclusive
from pki import keys, protecting, unlocking
from pki import protection as at_rest
from pki.errors import IdentityError, WrongPassphraseError
from tests.fakes import runs, site
from tests.fakes.secrets import CHEAP, OTHER, WORDS, Words, files_with_clear_keys
from tests.fakes.terminal import free_ports, stop, wait_for

SETTINGS = CoordinatorConfig(
    federation=site.FEDERATION,
    hosts="127.0.0.1",
    exchange_port=0,
    enrol_port=0,
    listen="127.0.0.1",
    threads=1,
    revocation_grace_hours=0,
)


@pytest.fixture(autouse=True)
def passphrase(monkeypatch):
    """A passphrase on offer; what is tested here is not its cost."""
    monkeypatch.setattr(at_rest, "COST", CHEAP)
    source = Words()
    unlocking.use(source)
    yield source
    unlocking.use(unlocking._Nobody())


def words():
    return WORDS


def enrol(coordinator, federation, name):
    """Enrol a site whose keys are sealed before they are written."""
    token = site.token_file(coordinator, name, federation.folder)
    path = federation.folder / name
    asked = {"epsilon": 8.0, "delta": 1e-5, "keeping": enrolment.Keeping(new_passphrase=words)}
    with pytest.raises(KitError, match="waiting for confirmation") as waiting:
        enrolment.enrol(path, token, **asked)
    site.enrolments.confirm(coordinator, name, str(waiting.value).rpartition(" ")[2])
    enrolment.enrol(path, None, **asked)
    site.let_one_person_send(federation.home(name))
    return federation.home(name)


def found_protected(folder, settings):
    """Found a federation under a passphrase, its offline keys carried away."""
    made = founding.found(
        folder / "hub",
        settings,
        reviewer="reviewer-1",
        now=clock.utc_now(),
        new_passphrase=words,
    )
    federation = site.Federation(folder)
    site.carry_away(made.roots, federation.roots)
    return federation


def secrets_of(federation, home):
    """Every secret there is, opened: what must not be found in clear."""
    with Coordinator.open(federation.hub) as coordinator:
        found = [
            coordinator.issuing.key,
            coordinator.log_key,
            site.study_key(coordinator),
            coordinator.signer[1],
            federation.reviewer(),
            keys.load_tls(federation.roots / "root.key"),
        ]
        places = [p for p in coordinator.home.secrets.files() if p.suffix == ".secret"]
        places += [p for p in coordinator.home.secrets.files() if p.parent.name == "keystore"]
    names = ("signing.key", "witness.key")
    found += [keys.load_tls(home.key("tls.key")), *(keys.load_signing(home.key(n)) for n in names)]
    found += [home.unit_secret(), *(keys.read_secret(path, limit=32) for path in places)]
    return found


def test_no_key_of_either_side_ever_lies_in_clear(tmp_path, passphrase):
    federation = found_protected(tmp_path, SETTINGS)
    with federation.serving() as coordinator:
        site.create_study(coordinator)
        home = enrol(coordinator, federation, "a")
        site.visit(home)
        before = home.key("tls.key").read_bytes()
        with Exchange.open(home) as exchange:
            renewal.renew_tls(home, exchange, clock.utc_now())
            renewal.renew_signing(home, exchange, clock.utc_now())
        assert home.key("tls.key").read_bytes() != before
        site.visit(home)
        found = secrets_of(federation, home)
        assert len(found) >= 12
        assert files_with_clear_keys(tmp_path, *found) == set()
    # The search would have found them: the same keys, let out.
    keys.files.write_secret(tmp_path / "out", keys.pem(found[0]) + found[-1])
    assert files_with_clear_keys(tmp_path, *found) == {"out"}


def test_a_federation_that_began_in_clear_is_protected_in_place(pending, passphrase):
    home = pending.home("a")
    clear = files_with_clear_keys(pending.folder)
    assert {"a/keys/tls.key", "hub/keys/log.key", "safe/medium/root.key"} <= clear
    protection.protect(Home.open(pending.hub).secrets, words)
    for path in pending.roots.iterdir():
        protecting.protect_file(path, words)
    for name in site.LABELS:
        protecting.protect(pending.home(name).secrets, words)
    unlocking.use(passphrase)
    found = secrets_of(pending, home)
    assert files_with_clear_keys(pending.folder, *found) == set()
    with pending.serving():
        site.visit(home)
    site.approve(pending, "a")
    with pending.open() as coordinator:
        digest = pending.digest("a")
        store = payloads.keystore(coordinator)
        file = coordinator.home.keystore / f"blueprint-{digest}.key"
        assert len(store.get(payloads.BLUEPRINT, digest)) == 32 < file.stat().st_size
        payloads.destroy(coordinator, digest)
        assert not store.has(payloads.BLUEPRINT, digest)


def test_the_wrong_passphrase_loses_nothing(enrolled, passphrase):
    home = enrolled.home("a")
    protecting.protect(home.secrets, words)
    with enrolled.serving():
        unlocking.use(Words((OTHER,)))
        with pytest.raises(WrongPassphraseError, match="wrong passphrase for the keys in"):
            site.visit(home)
        unlocking.use(Words(()))
        with pytest.raises(IdentityError, match="no passphrase was given for"):
            site.visit(home)
        unlocking.use(passphrase)
        assert site.visit(home)


def test_keys_are_not_protected_behind_a_running_servers_back(enrolled):
    with enrolled.open() as coordinator:
        with exclusive(enrolled.hub / "serve.lock", busy="?"):
            with pytest.raises(KitError, match="`coordinator serve` runs") as caught:
                protection.protect(coordinator.home.secrets, words)
            assert "stop it" in caught.value.hint
        assert protection.protect(coordinator.home.secrets, words).sealed_now > 5


def serve(hub, *, words, log):
    """Start a server whose passphrase comes through a descriptor: it can be read once."""
    out, into = os.pipe()
    os.write(into, words.encode())
    os.close(into)
    code = "from coordinator.cli import main; main()"
    arguments = ["--passphrase-file", f"/dev/fd/{out}", "serve", "--home", str(hub)]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            stdin=subprocess.DEVNULL,
            stderr=stream,
            pass_fds=(out,),
        )
    os.close(out)
    return process


def test_a_long_serve_asks_once_and_a_wrong_word_ends_it(tmp_path):
    ports = free_ports(2)
    settings = dataclasses.replace(SETTINGS, exchange_port=ports[0], enrol_port=ports[1])
    hub, log = tmp_path / "hub", tmp_path / "serve.log"
    federation = found_protected(tmp_path, settings)
    wrong = serve(hub, words=OTHER, log=log)
    assert wrong.wait(timeout=60) == 1
    assert "coordinator: error: wrong passphrase for the keys in" in log.read_text()
    assert "enrolment on" not in log.read_text()
    process = serve(hub, words=WORDS, log=log)
    try:
        wait_for(lambda: "enrolment on" in log.read_text(), process)
        with federation.open() as coordinator:
            study = site.create_study(coordinator)
            home = enrol(coordinator, federation, "a")
        for _ in range(3):
            site.visit(home)  # signed by the log's key and the coordinator's
        runs.write_run(home, study, site.LABELS["a"])
        site.submit(home)
        site.wait_for(lambda: site.settled(federation))  # opened by a key from the key store
        assert federation.states() == {"a": "pending"}
        assert stop(process, signal.SIGTERM) == 0
    finally:
        stop(process, signal.SIGKILL)


def run(program, *words_, input_fd=None, env=None):
    """Run a command line; `input_fd` is inherited as it is."""
    code = f"from {program.replace('-', '_')}.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.argv[0] = {program!r}; {code}", *map(str, words_)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | (env or {}),
        pass_fds=(input_fd,) if input_fd else (),
        check=False,
    )


def test_the_command_lines_protect_list_and_change(tmp_path):
    """With real costs, from a file, a descriptor and a systemd credential."""
    hub = tmp_path / "hub"
    first, second = tmp_path / "first", tmp_path / "second"
    for path, text in ((first, WORDS), (second, OTHER)):
        path.write_text(text + "\n")
        path.chmod(0o600)
    made = run("coordinator", "--passphrase-file", first, "init", "--home", hub, "--federation",
               "lung", "--protect-keys")  # fmt: skip
    assert made.returncode == 0, made.stderr
    listed = run("coordinator", "keys", "list", "--home", hub, "--json")
    kept = {row["name"]: row["kept"] for row in json.loads(listed.stdout)}
    for name in ("root.key", "study.key", "reviewer-first.key"):
        assert kept.pop(f"{hub}-roots/{name}") == protecting.ALONE
    assert kept["keys/log.key"] == protecting.SEALED
    assert protecting.CLEAR not in kept.values()

    without = run("coordinator", "audit", "verify", "--home", hub)
    assert without.returncode == 1
    assert "no passphrase was given for" in without.stderr
    assert "systemd credential `coordinator.passphrase`" in without.stderr
    assert without.stdout == ""

    out, into = os.pipe()
    os.write(into, WORDS.encode())
    os.close(into)
    by_descriptor = run("coordinator", "--passphrase-file", f"/dev/fd/{out}", "audit", "verify",
                        "--home", hub, input_fd=out)  # fmt: skip
    os.close(out)
    assert by_descriptor.returncode == 0, by_descriptor.stderr

    changed = run("coordinator", "--passphrase-file", first, "keys", "passphrase", "--home", hub,
                  "--new-passphrase-file", second)  # fmt: skip
    assert changed.returncode == 0, changed.stderr
    old = run("coordinator", "--passphrase-file", first, "audit", "verify", "--home", hub)
    assert (old.returncode, old.stdout) == (1, "")
    assert "wrong passphrase" in old.stderr
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    second.rename(credentials / "coordinator.passphrase")
    by_systemd = run("coordinator", "audit", "verify", "--home", hub,
                     env={"CREDENTIALS_DIRECTORY": str(credentials)})  # fmt: skip
    assert by_systemd.returncode == 0, by_systemd.stderr
