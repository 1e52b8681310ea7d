"""The attacks that the repository is for, by name; every refusal beside the case that passes.

The other side is a repository in memory, made by the functions that the coordinator signs with.
"""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest
from tuf.api.metadata import Metadata, TargetFile

from federation.repository import client, metadata, roles
from federation.repository.client import RepositoryError, StaleError
from federation.repository.metadata import File
from kit import canonical
from pki import keys

NOW = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
DIGEST = "d" * 64
MODEL = roles.release(DIGEST, "model.onnx")
STUDY = roles.study(DIGEST)


@dataclass
class World:
    """A federation's repository: keys, versions, and what it lists."""

    root_key: keys.TlsKey = field(default_factory=keys.new_tls_key)
    study_key: keys.SigningKey = field(default_factory=keys.new_signing_key)
    online: keys.SigningKey = field(default_factory=keys.new_signing_key)
    version: int = 1
    now: datetime = NOW
    studies: dict = field(default_factory=lambda: {STUDY: File.of(b"study")})
    releases: dict = field(default_factory=lambda: {MODEL: File.of(b"model")})
    status: dict = field(default_factory=lambda: {roles.CERTIFICATES: File.of(b"list")})
    roots: dict = field(default_factory=dict)

    def __post_init__(self):
        self.rotate()

    @property
    def pinned(self):
        return self.root_key.public_key(), self.study_key.public_key()

    def rotate(self, *, signers=None, targets_key=None, online=None):
        """Sign the next root."""
        version = len(self.roots) + 1
        self.online = online or self.online
        self.roots[roles.file_name("root", version)] = metadata.root(
            version=version,
            root_keys=[self.root_key.public_key(), self.study_key.public_key()],
            targets_key=(targets_key or self.study_key).public_key(),
            online_key=self.online.public_key(),
            signers=signers or (self.root_key, self.study_key),
            now=self.now,
        )

    def files(self, *, stick_days=0, **changes):
        """Return every file, signed now; `changes` replaces a role's signer."""
        signers = {"targets": self.study_key} | changes
        v, at = self.version, {"now": self.now, "version": self.version}
        belong = dict.fromkeys(("targets", *roles.DELEGATED), v)

        def by(role):
            return signers.get(role, self.online)

        made = {
            "targets": metadata.targets(
                self.studies,
                online_key=self.online.public_key(),
                signer=by("targets"),
                days=180,
                **at,
            ),
            "releases": metadata.delegated(self.releases, signer=by("releases"), **at),
            "recipients": metadata.delegated({}, signer=by("recipients"), **at),
            "status": metadata.delegated(self.status, signer=by("status"), **at),
            "snapshot": metadata.snapshot(belong, signer=by("snapshot"), **at),
            "timestamp": metadata.timestamp(v, signer=by("timestamp"), stick_days=stick_days, **at),
        }
        return self.roots | {roles.file_name(role, v): data for role, data in made.items()}

    def later(self, *, days=1):
        """Go on in time, one version further."""
        self.now += timedelta(days=days)
        self.version += 1
        return self


class Site:
    """What a site keeps from one time to the next."""

    def __init__(self, world):
        self.pinned, self.kept = world.pinned, {}

    def read(self, files, now, *, by_stick=False):
        """Verify and keep; returns what is signed about the model and the study."""
        with client.opened(
            self.kept, files, pinned=self.pinned, now=now, by_stick=by_stick
        ) as found:
            listed = found.find(MODEL), found.find(STUDY)
        self.kept = found.kept
        return listed


@pytest.fixture
def world():
    return World()


@pytest.fixture
def home(world):
    """A site that read the repository once."""
    site = Site(world)
    model, study = site.read(world.files(), world.now)
    assert model.hashes == {"sha256": canonical.digest(b"model")}
    assert study.length == len(b"study")
    return site


def test_rollback_to_an_older_timestamp_is_refused(world, home):
    old = world.files()
    world.later()
    home.read(world.files(), world.now)
    with pytest.raises(RepositoryError, match="BadVersionNumber"):
        home.read(old, world.now)
    assert home.read(world.files(), world.now)


@pytest.mark.parametrize("role", ["targets", "releases", "status", "snapshot"])
def test_rollback_of_one_role_under_a_new_timestamp_is_refused(world, home, role):
    old = world.files()
    world.later()
    home.read(world.files(), world.now)
    world.later()
    new = world.files()
    mixed = dict(new)
    mixed[roles.file_name(role, 3)] = old[roles.file_name(role, 1)]
    with pytest.raises(RepositoryError, match="BadVersionNumber"):
        home.read(mixed, world.now)
    assert home.read(new, world.now)


def test_rollback_of_what_a_snapshot_lists_is_refused(world, home):
    world.later()
    home.read(world.files(), world.now)
    world.later()
    good = world.files()
    older = metadata.snapshot(
        {"targets": 3, "releases": 1, "recipients": 3, "status": 3},
        version=3,
        signer=world.online,
        now=world.now,
    )
    with pytest.raises(RepositoryError, match="BadVersionNumber"):
        home.read(good | {"3.snapshot.json": older}, world.now)
    assert home.read(good, world.now)


def test_freeze_ends_with_the_timestamp_and_says_that_it_is_out_of_date(world, home):
    frozen = world.files()
    assert home.read(frozen, NOW + timedelta(days=2, hours=23))
    with pytest.raises(StaleError, match="out of date"):
        home.read(frozen, NOW + timedelta(days=3, hours=1))
    world.later(days=4)
    assert home.read(world.files(), world.now)


def test_fast_forward_without_the_key_is_refused(world, home):
    stranger = keys.new_signing_key()
    world.version = 2_000_000_000
    with pytest.raises(RepositoryError, match="Unsigned"):
        home.read(world.files(timestamp=stranger), world.now)
    world.version = 2
    assert home.read(world.files(), world.now)


def test_fast_forward_with_a_stolen_key_ends_with_the_next_root(world, home):
    """A thief drives the versions up: the true repository is locked out until the next root."""
    world.version = 2_000_000_000
    home.read(world.files(), world.now)
    world.version = 3
    with pytest.raises(RepositoryError, match="BadVersionNumber"):
        home.read(world.files(), world.now)
    world.rotate(online=keys.new_signing_key())
    assert home.read(world.files(), world.now)


@pytest.mark.parametrize("role", ["targets", "releases", "status", "snapshot", "timestamp"])
def test_swapped_bytes_in_metadata_are_refused(world, home, role):
    world.later()
    files = world.files()
    name = roles.file_name(role, 2)
    at = files[name].index(b'"signed"') + 40
    flipped = files[name][:at] + bytes([files[name][at] ^ 1]) + files[name][at + 1 :]
    with pytest.raises(RepositoryError):
        home.read(files | {name: flipped}, world.now)
    assert home.read(files, world.now)


def test_swapped_bytes_of_a_target_do_not_fit_its_metadata(world, home):
    from io import BytesIO

    from tuf.api.exceptions import LengthOrHashMismatchError

    model, _ = home.read(world.files(), world.now)
    model.verify_length_and_hashes(BytesIO(b"model"))
    for swapped in (b"mode1", b"model!", b""):
        with pytest.raises(LengthOrHashMismatchError):
            model.verify_length_and_hashes(BytesIO(swapped))


def test_delegation_abuse_a_role_speaks_for_its_paths_alone(world, home):
    """Who holds the home's key lists a study of its own: nobody finds it."""
    forged = roles.study("e" * 64)
    world.later()
    world.releases = world.releases | {forged: File.of(b"a study of the thief's")}
    world.status = world.status | {MODEL: File.of(b"another model"), forged: File.of(b"again")}
    with client.opened(
        home.kept, world.files(), pinned=world.pinned, now=world.now, by_stick=False
    ) as found:
        assert found.find(forged) is None
        with pytest.raises(RepositoryError, match="does not list"):
            found.target(forged)
        assert found.target(MODEL).hashes == {"sha256": canonical.digest(b"model")}
        assert found.target(STUDY).length == len(b"study")


def test_delegation_abuse_the_online_key_signs_no_targets_and_the_study_key_no_timestamp(
    world, home
):
    world.later()
    for role, signer in (("targets", world.online), ("timestamp", world.study_key)):
        with pytest.raises(RepositoryError, match="Unsigned"):
            home.read(world.files(**{role: signer}), world.now)
    assert home.read(world.files(), world.now)


def test_key_rotation_takes_a_stolen_key_out_of_use(world, home):
    thief = world.online
    world.later().rotate(online=keys.new_signing_key())
    home.read(world.files(), world.now)
    world.later()
    for role in ("timestamp", "snapshot", "releases", "status"):
        fresh = Site(world)
        with pytest.raises(RepositoryError, match="Unsigned"):
            fresh.read(world.files(**{role: thief}), world.now)
    assert home.read(world.files(), world.now)
    assert Site(world).read(world.files(), world.now)  # one that enrols only now walks the roots


def test_key_rotation_replaces_the_key_of_the_studies(world, home):
    fresh = keys.new_signing_key()
    world.later().rotate(targets_key=fresh)
    with pytest.raises(RepositoryError, match="Unsigned"):
        home.read(world.files(), world.now)
    assert home.read(world.files(targets=fresh), world.now)


@pytest.mark.parametrize("signer", ["root_key", "study_key"])
def test_key_rotation_wants_both_offline_keys(world, home, signer):
    alone = getattr(world, signer)
    world.later()
    good = dict(world.roots)
    world.rotate(signers=(alone,), online=keys.new_signing_key())
    with pytest.raises(RepositoryError, match="Unsigned"):
        home.read(world.files(), world.now)
    world.roots = good
    world.rotate(online=keys.new_signing_key())
    assert home.read(world.files(), world.now)


@pytest.mark.parametrize("pins", [0, 1])
def test_the_first_root_is_that_of_both_pinned_keys(world, pins):
    """A coordinator that made a repository with one key of its own, and the other pinned one."""
    other = World(**{("root_key", "study_key")[pins]: (world.root_key, world.study_key)[pins]})
    site = Site(world)
    with pytest.raises(RepositoryError, match="not the pinned keys'"):
        site.read(other.files(), NOW)
    both = dict(other.roots)
    forged = Metadata.from_bytes(both["1.root.json"])
    forged.signed.roles["root"].threshold = 1
    both["1.root.json"] = forged.to_bytes()
    with pytest.raises(RepositoryError):
        site.read(other.files() | both, NOW)
    assert site.read(world.files(), NOW)


def test_a_first_root_that_one_pinned_key_did_not_sign_is_refused(world):
    good = dict(world.roots)
    world.roots = {}
    world.rotate(signers=(world.root_key,))
    with pytest.raises(RepositoryError, match="not the pinned keys'"):
        Site(world).read(world.files(), NOW)
    world.roots = good
    assert Site(world).read(world.files(), NOW)


def test_a_stale_stick_is_refused_and_a_younger_one_counts(world, home):
    stick = world.files(stick_days=30)
    assert Site(world).read(stick, NOW + timedelta(days=29), by_stick=True)
    with pytest.raises(StaleError, match="out of date"):
        Site(world).read(stick, NOW + timedelta(days=31), by_stick=True)
    world.later(days=31)
    assert Site(world).read(world.files(stick_days=30), world.now, by_stick=True)


def test_metadata_of_a_stick_do_not_freeze_a_site_with_a_line(world, home):
    world.later()
    with pytest.raises(RepositoryError, match="made for a stick"):
        home.read(world.files(stick_days=30), world.now)
    assert home.read(world.files(), world.now)


def test_a_site_that_read_a_stick_goes_on_by_line(world, home):
    world.later()
    home.read(world.files(stick_days=30), world.now, by_stick=True)
    world.version += 1
    assert home.read(world.files(), world.now)


def test_a_withdrawn_release_is_not_listed_any_more(world, home):
    assert home.read(world.files(), world.now)[0] is not None
    world.later().releases = {}
    assert home.read(world.files(), world.now)[0] is None


def test_nothing_at_all_is_refused_and_what_is_kept_need_not_be_sent_again(world, home):
    with pytest.raises(RepositoryError, match="sent no repository metadata"):
        Site(world).read({}, NOW)
    assert home.read({}, NOW)
    everybody = (*roles.TOP, *roles.DELEGATED)
    assert client.versions(home.kept) == dict.fromkeys(everybody, 1)


def test_garbage_is_refused_as_such(world, home):
    world.later()
    files = world.files()
    for name, data in (
        ("timestamp.json", b"{"),
        ("timestamp.json", b""),
        ("2.snapshot.json", files["2.targets.json"]),
        ("2.targets.json", b"\x00" * 100),
        ("2.releases.json", b"x" * (roles.MAX_METADATA_BYTES + 1)),
    ):
        with pytest.raises(RepositoryError):
            home.read(files | {name: data}, world.now)
    assert home.read(files, world.now)


def test_a_target_counts_as_signed_only_with_its_own_length_and_digest():
    listed = metadata.delegated(
        {MODEL: File(sha256="a" * 64, length=3)},
        version=1,
        signer=keys.new_signing_key(),
        now=NOW,
    )
    [target] = metadata.targets_of(listed).values()
    assert isinstance(target, TargetFile)
    assert (target.length, target.hashes) == (3, {"sha256": "a" * 64})
    assert replace(File.of(b"abc"), sha256="a" * 64) == File(sha256="a" * 64, length=3)
