"""The HTTP door of `serve`: loopback only, bounded, no browser, no file behind any path.

A WSGI application on waitress. A web page in a browser of this machine is kept out by three rules:
the `Host` must be a name of loopback (DNS rebinding), a request with an `Origin` is refused, and no
answer carries a CORS header. Bodies stay in memory: waitress would put large ones into files.
"""

import json
import re
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any

import waitress
from waitress import wasyncore

from edge_agent.serving import figures, protocol
from edge_agent.serving.figures import Figures
from edge_agent.serving.models import Models, NotServedError, Served
from edge_agent.serving.protocol import RequestError
from federation.release.onnx_lint import NOTICE
from kit import canonical, clock
from kit.errors import KitError

DEFAULT_ADDRESS = "127.0.0.1:8500"
SERVER = "hospital-edge-kit"
THREADS = 4
MAX_CONNECTIONS = 64
IDLE_S = 20  # a connection on which nothing moves
TICK_S = 5.0
MAX_HEADER_BYTES = 16 << 10
MAX_PATH_CHARACTERS = 512

JSON, RAW = "application/json", "application/octet-stream"
_HOST = re.compile(r"(?:localhost|127(?:\.[0-9]{1,3}){3}|\[::1\])(?::[0-9]{1,5})?")
_HEADER_LENGTH = "HTTP_INFERENCE_HEADER_CONTENT_LENGTH"

Environ = Mapping[str, Any]
Start = Callable[[str, list[tuple[str, str]]], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer; `releases` names by model what spoke."""

    status: int
    body: bytes
    releases: Mapping[str, str]
    media_type: str = JSON
    json_bytes: int | None = None


class Application:
    """The WSGI application over some models."""

    def __init__(self, models: Models, counts: Figures) -> None:
        self._models, self._counts = models, counts

    def __call__(self, environ: Environ, start: Start) -> Iterable[bytes]:
        """Answer one request; whatever it asks, the answer says what must not be done with it."""
        try:
            _require_local(environ)
            reply = self._route(environ)
        except RequestError as error:
            self._counts.add("edge_agent_refused_requests", {"status": str(error.status)})
            known = {} if error.status == HTTPStatus.FORBIDDEN else self._releases()
            reply = _error(error, status=error.status, releases=known)
        headers = [
            ("Content-Type", reply.media_type),
            ("Content-Length", str(len(reply.body))),
            ("Notice", NOTICE),
            ("Release-Digest", ", ".join(f"{k}={v}" for k, v in reply.releases.items()) or "none"),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
        ]
        if reply.json_bytes is not None:
            headers.append(("Inference-Header-Content-Length", str(reply.json_bytes)))
        start(f"{reply.status} {HTTPStatus(reply.status).phrase}", headers)
        return [reply.body]

    def _route(self, environ: Environ) -> Reply:
        path = str(environ.get("PATH_INFO", ""))
        if len(path) > MAX_PATH_CHARACTERS:
            raise RequestError("the path is too long", status=404)
        match path.split("/")[1:]:
            case ["metrics"]:
                self._want(environ, "GET")
                self._models.why_not(now=clock.utc_now())
                return self._of_all(200, self._counts.text(), media_type=figures.CONTENT_TYPE)
            case ["v2"]:
                self._want(environ, "GET")
                return self._of_all(200, protocol.encode(self._about()))
            case ["v2", "health", "live" | "ready" as what]:
                self._want(environ, "GET")
                return self._health(what)
            case ["v2", "models", name, *rest]:
                return self._model(environ, name, rest)
        raise RequestError("there is nothing at this path", status=404)

    def _about(self) -> dict[str, Any]:
        return {
            "name": SERVER,
            "version": _version(),
            "extensions": list(protocol.EXTENSIONS),
            "models": list(self._models.names),
            "releases": self._releases(),
            "notice": NOTICE,
        }

    def _health(self, what: str) -> Reply:
        missing = self._models.why_not(now=clock.utc_now()) if what == "ready" else {}
        table = {what: not missing, "missing": missing, "notice": NOTICE}
        return self._of_all(503 if missing else 200, protocol.encode(table))

    def _model(self, environ: Environ, name: str, rest: list[str]) -> Reply:
        if name not in self._models.names:
            raise RequestError(f"there is no model `{canonical.printable(name)}`", status=404)
        version = ""
        if rest[:1] == ["versions"] and len(rest) > 1:
            _, version, *rest = rest
        if rest not in ([], ["ready"], ["infer"]):
            raise RequestError("there is nothing at this path", status=404)
        self._want(environ, "POST" if rest == ["infer"] else "GET")
        try:
            served = self._models.get(name, now=clock.utc_now())
        except NotServedError as error:
            if rest == ["infer"]:
                self._fail(name, "none", "OTHER")
            return _error(error, status=503)
        if version not in ("", served.digest):
            raise RequestError("another release answers for this model now", status=404)
        if rest == ["infer"]:
            return self._infer(environ, served)
        who = {name: served.digest}
        lineage = protocol.lineage(served.digest, adapted_from=_source(served))
        table: dict[str, Any] = protocol.metadata(name, lineage, served.model.contract)
        if rest == ["ready"]:
            table = {"name": name, "ready": True, "parameters": table["parameters"]}
        return Reply(status=200, body=protocol.encode(table), releases=who)

    def _infer(self, environ: Environ, served: Served) -> Reply:
        name, who = served.name, {served.name: served.digest}
        labels = {"model": name, "version": served.digest}
        count = self._counts
        with count.pending(labels), count.timed("nv_inference_request_duration_us", labels):
            try:
                with count.timed("nv_inference_compute_input_duration_us", labels):
                    asked = _asked(environ, served)
                with count.timed("nv_inference_compute_infer_duration_us", labels):
                    rows = served.model.predict(list(asked.images))
                with count.timed("nv_inference_compute_output_duration_us", labels):
                    lineage = protocol.lineage(served.digest, adapted_from=_source(served))
                    identity = protocol.identity(name, lineage, served.model.labels)
                    made = protocol.answer(asked, rows, identity)
            except RequestError as error:
                self._fail(name, served.digest, "REJECTED")
                return _error(error, status=error.status, releases=who)
            except KitError as error:
                self._fail(name, served.digest, "BACKEND")
                return _error(error, status=500, releases=who)
        count.add("nv_inference_request_success", labels)
        count.add("nv_inference_exec_count", labels)
        count.add("nv_inference_count", labels, len(rows))
        self._models.shadow(served, asked.images, rows)
        return Reply(
            status=200,
            body=made.body,
            releases=who,
            media_type=JSON if made.json_bytes is None else RAW,
            json_bytes=made.json_bytes,
        )

    def _fail(self, model: str, version: str, reason: str) -> None:
        labels = {"model": model, "version": version, "reason": reason}
        self._counts.add("nv_inference_request_failure", labels)

    @staticmethod
    def _want(environ: Environ, method: str) -> None:
        if environ.get("REQUEST_METHOD") != method:
            raise RequestError(f"this path takes {method} alone", status=405)

    def _of_all(self, status: int, body: bytes, *, media_type: str = JSON) -> Reply:
        return Reply(status=status, body=body, releases=self._releases(), media_type=media_type)

    def _releases(self) -> dict[str, str]:
        found = {}
        for name in self._models.names:
            try:
                found[name] = self._models.get(name, now=clock.utc_now()).digest
            except NotServedError:
                continue
        return found


def _require_local(environ: Environ) -> None:
    """Refuse what a browser sends for a page of somebody else's.

    Raises:
        RequestError: it is refused.
    """
    if not _HOST.fullmatch(str(environ.get("HTTP_HOST", ""))):
        raise RequestError("the Host is no name of this machine's loopback", status=403)
    if "HTTP_ORIGIN" in environ:
        raise RequestError("requests of web pages are not answered", status=403)


def _source(served: Served) -> str:
    """Return the release that a model was adapted from, or nothing."""
    return served.release.digest if served.is_adapted else ""


def _asked(environ: Environ, served: Served) -> protocol.Inference:
    if environ.get("HTTP_CONTENT_ENCODING", "identity") != "identity":
        raise RequestError("compressed bodies are not taken", status=415)
    text = environ.get(_HEADER_LENGTH)
    if text is not None and not (text.isascii() and text.isdecimal() and len(text) < 12):
        raise RequestError("Inference-Header-Content-Length is not a number of bytes")
    body = environ["wsgi.input"].read(protocol.MAX_BODY_BYTES)
    json_bytes = None if text is None else int(text)
    return protocol.parse(body, served.model.contract, json_bytes=json_bytes)


def _error(error: KitError, *, status: int, releases: Mapping[str, str] | None = None) -> Reply:
    table = {"error": str(error), "notice": NOTICE}
    if error.hint:
        table["hint"] = error.hint
    return Reply(status=status, body=json.dumps(table).encode(), releases=releases or {})


def _version() -> str:
    from importlib.metadata import version

    return version(SERVER)


def parse_address(text: str) -> tuple[str, int]:
    """Return host and port of `ADDRESS:PORT`; the address is a loopback one, in numbers.

    Raises:
        KitError: it is another one. Nothing here asks who is calling.
    """
    host, _, port = text.rpartition(":")
    try:
        address, number = ip_address(host.strip("[]")), int(port)
    except ValueError as error:
        raise KitError(
            f"`{canonical.printable(text)}` is no address and port",
            hint=f"such as `{DEFAULT_ADDRESS}`; port 0 takes a free one",
        ) from error
    if not address.is_loopback or not 0 <= number <= 65535:
        raise KitError(
            f"`{address}` is not loopback: `serve` asks nobody who they are, so it listens to this"
            " machine alone",
            hint="put a reverse proxy that asks for certificates on this machine before it",
        )
    return str(address), number


@contextmanager
def serving(models: Models, counts: Figures, *, host: str, port: int) -> Iterator[int]:
    """Answer on a loopback port while the block runs; yields the port.

    Raises:
        KitError: the port is taken.
    """
    sockets: dict[int, Any] = {}
    server = waitress.create_server(
        Application(models, counts),
        map=sockets,
        sockets=[_bound(host, port)],
        threads=THREADS,
        connection_limit=MAX_CONNECTIONS,
        channel_timeout=IDLE_S,
        cleanup_interval=min(IDLE_S, 10),
        max_request_header_size=MAX_HEADER_BYTES,
        max_request_body_size=protocol.MAX_BODY_BYTES,
        inbuf_overflow=protocol.MAX_BODY_BYTES + MAX_HEADER_BYTES,
        outbuf_overflow=protocol.MAX_BODY_BYTES,
        log_socket_errors=False,
        ident=f"{SERVER} ({NOTICE})",
    )
    stop = threading.Event()
    works = [
        threading.Thread(target=_loop, args=(sockets, stop), name="http"),
        threading.Thread(target=_tick, args=(models, stop), name="tick"),
        threading.Thread(target=models.work_shadows, name="shadow"),
    ]
    for work in works:
        work.start()
    try:
        yield int(server.effective_port)
    finally:
        stop.set()
        models.stop_shadows()
        for work in works:
            work.join()
        server.task_dispatcher.shutdown()
        wasyncore.close_all(sockets)


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise KitError(
            f"cannot listen on `{host}:{port}`", hint="choose another port with --listen"
        ) from error


def _loop(sockets: dict[int, Any], stop: threading.Event) -> None:
    while not stop.is_set():
        wasyncore.loop(timeout=0.5, map=sockets, count=1)


def _tick(models: Models, stop: threading.Event) -> None:
    """Look at what decides though nobody asks, so that what is withdrawn leaves memory too."""
    while not stop.wait(TICK_S):
        models.why_not(now=clock.utc_now())
