"""HTTP CONNECT: the proxy that the configuration names, no other, and it sees ciphertext only."""

import base64
import dataclasses

import pytest

from edge_agent import enrolment
from edge_agent.errors import UnreachableError, WaitingError
from kit import config
from kit.errors import KitError
from tests.fakes import site
from tests.fakes.relay import Relay

KEEP_BYTES = 4 << 20


def through(home, proxy):
    """Name a proxy in a site's configuration."""
    config.save(home.config_path, dataclasses.replace(home.config, proxy=proxy))


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """What a hospital's login profile may say; none of it counts."""
    for name in ("grpc_proxy", "https_proxy", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")


def test_a_site_submits_through_the_proxy_of_its_configuration_which_sees_ciphertext(enrolled):
    home = enrolled.home("a")
    with enrolled.serving() as coordinator, Relay(keep=KEEP_BYTES) as proxy:
        through(home, f"http://127.0.0.1:{proxy.port}")
        done = site.submit(home)
        port = coordinator.config.exchange_port
        assert done.state == "received"
        assert {head.split("\r\n")[0] for head in proxy.heads} == {
            f"CONNECT 127.0.0.1:{port} HTTP/1.1"
        }
        assert done.payload_bytes <= proxy.up < KEEP_BYTES
        digest = home.outbox / done.blueprint
        clear = [site.STUDY.encode(), b"Exchange/Upload", done.blueprint.encode()]
        clear += [(digest / "payload.c2sp").read_bytes()[1000:1064], b"spiffe://"]
        assert len(proxy.seen) > done.payload_bytes
        assert not [part for part in clear if part in proxy.seen]  # the certificate is inside too


def test_without_a_configured_proxy_the_environments_is_not_used(enrolled):
    with enrolled.serving():
        assert site.visit(enrolled.home("a"))  # port 9 of the environment answers nobody


def test_a_proxy_that_is_down_or_wants_a_password_is_named(enrolled):
    home = enrolled.home("a")
    secret = base64.b64encode(b"north:s3cret").decode()
    with enrolled.serving(), Relay(credentials=secret) as proxy:
        through(home, f"http://127.0.0.1:{proxy.port}")
        with pytest.raises(UnreachableError, match="through the proxy") as refusal:
            site.visit(home)
        assert "the proxy answers 407" in refusal.value.hint
        through(home, "http://127.0.0.1:9")
        with pytest.raises(UnreachableError, match=r"through the proxy `127\.0\.0\.1:9`"):
            site.visit(home)
        through(home, f"http://north:s3cret@127.0.0.1:{proxy.port}")
        assert site.visit(home)
        through(home, "https://proxy.example.org")
        with pytest.raises(KitError, match="is no proxy") as wrong:
            site.visit(home)
        assert "http://host:port" in wrong.value.hint
    assert "s3cret" not in f"{refusal.value} {refusal.value.hint}"


def test_a_site_enrols_through_a_proxy_and_keeps_it(tmp_path):
    federation = site.found(tmp_path)
    with federation.serving() as coordinator, Relay() as proxy:
        token = site.token_file(coordinator, "a", tmp_path)
        where = f"http://127.0.0.1:{proxy.port}"
        with pytest.raises(WaitingError) as waiting:
            enrolment.enrol(tmp_path / "a", token, epsilon=8.0, delta=1e-5, proxy=where)
        site.enrolments.confirm(coordinator, "a", str(waiting.value).rpartition(" ")[2])
        enrolment.enrol(tmp_path / "a", None, epsilon=8.0, delta=1e-5)
        home = federation.home("a")
        assert home.config.proxy == where
        asked = len(proxy.heads)
        assert asked >= 2
        assert site.visit(home)
        assert len(proxy.heads) > asked
