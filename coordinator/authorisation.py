"""Who may call what: one table, made from the contract itself.

Every method of `protos/exchange.proto` says at its own line who may call it. A method that does
not say, or that the contract does not know, is for nobody.
"""

from enum import Enum
from typing import Any

from protos import exchange_pb2 as pb


class Caller(Enum):
    """Who may call a method."""

    NOBODY = pb.NOBODY
    ANYBODY = pb.ANYBODY  # over TLS 1.3, without a client certificate
    SITE = pb.SITE  # an enrolled site, proved by its certificate
    REPLACED_SITE = pb.REPLACED_SITE  # also by one that was replaced but has not expired


def _table() -> dict[str, Caller]:
    said: Any = pb.caller
    return {
        f"/{service.full_name}/{method.name}": Caller(method.GetOptions().Extensions[said])
        for service in pb.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }


AUTHORISED: dict[str, Caller] = _table()


def caller_of(method: str) -> Caller:
    """Return who may call a method by its full name; what is not in the table is for nobody."""
    return AUTHORISED.get(method, Caller.NOBODY)
