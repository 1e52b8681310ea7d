"""The doctor's rounds: every check once, in the order in which one rests on another."""

from collections.abc import Callable, Iterator
from datetime import datetime

from edge_agent.doctor import line, machine, papers
from edge_agent.doctor.findings import Finding, examine, postponed
from edge_agent.home import Home
from pki import certificates


def rounds(home: Home, now: Callable[[], datetime]) -> Iterator[Finding]:
    """Yield every finding about an enrolled home."""
    yield examine("disk", lambda: machine.disk(home.path))
    yield examine("permissions", lambda: machine.permissions(home.secrets))
    yield examine("certificates", lambda: papers.own_certificates(home, now=now()))
    needed = [examine("keys", lambda: papers.own_keys(home)), *_line(home, now)]
    yield from needed
    failed = next((finding for finding in needed if not finding.passed), None)
    talk = _unless(failed, "contact", lambda: papers.conversation(home))
    yield talk
    failed = failed or (None if talk.passed else talk)
    yield _unless(failed, "clock", lambda: papers.clocks(home, now=now()))
    yield examine("training", machine.training_gpu)
    yield examine("inference", machine.inference_gpu)


def _line(home: Home, now: Callable[[], datetime]) -> Iterator[Finding]:
    settings, pins = home.config, home.pins
    address, proxy = settings.exchange_address, getattr(settings, "proxy", "")
    root = certificates.from_der(pins.root_der)
    checks: tuple[tuple[str, Callable[[], str]], ...] = (
        ("name", lambda: line.name(address, proxy)),
        ("proxy" if proxy else "port", lambda: line.port(address, proxy)),
        (
            "coordinator",
            lambda: line.certificate(
                address, proxy, root=root, federation=pins.federation, now=now()
            ),
        ),
    )
    failed: Finding | None = None
    for check, look in checks:
        finding = _unless(failed, check, look)
        failed = failed or (None if finding.passed else finding)
        yield finding


def _unless(failed: Finding | None, check: str, look: Callable[[], str]) -> Finding:
    return postponed(check, failed) if failed else examine(check, look)
