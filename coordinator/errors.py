from kit.errors import KitError


class NotFoundError(KitError):
    """Nothing by that name or digest is here, or not for this site."""


class NotAllowedError(KitError):
    """The caller may not do this: wrong identity, revoked, or not enrolled."""


class StateError(KitError):
    """The thing exists but is in a state that does not allow this."""
