from kit.errors import KitError


class IdentityError(KitError):
    """A certificate, key or token does not prove who it should prove."""


class WrongPassphraseError(IdentityError):
    """A passphrase does not open what it should."""


class RequestError(IdentityError):
    """A certificate request that is malformed or does not prove its key: the sender's mistake."""
