"""The one error root: a line for people, and what to do about it."""


class KitError(Exception):
    """Something a person can act on.

    The message is lower case, without a full stop; `hint` says what to do next.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class FormatError(KitError):
    """Bytes that are not what their specification says; the message names the step."""


class LimitError(KitError):
    """A named limit was passed."""


class DiskFullError(KitError):
    """No space left; what was asked for did not happen, and may be asked for again."""


class InterruptedRunError(KitError):
    """Long work was stopped by the user; the same command goes on from there."""

    exit_code = 130
