"""A line between a site and its coordinator: rate, delay and loss, in user space, over TCP.

Not netem: what is lost is not a packet but time. Every 1448 bytes are lost with the given chance,
and everything behind them waits one round trip, as TCP's fast retransmission would make it wait.
"""

import contextlib
import queue
import random
import socket
import threading
import time

SEGMENT_BYTES = 1448


class Line:
    """Forwards a loopback port to `target`; `up` counts what clients sent over all connections.

    `rate_bit_s` is for each direction, `delay_s` for one way. `watch` is called with the number
    of bytes sent up so far, before they are passed on.
    """

    def __init__(self, target, *, rate_bit_s=0, delay_s=0.0, loss=0.0, watch=None, seed=1):
        self._target, self._rate, self._delay, self._loss = target, rate_bit_s, delay_s, loss
        self._watch, self._draw = watch, random.Random(seed)
        self.up = self.lost = 0
        self._open = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for end in self._open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client):
        try:
            server = socket.create_connection(self._target, timeout=10)
        except OSError:
            client.close()
            return
        server.settimeout(None)
        self._open += [client, server]
        for source, sink, is_up in ((client, server, True), (server, client, False)):
            in_flight = queue.Queue(maxsize=64)
            words = (source, in_flight, is_up)
            threading.Thread(target=self._take, args=words, daemon=True).start()
            threading.Thread(target=self._give, args=(sink, in_flight), daemon=True).start()

    def _take(self, source, in_flight, is_up):
        """Read at the line's rate and stamp every segment with the time it arrives."""
        free_at = 0.0
        stall_s = 2 * self._delay
        with contextlib.suppress(OSError):
            while data := source.recv(SEGMENT_BYTES):
                if is_up:
                    self.up += len(data)
                    if self._watch:
                        self._watch(self.up)
                now = time.monotonic()
                free_at = max(now, free_at) + (8 * len(data) / self._rate if self._rate else 0)
                if self._draw.random() < self._loss:
                    free_at += stall_s
                    self.lost += 1
                in_flight.put((free_at + self._delay, data))
        in_flight.put((0.0, b""))

    def _give(self, sink, in_flight):
        with contextlib.suppress(OSError):
            while True:
                arrives, data = in_flight.get()
                if not data:
                    break
                time.sleep(max(0.0, arrives - time.monotonic()))
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
        while in_flight.get()[1]:  # a sink that broke must not stop the reader
            pass
