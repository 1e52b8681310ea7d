"""A small federation on the disk and on loopback: real keys, real servers, random generators.

Stages are made once per session and copied: `enrolled` (a study, sites a, b, c), `pending` (their
blueprints taken in), `approved`, `released`.
"""

import dataclasses
import shutil
import time
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path

import sqlalchemy as sa

from coordinator import (
    builds,
    enrolments,
    founding,
    grpc_server,
    payloads,
    registry,
    releases,
    reviews,
    revocation,
    roots,
    state,
    studies,
)
from coordinator.context import Coordinator
from coordinator.home import CONFIG, CoordinatorConfig
from coordinator.submissions import BlueprintState
from edge_agent import contact, enrolment, outbound, submission
from edge_agent.errors import WaitingError
from edge_agent.exchange import Exchange
from edge_agent.home import CONFIG as SITE_CONFIG
from edge_agent.home import Home
from federation.blueprint.approval import Decision
from kit import clock, config
from kit.errors import KitError
from pki import keys
from tests.fakes import runs, states

FEDERATION = "test"
STUDY = "shapes"
CLASSES = ("round", "long", "dark", "pale", "lobed")
LABELS = {"a": ("round", "long"), "b": ("dark", "pale"), "c": ("lobed",)}
STAGES = ("enrolled", "pending", "approved", "released")


class ShiftedCoordinator(Coordinator):
    """A coordinator whose clock is `ahead` of this machine's (or behind)."""

    ahead = timedelta(0)

    def now(self):
        return clock.utc_now() + self.ahead


@dataclasses.dataclass(frozen=True)
class Federation:
    """One folder with a coordinator's home and the homes of its sites."""

    folder: Path

    @property
    def hub(self):
        return self.folder / "hub"

    def home(self, site):
        return Home((self.folder / site).absolute())

    @property
    def roots(self):
        """Where the offline keys were carried: not in the hub's home, nor beside it."""
        return self.folder / "safe" / "medium"

    def database(self):
        """Open the coordinator's database without the program, as an insider does."""
        return states.insider(self.hub)

    def clone(self, folder):
        """Return a copy of everything at `folder`, its database included."""
        shutil.copytree(self.folder, folder, ignore=shutil.ignore_patterns("reserve"))
        states.copied(folder / "hub")
        return Federation(folder)

    def reviewer(self, name="reviewer-1"):
        return keys.load_signing(self.roots / f"reviewer-{name}.key")

    @contextmanager
    def open(self, *, ahead=timedelta(0)):
        with ShiftedCoordinator.open(self.hub) as coordinator:
            coordinator.ahead = ahead
            yield coordinator

    @contextmanager
    def serving(self, *, ports=(0, 0), ahead=timedelta(0)):
        """Serve on ports that nobody else has; every home here then knows them."""
        with self.running(ports=ports, ahead=ahead) as (coordinator, _):
            yield coordinator

    @contextmanager
    def running(self, *, ports=(0, 0), ahead=timedelta(0)):
        """Serve as `serving` does; yields the server as well."""
        with (
            self.open(ahead=ahead) as coordinator,
            grpc_server.serving(coordinator, exchange_port=ports[0], enrol_port=ports[1]) as server,
        ):
            settings = dataclasses.replace(
                coordinator.config,
                exchange_port=server.exchange_port,
                enrol_port=server.enrol_port,
            )
            config.save(self.hub / CONFIG, settings)
            coordinator.__dict__["config"] = settings
            for path in self.folder.glob(f"*/{SITE_CONFIG}"):
                if path.parent != self.hub:
                    self._point(Home(path.parent), settings)
            yield coordinator, server

    @staticmethod
    def _point(home, settings):
        addresses = {
            "exchange_address": f"127.0.0.1:{settings.exchange_port}",
            "enrol_address": f"127.0.0.1:{settings.enrol_port}",
        }
        config.save(home.config_path, dataclasses.replace(home.config, **addresses))

    def states(self):
        """Return site -> state of its newest blueprint."""
        with self.open() as coordinator:
            return {review.site: review.state for review in reviews.list_reviews(coordinator)}

    def digest(self, site):
        """Return the digest of a site's blueprint."""
        with self.open() as coordinator:
            found = [r.digest for r in reviews.list_reviews(coordinator) if r.site == site]
        return found[-1]


def found(folder, *, cosigners=0, **changes):
    """Found a federation at `folder`/hub; one that asks for no cosignatures unless told to."""
    settings = CoordinatorConfig(
        federation=FEDERATION,
        hosts="127.0.0.1",
        exchange_port=0,
        enrol_port=0,
        listen="127.0.0.1",
        threads=1,
        revocation_grace_hours=0,
        state=states.new_url(),
    )
    settings = dataclasses.replace(settings, **changes)
    made = founding.found(
        folder / "hub", settings, reviewer="reviewer-1", now=clock.utc_now(), cosigners=cosigners
    )
    carry_away(made.roots, Federation(folder).roots)
    return Federation(folder)


def carry_away(written, medium):
    """Take the offline keys from where `init` wrote them to a medium, as a ceremony does."""
    medium.parent.mkdir(parents=True, exist_ok=True)
    written.rename(medium)


def create_study(coordinator, *, name=STUDY, classes=CLASSES, signer=None, **changes):
    """Create a study with the smallest build that still has every part."""
    request = studies.Request(
        id=name,
        title=name,
        classes=classes,
        image=(1, 8, 8),
        epsilon=8.0,
        delta=1e-5,
        unit="image",
        personal_data="refused",
        presets=("tiny",),
        shard_size=8,
        sampler_steps=2,
        classifier_steps=3,
        minimum_per_class=10,
        quorum=1,
        reviewers=(),
    )
    manifest = studies.manifest(coordinator, dataclasses.replace(request, **changes))
    registry.create_study(coordinator, manifest, signer=signer or study_key(coordinator))
    return manifest


def study_key(coordinator):
    """Return the offline study key, from where `found` carried it."""
    home = coordinator.home
    return roots.study_key(home, Federation(home.path.parent).roots)


def token_file(coordinator, site, folder):
    """Issue a token and write it as the operator would hand it over."""
    path = folder / f"{site}.token"
    path.write_bytes(enrolments.issue_token(coordinator, site).to_bytes())
    return path


def ask(path, token):
    """Ask for enrolment; returns the code that the coordinator has to confirm."""
    try:
        enrolment.enrol(path, token, epsilon=8.0, delta=1e-5)
    except WaitingError as waiting:
        return str(waiting).rpartition(" ")[2]
    raise AssertionError("enrolment did not wait for a person")


def enrol(coordinator, federation, site):
    """Enrol a site from token to first contact."""
    token = token_file(coordinator, site, federation.folder)
    path = federation.folder / site
    enrolments.confirm(coordinator, site, ask(path, token))
    enrolment.enrol(path, None, epsilon=8.0, delta=1e-5)
    let_one_person_send(federation.home(site))
    visit(federation.home(site))
    return federation.home(site)


def let_one_person_send(home):
    """Switch the outbound approval of a site off, as its operator may at enrolment."""
    outbound.set_policy(home, outbound.Policy(approval=outbound.OFF))


def visit(home):
    """One contact of a site; returns its world."""
    with Exchange.open(home) as exchange:
        return contact.contact(home, exchange)


def submit(home, run=STUDY, **changes):
    """Submit a finished run."""
    return submission.submit(
        home,
        run,
        now=clock.utc_now(),
        sent=changes.get("sent", lambda *_: None),
        tell=changes.get("tell", lambda _: None),
    )


def wait_for(check, *, timeout_s=300.0):
    """Wait until `check()` is true."""
    ends = time.monotonic() + timeout_s
    while not check():
        if time.monotonic() > ends:
            raise KitError("waited too long")
        time.sleep(0.05)


def settled(federation):
    """Say whether no blueprint waits for its intake; asked often, so it reads no statement."""
    table = state.blueprints
    waiting = sa.select(table.c.digest).where(table.c.state == BlueprintState.RECEIVED)
    with federation.open() as coordinator, coordinator.state.read() as tx:
        return not tx.all(waiting)


def approve(federation, site, *, key=None):
    """Approve a site's blueprint."""
    with federation.open() as coordinator:
        return reviews.decide(
            coordinator,
            federation.digest(site),
            Decision.APPROVE,
            reviewer_key=key or federation.reviewer(),
            reason="fine",
        )


def revocation_of(federation, coordinator, name):
    """Revoke a site's blueprint in an open coordinator."""
    digest = federation.digest(name)
    return revocation.revoke(coordinator, digest, reviewer_key=federation.reviewer(), reason="gone")


def build(federation):
    """Build a release in this process."""
    with federation.open() as coordinator:
        return builds.build(coordinator, STUDY, report=lambda *_: None)


def payload_file(coordinator, digest):
    """Return the file of a sealed payload in a home's own store."""
    return coordinator.stores.payloads.path(payloads.payload_name(digest))


def shards_folder(coordinator, digest):
    """Return the folder of a blueprint's shards in a home's own store."""
    return coordinator.stores.shards.path(digest)


def release_file(coordinator, digest):
    """Return the file of a release in a home's own store."""
    return coordinator.stores.releases.path(releases.model_name(digest))


def copy(stage, target, base):
    """Return a fresh copy of a stage at `target`; `base` is the session's folder for stages."""
    return _stage(stage, base, states.KINDS.now).clone(target / "federation")


@cache
def _stage(stage, base, kind):
    folder = base / f"federation-{kind}-{stage}"
    if stage == "enrolled":
        folder.mkdir(parents=True)
        _make_enrolled(folder)
        states.KINDS.keep_newest()
        return Federation(folder)
    federation = _stage(STAGES[STAGES.index(stage) - 1], base, kind).clone(folder)
    states.KINDS.keep_newest()
    if stage == "pending":
        _make_pending(federation)
    elif stage == "approved":
        for site in LABELS:
            approve(federation, site)
    else:
        build(federation)
    return federation


def _make_enrolled(folder):
    federation = found(folder)
    with federation.open() as coordinator:
        study = create_study(coordinator)
    with federation.serving() as coordinator:
        for number, site in enumerate(LABELS):
            home = enrol(coordinator, federation, site)
            runs.write_run(home, study, LABELS[site], seed=number)


def _make_pending(federation):
    with federation.serving():
        for site in LABELS:
            submit(federation.home(site))
        wait_for(lambda: settled(federation), timeout_s=300)
    states = federation.states()
    assert states == dict.fromkeys(LABELS, "pending"), states
