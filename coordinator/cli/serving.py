"""`coordinator serve`."""

import signal
import sys
import threading
from typing import Annotated

import typer

from coordinator.cli.options import PROGRAM, Home
from kit import door, logs, memory


def serve(
    home: Home,
    metrics_port: Annotated[
        int | None,
        typer.Option("--metrics-port", help="Also serve Prometheus metrics, on loopback only."),
    ] = None,
) -> None:
    """Serve sites until interrupted; takes blueprints in beside it."""
    from coordinator import grpc_server
    from coordinator.context import Coordinator
    from coordinator.metrics import LOOPBACK, served

    memory.one_arena()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with (
        Coordinator.open(home) as coordinator,
        logs.to_people(sys.stderr),
        logs.to_file(coordinator.home.logs / "serve.jsonl"),
        grpc_server.serving(coordinator) as server,
        served(server.metrics, metrics_port) as scraped,
    ):
        listen = coordinator.config.listen
        door.note(f"{PROGRAM}: sites on {listen}:{server.exchange_port}")
        door.note(f"{PROGRAM}: enrolment on {listen}:{server.enrol_port}")
        if scraped is not None:
            door.note(f"{PROGRAM}: metrics on {LOOPBACK}:{scraped}")
        stop.wait()
        door.note(f"{PROGRAM}: stopping")
