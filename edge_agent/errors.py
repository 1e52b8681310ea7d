from kit.errors import KitError


class NotEnrolledError(KitError):
    """This home has no certificate yet."""


class WaitingError(KitError):
    """Somebody else has to act first; the same command goes on afterwards."""

    exit_code = 3


class AlarmError(KitError):
    """The log shows something about this site that it did not do; a person has to look."""

    exit_code = 4


class UnreachableError(KitError):
    """The coordinator did not answer."""


class TrustError(KitError):
    """What the coordinator says contradicts what it proved before."""


class BusyError(KitError):
    """The coordinator has no place for this now; it asked for `retry_after_s` of patience."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message, hint=f"run the same command again in {retry_after_s:.0f} s")
        self.retry_after_s = retry_after_s
