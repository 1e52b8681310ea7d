"""The doctor's rounds: every check once, in the order in which one rests on another."""

from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

from edge_agent.doctor import line, machine, papers
from edge_agent.doctor.findings import Finding, examine, postponed
from edge_agent.freshness import freshness
from edge_agent.home import Home
from pki import certificates
from pki.enrolment import Pins, Token


def rounds(home: Home, now: Callable[[], datetime]) -> Iterator[Finding]:
    """Yield every finding about an enrolled home."""
    yield examine("disk", lambda: machine.disk(home.path))
    yield examine("permissions", lambda: machine.permissions(home.secrets))
    yield examine("certificates", lambda: papers.own_certificates(home, now=now()))
    settings = home.config
    way = _line(settings.exchange_address, settings.proxy, home.pins, now)
    needed = [examine("keys", lambda: papers.own_keys(home)), *way]
    yield from needed
    failed = next((finding for finding in needed if not finding.passed), None)
    talk = _unless(failed, "contact", lambda: papers.conversation(home))
    yield talk
    failed = failed or (None if talk.passed else talk)
    yield _unless(failed, "clock", lambda: papers.clocks(home, now=now()))
    yield examine("repository", lambda: freshness(home, now=now()).line)
    yield examine("training", machine.training_gpu)
    yield examine("inference", machine.inference_gpu)


def before_enrolment(
    folder: Path, token: Token, proxy: str, now: Callable[[], datetime]
) -> Iterator[Finding]:
    """Yield every finding about a machine that is to be enrolled with `token`."""
    yield examine("disk", lambda: machine.disk(folder))
    yield examine("token", lambda: papers.invitation(token, now=now()))
    for prefix, address in (
        ("enrolment ", token.enrol_address),
        ("exchange ", token.exchange_address),
    ):
        yield from _line(address, proxy, token.pins, now, prefix=prefix)
    yield examine("training", machine.training_gpu)
    yield examine("inference", machine.inference_gpu)


def _line(
    address: str, proxy: str, pins: Pins, now: Callable[[], datetime], *, prefix: str = ""
) -> Iterator[Finding]:
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
        finding = _unless(failed, prefix + check, look)
        failed = failed or (None if finding.passed else finding)
        yield finding


def _unless(failed: Finding | None, check: str, look: Callable[[], str]) -> Finding:
    return postponed(check, failed) if failed else examine(check, look)
