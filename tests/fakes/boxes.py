"""Things that stand on the way to a coordinator: listeners that end TLS, web servers, proxies."""

import contextlib
import socket
import ssl
import threading
from pathlib import Path
from tempfile import TemporaryDirectory

from pki import certificates, keys


@contextlib.contextmanager
def listening(serve):
    """Accept connections on loopback and give each to `serve(connection)`; yields the address."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        door.settimeout(0.1)
        stop = threading.Event()
        threads = []

        def accept():
            while not stop.is_set():
                try:
                    connection, _ = door.accept()
                except TimeoutError:
                    continue
                connection.settimeout(20)
                threads.append(threading.Thread(target=_guarded, args=(serve, connection)))
                threads[-1].start()

        keeper = threading.Thread(target=accept)
        keeper.start()
        try:
            yield f"127.0.0.1:{door.getsockname()[1]}"
        finally:
            stop.set()
            for thread in [keeper, *threads]:
                thread.join()


def _guarded(serve, connection):
    with connection, contextlib.suppress(OSError):
        serve(connection)


@contextlib.contextmanager
def tls_listener(key, chain, *, version=None):
    """Whatever holds `key` and `chain` (leaf first) and ends TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["h2"])
    if version:
        context.maximum_version = version
    with TemporaryDirectory() as folder:
        for name, data in (("key", keys.pem(key)), ("chain", certificates.pem(*chain))):
            (Path(folder) / name).write_bytes(data)
        context.load_cert_chain(Path(folder) / "chain", Path(folder) / "key")

    def serve(connection):
        with context.wrap_socket(connection, server_side=True) as secure:
            secure.recv(1)

    with listening(serve) as address:
        yield address


@contextlib.contextmanager
def saying(words):
    """Something that answers whatever it is asked with `words`."""

    def serve(connection):
        connection.recv(4096)
        connection.sendall(words)

    with listening(serve) as address:
        yield address


@contextlib.contextmanager
def proxy(target, *, credentials=None):
    """An HTTP CONNECT proxy that leads to one address only; yields its address and the requests."""
    seen = []

    def serve(connection):
        request = b""
        while b"\r\n\r\n" not in request:
            request += connection.recv(4096)
        seen.append(request)
        if credentials and credentials.encode() not in request:
            connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
        elif request.split()[:2] != [b"CONNECT", target.encode()]:
            connection.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")
        else:
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            host, port = target.split(":")
            with socket.create_connection((host, int(port)), timeout=20) as onward:
                _pump(connection, onward)

    with listening(serve) as address:
        yield address, seen


def _pump(one, other):
    def copy(source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    back = threading.Thread(target=copy, args=(other, one))
    back.start()
    copy(one, other)
    back.join()
