"""`coordinator study`."""

from pathlib import Path
from typing import Annotated

import typer

from coordinator.cli.options import Home, Json, Roots
from kit import door

app = typer.Typer(no_args_is_help=True, help="Create, list, show, extend and close studies.")

Days = Annotated[
    int | None,
    typer.Option(
        "--key-days",
        help="Days for which this home may sign recipient keys by itself; at most 400 [180].",
    ),
]


@app.command("create")
def create(
    home: Home,
    study: Annotated[str, typer.Argument(help="The study's id.")],
    classes: Annotated[str, typer.Option(help="Class labels in order, separated by commas.")],
    channels: Annotated[int, typer.Option(help="1 for grey, 3 for colour.")],
    height: Annotated[int, typer.Option(help="Pixels.")],
    width: Annotated[int, typer.Option(help="Pixels.")],
    title: Annotated[str, typer.Option(help="One line for people.")] = "",
    epsilon: Annotated[float, typer.Option(help="Largest epsilon per unit.")] = 8.0,
    delta: Annotated[float, typer.Option(help="Largest delta; at most 1e-5.")] = 1e-5,
    unit: Annotated[str, typer.Option(help="patient, or image.")] = "patient",
    personal_data: Annotated[
        str, typer.Option(help="refused; or allowed: blueprints without differential privacy.")
    ] = "refused",
    preset: Annotated[
        str, typer.Option(help="Generator presets allowed, by commas; chosen by size if empty.")
    ] = "",
    shard_size: Annotated[int, typer.Option(help="Synthetic images per site and class.")] = 300,
    sampler_steps: Annotated[int, typer.Option(help="Steps of the sampler.")] = 10,
    classifier_steps: Annotated[int, typer.Option(help="Training steps.")] = 600,
    mode: Annotated[
        str,
        typer.Option(help="monolithic: one classifier; experts: one per blueprint, as a product."),
    ] = "monolithic",
    classifier: Annotated[
        str, typer.Option(help="resnet-small, resnet-small-groupnorm, or resnet-large.")
    ] = "resnet-small",
    augmentation: Annotated[
        str,
        typer.Option(help="none, standard, or symmetric: mirror images too, for cells and tissue."),
    ] = "standard",
    calibration: Annotated[
        str, typer.Option(help="temperature: fitted on held-out synthetic images; or none.")
    ] = "temperature",
    held_out: Annotated[
        int | None, typer.Option(help="Last images of a shard not trained on; a tenth if not said.")
    ] = None,
    minimum_per_class: Annotated[int, typer.Option(help="Fewer units: not trained on.")] = 10,
    quorum: Annotated[int, typer.Option(help="Reviewers who must approve.")] = 1,
    reviewer: Annotated[
        list[str] | None,
        typer.Option(help="NAME=PUBLIC-KEY (hexadecimal); repeat. Default: those of `init`."),
    ] = None,
    endorsed: Annotated[
        list[Path] | None,
        typer.Option(help="A reviewer's file from their site's `edge-agent endorse`; repeat."),
    ] = None,
    outbound_approval: Annotated[
        bool,
        typer.Option(
            "--outbound-approval", help="Every blueprint needs a second person's word at its site."
        ),
    ] = False,
    lease_days: Annotated[
        int, typer.Option(help="Days after its last contact that a site predicts; 0: no lease.")
    ] = 0,
    synthetic_sets: Annotated[
        str,
        typer.Option(
            help="Sites get a release's synthetic images: withheld; private: where every blueprint"
            " in it has differential privacy; or personal-data: also where one has not."
        ),
    ] = "withheld",
    metrics_from: Annotated[
        int,
        typer.Option(
            help="Sites may send rounded metrics of releases, from so many images on; 0: never."
        ),
    ] = 0,
    roots: Roots = None,
    days: Days = None,
    as_json: Json = False,
) -> None:
    """Sign a study manifest with the offline study key and open it to every enrolled site."""
    from coordinator import registry, studies
    from coordinator.context import Coordinator
    from coordinator.roots import study_key
    from federation.endorsement import MAX_FILE_BYTES, from_file
    from kit.files import read_document

    with Coordinator.open(home) as coordinator:
        signer = study_key(coordinator.home, roots)
        request = studies.Request(
            id=study,
            title=title or study,
            classes=tuple(label.strip() for label in classes.split(",")),
            image=(channels, height, width),
            epsilon=epsilon,
            delta=delta,
            unit=unit,
            personal_data=personal_data,
            presets=tuple(name.strip() for name in preset.split(",") if name.strip()),
            shard_size=shard_size,
            sampler_steps=sampler_steps,
            classifier_steps=classifier_steps,
            mode=mode,
            classifier=classifier,
            augmentation=augmentation,
            calibration=calibration,
            held_out=held_out,
            minimum_per_class=minimum_per_class,
            quorum=quorum,
            reviewers=tuple(reviewer or ()),
            outbound_approval=outbound_approval,
            lease_days=lease_days,
            synthetic_sets=synthetic_sets,
            metrics_from=metrics_from,
            endorsed=tuple(
                read_document(
                    path,
                    from_file,
                    limit=MAX_FILE_BYTES,
                    what="endorsed reviewer",
                    hint="it is the file that `edge-agent endorse --out` wrote at their site",
                )
                for path in endorsed or ()
            ),
        )
        manifest = studies.manifest(coordinator, request)
        registry.create_study(coordinator, manifest, signer=signer, days=days)
    door.emit({"study": manifest.id, "digest": manifest.digest}, as_json=as_json)


@app.command("extend")
def extend(
    home: Home,
    study: Annotated[str, typer.Argument(help="The study's id.")],
    roots: Roots = None,
    days: Days = None,
    as_json: Json = False,
) -> None:
    """Let a new key of this home sign the study's recipient keys; the one before it ends."""
    from coordinator import registry
    from coordinator.context import Coordinator
    from coordinator.roots import study_key

    with Coordinator.open(home) as coordinator:
        signer = study_key(coordinator.home, roots)
        made = registry.extend_study(coordinator, study, signer=signer, days=days)
    door.emit({"study": study, "delegation": made.digest, "expires": made.expires}, as_json=as_json)


@app.command("list")
def list_studies(home: Home, as_json: Json = False) -> None:
    """List the studies."""
    from coordinator import registry
    from coordinator.context import Coordinator

    with Coordinator.open(home) as coordinator:
        found = registry.list_studies(coordinator)
    rows = [
        (s.id, "open" if is_open else "closed", ",".join(s.classes), s.digest[:16])
        for s, is_open in found
    ]
    result = [{"id": s.id, "open": is_open, "digest": s.digest} for s, is_open in found]
    text = door.columns(rows, ("study", "state", "classes", "digest"))
    door.emit(result, as_json=as_json, text=text)


@app.command("close")
def close(
    home: Home, study: Annotated[str, typer.Argument(help="The study's id.")], as_json: Json = False
) -> None:
    """Close a study: no site submits to it any more, and the keys that sites sealed to are gone."""
    from coordinator import registry
    from coordinator.context import Coordinator

    with Coordinator.open(home) as coordinator:
        door.emit(registry.close_study(coordinator, study), as_json=as_json)


@app.command("show")
def show(
    home: Home, study: Annotated[str, typer.Argument(help="The study's id.")], as_json: Json = False
) -> None:
    """Show one study's manifest."""
    from coordinator import registry
    from coordinator.context import Coordinator
    from coordinator.errors import NotFoundError

    with Coordinator.open(home) as coordinator:
        for manifest, _ in registry.list_studies(coordinator):
            if manifest.id == study:
                door.emit(manifest, as_json=as_json)
                return
    raise NotFoundError(f"no study `{study}`", hint="see `coordinator study list`")
