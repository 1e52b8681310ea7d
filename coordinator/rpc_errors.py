"""One table from our errors to gRPC status codes; the unknown becomes INTERNAL without a text."""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from coordinator.errors import BusyError, NotAllowedError, NotFoundError, StateError
from federation.blueprint.errors import RefusalError
from kit.errors import FormatError, KitError, LimitError
from pki.errors import IdentityError, RequestError

STATUS_OF: dict[type[KitError], grpc.StatusCode] = {
    RefusalError: grpc.StatusCode.INVALID_ARGUMENT,
    LimitError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    BusyError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    FormatError: grpc.StatusCode.INVALID_ARGUMENT,
    NotFoundError: grpc.StatusCode.NOT_FOUND,
    NotAllowedError: grpc.StatusCode.PERMISSION_DENIED,
    IdentityError: grpc.StatusCode.UNAUTHENTICATED,
    RequestError: grpc.StatusCode.INVALID_ARGUMENT,
    StateError: grpc.StatusCode.FAILED_PRECONDITION,
}
HINT_KEY = "hint-bin"
RETRY_KEY = "grpc-retry-pushback-ms"  # gRPC's own word for it (gRFC A6)

_log = logging.getLogger(__name__)


def status_of(error: KitError) -> grpc.StatusCode:
    """Return the status of the nearest class in the table."""
    for kind in type(error).__mro__:
        if kind in STATUS_OF:
            return STATUS_OF[kind]
    return grpc.StatusCode.INTERNAL


@contextmanager
def translated(context: grpc.ServicerContext) -> Iterator[None]:
    """End the call with the status of whatever the block raises."""
    try:
        yield
    except KitError as error:
        _abort(context, error)
    except grpc.RpcError:
        _log.info("a caller went away")
        context.abort(grpc.StatusCode.CANCELLED, "the call was ended")
    except Exception:  # noqa: BLE001 - the door: a stranger learns nothing, the log all
        _log.exception("internal error")
        context.abort(grpc.StatusCode.INTERNAL, "internal error")


def _abort(context: grpc.ServicerContext, error: KitError) -> None:
    code = status_of(error)
    _log.log(
        logging.INFO if isinstance(error, BusyError) else logging.WARNING, "refused: %s", error
    )
    trailers: list[tuple[str, str | bytes]] = []
    if error.hint:
        trailers.append((HINT_KEY, error.hint.encode()))
    if isinstance(error, BusyError):
        trailers.append((RETRY_KEY, str(math.ceil(error.retry_after_s * 1000))))
    if trailers:
        context.set_trailing_metadata(tuple(trailers))
    context.abort(code, str(error) if code is not grpc.StatusCode.INTERNAL else "internal error")
