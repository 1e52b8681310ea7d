"""Calls: who asked for what, how it ended and how long it took; for the log and the metrics.

A call has a request id, which the caller gets back in the trailing metadata, and its site's
pseudonym. Nothing of a request or an answer is logged.
"""

import logging
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import sqlalchemy as sa
from prometheus_client import CollectorRegistry, Counter, Histogram

from coordinator import state
from coordinator.context import Coordinator
from kit import logs
from kit.errors import KitError
from pki import certificates, tls

REQUEST_KEY = "request-id"
_BUCKETS_S = (0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 86400.0)

_log = logging.getLogger(__name__)


class CallLog(grpc.ServerInterceptor):
    """The outermost interceptor: sees every call, those that are refused included."""

    def __init__(self, coordinator: Coordinator, registry: CollectorRegistry) -> None:
        self._coordinator = coordinator
        self._pseudonyms: dict[str, str] = {}
        labels = ("method", "code")
        self._ended = Counter(
            "coordinator_calls",
            "Calls that ended, by method and status.",
            labels,
            registry=registry,
        )
        self._seconds = Histogram(
            "coordinator_call_seconds",
            "How long calls took.",
            ("method",),
            buckets=_BUCKETS_S,
            registry=registry,
        )

    def intercept_service(
        self, continuation: Callable[[Any], Any], details: grpc.HandlerCallDetails
    ) -> Any:
        """Return the method's handler with this log around it."""
        handler = continuation(details)
        if handler is None:
            return None
        method = details.method.rpartition("/")[2] if _is_ours(details.method) else "other"
        for kind in ("unary_unary", "stream_unary"):
            if getattr(handler, kind):
                handler = handler._replace(**{kind: self._once(getattr(handler, kind), method)})
        for kind in ("unary_stream", "stream_stream"):
            if getattr(handler, kind):
                handler = handler._replace(**{kind: self._many(getattr(handler, kind), method)})
        return handler

    def _once(self, behaviour: Callable[..., Any], method: str) -> Callable[..., Any]:
        def logged(request: Any, context: grpc.ServicerContext) -> Any:
            with self._call(method, context):
                return behaviour(request, context)

        return logged

    def _many(self, behaviour: Callable[..., Any], method: str) -> Callable[..., Any]:
        def logged(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            with self._call(method, context):
                yield from behaviour(request, context)

        return logged

    @contextmanager
    def _call(self, method: str, context: grpc.ServicerContext) -> Iterator[None]:
        request, started = secrets.token_hex(8), time.monotonic()
        site = self._pseudonym(context)
        who = {"site": site} if site else {}
        context.send_initial_metadata(((REQUEST_KEY, request),))
        is_whole = False
        with logs.bound(request=request, method=method, **who):
            try:
                yield
                is_whole = True
            finally:
                seconds = time.monotonic() - started
                code = _code(context, is_whole=is_whole)
                self._ended.labels(method, code).inc()
                self._seconds.labels(method).observe(seconds)
                _log.info("call ended", extra=logs.fields(code=code, seconds=seconds))

    def _pseudonym(self, context: grpc.ServicerContext) -> str | None:
        """Return whose certificate this is by the registry; not whether it may be used."""
        try:
            fingerprint = certificates.fingerprint(tls.peer(context)[0])
        except KitError:
            return None
        if fingerprint not in self._pseudonyms:
            table = state.sites
            is_its = (table.c.tls_fingerprint == fingerprint) | (
                table.c.tls_previous == fingerprint
            )
            with self._coordinator.state.read() as tx:
                row = tx.one(sa.select(table.c.pseudonym).where(is_its))
            if row is None:
                return None
            self._pseudonyms[fingerprint] = row.pseudonym
        return self._pseudonyms[fingerprint]


def _is_ours(method: str) -> bool:
    return method.startswith("/hospital_edge_kit.")


def _code(context: Any, *, is_whole: bool) -> str:
    code = context.code()
    if isinstance(code, grpc.StatusCode):
        return code.name
    return grpc.StatusCode.OK.name if is_whole else grpc.StatusCode.CANCELLED.name
