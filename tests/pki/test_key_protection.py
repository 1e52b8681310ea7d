import os
import resource
import stat
import time
from dataclasses import replace

import pytest

from kit import canonical
from kit.errors import FormatError, KitError
from pki import keys, protecting, protection, unlocking
from pki.errors import IdentityError, WrongPassphraseError
from pki.protecting import Place
from pki.protection import Protection
from tests.fakes.secrets import CHEAP, OTHER, WORDS, Words, files_with_clear_keys

SECRET = bytes(range(32))


@pytest.fixture(autouse=True)
def cheap_and_forgotten(monkeypatch):
    monkeypatch.setattr(protection, "COST", CHEAP)
    unlocking.use(Words())
    yield
    unlocking.use(unlocking._Nobody())


@pytest.fixture
def home(tmp_path):
    """A home with one key of each kind, in clear."""
    for name in ("keys", "store"):
        (tmp_path / name).mkdir()
    keys.save(tmp_path / "keys" / "tls.key", keys.new_tls_key())
    keys.save(tmp_path / "keys" / "signing.key", keys.new_signing_key())
    keys.save(tmp_path / "keys" / "root.key", keys.new_tls_key())
    keys.write_secret(tmp_path / "store" / "some.secret", SECRET)
    return Place(home=tmp_path, folders=("keys", "store"), portable=("root.key",))


def contents(place):
    """Read every key of a home through its passphrase."""
    folder = place.home / "keys"
    return (
        keys.pem(keys.load_tls(folder / "tls.key")),
        keys.pem(keys.load_signing(folder / "signing.key")),
        keys.pem(keys.load_tls(folder / "root.key")),
        keys.read_secret(place.home / "store" / "some.secret", limit=32),
    )


def words():
    return WORDS


def test_the_named_cost_is_what_is_written_and_half_a_second_or_so(monkeypatch):
    monkeypatch.undo()
    assert protection.Cost(memory_kib=65536, iterations=3, lanes=2) == protection.COST
    made, key = Protection.create(WORDS)
    table = canonical.decode(made.to_bytes())
    assert (table["kdf"], table["memory_kib"], table["iterations"]) == ("argon2id", 65536, 3)
    started = time.process_time()
    assert Protection.from_bytes(made.to_bytes()).open(WORDS) == key
    assert time.process_time() - started > 0.05  # a guess costs something


def test_a_sealed_secret_opens_with_its_passphrase_only():
    own, key = Protection.create(WORDS)
    sealed = protection.seal(SECRET, key, home=own.id)
    assert protection.open_sealed(sealed, own.open(WORDS)) == SECRET
    assert SECRET not in sealed
    for wrong in (OTHER, "", WORDS + " ", WORDS.upper()):
        with pytest.raises(WrongPassphraseError):
            own.open(wrong)
    other = Protection.create(WORDS)[1]
    with pytest.raises(IdentityError, match="another home"):
        protection.open_sealed(sealed, other)


def test_every_byte_of_a_sealed_secret_and_of_its_header_is_authenticated():
    own, key = Protection.create(WORDS)
    alone = protection.seal_alone(SECRET, WORDS)

    def open_alone(data):
        found = protection.protection_of(data)
        assert isinstance(found, Protection)
        return protection.open_sealed(data, found.open(WORDS))

    def open_home(data):
        return Protection.from_bytes(data).open(WORDS)

    for data, opened in ((alone, open_alone), (own.to_bytes(), open_home)):
        opened(data)
        for place in range(len(data)):
            changed = bytearray(data)
            changed[place] ^= 1
            with pytest.raises((KitError, AssertionError)):
                opened(bytes(changed))
    sealed = protection.seal(SECRET, key, home=own.id)
    moved = sealed.replace(own.id.encode(), b"0" * 32)
    with pytest.raises(IdentityError):
        protection.open_sealed(moved, key)


@pytest.mark.parametrize(
    "changes",
    [
        {"memory_kib": 1 << 30},
        {"iterations": 10**6},
        {"lanes": 1000},
        {"lanes": 0},
        {"kdf": "scrypt"},
        {"version": 2},
        {"version": True},
        {"salt": "AAAA"},
        {"id": "x"},
        {"more": 1},
    ],
)
def test_a_header_outside_the_named_limits_is_refused_before_it_costs_anything(changes):
    table = Protection.create(WORDS)[0].to_table()
    Protection.from_bytes(canonical.encode(table))
    with pytest.raises(FormatError):
        Protection.from_bytes(canonical.encode(table | changes))


def test_protecting_a_home_leaves_no_key_in_clear_and_every_key_readable(home):
    before = contents(home)
    loaded = [keys.load_tls(home.home / "keys" / "root.key"), SECRET]
    assert len(files_with_clear_keys(home.home, *loaded)) == 4
    done = protecting.protect(home, words)
    assert (done.sealed_now, done.sealed_before) == (4, 0)
    assert files_with_clear_keys(home.home, *loaded) == set()
    assert contents(home) == before
    for path in home.home.rglob("*"):
        assert path.is_dir() or stat.S_IMODE(path.stat().st_mode) == 0o600
    kept = {key.name: key.kept for key in protecting.inventory(home)}
    assert kept == {
        "keys/root.key": protecting.ALONE,
        "keys/signing.key": protecting.SEALED,
        "keys/tls.key": protecting.SEALED,
        "store/some.secret": protecting.SEALED,
    }


def test_a_process_asks_once_for_a_home_and_the_right_words_only_open_it(home):
    before = contents(home)
    protecting.protect(home, words)
    source = Words((OTHER, WORDS))
    unlocking.use(source)
    for _ in range(3):
        keys.load_signing(home.home / "keys" / "signing.key")
        keys.load_tls(home.home / "keys" / "tls.key")
    assert source.asked == 1
    assert contents(home) == before
    assert source.asked == 2  # the root key has a passphrase of its own
    unlocking.use(Words((OTHER,)))
    with pytest.raises(WrongPassphraseError, match="wrong passphrase for the keys in") as caught:
        keys.load_signing(home.home / "keys" / "signing.key")
    assert "nothing was changed" in caught.value.hint
    unlocking.use(Words(()))
    with pytest.raises(IdentityError, match="no passphrase was given for") as caught:
        keys.load_signing(home.home / "keys" / "signing.key")
    assert caught.value.hint == "say the words"


def test_what_is_written_into_a_protected_home_is_sealed_from_the_first_byte(home, monkeypatch):
    protecting.protect(home, words)
    written = []
    real = os.write
    key = keys.new_tls_key()
    monkeypatch.setattr(os, "write", lambda fd, data: written.append(bytes(data)) or real(fd, data))
    keys.save(home.home / "keys" / "tls-next.key", key)
    assert files_with_clear_keys(home.home, key) == set()
    assert not any(b"PRIVATE" in data for data in written)
    (home.home / "keys" / "tls-next.key").replace(home.home / "keys" / "tls.key")
    assert keys.pem(keys.load_tls(home.home / "keys" / "tls.key")) == keys.pem(key)


def test_a_new_passphrase_replaces_one_file_and_nothing_else(home):
    before = contents(home)
    protecting.protect(home, words)
    files = {path: path.read_bytes() for path in home.files()}
    protecting.change(home.home, lambda: OTHER)
    assert {path: path.read_bytes() for path in home.files()} == files
    unlocking.use(Words((WORDS,)))
    with pytest.raises(WrongPassphraseError):
        keys.load_tls(home.home / "keys" / "tls.key")
    keys.load_tls(home.home / "keys" / "root.key")  # it travels alone: its passphrase is its own
    unlocking.use(Words((OTHER, WORDS)))
    assert contents(home) == before


def test_an_interrupted_change_leaves_the_old_passphrase(home, monkeypatch):
    before = contents(home)
    protecting.protect(home, words)

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.replace", die)
        with pytest.raises(KeyboardInterrupt):
            protecting.change(home.home, lambda: OTHER)
    unlocking.use(Words((WORDS,)))
    assert contents(home) == before
    protecting.change(home.home, lambda: OTHER)
    unlocking.use(Words((OTHER, WORDS)))
    assert contents(home) == before


def test_protecting_goes_on_where_it_was_interrupted(home, monkeypatch):
    before = contents(home)
    for stop_after in range(1, 5):
        real, count = protecting._replace, iter(range(1, 100))

        def once_more(path, sealed, real=real, count=count, last=stop_after):
            if next(count) == last:
                raise KeyboardInterrupt
            real(path, sealed)

        with monkeypatch.context() as patch:
            patch.setattr(protecting, "_replace", once_more)
            with pytest.raises(KeyboardInterrupt):
                protecting.protect(home, words)
        unlocking.use(Words())
        assert contents(home) == before
        if stop_after == 2:
            break
    assert protecting.CLEAR in {key.kept for key in protecting.inventory(home)}
    done = protecting.protect(home, words)
    assert done.sealed_now + done.sealed_before == 4
    assert protecting.CLEAR not in {key.kept for key in protecting.inventory(home)}
    assert contents(home) == before


def test_what_a_crash_left_of_a_key_is_shredded(home):
    left = home.home / "keys" / ".tls.key.abc123"
    left.write_bytes(keys.pem(keys.new_tls_key()))
    assert "keys/.tls.key.abc123" in {key.name for key in protecting.inventory(home)}
    protecting.protect(home, words)
    assert not left.exists()
    assert files_with_clear_keys(home.home) == set()


def test_a_short_passphrase_is_refused_and_nothing_is_written(home):
    before = {path: path.read_bytes() for path in home.home.rglob("*") if path.is_file()}
    with pytest.raises(IdentityError, match="at least 12 characters"):
        protecting.protect(home, lambda: "short")
    assert {p: p.read_bytes() for p in home.home.rglob("*") if p.is_file()} == before
    protecting.protect(home, words)
    with pytest.raises(IdentityError, match="at least 12 characters"):
        protecting.change(home.home, lambda: "short")
    unlocking.use(Words())
    contents(home)


def test_a_sealed_key_without_its_protection_says_what_is_missing(home):
    protecting.protect(home, words)
    file, path = home.home / protection.FILE, home.home / "keys" / "tls.key"
    keys.load_tls(path)
    kept = file.read_bytes()
    file.unlink()
    with pytest.raises(IdentityError, match="is not here") as caught:
        keys.load_tls(path)
    assert "backup" in caught.value.hint
    stranger = Protection.create(WORDS)[0]
    file.write_bytes(stranger.to_bytes())
    with pytest.raises(IdentityError, match="is not here"):
        keys.load_tls(path)
    file.write_bytes(kept)
    keys.load_tls(path)


def test_a_key_that_travels_alone_opens_anywhere_and_changes_its_own_words(tmp_path):
    path, key = tmp_path / "weber.key", keys.new_signing_key()
    keys.save(path, key)
    protecting.protect_file(path, words)
    moved = tmp_path / "elsewhere" / "weber.key"
    moved.parent.mkdir()
    path.rename(moved)
    assert keys.pem(keys.load_signing(moved)) == keys.pem(key)
    with pytest.raises(IdentityError, match="sealed already"):
        protecting.protect_file(moved, words)
    protecting.change_file(moved, lambda: OTHER)
    unlocking.use(Words((OTHER,)))
    assert keys.pem(keys.load_signing(moved)) == keys.pem(key)
    unlocking.use(Words((WORDS,)))
    with pytest.raises(WrongPassphraseError):
        keys.load_signing(moved)


def test_passphrases_cannot_be_changed_where_there_are_none(home, tmp_path):
    with pytest.raises(IdentityError, match="has no passphrase"):
        protecting.change(home.home, lambda: OTHER)
    with pytest.raises(IdentityError, match="no passphrase of its own"):
        protecting.change_file(home.home / "keys" / "tls.key", lambda: OTHER)
    protecting.protect(home, words)
    protecting.change(home.home, lambda: OTHER)


def test_a_sealed_key_that_others_can_read_is_refused_too(home):
    protecting.protect(home, words)
    path = home.home / "keys" / "tls.key"
    keys.load_tls(path)
    path.chmod(0o640)
    with pytest.raises(IdentityError, match="read by others"):
        keys.load_tls(path)


def test_costs_may_rise_with_a_new_passphrase():
    own, key = Protection.create(WORDS)
    dearer = replace(CHEAP, iterations=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protection, "COST", dearer)
        again = own.rewrap(key, OTHER)
    assert (again.cost, again.id) == (dearer, own.id)
    assert Protection.from_bytes(again.to_bytes()).open(OTHER) == key


def test_an_opened_key_goes_into_no_core_file(home):
    protecting.protect(home, words)
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    try:
        unlocking.use(Words((OTHER,)))
        with pytest.raises(WrongPassphraseError):
            keys.load_tls(home.home / "keys" / "tls.key")
        assert resource.getrlimit(resource.RLIMIT_CORE)[0] == before[1]
        unlocking.use(Words())
        keys.load_tls(home.home / "keys" / "tls.key")
        assert resource.getrlimit(resource.RLIMIT_CORE)[0] == 0
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, before)
