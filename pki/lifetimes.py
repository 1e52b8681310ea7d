"""What runs out, and when to tell somebody: a pure rule for both sides' `status` and metrics.

What renews itself is silent until it should have done so; what needs a person is announced 60, 30
and 7 days before.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from cryptography import x509

from kit import clock

NOTICE_DAYS = (7, 30, 60)
RENEW_AFTER = 2 / 3  # of a certificate's life


class Urgency(StrEnum):
    """How soon somebody must act."""

    EXPIRED = "expired"
    DAYS_7 = "within 7 days"
    DAYS_30 = "within 30 days"
    DAYS_60 = "within 60 days"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetime:
    """One thing that runs out; `renews_from` is when it should renew itself, None for never.

    `remedy` is what a person does about it.
    """

    name: str
    expires: datetime
    remedy: str
    renews_from: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpiryWarning:
    """One line for an operator."""

    name: str
    urgency: Urgency
    expires: str
    days: int
    remedy: str

    @property
    def line(self) -> str:
        """The warning in one line."""
        if self.urgency is Urgency.EXPIRED:
            return f"{self.name} expired on {self.expires}; {self.remedy}"
        return f"{self.name} expires in {self.days} days, on {self.expires}; {self.remedy}"


def warnings(items: Iterable[Lifetime], *, now: datetime) -> list[ExpiryWarning]:
    """Return what somebody must act on, the most urgent first; `days` are whole days left."""
    found = []
    for item in items:
        left = item.expires - now
        urgency = _urgency(left)
        # A day's grace: what renews at a contact is not late before the next one was due.
        on_its_own = item.renews_from is not None and now < item.renews_from + timedelta(days=1)
        if urgency is None or (on_its_own and urgency is not Urgency.EXPIRED):
            continue
        found.append(
            ExpiryWarning(
                name=item.name,
                urgency=urgency,
                expires=clock.rfc3339(item.expires),
                days=max(left.days, 0),
                remedy=item.remedy,
            )
        )
    return sorted(found, key=lambda warning: (warning.expires, warning.name))


def _urgency(left: timedelta) -> Urgency | None:
    if left <= timedelta():
        return Urgency.EXPIRED
    steps = zip(NOTICE_DAYS, (Urgency.DAYS_7, Urgency.DAYS_30, Urgency.DAYS_60), strict=True)
    return next((step for days, step in steps if left <= timedelta(days=days)), None)


def renewal_due(certificate: x509.Certificate) -> datetime:
    """Return when a certificate is to be renewed: at two thirds of its life."""
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return start + (end - start) * RENEW_AFTER
