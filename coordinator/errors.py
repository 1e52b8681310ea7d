from kit.errors import KitError


class NotFoundError(KitError):
    """Nothing by that name or digest is here, or not for this site."""


class NotAllowedError(KitError):
    """The caller may not do this: wrong identity, revoked, or not enrolled."""


class StateError(KitError):
    """The thing exists but is in a state that does not allow this."""


class BusyError(KitError):
    """There is no place for this now; the caller may come back after `retry_after_s` seconds."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message, hint=f"try again in {retry_after_s:.0f} s")
        self.retry_after_s = retry_after_s
