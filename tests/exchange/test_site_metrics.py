"""`evaluate --send`: what leaves, when nothing does, and what the coordinator takes."""

import secrets
from dataclasses import replace

import grpc
import numpy as np
import pytest
import sqlalchemy as sa
from PIL import Image

from coordinator import releases, site_metrics, state
from edge_agent import alarms, contact, inspection, installed, reporting, submission
from edge_agent.exchange import Exchange
from federation import dsse
from federation.auditlog.events import Kind, read_leaf
from federation.release import site_metrics as documents
from federation.release.site_metrics import SiteMetrics
from federation.release.statement import sign
from kit import clock
from kit.errors import KitError
from pki import certificates, keys
from tests.fakes import sharing, site

LABELS = sharing.LABELS["a"]


@pytest.fixture
def asking(tmp_path, tmp_path_factory):
    return sharing.copy(tmp_path, tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return sharing.write_images(tmp_path_factory.mktemp("images"), LABELS, most=60)


def evaluate(home, data, **changes):
    now = clock.utc_now()
    return inspection.evaluate(home, site.STUDY, data, None, send=True, now=now, **changes)[0]


def release_of(home):
    return installed.fetched(home, home.study(site.STUDY))


def report_of(home, **changes):
    report = SiteMetrics(
        release=release_of(home),
        study_digest=home.study(site.STUDY).digest,
        images=100,
        accuracy_percent=80,
        balanced_accuracy_percent=None,
        time=clock.rfc3339(clock.utc_now()),
        salt=secrets.token_hex(32),
    )
    return replace(report, **changes)


def signed(home, report):
    chain = submission.signing_chain(home)
    key = keys.load_signing(home.key("signing.key"))
    envelope = sign(report.to_bytes(), documents.PAYLOAD_TYPE, key, chain[0])
    return envelope, certificates.pem(*chain)


def hand_in(home, report, *, by=None):
    """Send a report past everything that this side checks; `by` signs it instead."""
    with Exchange.open(home) as exchange:
        return exchange.report(*signed(by or home, report))


class Wire:
    """What leaves a site: every request of every call."""

    def __init__(self, monkeypatch):
        self.requests = []
        intercept = grpc.intercept_channel
        monkeypatch.setattr(Exchange, "__init__", self._seen(Exchange.__init__, intercept))

    def _seen(self, init, intercept):
        def opened(exchange, channel, address):
            init(exchange, intercept(channel, _Listening(self.requests)), address)

        return opened

    @property
    def reports(self):
        return [request for method, request in self.requests if method.endswith("/Report")]


class _Listening(grpc.UnaryUnaryClientInterceptor):
    def __init__(self, requests):
        self._requests = requests

    def intercept_unary_unary(self, continuation, details, request):
        self._requests.append((details.method, request))
        return continuation(details, request)


def test_a11_what_leaves_is_rounded_signed_logged_and_said_once(asking, data, monkeypatch):
    home, wire = asking.home("a"), Wire(monkeypatch)
    with asking.serving() as coordinator:
        told = evaluate(home, data)
        [request] = wire.reports
        said = SiteMetrics.from_bytes(verified(request.envelope, submission.signing_chain(home)))
        assert (said.images, told["images"], told["sent"]["images"]) == (100, 120, 100)
        assert said.accuracy_percent % 20 == 0
        assert said.balanced_accuracy_percent is None  # 60 images of a class are too few
        assert abs(said.accuracy_percent / 100 - told["accuracy"]) <= 0.1
        [listed] = site_metrics.listing(coordinator)
        assert (listed.site, listed.release, listed.report) == ("a", said.release, said.digest)
        assert (listed.images, listed.accuracy_percent) == (100, said.accuracy_percent)
        again = evaluate(home, spoilt(data))  # other images: the same words leave
        assert again["sent"] == told["sent"]
        assert wire.reports[1].envelope == request.envelope
        assert len(site_metrics.listing(coordinator)) == 1
        world = site.visit(home)
        entries = [read_leaf(leaf) for leaf in world.log.leaves]
        [event] = [e for e in entries if e and e.kind is Kind.METRICS_REPORTED]
        assert (event.subject, set(event.details)) == (said.digest, {"release", "study"})
        assert alarms.kept(home) == []
        receipts = [path.name for path, _ in contact.receipts(home)]
        assert any("metrics.reported" in name for name in receipts)
    for _, sent in wire.requests:
        assert data.name.encode() not in sent.SerializeToString()


def verified(envelope, chain):
    parsed = dsse.parse(envelope, documents.PAYLOAD_TYPE)
    return dsse.verify(parsed, chain[0].public_key())


def spoilt(data):
    """The same folder with five images that show nothing any more."""
    for path in sorted((data / LABELS[0]).glob("*.png"))[:5]:
        Image.fromarray(np.full((8, 8), 128, dtype=np.uint8)).save(path)
    return data


def test_where_the_study_takes_no_metrics_nothing_leaves(released, data, monkeypatch):
    home, wire = released.home("a"), Wire(monkeypatch)
    with released.serving() as coordinator:
        installed.fetch(home, site.STUDY, got=lambda *_: None)
        before = len(wire.requests)
        with pytest.raises(KitError, match="takes no metrics: nothing is sent") as refusal:
            evaluate(home, data)
        assert "leave out --send" in refusal.value.hint
        assert len(wire.requests) == before > 0
        with pytest.raises(KitError, match="takes no metrics from sites"):
            hand_in(home, report_of(home))
        assert site_metrics.listing(coordinator) == []


def test_of_too_few_images_or_of_an_adapted_model_nothing_leaves(asking, tmp_path, monkeypatch):
    home, wire = asking.home("a"), Wire(monkeypatch)
    few = sharing.write_images(tmp_path / "few", LABELS, most=49)
    enough = sharing.write_images(tmp_path / "enough", LABELS, most=50)
    with asking.serving():
        with pytest.raises(KitError, match=r"100 images or more; these are 98: nothing is sent"):
            evaluate(home, few)
        with pytest.raises(KitError, match="an adapted model are not sent"):
            evaluate(home, enough, adapted="ward")
        assert wire.requests == []
        assert evaluate(home, enough)["sent"]["images"] == 100


def test_the_coordinator_refuses_what_no_honest_site_sends(asking):
    home, other = asking.home("a"), asking.home("b")
    study = home.study(site.STUDY)
    with asking.serving() as coordinator:
        for words, report, by in (
            ("not signed by", report_of(home), other),
            ("no such release", report_of(home, release="ab" * 32), None),
            ("another study", report_of(home, study_digest="ab" * 32), None),
            ("yet to come", report_of(home, time="2999-01-01T00:00:00Z"), None),
            ("more finely", report_of(home, accuracy_percent=81), None),
            ("not an integer from 100", report_of(home, images=50), None),
        ):
            with pytest.raises(KitError, match=words):
                hand_in(home, report, by=by)
        assert site_metrics.listing(coordinator) == []
        first = report_of(home)
        entry = hand_in(home, first)
        assert replace(hand_in(home, first), receipt=entry.receipt) == entry
        with pytest.raises(KitError, match="reported on the release before"):
            hand_in(home, replace(first, accuracy_percent=60))
        assert hand_in(other, report_of(other))
        assert [r.site for r in site_metrics.listing(coordinator)] == ["a", "b"]
        assert {r.study for r in site_metrics.listing(coordinator)} == {study.id}


def test_a_withdrawn_release_takes_no_metrics(asking):
    home = asking.home("a")
    with asking.serving() as coordinator:
        [release] = releases.list_releases(coordinator)
        report = report_of(home)
        site.revocation_of(asking, coordinator, "b")
        with pytest.raises(KitError, match="this release is withdrawn"):
            hand_in(home, report)
        assert release.digest == report.release
        assert site_metrics.listing(coordinator) == []


def test_a_report_changed_in_the_database_is_noticed(asking):
    home = asking.home("a")
    with asking.serving() as coordinator:
        hand_in(home, report_of(home))
        assert len(site_metrics.listing(coordinator, prefix=release_of(home)[:10])) == 1
        assert site_metrics.listing(coordinator, prefix="0" * 64) == []
        with coordinator.state.read() as tx:
            row = tx.one(sa.select(state.site_metrics))
    changed = row.envelope.replace(b'"sig":"A', b'"sig":"B').replace(b'"sig":"', b'"sig":"A', 1)
    with asking.database() as insider:
        insider.execute("UPDATE site_metrics SET envelope = ?", (changed,))
    with asking.open() as coordinator, pytest.raises(KitError):
        site_metrics.listing(coordinator)


def test_a1_metrics_in_this_sites_name_that_it_did_not_send_raise_an_alarm(asking):
    home = asking.home("a")
    with asking.serving():
        hand_in(home, report_of(home))  # past this home's list of its acts, as a thief's would be
        site.visit(home)
    [alarm] = alarms.kept(home)
    assert "metrics were sent in this site's name, but not from here" in alarm.words


def test_reports_of_no_adapted_model_exist(asking):
    with pytest.raises(KitError, match="an adapted model are not sent"):
        reporting.require_allowed(asking.home("a").study(site.STUDY), adapted="ward")
    reporting.require_allowed(asking.home("a").study(site.STUDY))
