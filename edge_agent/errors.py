from kit.errors import KitError


class NotEnrolledError(KitError):
    """This home has no certificate yet."""


class WaitingError(KitError):
    """Somebody else has to act first; the same command goes on afterwards."""

    exit_code = 3


class UnreachableError(KitError):
    """The coordinator did not answer."""


class TrustError(KitError):
    """What the coordinator says contradicts what it proved before."""
