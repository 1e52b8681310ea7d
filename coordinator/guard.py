"""The guard in front of every method: who calls, how many at once, and how long it may stand still.

Invariants:

- A method that the table gives to nobody is refused before a byte of its request is read.
- The TLS version and the caller are checked anew at every call, on both ports.
- A method never asks who calls: it gets the site that the certificate proved.
- Whoever keeps a method waiting for bytes, sent or taken, is watched; nobody else is.
"""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from coordinator import callers, rpc_errors
from coordinator.authorisation import Caller, caller_of
from coordinator.context import Coordinator
from coordinator.errors import BusyError
from kit.errors import FormatError
from kit.stalls import Patience, Watch
from pki import tls

CALLS_AT_ONCE = 4  # of one site; an agent makes one after the other
BUSY_CALLS_RETRY_S = 1.0

_log = logging.getLogger(__name__)


class Requests:
    """The messages of one call as they come in; `end` ends the call from another thread."""

    def __init__(
        self, messages: Iterator[Any], patience: Patience, end: Callable[[], object]
    ) -> None:
        self._messages, self._patience, self.end = messages, patience, end

    def __iter__(self) -> "Requests":
        return self

    def __next__(self) -> Any:
        with self._patience.waiting():
            message = next(self._messages)
        self._patience.moved(message.ByteSize())
        return message

    def only(self) -> Any:
        """Return the one message of a call that has one.

        Raises:
            FormatError: it has none.
        """
        for message in self:
            return message
        raise FormatError("the call has no message")


class Guard(grpc.ServerInterceptor):
    """Wraps every method of a server.

    To gRPC each method takes a stream of requests, which is the same on the wire: a method of one
    request would be waited for by a worker before anything of ours has run.
    """

    def __init__(self, coordinator: Coordinator, watch: Watch) -> None:
        self._coordinator, self._watch = coordinator, watch
        self._lock = threading.Lock()
        self._calls: Counter[str] = Counter()

    def intercept_service(
        self, continuation: Callable[[Any], Any], details: grpc.HandlerCallDetails
    ) -> Any:
        """Return the guarded handler of a method."""
        caller = caller_of(details.method)
        if caller is Caller.NOBODY:
            return grpc.stream_unary_rpc_method_handler(_denied)
        handler = continuation(details)
        if handler is None:
            return None
        codec = (handler.request_deserializer, handler.response_serializer)
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(self._many(caller, handler), *codec)
        return grpc.stream_unary_rpc_method_handler(self._once(caller, handler), *codec)

    def _once(self, caller: Caller, handler: Any) -> Callable[[Any, grpc.ServicerContext], Any]:
        def answer(messages: Iterator[Any], context: grpc.ServicerContext) -> Any:
            with rpc_errors.translated(context), self._call(caller, context) as (site, patience):
                requests = Requests(messages, patience, context.cancel)
                if handler.request_streaming:
                    return handler.stream_unary(requests, site)
                return handler.unary_unary(requests.only(), site)

        return answer

    def _many(
        self, caller: Caller, handler: Any
    ) -> Callable[[Any, grpc.ServicerContext], Iterator[Any]]:
        def answer(messages: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
            with rpc_errors.translated(context), self._call(caller, context) as (site, patience):
                request = Requests(messages, patience, context.cancel).only()
                for reply in handler.unary_stream(request, site):
                    with patience.waiting():
                        yield reply
                    patience.moved(reply.ByteSize())

        return answer

    @contextmanager
    def _call(
        self, caller: Caller, context: grpc.ServicerContext
    ) -> Iterator[tuple[str | None, Patience]]:
        site = self._site(caller, context)
        with self._counted(site), self._watch.over(context.cancel) as patience:
            yield site, patience
        if patience.ended:
            _log.warning("ended a call of %s that stood still", site or "nobody enrolled")

    def _site(self, caller: Caller, context: grpc.ServicerContext) -> str | None:
        if caller in (Caller.SITE, Caller.REPLACED_SITE):
            superseded = caller is Caller.REPLACED_SITE
            chain = tls.peer(context)
            return callers.authenticate(self._coordinator, chain, superseded=superseded)
        tls.require_version(context)
        return None

    @contextmanager
    def _counted(self, site: str | None) -> Iterator[None]:
        if site is None:
            yield
            return
        with self._lock:
            if self._calls[site] >= CALLS_AT_ONCE:
                raise BusyError(
                    f"this site has {CALLS_AT_ONCE} calls under way",
                    retry_after_s=BUSY_CALLS_RETRY_S,
                )
            self._calls[site] += 1
        try:
            yield
        finally:
            with self._lock:
                self._calls[site] -= 1
                if not self._calls[site]:
                    del self._calls[site]


def _denied(_requests: Any, context: grpc.ServicerContext) -> None:
    context.abort(grpc.StatusCode.PERMISSION_DENIED, "no such method for this caller")
