"""One table from our errors to gRPC status codes; the unknown becomes INTERNAL without a text."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from coordinator.errors import NotAllowedError, NotFoundError, StateError
from federation.blueprint.errors import RefusalError
from kit.errors import FormatError, KitError, LimitError
from pki.errors import IdentityError

STATUS_OF: dict[type[KitError], grpc.StatusCode] = {
    RefusalError: grpc.StatusCode.INVALID_ARGUMENT,
    LimitError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    FormatError: grpc.StatusCode.INVALID_ARGUMENT,
    NotFoundError: grpc.StatusCode.NOT_FOUND,
    NotAllowedError: grpc.StatusCode.PERMISSION_DENIED,
    IdentityError: grpc.StatusCode.UNAUTHENTICATED,
    StateError: grpc.StatusCode.FAILED_PRECONDITION,
}
HINT_KEY = "hint-bin"

_log = logging.getLogger(__name__)


def status_of(error: KitError) -> grpc.StatusCode:
    """Return the status of the nearest class in the table."""
    for kind in type(error).__mro__:
        if kind in STATUS_OF:
            return STATUS_OF[kind]
    return grpc.StatusCode.INTERNAL


Caller = Callable[[grpc.ServicerContext], str | None]


def unary(method: Callable[[Any, str | None], Any], caller: Caller) -> Callable[..., Any]:
    """Wrap a method that answers once: find out who calls, then ask it."""

    def wrapped(request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return method(request, caller(context))
        except KitError as error:
            _abort(context, error)
        except Exception:  # noqa: BLE001 - the door: a stranger learns nothing, the log all
            _internal(context)

    return wrapped


def stream(
    method: Callable[[Any, str | None], Iterator[Any]], caller: Caller
) -> Callable[..., Any]:
    """Wrap a method that answers many times; errors come from the iteration as well."""

    def wrapped(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        try:
            yield from method(request, caller(context))
        except KitError as error:
            _abort(context, error)
        except Exception:  # noqa: BLE001 - the door, as above
            _internal(context)

    return wrapped


def _abort(context: grpc.ServicerContext, error: KitError) -> None:
    code = status_of(error)
    _log.warning("refused: %s", error)
    if error.hint:
        context.set_trailing_metadata(((HINT_KEY, error.hint.encode()),))
    context.abort(code, str(error) if code is not grpc.StatusCode.INTERNAL else "internal error")


def _internal(context: grpc.ServicerContext) -> None:
    _log.exception("internal error")
    context.abort(grpc.StatusCode.INTERNAL, "internal error")
