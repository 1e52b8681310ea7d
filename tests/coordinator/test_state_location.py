"""Which database a URL may name: no password in a configuration, no row over an open line."""

from pathlib import Path

import pytest

from coordinator.home import CONFIG
from coordinator.state import Location
from kit.errors import KitError
from tests.fakes import site
from tests.fakes.terminal import Terminal

GOOD = (
    "postgresql:///kit?host=/run/postgresql",
    "postgresql://kit@localhost/kit",
    "postgresql+psycopg://kit@127.0.0.1:5433/kit",
    "postgresql://kit@[::1]/kit",
    "postgresql://kit@db.example.org/kit?sslmode=verify-full&sslrootcert=/etc/ca.pem",
)
REFUSED = {
    "mysql://kit@localhost/kit": "names no PostgreSQL database",
    "sqlite:////tmp/x": "names no PostgreSQL database",
    "postgresql://kit@localhost": "names no PostgreSQL database",
    "no url at all": "cannot be read",
    "postgresql://kit@localhost:port/kit": "cannot be read",
    "postgresql://kit:secret@localhost/kit": "holds a password",
    "postgresql://kit:@localhost/kit": "holds a password",
    "postgresql:///kit": "names no host",
    "postgresql://kit@db.example.org/kit": "without a checked certificate",
    "postgresql://kit@db.example.org/kit?sslmode=require": "without a checked certificate",
    "postgresql://kit@10.0.0.7/kit?sslmode=prefer": "without a checked certificate",
    "postgresql:///kit?host=/run/postgresql&host=db.example.org": "without a checked certificate",
    "postgresql:///kit?service=elsewhere": "not known here: `service`",
    "postgresql://kit@localhost/kit?options=-csearch_path=x": "not known here: `options`",
    "postgresql://kit@localhost/kit?hostaddr=10.0.0.7": "not known here: `hostaddr`",
}


@pytest.mark.parametrize("url", GOOD)
def test_a_database_on_this_machine_or_behind_checked_tls_is_taken(url):
    assert Location(Path("/x"), url).engine_url.drivername == "postgresql+psycopg"


@pytest.mark.parametrize("url", REFUSED)
def test_a_url_that_would_leak_is_refused(url):
    with pytest.raises(KitError, match=REFUSED[url]) as refusal:
        _ = Location(Path("/x"), url).engine_url
    assert refusal.value.hint
    assert "secret" not in str(refusal.value)


@pytest.mark.postgresql
def test_init_keeps_the_state_where_it_is_told(tmp_path, monkeypatch):
    from tests.fakes import states

    with states.KINDS.chosen(states.POSTGRESQL):
        url = states.new_url()
    terminal = Terminal(tmp_path)
    bad = url.replace("?", "_not_there?")
    words = ["init", "--federation", "demo", "--state"]
    refused = terminal.run("coordinator", "hub", *words, bad)
    assert (refused.code, refused.out) == (1, "")
    assert "does not exist" in refused.err
    assert len(refused.err.splitlines()) == 1
    assert not any(tmp_path.iterdir())
    made = terminal.json("coordinator", "hub", *words, url)
    assert made["federation"] == "demo"
    assert f'state = "{url}"' in (tmp_path / "hub" / CONFIG).read_text()
    assert not list((tmp_path / "hub").glob("state.sqlite*"))
    assert terminal.json("coordinator", "hub", "audit", "verify")["size"] == 3
    with site.Federation(tmp_path).open() as coordinator:
        assert coordinator.state.size_bytes > 1 << 20
