"""One federation for the whole folder, and ways to make a hostile blueprint of an honest one."""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from federation import dsse
from federation.blueprint.envelope import Sealed
from federation.blueprint.statement import PAYLOAD_TYPE
from kit import canonical
from tests.fakes import federation
from tests.fakes.federation import Federation, Member

Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="session")
def world() -> Federation:
    return federation.found()


@pytest.fixture(scope="session")
def honest(world: Federation) -> Sealed:
    return world.seal(world.a)


@pytest.fixture(scope="session")
def resign(world: Federation) -> Callable[..., Sealed]:
    """Return a blueprint whose statement was changed and signed again by its own site."""

    def make(sealed: Sealed, change: Change, *, by: Member | None = None) -> Sealed:
        signer = by or world.a
        payload = dsse.parse(sealed.envelope, PAYLOAD_TYPE).payload
        table = copy.deepcopy(canonical.decode(payload))
        change(table)
        envelope = dsse.sign(
            canonical.encode(table), PAYLOAD_TYPE, signer.signing_key, keyid=signer.keyid
        )
        return dataclasses.replace(sealed, envelope=envelope)

    return make
