"""S11, a stolen disk, with hardware: TLS and signing key of a site live in a PKCS#11 token."""

import copy
import os
import subprocess
import sys

import pytest

from edge_agent import enrolment, renewal
from edge_agent.exchange import Exchange
from kit import clock
from kit.errors import FormatError, KitError
from pki import certificates, keys, protecting, tokens, unlocking
from pki.errors import IdentityError
from pki.tokens import TokenUri
from tests.fakes import runs, site, softhsm
from tests.fakes.secrets import Words, files_with_clear_keys

pytestmark = pytest.mark.softhsm


@pytest.fixture(scope="session")
def token(tmp_path_factory):
    """A token; a process opens a PKCS#11 module once."""
    uri, environment = softhsm.make(tmp_path_factory.mktemp("softhsm"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        unlocking.use(None, pins=Words((softhsm.PIN,)))
        yield TokenUri.parse(uri)


@pytest.fixture(autouse=True)
def pin():
    unlocking.use(None, pins=Words((softhsm.PIN,)))
    yield
    unlocking.use(None)


@pytest.fixture
def federation(tmp_path):
    return site.found(tmp_path)


def enrol(coordinator, federation, name, keeping):
    """Enrol a site with its keys kept as asked, or enrol it again."""
    given = site.token_file(coordinator, name, federation.folder)
    path = federation.folder / name
    with pytest.raises(KitError, match="waiting for confirmation") as waiting:
        enrolment.enrol(path, given, epsilon=8.0, delta=1e-5, keeping=keeping)
    site.enrolments.confirm(coordinator, name, str(waiting.value).rpartition(" ")[2])
    enrolment.enrol(path, None, epsilon=8.0, delta=1e-5)
    site.let_one_person_send(federation.home(name))
    return federation.home(name)


def public_keys(token):
    """Return the ids of the keys that the token holds."""
    from pkcs11 import Attribute, ObjectClass

    with tokens._session(token) as session:
        found = session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY})
        return {bytes(key[Attribute.ID]) for key in found}


def test_a_site_enrols_contacts_renews_and_submits_with_keys_that_cannot_leave(federation, token):
    with federation.serving() as coordinator:
        study = site.create_study(coordinator)
        home = enrol(coordinator, federation, "a", enrolment.Keeping(token=token))
        assert {k.name: k.kept for k in protecting.inventory(home.secrets)} == {
            "keys/signing.key": protecting.TOKEN,
            "keys/tls.key": protecting.TOKEN,
            "keys/witness.key": protecting.CLEAR,
        }
        assert files_with_clear_keys(home.path) == {"keys/witness.key"}
        assert site.visit(home)  # mutual TLS 1.3, signed in the token

        old = keys.load_tls(home.key("tls.key"))
        signer = keys.load_signing(home.key("signing.key"))
        with Exchange.open(home) as exchange:
            renewal.renew_tls(home, exchange, clock.utc_now())
            renewal.renew_signing(home, exchange, clock.utc_now())
        fresh = keys.load_tls(home.key("tls.key"))
        assert isinstance(fresh, tokens.TokenTlsKey)
        assert fresh.public_key() != old.public_key()
        assert fresh.uri.id in public_keys(token)
        following = keys.load_signing(home.key("signing.key"))
        assert isinstance(following, tokens.TokenSigningKey)
        assert following.uri.id in public_keys(token)
        gone = {old.uri.id, signer.uri.id}
        assert not gone & public_keys(token)  # a key that went leaves the token too
        assert site.visit(home)

        runs.write_run(home, study, site.LABELS["a"])
        assert site.submit(home).state == "received"
        site.wait_for(lambda: site.settled(federation))
        assert federation.states() == {"a": "pending"}  # its signature was made in the token


def test_keys_move_to_a_token_and_back_by_enrolling_again(federation, token):
    with federation.serving() as coordinator:
        home = site.enrol(coordinator, federation, "a")
        assert "keys/tls.key" in files_with_clear_keys(home.path)
        secret = home.unit_secret()
        site.registry.revoke_site(coordinator, "a")
        home = enrol(coordinator, federation, "a", enrolment.Keeping(token=token))
        assert files_with_clear_keys(home.path) == {"keys/witness.key"}
        assert site.visit(home)
        assert home.unit_secret() == secret  # the ledger goes on
        in_token = {keys.load_tls(home.key("tls.key")).uri.id}
        in_token |= {keys.load_signing(home.key("signing.key")).uri.id}
        assert in_token <= public_keys(token)
        site.registry.revoke_site(coordinator, "a")
        home = enrol(coordinator, federation, "a", enrolment.AS_THEY_ARE)
        assert site.visit(home)
        assert not in_token & public_keys(token)


def test_what_a_token_signs_fits_its_public_key_and_the_key_itself_is_not_to_be_had(token):
    tls, signing = tokens.new_tls_key(token), tokens.new_signing_key(token)
    for _ in range(20):
        request = certificates.request(tls)
        assert certificates.requested_tls_key(request) == tls.public_key()
    assert certificates.requested_signing_key(certificates.request(signing)) == signing.public_key()
    keys.verify(signing.public_key(), signing.sign(b"message"), b"message", what="it")
    with pytest.raises(IdentityError, match="signature of it"):
        keys.verify(signing.public_key(), signing.sign(b"message"), b"Message", what="it")
    for attempt in (
        lambda: keys.pem(tls),
        lambda: keys.pem(signing),
        tls.private_numbers,
        signing.private_bytes_raw,
        lambda: tls.exchange(None, None),
    ):
        with pytest.raises(IdentityError, match="does not leave it"):
            attempt()
    assert copy.deepcopy(tls) is copy.copy(tls) is tls
    from pkcs11 import Attribute, ObjectClass, exceptions

    with tokens._session(token) as session:
        for key in (tls, signing):
            found = session.get_key(object_class=ObjectClass.PRIVATE_KEY, id=key.uri.id)
            assert found[Attribute.SENSITIVE]
            assert not found[Attribute.EXTRACTABLE]
            with pytest.raises(exceptions.AttributeSensitive):
                found[Attribute.VALUE]


def test_a_reference_to_a_key_that_is_gone_or_another_says_so(token, tmp_path):
    path, key = tmp_path / "tls.key", tokens.new_tls_key(token)
    keys.save(path, key)
    assert keys.load_tls(path).public_key() == key.public_key()
    other = tokens.reference(tokens.new_tls_key(token))
    swapped = tokens.reference(tokens.TokenTlsKey(key.uri, tokens.load(other).public_key()))
    keys.files.write_secret(tmp_path / "swapped.key", swapped)
    with pytest.raises(IdentityError, match="not the one this home refers to"):
        keys.load_tls(tmp_path / "swapped.key")
    with pytest.raises(IdentityError, match="is not an Ed25519 key"):
        keys.load_signing(path)
    tokens.destroy(key)
    with pytest.raises(IdentityError, match="is not in token `north` any more"):
        keys.load_tls(path)


def test_a_uri_reads_back_and_others_are_refused(token):
    made = tokens.new_tls_key(token).uri
    assert TokenUri.parse(str(made)) == made
    assert made.object == "edge-tls"
    for text in (
        "",
        "north",
        "pkcs11:",
        "pkcs11:token=north",
        "pkcs11:token=north?module-path=relative.so",
        "pkcs11:object=x?module-path=/m.so",
        "pkcs11:token=north;token=south?module-path=/m.so",
        "pkcs11:token=north?module-path=/m.so&pin-value=1234",
        "pkcs11:token=north;id=zz?module-path=/m.so",
    ):
        with pytest.raises(FormatError):
            TokenUri.parse(text)


ASK = """
import sys
from pathlib import Path
from kit.errors import KitError
from kit.passphrases import Sources
from pki import tokens, unlocking
files = tuple(Path(p) for p in sys.argv[2:])
unlocking.use(None, pins=Sources(files, "edge-agent.pin", "--pin-file"))
try:
    tokens.new_tls_key(tokens.TokenUri.parse(sys.argv[1]))
except KitError as error:
    sys.exit(f"{error} / {error.hint}")
"""


def make_key(uri, *pins):
    """Make a key in a process of its own: a process opens a token once."""
    return subprocess.run(
        [sys.executable, "-c", ASK, str(uri), *map(str, pins)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        timeout=60,
        check=False,
    )


def test_a_wrong_pin_is_tried_once_and_a_missing_token_or_module_is_one_line(token, tmp_path):
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    for path, text in ((right, softhsm.PIN), (wrong, "000000")):
        path.write_text(text)
        path.chmod(0o600)
    assert make_key(token, right).returncode == 0
    for uri, pins, says in (
        (token, (wrong, right), "wrong PIN for token `north` / it was tried once"),
        (token, (), "token `north` (its PIN) is missing / give --pin-file FILE"),
        (f"pkcs11:token=south?module-path={token.module}", (right,), "there is no token `south`"),
        ("pkcs11:token=north?module-path=/no/such.so", (right,), "`/no/such.so` cannot be used"),
    ):
        done = make_key(uri, *pins)
        assert done.returncode == 1
        assert says in done.stderr
        assert "Traceback" not in done.stderr
    assert make_key(token, right).returncode == 0
