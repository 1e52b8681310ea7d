"""Prometheus' text of both sides: what it says is so, and it names nobody."""

import shutil
import socket
import time
import urllib.request
from datetime import timedelta

import pytest
from prometheus_client.parser import text_string_to_metric_families

from coordinator import metrics
from coordinator.errors import StateError
from edge_agent import metrics as edge_metrics
from kit import clock
from kit.errors import KitError
from tests.fakes import site

PATIENT = "Mustermann-Erika"


def scrape(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
        return reply.read().decode()


def figures(text):
    """Figures by name and the values of their labels, in the labels' alphabetical order."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_coordinators_metrics_follow_its_state_and_name_no_site(pending):
    with pending.open() as coordinator:
        names = [row.pseudonym for row in site.registry.list_sites(coordinator)]
    with pending.running() as (coordinator, server), metrics.served(server.metrics, 0) as port:
        before = figures(scrape(port))
        assert before["coordinator_blueprints", "pending"] == 3
        assert before["coordinator_blueprints", "approved"] == 0
        assert before["coordinator_sites", "active"] == 3
        site.visit(pending.home("a"))
        site.approve(pending, "b")
        text = scrape(port)
        after = figures(text)
    assert after["coordinator_blueprints", "approved"] == 1
    assert after[("coordinator_log_entries",)] > before[("coordinator_log_entries",)]
    assert after["coordinator_calls_total", "OK", "Contact"] == 1
    assert after["coordinator_call_seconds_count", "Contact"] == 1
    assert after[("coordinator_disk_free_bytes",)] == pytest.approx(
        shutil.disk_usage(pending.hub).free, rel=0.05
    )
    expiry = after["coordinator_certificate_expiry_timestamp_seconds", "signing"]
    assert expiry == coordinator.signing_chain[0].not_valid_after_utc.timestamp()
    contacts = [after["coordinator_site_last_contact_timestamp_seconds", name] for name in names]
    assert len(contacts) == 3
    assert 0 <= time.time() - max(contacts) < 60
    labels = {value for key in after for value in key[1:]}
    assert not labels & set(site.LABELS)  # sites go by their pseudonyms
    assert PATIENT not in text


def test_metrics_listen_on_loopback_only_and_a_taken_port_is_one_line(tmp_path):
    with site.found(tmp_path).open() as coordinator:
        found = metrics.registry(coordinator)
        with metrics.served(found, 0) as port, socket.socket() as other:
            other.bind(("127.0.0.2", port))  # would fail if every address were taken
            with pytest.raises(StateError, match="for metrics"), metrics.served(found, port):
                pass
        with metrics.served(found, None) as nothing:
            assert nothing is None


def test_a_sites_metrics_are_written_after_success_and_after_failure(enrolled, tmp_path):
    home, path, now = enrolled.home("a"), tmp_path / "m" / "edge.prom", clock.utc_now()
    with enrolled.serving(), edge_metrics.written(home, path, now=now):
        world = site.visit(home)
    good = figures(path.read_text())
    assert good[("edge_agent_contact_success",)] == 1
    assert good[("edge_agent_contact_timestamp_seconds",)] == now.timestamp()
    assert good[("edge_agent_log_entries",)] == world.trust.size
    assert good["edge_agent_certificate_expiry_timestamp_seconds", "tls"] > time.time()
    later = now + timedelta(hours=1)
    with pytest.raises(KitError, match="reached"), edge_metrics.written(home, path, now=later):
        site.visit(home)  # nobody serves any more
    bad = figures(path.read_text())
    assert bad[("edge_agent_contact_success",)] == 0
    assert bad[("edge_agent_contact_timestamp_seconds",)] == now.timestamp()
    assert bad[("edge_agent_contact_attempt_timestamp_seconds",)] == later.timestamp()
    assert path.stat().st_mode & 0o777 == 0o644
    assert set(bad) == set(good)


def test_every_metric_is_in_the_manual(enrolled, tmp_path):
    page = site.Path(__file__).parents[2] / "docs" / "operations.md"
    known = page.read_text()
    path = tmp_path / "edge.prom"
    edge_metrics.save(enrolled.home("a"), path, now=clock.utc_now(), succeeded=True)
    names = {family.name for family in text_string_to_metric_families(path.read_text())}
    with enrolled.running() as (_, server), metrics.served(server.metrics, 0) as port:
        site.visit(enrolled.home("a"))
        names |= {family.name for family in text_string_to_metric_families(scrape(port))}
    names -= {name for name in names if name.endswith("_created")}
    assert len(names) > 20
    assert [name for name in sorted(names) if f"`{name}" not in known] == []


def test_a5_a_site_says_how_lately_enough_others_cosigned_the_log(tmp_path):
    federation, path = site.found(tmp_path, cosigners=2), tmp_path / "edge.prom"

    def measured(home):
        with edge_metrics.written(home, path, now=clock.utc_now()):
            world = site.visit(home)
        return world, figures(path.read_text())

    with federation.serving() as coordinator:
        alone = site.enrol(coordinator, federation, "a")
        assert ("edge_agent_log_cosigned_entries",) not in measured(alone)[1]  # nobody is wanted
        others = [site.enrol(coordinator, federation, name) for name in "bc"]
        site.visit(others[0])
        _, few = measured(alone)
        assert (
            few["edge_agent_log_cosigned_timestamp_seconds",] == 0
            or few["edge_agent_log_cosigned_entries",]
        )
        began = int(time.time())
        sizes = [site.visit(home).trust.size for home in others]
        _, enough = measured(alone)
    assert enough["edge_agent_log_cosigned_entries",] == min(sizes)
    assert began <= enough["edge_agent_log_cosigned_timestamp_seconds",] <= time.time()
