"""A box between a site and its coordinator: forwards and counts, or speaks HTTP CONNECT."""

import contextlib
import socket
import threading

BUFFER_BYTES = 64 << 10


class Relay:
    """Forwards connections on a loopback port to `target`, or to whom CONNECT names."""

    def __init__(self, target=None, *, credentials=None, keep=0):
        self.target, self.credentials, self._keep = target, credentials, keep
        self.up = self.down = 0  # bytes from the client, and to it, without CONNECT's own
        self.seen = b""  # the first of both
        self.heads = []  # what clients said to the proxy itself
        self._lock, self._open = threading.Lock(), []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        self._thread.join()

    def cut(self):
        """Pull the cable of every connection."""
        with self._lock:
            ends, self._open = self._open, []
        for each in ends:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        try:
            target = self.target or self._connect(client)
            if target is None:
                client.close()
                return
            server = socket.create_connection(target, timeout=10)
            server.settimeout(None)
        except OSError:
            client.close()
            return
        if self.target is None:
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with self._lock:
            self._open += [client, server]
        threading.Thread(target=self._copy, args=(server, client, "down"), daemon=True).start()
        self._copy(client, server, "up")

    def _connect(self, client):
        head = b""
        while b"\r\n\r\n" not in head:
            data = client.recv(BUFFER_BYTES)
            if not data:
                return None
            head += data
        self.heads.append(head.decode())
        if self.credentials and f"Basic {self.credentials}" not in self.heads[-1]:
            client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
            return None
        host, _, port = self.heads[-1].split()[1].rpartition(":")
        return host, int(port)

    def _copy(self, source, sink, way):
        with contextlib.suppress(OSError):
            while data := source.recv(BUFFER_BYTES):
                with self._lock:
                    setattr(self, way, getattr(self, way) + len(data))
                    if len(self.seen) < self._keep:
                        self.seen += data
                sink.sendall(data)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
