"""How fresh the repository is that this site last verified, and what to do about it.

Metadata past their time block what is new here, and only that: what is installed keeps serving.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from edge_agent import repository
from edge_agent.home import Home
from kit import clock
from kit.errors import KitError

SOON_BY_HAND = timedelta(days=30)  # of what only the coordinator's offline keys sign
SOON_OF_ITSELF = timedelta(days=1)  # of what a contact brings: a timestamp lives three days by line
_BY_HAND = ("root", "targets")
_CONTACT = "run `edge-agent status`; without a line, bring a newer file of `coordinator export`"
_CEREMONY = "tell the coordinator's operator: it takes `coordinator repository sign`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Freshness:
    """Until when new things may be installed and submitted, and which role ends then.

    `warning` says what ends soon, and what to do; empty while nothing does.
    """

    expires: datetime
    role: str
    warning: str

    @property
    def line(self) -> str:
        """The finding in one line."""
        return self.warning or f"holds until {clock.rfc3339(self.expires)}"


def freshness(home: Home, *, now: datetime) -> Freshness:
    """Return how fresh the metadata kept here are.

    Raises:
        RepositoryError: what the last contact brought did not hold.
        KitError: there are none, or their time is over.
    """
    repository.require_no_problem(home)
    ends = repository.expiries(home)
    if not ends:
        raise KitError(
            "no repository metadata were ever fetched: nothing is installed or submitted",
            hint=_CONTACT,
        )
    role = min(ends, key=lambda name: (ends[name], name))
    expires, hint = ends[role], _CEREMONY if role in _BY_HAND else _CONTACT
    if expires <= now:
        raise KitError(
            f"the repository's `{role}` expired on {clock.rfc3339(expires)}: nothing is installed"
            " or submitted; what is installed keeps serving",
            hint=hint,
        )
    return Freshness(expires=expires, role=role, warning=_soon(ends, now))


def warnings(home: Home, *, now: datetime) -> tuple[str, ...]:
    """Return what somebody has to act on, in a line; nothing while all is fresh."""
    try:
        found = freshness(home, now=now)
    except KitError as error:
        return (f"{error}; {error.hint}" if error.hint else str(error),)
    return (found.warning,) if found.warning else ()


def _soon(ends: dict[str, datetime], now: datetime) -> str:
    """Say what ends soon: what a person signs a month before, what comes by itself a day before."""
    found = []
    for role, expires in sorted(ends.items(), key=lambda item: (item[1], item[0])):
        is_by_hand = role in _BY_HAND
        if expires - now <= (SOON_BY_HAND if is_by_hand else SOON_OF_ITSELF):
            what = _CEREMONY if is_by_hand else _CONTACT
            found.append(f"the repository's `{role}` expires on {clock.rfc3339(expires)}: {what}")
    return found[0] if found else ""
