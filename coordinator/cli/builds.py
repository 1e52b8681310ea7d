"""`coordinator build`, `builds`, `releases` and `evaluations`."""

import json
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coordinator.cli.options import Home, Json
from kit import door
from kit.errors import KitError
from kit.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Mapping

    from coordinator.build_records import EventRecord, Record
    from coordinator.builds import BuildResult
    from coordinator.engines import Engine

app = typer.Typer(no_args_is_help=True, help="Builds on record: plans, jobs and events.")
Number = Annotated[int, typer.Argument(help="The build's number.")]


class EngineName(StrEnum):
    """Where shards and experts are computed."""

    IN_PROCESS = "in-process"
    RAY = "ray"


def build(
    home: Home,
    study: Annotated[str, typer.Argument(help="The study's id.")],
    engine: Annotated[
        EngineName, typer.Option(help="Where shards and experts are computed.")
    ] = EngineName.IN_PROCESS,
    ray_address: Annotated[
        str, typer.Option("--ray-address", help="The Ray cluster (`HOST:PORT`), for `ray`.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Build and publish a release from the approved blueprints; goes on where it was stopped."""
    from coordinator import builds
    from coordinator.context import Coordinator

    chosen = _engine(engine, ray_address)
    with Coordinator.open(home) as coordinator:
        result = builds.build(coordinator, study, report=_BuildProgress(), engine=chosen)
    door.emit(result, as_json=as_json, text=_result_text(result))


def _result_text(result: "BuildResult") -> str:
    table = door.to_table(result)
    quality = table.pop("quality")
    return "\n".join([door.plain(table), *_quality_lines(quality)])


def _quality_lines(quality: "Mapping[str, Any] | None") -> list[str]:
    """Say to people what held-out synthetic images say; nothing where none were held out."""
    if not quality or not quality["held_out"]:
        return []
    whole = quality["held_out"]
    shown = (
        ("images", "images"),
        ("accuracy", "accuracy"),
        ("log loss before", "log_loss_before"),
        ("log loss", "log_loss"),
        ("calibration error before", "calibration_error_before"),
        ("calibration error", "calibration_error"),
        ("temperature", "temperature"),
    )
    told = ", ".join(f"{name} {_short(whole[key])}" for name, key in shown)
    lines = ["", f"on held-out synthetic images: {told}"]
    if "experts" in quality:
        names = ("images", "accuracy", "log_loss", "product_accuracy")
        rows = [
            (row["blueprint"][:16], *(_short(row[name]) for name in names))
            for row in quality["experts"]
        ]
        head = ("expert of", "images", "accuracy", "log loss", "in the product")
        lines += ["", door.columns(rows, head)]
    return lines


def _short(value: "int | str") -> str:
    return str(value) if isinstance(value, int) else f"{float(value):.3f}"


def _engine(name: EngineName, address: str) -> "Engine":
    from coordinator.engines.in_process import InProcess
    from coordinator.engines.on_ray import OnRay

    if (name is EngineName.RAY) != bool(address):
        raise KitError(
            "`--engine ray` and `--ray-address` go together",
            hint="give the address of the cluster that this machine belongs to (`HOST:PORT`)",
        )
    return OnRay(address) if address else InProcess()


class _BuildProgress:
    """Shows a build's phases as they come."""

    def __init__(self) -> None:
        self._phase = ""
        self._progress = Progress("", 0)

    def __call__(self, what: str, done: int, total: int) -> None:
        if what != self._phase:
            self._phase, self._progress = what, Progress(what, total)
        self._progress.update(done)


@app.command("list")
def list_builds(home: Home, as_json: Json = False) -> None:
    """List every build, newest first."""
    from coordinator import build_records
    from coordinator.context import Coordinator

    with Coordinator.open(home) as coordinator:
        found = build_records.list_builds(coordinator)
    rows = [
        (
            str(b.build),
            b.study,
            b.state,
            f"{b.jobs_done}/{b.jobs}",
            b.plan[:16],
            (b.release or "-")[:16],
        )
        for b in found
    ]
    text = door.columns(rows, ("build", "study", "state", "jobs", "plan", "release"))
    door.emit(found, as_json=as_json, text=text)


@app.command("show")
def show_build(
    home: Home,
    number: Number,
    follow: Annotated[
        bool, typer.Option("--follow", help="Print events as they come, until the build ends.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show a build's plan, jobs and events; with `--follow --json`, one event a line."""
    from coordinator import build_records
    from coordinator.context import Coordinator

    with Coordinator.open(home) as coordinator:
        if not follow:
            record = build_records.show(coordinator, number)
            door.emit(record, as_json=as_json, text=_record_text(record))
            return
        for event in build_records.follow(coordinator, number):
            line = json.dumps(door.to_table(event), sort_keys=True)
            print(line if as_json else _event_text(event), flush=True)


def _record_text(record: "Record") -> str:
    rows = [
        (
            str(j.job),
            j.kind,
            (j.blueprint or "-")[:16],
            j.label or "-",
            j.state,
            str(j.attempt),
        )
        for j in record.jobs
    ]
    jobs = door.columns(rows, ("job", "kind", "blueprint", "label", "state", "attempt"))
    events = "\n".join(map(_event_text, record.events))
    summary = "\n".join([door.plain(record.summary), *_quality_lines(record.quality)])
    return f"{summary}\n\n{jobs}\n\n{events}"


def _event_text(event: "EventRecord") -> str:
    what = event.kind if event.job is None else f"job {event.job} {event.kind}"
    details = ", ".join(f"{name} {door.plain(value)}" for name, value in event.details.items())
    return f"{event.time}  {what}" + (f": {details}" if details else "")


def releases(home: Home, as_json: Json = False) -> None:
    """List the releases, bases among them."""
    from coordinator import releases as services
    from coordinator.context import Coordinator

    with Coordinator.open(home) as coordinator:
        found = services.list_releases(coordinator)
    rows = [
        (
            r.digest[:16],
            r.study,
            r.role,
            r.state,
            r.published,
            ",".join(r.labels),
        )
        for r in found
    ]
    text = door.columns(rows, ("release", "study", "role", "state", "published", "labels"))
    door.emit(found, as_json=as_json, text=text)


def evaluations(
    home: Home,
    release: Annotated[
        str, typer.Argument(help="First digits of a release's digest; default: all.")
    ] = "",
    as_json: Json = False,
) -> None:
    """List what sites said of releases on their own images: rounded there, signed, once each."""
    from coordinator import site_metrics
    from coordinator.context import Coordinator

    with Coordinator.open(home) as coordinator:
        found = site_metrics.listing(coordinator, prefix=release)
    rows = [
        (
            r.release[:16],
            r.site,
            f"{r.images} or more",
            f"{r.accuracy_percent} %",
            "-" if r.balanced_accuracy_percent is None else f"{r.balanced_accuracy_percent} %",
            f"{r.grain_percent} points",
            r.received,
        )
        for r in found
    ]
    head = ("release", "site", "images", "accuracy", "balanced", "in steps of", "received")
    door.emit(found, as_json=as_json, text=door.columns(rows, head))
