"""`edge-agent serve` and `edge-agent releases`: what answers at this site, and who decides."""

import signal
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer

from edge_agent.cli.options import PROGRAM, HomeDir, Json, NamedRelease, StudyName
from kit import clock, door, logs, memory

app = typer.Typer(no_args_is_help=True, help="Decide which installed release answers at this site.")


def serve(
    home: HomeDir,
    study: Annotated[
        list[str] | None,
        typer.Option("--study", help="A study to serve; repeat. Default: all known here."),
    ] = None,
    adapted: Annotated[
        list[str] | None,
        typer.Option("--adapted", help="Serve too: a model that this site adapted; repeat."),
    ] = None,
    listen: Annotated[
        str, typer.Option("--listen", help="Loopback address and port; port 0 takes a free one.")
    ] = "127.0.0.1:8500",
) -> None:
    """Answer on loopback with the accepted releases (Open Inference Protocol, Prometheus).

    A release that is withdrawn, replaced or past its lease stops without a restart, and so does a
    model adapted from it. Whoever names an adapted model here accepts it.
    """
    from edge_agent import inference
    from edge_agent.adapting import records
    from edge_agent.home import Home
    from edge_agent.serving.figures import Figures
    from edge_agent.serving.models import Models
    from edge_agent.serving.server import parse_address, serving
    from federation.release.onnx_lint import NOTICE

    memory.one_arena()
    agent, (host, port) = Home.open(home), parse_address(listen)
    inference.require_one_runtime()
    names = [agent.study(name).id for name in study or [s.id for s in agent.studies()]]
    own = [records.read(agent, name).name for name in adapted or ()]
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    counts = Figures()
    models = Models(agent, names, counts, own)
    with (
        logs.to_people(sys.stderr),
        logs.to_file(agent.logs / "serve.jsonl"),
        serving(models, counts, host=host, port=port) as bound,
    ):
        shown = f"[{host}]" if ":" in host else host
        door.note(f"{PROGRAM}: http://{shown}:{bound}/v2 ({NOTICE})")
        missing = models.why_not(now=clock.utc_now())
        for name in (*names, *own):
            why = missing.get(name)
            words = (
                f"not served yet: {why}" if why else models.get(name, now=clock.utc_now()).digest
            )
            door.note(f"{PROGRAM}: {name}: {words}")
        stop.wait()
        door.note(f"{PROGRAM}: stopping")


@app.command("list")
def list_releases(home: HomeDir, as_json: Json = False) -> None:
    """Show every installed release: active, shadow, earlier or kept, and whether it may be used."""
    from edge_agent import rollout
    from edge_agent.home import Home

    rows = rollout.listing(Home.open(home), now=clock.utc_now())
    lines = [
        (r.study, r.release[:16], r.stage, r.created, r.evaluated or "-", r.unusable or "usable")
        for r in rows
    ]
    head = ("study", "release", "stage", "created", "evaluated", "now")
    door.emit(rows, as_json=as_json, text=door.columns(lines, head))


@app.command("accept")
def accept(
    home: HomeDir,
    study: StudyName,
    release: Annotated[
        str, typer.Option("--release", help="At least eight digits of the release's digest.")
    ],
    unevaluated: Annotated[
        bool, typer.Option("--unevaluated", help="Though nobody evaluated it on images from here.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Let a release answer from now on; `serve` takes it up without a restart."""
    from edge_agent import rollout
    from edge_agent.home import Home

    now = clock.utc_now()
    done = rollout.accept(Home.open(home), study, release, unevaluated=unevaluated, now=now)
    door.emit(done, as_json=as_json)


@app.command("rollback")
def rollback(home: HomeDir, study: StudyName, as_json: Json = False) -> None:
    """Let the release that was accepted before answer again."""
    from edge_agent import rollout
    from edge_agent.home import Home

    door.emit(rollout.rollback(Home.open(home), study, now=clock.utc_now()), as_json=as_json)


@app.command("export")
def export(
    home: HomeDir,
    study: StudyName,
    triton: Annotated[
        Path, typer.Option("--triton", help="A Triton model repository to write the model into.")
    ],
    release: NamedRelease = "",
    as_json: Json = False,
) -> None:
    """Write a release for a Triton server, which then learns of no withdrawal by itself."""
    from edge_agent import triton as layout
    from edge_agent.home import Home

    now = clock.utc_now()
    done = layout.export(Home.open(home), study, triton, prefix=release, now=now)
    door.emit(done, as_json=as_json)
