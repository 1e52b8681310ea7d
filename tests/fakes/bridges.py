"""A bridge that a gRPC client crosses in plain text and that speaks TLS onward, of any version.

gRPC for Python cannot be told to speak an old TLS version, so real calls cross this.
"""

import asyncio
import contextlib
import ssl
import threading


@contextlib.contextmanager
def bridge(address, context):
    """Forward a loopback port to `address` (host, port) under an `ssl` context; yields the port."""
    ready, found = threading.Event(), {"crossings": []}

    async def cross(reader, writer):
        found["crossings"].append(asyncio.current_task())
        await _cross(reader, writer, address, context)

    async def serve():
        found["loop"], found["stop"] = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(cross, "127.0.0.1", 0)
        found["port"] = server.sockets[0].getsockname()[1]
        ready.set()
        await found["stop"].wait()
        server.close()
        await asyncio.gather(*found["crossings"], return_exceptions=True)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    ready.wait(20)
    try:
        yield found["port"]
    finally:
        found["loop"].call_soon_threadsafe(found["stop"].set)
        thread.join()


async def _cross(reader, writer, address, context):
    host, port = address
    onward = None
    with contextlib.suppress(OSError, ssl.SSLError):  # the handshake failed: hang up
        back, onward = await asyncio.open_connection(host, port, ssl=context, server_hostname=host)
        ways = [asyncio.ensure_future(_copy(*way)) for way in ((reader, onward), (back, writer))]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
    for each in filter(None, (writer, onward)):
        each.transport.abort()
        with contextlib.suppress(OSError, ssl.SSLError):
            await each.wait_closed()


async def _copy(source, sink):
    while data := await source.read(1 << 16):
        sink.write(data)
        await sink.drain()
