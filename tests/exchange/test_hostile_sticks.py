"""A stick is a stranger's medium: torn, forged, swapped, full, and never trusted for its names."""

import dataclasses
import errno
import itertools
import os
from pathlib import Path

import pytest

from coordinator import logbook, registry, stick
from coordinator.intake import supervisor
from edge_agent import enrolment
from edge_agent import stick as edge
from federation import dsse
from federation.stick import index as rules
from federation.stick import medium
from federation.stick.index import Index, Kind, Part
from kit import canonical, clock
from kit.errors import FormatError, KitError
from pki import keys
from pki.enrolment import token_key
from tests.fakes import site

KEY = keys.new_signing_key()
KEYID = canonical.digest(keys.public_bytes(KEY))
DIGEST = "0" * 64
TIMES = {"issued": "2026-01-01T00:00:00Z", "expires": "2026-01-31T00:00:00Z"}


def sign(payload):
    return dsse.sign(payload, rules.PAYLOAD_TYPE, KEY, keyid=KEYID)


def contents(**changes):
    made = {
        rules.TOKEN_KEY: keys.public_bytes(KEY),
        rules.TLS_REQUEST: b"t" * 100,
        rules.SIGNING_REQUEST: b"s" * 200,
        rules.WITNESS_KEY: b"w" * 32,
    }
    return made | changes


def index_of(parts, **changes):
    base = Index(
        kind=Kind.ENROLMENT_REQUEST,
        federation="test",
        site="a",
        number=1,
        parts=medium.describe(parts),
        **TIMES,
    )
    return dataclasses.replace(base, **changes)


@pytest.fixture
def file(tmp_path):
    """A whole file, which opens."""
    path = tmp_path / "request.stick"
    medium.save(path, index_of(contents()), contents(), sign=sign)
    return path


def read_all(path):
    with medium.opened(path) as opened:
        return {part.name: opened.read(part.name) for part in opened.index.parts}


def table(**changes):
    """The index as a forger writes it: signed, canonical, and off in one place."""
    return dataclasses.asdict(index_of(contents())) | {"version": 1} | changes


def forge(path, index, body=b""):
    """Write a file around any index at all."""
    envelope = sign(canonical.encode(index))
    path.write_bytes(medium.MAGIC + str(len(envelope)).encode() + b"\n" + envelope + body)
    return path


def test_what_was_written_reads_back(file):
    assert read_all(file) == contents()


def test_every_truncation_is_one_clear_line(file):
    whole = file.read_bytes()
    assert read_all(file)
    for length in range(0, len(whole), 7):
        file.write_bytes(whole[:length])
        with pytest.raises(FormatError, match=r"cut off|not a stick file"):
            read_all(file)
    file.write_bytes(whole + b"x")
    with pytest.raises(FormatError, match="bytes after its end"):
        read_all(file)


def test_every_flipped_byte_is_seen(file):
    """By a form, a digest, or (in the signature alone) by whoever verifies it."""
    whole = file.read_bytes()
    with medium.opened(file) as opened:
        signature = dsse.parse(opened.envelope, rules.PAYLOAD_TYPE).signature
    for place in range(0, len(whole), 3):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            read_all(file)
        except KitError:
            continue
        with medium.opened(file) as opened:
            envelope = dsse.parse(opened.envelope, rules.PAYLOAD_TYPE)
            is_signature = envelope.signature != signature or envelope.keyid != KEYID
            if not is_signature:
                with pytest.raises(KitError):
                    dsse.verify(envelope, KEY.public_key())


def part(name, length=1, sha256=DIGEST):
    return {"name": name, "length": length, "sha256": sha256}


GOOD = [dataclasses.asdict(p) for p in medium.describe(contents())]


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([*GOOD[:3], part("../../keys/tls.key")], "not allowed|does not belong"),
        ([*GOOD[:3], part("/etc/passwd")], "not allowed"),
        ([*GOOD[:3], part("c:\\windows")], "not allowed"),
        ([*GOOD[:3], part("WITNESS-KEY")], "not allowed"),
        ([*GOOD[:3], part("witness-key\x00.exe")], "not allowed"),
        ([*GOOD[:3], part("ciphertext")], "does not belong into such a file"),
        ([*GOOD[:3], GOOD[2]], "out of order, or one is there twice"),
        ([GOOD[1], GOOD[0], *GOOD[2:]], "out of order"),
        (GOOD[:3], "part `witness-key` is missing"),
        ([*GOOD[:3], part("witness-key", length=33)], "length of part `witness-key`"),
        ([*GOOD[:3], part("witness-key", length=-1)], "length of part"),
        ([*GOOD[:3], part("witness-key", length=True)], "length of part"),
        ([*GOOD[:3], part("witness-key", length=2**53)], "outside the exact range|length of part"),
        ([*GOOD[:3], part("witness-key", sha256="F" * 64)], "not a SHA-256"),
        ([*GOOD[:3], part("witness-key") | {"path": "x"}], "exactly the fields"),
        (GOOD * 60, "missing or too long"),
        ("parts", "missing or too long"),
    ],
)
def test_a_part_is_known_by_its_place_in_a_closed_table(tmp_path, parts, reason):
    body = b"".join(contents().values())
    assert read_all(forge(tmp_path / "good", table(), body)) == contents()
    with pytest.raises(FormatError, match=reason):
        read_all(forge(tmp_path / "bad", _unchecked(parts), body))


def _unchecked(parts):
    changed = table()
    changed["parts"] = parts
    if parts and isinstance(parts, list) and parts[-1].get("length") == 2**53:
        changed["parts"][-1]["length"] = 2**53 - 1  # what JSON here can hold at all
    return changed


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"version": 2}, "version is not 1"),
        ({"kind": "zip"}, "unknown kind"),
        ({"federation": "../x"}, "not allowed"),
        ({"site": "A"}, "not allowed"),
        ({"number": 0}, "number is not an integer"),
        ({"issued": "yesterday"}, "RFC 3339"),
        ({"expires": TIMES["issued"]}, "valid for at most"),
        ({"expires": "2027-01-01T00:00:00Z"}, "valid for at most 100 days"),
        ({"more": 1}, "exactly the fields"),
    ],
)
def test_an_index_has_one_form(tmp_path, changes, reason):
    body = b"".join(contents().values())
    with pytest.raises(FormatError, match=reason):
        read_all(forge(tmp_path / "bad", table(**changes), body))
    assert read_all(forge(tmp_path / "good", table(), body))


def test_a_head_has_one_form(file):
    whole = file.read_bytes()
    length = whole[len(medium.MAGIC) : whole.index(b"\n")]
    for head in (
        b"hospital-edge-kit/stick/v2 " + length,
        medium.MAGIC + b"0" + length,
        medium.MAGIC + b"-" + length,
        medium.MAGIC + b"999999",
        medium.MAGIC + b"65537",
        medium.MAGIC,
        b"PK\x03\x04" + whole[4:30],
    ):
        file.write_bytes(head + whole[whole.index(b"\n") :])
        with pytest.raises(FormatError, match=r"not a stick file|size limit|cut off"):
            read_all(file)
    file.write_bytes(whole)
    assert read_all(file)


def test_a_huge_declared_length_allocates_nothing(tmp_path):
    parts = [part("signing-chain"), part("contact"), part("begin")]
    parts.append(part("ciphertext", length=rules.PARTS[Kind.TO_COORDINATOR]["ciphertext"][0]))
    lie = forge(tmp_path / "lie", table(kind="to-coordinator", parts=parts), b"x" * 10)
    with pytest.raises(FormatError, match="cut off"):
        read_all(lie)


def test_links_pipes_devices_and_folders_are_refused_and_do_not_hang(file, tmp_path):
    link, pipe = tmp_path / "link.stick", tmp_path / "pipe.stick"
    link.symlink_to(file)
    os.mkfifo(pipe)
    for path, reason in (
        (link, "is a link"),
        (pipe, "not a plain file"),
        (Path("/dev/zero"), "not a plain file"),
        (tmp_path, "not a plain file"),
        (tmp_path / "absent", "does not exist"),
    ):
        with pytest.raises(KitError, match=reason):
            read_all(path)
    assert read_all(file)


def test_a_file_that_changes_while_it_is_read_gives_nothing(file):
    whole = file.read_bytes()
    with medium.opened(file) as opened:
        assert opened.read(rules.TLS_REQUEST) == b"t" * 100
        file.write_bytes(whole.replace(b"s" * 200, b"z" * 200))
        with pytest.raises(FormatError, match="`signing-request` is damaged"):
            opened.read(rules.SIGNING_REQUEST)
        file.write_bytes(whole[:-40])
        with pytest.raises(FormatError, match="changed while it was read"):
            opened.read(rules.WITNESS_KEY)


def test_a_stick_that_is_pulled_out_is_one_clear_line(file):
    class Pulled:
        def seek(self, _place):
            raise OSError(errno.EIO, "Input/output error")

    with medium.opened(file) as opened:
        gone = dataclasses.replace(opened, _stream=Pulled())
        with pytest.raises(KitError, match="medium cannot be read: input/output error") as refusal:
            gone.read(rules.WITNESS_KEY)
        assert "pulled out" in refusal.value.hint
        assert opened.read(rules.WITNESS_KEY)


@pytest.mark.parametrize(
    "name",
    ["a:b.stick", "a?.stick", 'a".stick', "a|b", "a*", "con", "NUL.stick", "com1.x", "end.", "end ",
     "tab\t.stick", "köln.stick", "x" * 201, "back\\slash"],
)  # fmt: skip
def test_names_that_fat_would_not_keep_are_refused(tmp_path, name):
    made = index_of(contents())
    with pytest.raises(KitError, match="no name that every stick takes"):
        medium.save(tmp_path / name, made, contents(), sign=sign)
    assert list(tmp_path.iterdir()) == []
    for good in ("north-2026.stick", "x" * 200, "console.stick", "A_b.1"):
        medium.save(tmp_path / good, made, contents(), sign=sign)


def test_a_medium_without_modes_is_written_to(tmp_path, monkeypatch):
    """FAT refuses modes that it cannot keep; where there are modes, the other side may read."""
    path, made = tmp_path / "request.stick", index_of(contents())
    medium.save(path, made, contents(), sign=sign)
    assert path.stat().st_mode & 0o777 == 0o644

    def refuse(_path, _mode):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refuse)
    medium.save(path, made, contents(), sign=sign)
    assert read_all(path) == contents()


def test_nothing_but_a_stick_file_is_written_over(tmp_path):
    path, made = tmp_path / "out.stick", index_of(contents())
    path.write_text("thesis")
    with pytest.raises(KitError, match="something else than a stick file"):
        medium.save(path, made, contents(), sign=sign)
    assert path.read_text() == "thesis"
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KitError, match="is a link"):
        medium.save(path, made, contents(), sign=sign)
    path.unlink()
    medium.save(path, made, contents(), sign=sign)
    medium.save(path, made, contents(), sign=sign)  # an earlier stick file is replaced, whole
    assert read_all(path) == contents()
    assert [p.name for p in tmp_path.iterdir()] == ["out.stick"]


def test_a_file_over_four_gigabytes_is_refused_before_it_is_written(tmp_path):
    parts = medium.describe({"signing-chain": b"", "certificates": b"", "contact": b"",
                             "leaves": b""})  # fmt: skip
    models = tuple(
        Part(name=rules.model_name(n), length=256 << 20, sha256=DIGEST) for n in range(1, 17)
    )
    path = tmp_path / "news.stick"
    made = dataclasses.replace(index_of({}), kind=Kind.TO_SITE, parts=parts + models)
    with pytest.raises(KitError, match="FAT32") as refusal:
        medium.save(path, made, {}, sign=sign)
    assert "--study" in refusal.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_source_that_changes_while_it_is_written_leaves_nothing(tmp_path):
    source, path = tmp_path / "source", tmp_path / "out.stick"
    source.write_bytes(b"t" * 100)
    parts = contents(**{rules.TLS_REQUEST: source})
    made = index_of(parts)
    source.write_bytes(b"u" * 100)
    with pytest.raises(KitError, match="changed while it was written"):
        medium.save(path, made, parts, sign=sign)
    assert not path.exists()
    medium.save(path, index_of(parts), parts, sign=sign)
    assert read_all(path)[rules.TLS_REQUEST] == b"u" * 100


@pytest.fixture
def request_file(tmp_path):
    """A federation, and an enrolment's request on a stick."""
    federation = site.found(tmp_path, exchange_port=8443, enrol_port=8444)
    with federation.open() as coordinator:
        token = site.token_file(coordinator, "a", tmp_path)
    begun = enrolment.prepare(tmp_path / "a", token, epsilon=8.0, delta=1e-5)
    path = tmp_path / "request.stick"
    edge.enrol(begun, path, None, now=clock.utc_now())
    return federation, path, begun


def test_a_request_is_bound_to_its_token_keys_and_site(request_file):
    """Whoever finds the stick can neither put keys of their own in it nor name another site."""
    federation, path, begun = request_file
    key = keys.new_signing_key()
    public, numbers = keys.public_bytes(key), itertools.count()
    with medium.opened(path) as opened:
        parts = {p.name: opened.read(p.name) for p in opened.index.parts}
        honest = opened.index

    def written(changed, signer, **changes):
        made = dataclasses.replace(honest, parts=medium.describe(changed), **changes)
        keyid = canonical.digest(keys.public_bytes(signer))
        target = path.with_name(f"forged-{next(numbers)}.stick")
        medium.save(
            target, made, changed,
            sign=lambda data: dsse.sign(data, rules.PAYLOAD_TYPE, signer, keyid=keyid),
        )  # fmt: skip
        return target

    own = token_key(begun.token.secret)
    with federation.open() as coordinator:
        before = len(logbook.events(coordinator))
        for forged, reason in (
            (written(parts | {rules.WITNESS_KEY: b"w" * 32}, key), "another key than the pinned"),
            (written(parts | {rules.TOKEN_KEY: public}, key), "not known here or was used up"),
            (written(parts, own, site="b"), "names another site"),
            (written(parts, own, federation="other"), "another federation"),
        ):
            with pytest.raises(KitError, match=reason):
                stick.import_file(coordinator, forged)
        assert len(logbook.events(coordinator)) == before
        assert stick.import_file(coordinator, path).site_state == registry.REQUESTED


def test_a_torn_import_leaves_no_trace(request_file):
    federation, path, _ = request_file
    whole = path.read_bytes()
    with federation.open() as coordinator:
        before = logbook.events(coordinator)
        for data in (whole[:-1], whole[: len(whole) // 2], whole[:-1] + b"\x00", b""):
            path.write_bytes(data)
            with pytest.raises(KitError):
                stick.import_file(coordinator, path)
        assert logbook.events(coordinator) == before
        [row] = registry.list_sites(coordinator)
        assert row.state == registry.INVITED
        path.write_bytes(whole)
        assert stick.import_file(coordinator, path).site_state == registry.REQUESTED


@pytest.fixture
def blueprint_file(enrolled):
    """A site's whole blueprint on a stick."""
    path = enrolled.folder / "from-a.stick"
    edge.submit(enrolled.home("a"), site.STUDY, path, now=clock.utc_now())
    return enrolled, path


def nothing_arrived(federation):
    left = [p for folder in ("staging", "received") for p in (federation.hub / folder).glob("*")]
    return federation.states() == {} and left == []


def test_a_damaged_blueprint_leaves_no_trace(blueprint_file, monkeypatch):
    monkeypatch.setattr(supervisor, "run_waiting", lambda _coordinator: 0)
    federation, path = blueprint_file
    whole = path.read_bytes()
    with federation.open() as coordinator:
        before = logbook.events(coordinator)
        for data in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[:-100], whole[:-100] + b"x" * 100):
            path.write_bytes(data)
            with pytest.raises(FormatError, match=r"damaged|cut off"):
                stick.import_file(coordinator, path)
            assert nothing_arrived(federation)
        assert logbook.events(coordinator) == before
        path.write_bytes(whole)
        assert stick.import_file(coordinator, path).state == "received"
        assert not nothing_arrived(federation)


def test_a_sites_quota_counts_what_comes_by_stick(blueprint_file, monkeypatch):
    monkeypatch.setattr(supervisor, "run_waiting", lambda _coordinator: 0)
    federation, path = blueprint_file
    with federation.open() as coordinator:
        allowed = coordinator.config
        tight = dataclasses.replace(allowed, site_staging_mib=0)
        coordinator.__dict__["config"] = tight
        with pytest.raises(KitError, match="on their way here"):
            stick.import_file(coordinator, path)
        assert nothing_arrived(federation)
        coordinator.__dict__["config"] = allowed
        assert stick.import_file(coordinator, path).state == "received"


def test_a_message_that_is_none_is_one_clear_line(enrolled):
    home, path = enrolled.home("a"), enrolled.folder / "from-a.stick"
    with enrolled.open() as coordinator:
        for part_name in (rules.RENEW, rules.REKEY, rules.order_name(1), rules.order_name(64)):
            edge.write(home, path, now=clock.utc_now(), asks={part_name: b"\xff\xff\xff"})
            with pytest.raises(FormatError, match="not a message of the exchange"):
                stick.import_file(coordinator, path)
        edge.write(home, path, now=clock.utc_now(), asks={})
        assert stick.import_file(coordinator, path).site == "a"
