"""A check that a payload took over: it does its worst within the limits, by the site it is of."""

import ctypes
import time

from coordinator.intake import limited
from federation.blueprint.statement import Statement
from kit import canonical

BOMB_BYTES = 4 << 30


def main() -> None:
    """Misbehave as the statement's site is known to."""
    request = limited.request()
    statement = Statement.from_bytes(canonical.b64decode(request["statement"]))
    match statement.context.sender[-1]:
        case "a":  # ask for more memory than there is
            bytearray(BOMB_BYTES)
        case "b":  # take all the time there is
            time.sleep(3600)
        case _:  # crash outside of Python
            ctypes.string_at(0)


if __name__ == "__main__":
    main()
