"""The `coordinator` command: a thin door over the typed services."""

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from kit import clock, door, logs, passphrases
from kit.errors import KitError
from kit.progress import Progress

PROGRAM = "coordinator"

app = typer.Typer(
    name=PROGRAM,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Coordinate a federation of hospitals: study, review, build, release, revoke.",
)
study_app = typer.Typer(no_args_is_help=True, help="Create, list, show and close studies.")
sites_app = typer.Typer(no_args_is_help=True, help="List, confirm and revoke sites.")
certificates_app = typer.Typer(no_args_is_help=True, help="What runs out, and renewing it.")
authority_app = typer.Typer(no_args_is_help=True, help="The sites' own authorities.")
audit_app = typer.Typer(no_args_is_help=True, help="Check and show the audit log.")
app.add_typer(study_app, name="study")
app.add_typer(sites_app, name="sites")
app.add_typer(certificates_app, name="certificates")
app.add_typer(authority_app, name="authority")
app.add_typer(audit_app, name="audit")
keys_app = typer.Typer(no_args_is_help=True, help="List private keys; put them under a passphrase.")
app.add_typer(keys_app, name="keys")

Home = Annotated[
    Path, typer.Option("--home", envvar="COORDINATOR_HOME", help="The coordinator's folder.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Blueprint = Annotated[str, typer.Argument(help="The first digits of a blueprint's digest.")]
Key = Annotated[Path, typer.Option("--key", help="The reviewer's private key file.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept outside the audit log.")]
ProtectKeys = Annotated[
    bool, typer.Option("--protect-keys", help="Put the keys under a passphrase from the start.")
]
NewPassphrase = Annotated[
    Path | None,
    typer.Option("--new-passphrase-file", help="Read the new passphrase here; asked if absent."),
]
HomeOfKeys = Annotated[
    Path | None, typer.Option("--home", envvar="COORDINATOR_HOME", help="All keys of this home.")
]
OneKey = Annotated[
    Path | None, typer.Option("--key", help="One key file that travels alone, instead of a home.")
]


@app.callback()
def sources(
    ctx: typer.Context,
    passphrase_file: Annotated[
        list[Path] | None,
        typer.Option(
            envvar="COORDINATOR_PASSPHRASE_FILE",
            help="Where the keys' passphrase is read (`/dev/fd/3` works); may be repeated.",
        ),
    ] = None,
) -> None:
    """Say where passphrases come from, before any command."""
    from pki import unlocking

    ctx.obj = passphrases.Sources(tuple(passphrase_file or ()), "coordinator.passphrase")
    unlocking.use(ctx.obj)


@app.command()
def init(
    ctx: typer.Context,
    home: Home,
    federation: Annotated[str, typer.Option(help="The federation's name.")],
    host: Annotated[
        str, typer.Option(help="Names and addresses that sites use, separated by commas.")
    ] = "127.0.0.1",
    listen: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    exchange_port: Annotated[int, typer.Option(help="Port for enrolled sites.")] = 8443,
    enrol_port: Annotated[int, typer.Option(help="Port for enrolment only.")] = 8444,
    reviewer: Annotated[str, typer.Option(help="Name of the first reviewer.")] = "first",
    grace_hours: Annotated[
        int, typer.Option(help="Hours between a revocation and the destruction of keys.")
    ] = 72,
    threads: Annotated[
        int, typer.Option(help="Threads of a build; part of the bits of a release.")
    ] = 1,
    cosigners: Annotated[
        int, typer.Option(help="Other sites that vouch for the log before a site takes a release.")
    ] = 1,
    protect_keys: ProtectKeys = False,
    stick_days: Annotated[
        int, typer.Option(min=1, max=100, help="Days a file for a site without a line is valid.")
    ] = 35,
    as_json: Json = False,
) -> None:
    """Found a federation: keys, certificates, an empty audit log."""
    from coordinator import founding
    from coordinator.home import CoordinatorConfig

    settings = CoordinatorConfig(
        federation=federation,
        hosts=host,
        exchange_port=exchange_port,
        enrol_port=enrol_port,
        listen=listen,
        threads=threads,
        revocation_grace_hours=grace_hours,
        stick_days=stick_days,
    )
    new = (lambda: ctx.obj.new("the coordinator's keys")) if protect_keys else None
    result = founding.found(
        home,
        settings,
        reviewer=reviewer,
        now=clock.utc_now(),
        new_passphrase=new,
        cosigners=cosigners,
    )
    door.emit(result, as_json=as_json)


@app.command()
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


@app.command()
def token(
    home: Home,
    site: Annotated[str, typer.Argument(help="The new site's id.")],
    out: Annotated[Path, typer.Option("--out", help="Where to write the token file.")],
    hours: Annotated[
        int,
        typer.Option(min=1, max=720, help="Its life; more than 24 only for a site without a line."),
    ] = 24,
    authority: Annotated[
        str | None, typer.Option(help="The site's own authority, as `authority add` named it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Invite a site: write a token file to hand over safely; valid once, for 24 hours."""
    from datetime import timedelta

    from coordinator import registry
    from coordinator.context import Coordinator
    from kit.files import write_secret

    with Coordinator.open(home) as coordinator:
        life = timedelta(hours=hours)
        made = registry.issue_token(coordinator, site, authority=authority, lifetime=life)
    write_secret(out, made.to_bytes())
    result = {"site": site, "token": str(out), "expires": clock.rfc3339(made.expires)}
    door.emit(result, as_json=as_json)


@sites_app.command("list")
def sites_list(home: Home, as_json: Json = False) -> None:
    """List the sites, where each stands, and what somebody must look into."""
    from coordinator import expiries, registry
    from coordinator.context import Coordinator

    with Coordinator.open(home) as coordinator:
        sites = registry.list_sites(coordinator)
        warnings = expiries.warnings(coordinator)
    rows = [
        (s.id, s.state, s.last_contact or "-", s.certificate_expires or "-", s.alarm or "-")
        for s in sites
    ]
    head = ("site", "state", "last contact", "certificate expires", "alarm")
    door.emit(sites, as_json=as_json, text=door.columns(rows, head))
    for warning in warnings:
        door.note(f"{PROGRAM}: warning: {warning.line}")


@sites_app.command("readmit")
def sites_readmit(
    home: Home,
    site: Annotated[str, typer.Argument(help="The site's id.")],
    key: Key,
    reason: Reason,
    as_json: Json = False,
) -> None:
    """Sign a reviewer's consent to another enrolment of a site that was enrolled before."""
    from coordinator import readmission
    from coordinator.context import Coordinator
    from pki import keys

    with Coordinator.open(home) as coordinator:
        signing = keys.load_signing(key)
        done = readmission.readmit(coordinator, site, reviewer_key=signing, reason=reason)
    door.emit(done, as_json=as_json)


@sites_app.command("confirm")
def sites_confirm(
    home: Home,
    site: Annotated[str, typer.Argument(help="The site's id.")],
    code: Annotated[str, typer.Option("--code", help="The code the site reads out to you.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Also write the file for a site without a line."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Issue a site's certificates after its operator read out the code by telephone."""
    from coordinator import registry, stick
    from coordinator.context import Coordinator

    with Coordinator.open(home) as coordinator:
        confirmed = registry.confirm(coordinator, site, code)
        if out is not None:
            stick.export(coordinator, site, out)
        door.emit(confirmed, as_json=as_json)


@sites_app.command("revoke")
def sites_revoke(
    home: Home, site: Annotated[str, typer.Argument(help="The site's id.")], as_json: Json = False
) -> None:
    """Shut a site out, from its next call on."""
    from coordinator import registry
    from coordinator.context import Coordinator
    from coordinator.home import Home as Directory
    from coordinator.reserve import drawn_on

    with drawn_on(Directory.open(home)), Coordinator.open(home) as coordinator:
        door.emit(registry.revoke_site(coordinator, site), as_json=as_json)


@certificates_app.command("list")
def certificates_list(home: Home, as_json: Json = False) -> None:
    """List what the coordinator holds, until when, and what somebody must do about it."""
    from coordinator import expiries
    from coordinator.context import Coordinator

    with Coordinator.open(home) as coordinator:
        held, warnings = expiries.held(coordinator), expiries.warnings(coordinator)
    rows = [(item.name, clock.rfc3339(item.expires)) for item in held]
    table = {"certificates": held, "warnings": [warning.line for warning in warnings]}
    door.emit(table, as_json=as_json, text=door.columns(rows, ("certificate", "expires")))
    for warning in warnings:
        door.note(f"{PROGRAM}: warning: {warning.line}")


@certificates_app.command("renew")
def certificates_renew(
    home: Home,
    root_key: Annotated[
        Path | None,
        typer.Option("--root-key", help="Also renew the issuing CA, with the root's key file."),
    ] = None,
    new_key: Annotated[
        bool, typer.Option("--new-key", help="Give the issuing CA another key as well.")
    ] = False,
    compromised: Annotated[
        bool,
        typer.Option("--compromised", help="Nothing that the old signing key signed counts."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Renew the document-signing certificate now; a running `serve` takes it up by itself."""
    from coordinator import renewals
    from coordinator.context import Coordinator

    with Coordinator.open(home) as coordinator:
        done = []
        if root_key is not None:
            done.append(renewals.renew_issuing(coordinator, root_key, new_key=new_key))
        elif new_key:
            raise KitError("a new key of the issuing CA needs the root", hint="give --root-key")
        done.append(renewals.renew_documents(coordinator, compromised=compromised))
    rows = [(item.certificate, item.expires, item.fingerprint[:16]) for item in done]
    head = ("certificate", "expires", "fingerprint")
    door.emit(done, as_json=as_json, text=door.columns(rows, head))


@authority_app.command("add")
def authority_add(
    home: Home,
    name: Annotated[str, typer.Argument(help="What to call it here.")],
    certificate: Annotated[Path, typer.Option(help="Its self-signed root certificate (PEM).")],
    site: Annotated[list[str], typer.Option(help="A site id it may speak for; repeat.")],
    as_json: Json = False,
) -> None:
    """Register a site's own certificate authority for some site ids, and for no others."""
    from coordinator import authorities
    from coordinator.context import Coordinator
    from kit.files import read_limited

    limit = authorities.MAX_AUTHORITY_BYTES
    pem = read_limited(certificate, limit=limit, what="certificate")
    with Coordinator.open(home) as coordinator:
        door.emit(authorities.add(coordinator, name, pem, site), as_json=as_json)


@authority_app.command("list")
def authority_list(home: Home, as_json: Json = False) -> None:
    """List the sites' own authorities and the ids each may speak for."""
    from coordinator import authorities
    from coordinator.context import Coordinator

    with Coordinator.open(home) as coordinator:
        found = authorities.list_authorities(coordinator)
    rows = [(a.name, ",".join(a.sites), a.expires, a.fingerprint[:16]) for a in found]
    head = ("authority", "sites", "expires", "fingerprint")
    door.emit(found, as_json=as_json, text=door.columns(rows, head))


@authority_app.command("remove")
def authority_remove(
    home: Home, name: Annotated[str, typer.Argument(help="Its name here.")], as_json: Json = False
) -> None:
    """Take an authority off the table: its sites are out from their next call on."""
    from coordinator import authorities
    from coordinator.context import Coordinator

    with Coordinator.open(home) as coordinator:
        door.emit(authorities.remove(coordinator, name), as_json=as_json)


@authority_app.command("crl")
def authority_crl(
    home: Home,
    name: Annotated[str, typer.Argument(help="Its name here.")],
    file: Annotated[Path, typer.Option("--file", help="Its revocation list (DER or PEM).")],
    as_json: Json = False,
) -> None:
    """Take a newer revocation list of an authority; it counts from the next call on."""
    from coordinator import authorities
    from coordinator.context import Coordinator
    from kit.files import read_limited
    from pki import crl

    data = crl.to_der(read_limited(file, limit=2 * crl.MAX_CRL_BYTES, what="revocation list"))
    with Coordinator.open(home) as coordinator:
        door.emit(authorities.put_list(coordinator, name, data), as_json=as_json)


@study_app.command("create")
def study_create(
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
    minimum_per_class: Annotated[int, typer.Option(help="Fewer units: not trained on.")] = 10,
    quorum: Annotated[int, typer.Option(help="Reviewers who must approve.")] = 1,
    reviewer: Annotated[
        list[str] | None,
        typer.Option(help="NAME=PUBLIC-KEY (hexadecimal); repeat. Default: those of `init`."),
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
    as_json: Json = False,
) -> None:
    """Sign a study manifest and open it to every enrolled site."""
    from coordinator import registry, studies
    from coordinator.context import Coordinator

    with Coordinator.open(home) as coordinator:
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
            minimum_per_class=minimum_per_class,
            quorum=quorum,
            reviewers=tuple(reviewer or ()),
            outbound_approval=outbound_approval,
            lease_days=lease_days,
        )
        manifest = studies.manifest(coordinator, request)
        registry.create_study(coordinator, manifest)
    door.emit({"study": manifest.id, "digest": manifest.digest}, as_json=as_json)


@study_app.command("list")
def study_list(home: Home, as_json: Json = False) -> None:
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


@study_app.command("close")
def study_close(
    home: Home, study: Annotated[str, typer.Argument(help="The study's id.")], as_json: Json = False
) -> None:
    """Close a study: no site submits to it any more, and the keys that sites sealed to are gone."""
    from coordinator import registry
    from coordinator.context import Coordinator

    with Coordinator.open(home) as coordinator:
        door.emit(registry.close_study(coordinator, study), as_json=as_json)


@study_app.command("show")
def study_show(
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


@app.command("list")
def list_blueprints(home: Home, as_json: Json = False) -> None:
    """List the blueprints that have arrived."""
    from coordinator import reviews
    from coordinator.context import Coordinator

    with Coordinator.open(home) as coordinator:
        found = reviews.list_reviews(coordinator)
    rows = [(r.digest[:16], r.site, r.study, r.state, ",".join(r.outputs)) for r in found]
    text = door.columns(rows, ("blueprint", "site", "study", "state", "classes"))
    door.emit(found, as_json=as_json, text=text)


@app.command()
def show(
    home: Home,
    blueprint: Blueprint,
    samples: Annotated[
        Path | None, typer.Option("--samples", help="Render samples into this PNG file.")
    ] = None,
    to_sign: Annotated[
        Path | None,
        typer.Option("--to-sign", help="Write what a reviewer signs on a machine of their own."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show one blueprint: privacy, provenance, and samples on request."""
    from coordinator import remote_review, reviews
    from coordinator.context import Coordinator
    from kit.files import write_atomic

    with Coordinator.open(home) as coordinator:
        found = reviews.show(coordinator, blueprint)
        if samples is not None:
            sheet = reviews.sample_sheet(coordinator, blueprint)
            write_atomic(samples, sheet, mode=0o600)
        if to_sign is not None:
            write_atomic(to_sign, remote_review.package(coordinator, blueprint), mode=0o600)
    door.emit(found, as_json=as_json)


_RECORD_HELP = (
    "A record signed elsewhere: taken in without --key; written, from a file of `show --to-sign` in"
    " place of the digest, with --key and without --home."
)
AtHome = Annotated[
    Path | None,
    typer.Option("--home", envvar="COORDINATOR_HOME", help="The coordinator's folder."),
]
MaybeKey = Annotated[Path | None, typer.Option("--key", help="The reviewer's private key file.")]
MaybeReason = Annotated[str, typer.Option("--reason", help="Why; kept outside the audit log.")]
Record = Annotated[Path | None, typer.Option("--record", help=_RECORD_HELP)]
Typed = Annotated[
    str, typer.Option("--digest", help="With --record: the digest's first digits, not asked for.")
]


@app.command()
def approve(
    blueprint: Blueprint,
    home: AtHome = None,
    key: MaybeKey = None,
    reason: MaybeReason = "",
    record: Record = None,
    digest: Typed = "",
    as_json: Json = False,
) -> None:
    """Sign and record a reviewer's approval, here or on the reviewer's own machine."""
    _decide(home, blueprint, "approve", key, reason, record, digest, as_json=as_json)


@app.command()
def reject(
    blueprint: Blueprint,
    home: AtHome = None,
    key: MaybeKey = None,
    reason: MaybeReason = "",
    record: Record = None,
    digest: Typed = "",
    lost: Annotated[
        bool,
        typer.Option("--lost", help="No judgement: the payload is lost here; ask for it again."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Sign and record a reviewer's rejection; one is enough, and the payload is shredded."""
    if not lost:
        _decide(home, blueprint, "reject", key, reason, record, digest, as_json=as_json)
        return
    from coordinator import reviews
    from coordinator.context import Coordinator

    if key is not None or reason or record is not None or home is None:
        raise KitError("--lost takes a --home and nothing else: no reviewer decides anything")
    with Coordinator.open(home) as coordinator:
        door.emit(reviews.report_lost(coordinator, blueprint), as_json=as_json)


def _decide(
    home: Path | None,
    blueprint: str,
    decision: str,
    key: Path | None,
    reason: str,
    record: Path | None,
    digest: str,
    *,
    as_json: bool,
) -> None:
    from coordinator import remote_review, reviews
    from coordinator.context import Coordinator
    from federation.blueprint.approval import Decision
    from kit.files import read_limited
    from pki import keys

    if record is not None and key is not None:
        _sign_elsewhere(Path(blueprint), decision, key, reason, record, digest, as_json=as_json)
        return
    wanted = "give --home with --key and --reason, or with --record"
    if home is None:
        raise KitError(wanted)
    with Coordinator.open(home) as coordinator:
        if record is not None:
            data = read_limited(record, limit=remote_review.MAX_RECORD_BYTES, what="record")
            result = remote_review.take(coordinator, blueprint, Decision(decision), data)
        elif key is not None and reason:
            signer = keys.load_signing(key)
            result = reviews.decide(
                coordinator, blueprint, Decision(decision), reviewer_key=signer, reason=reason
            )
        else:
            raise KitError(wanted)
    door.emit(result, as_json=as_json)


def _sign_elsewhere(
    package: Path,
    decision: str,
    key: Path,
    reason: str,
    record: Path,
    digest: str,
    *,
    as_json: bool,
) -> None:
    from coordinator import remote_review
    from federation.blueprint.approval import Decision
    from kit.files import read_limited, write_atomic
    from pki import keys

    if not reason:
        raise KitError("give --reason")
    data = read_limited(package, limit=remote_review.MAX_PACKAGE_BYTES, what="file to sign")
    asked = remote_review.Package.from_bytes(data)
    if not digest:
        door.note(door.plain(asked.shown()))
        door.note(f"what would be signed, as {decision}: {asked.statement.digest}")
        digest = typer.prompt("its first eight digits", err=True)
    signed = remote_review.sign(
        asked,
        Decision(decision),
        key=keys.load_signing(key),
        reason=reason,
        typed=digest,
        now=clock.utc_now(),
    )
    write_atomic(record, signed, mode=0o600)
    door.emit({**asked.shown(), "record": record}, as_json=as_json)


@app.command()
def build(
    home: Home, study: Annotated[str, typer.Argument(help="The study's id.")], as_json: Json = False
) -> None:
    """Build and publish a release from the approved blueprints; goes on where it was stopped."""
    from coordinator import builds
    from coordinator.context import Coordinator

    with Coordinator.open(home) as coordinator:
        result = builds.build(coordinator, study, report=_BuildProgress())
    door.emit(result, as_json=as_json)


class _BuildProgress:
    """Shows a build's phases as they come."""

    def __init__(self) -> None:
        self._phase = ""
        self._progress = Progress("", 0)

    def __call__(self, what: str, done: int, total: int) -> None:
        if what != self._phase:
            self._phase, self._progress = what, Progress(what, total)
        self._progress.update(done)


@app.command("import")
def import_file(
    home: Home,
    file: Annotated[Path, typer.Argument(help="A file that a site wrote with --to-file.")],
    as_json: Json = False,
) -> None:
    """Take in a file from a site without a line: a request, a blueprint, a withdrawal."""
    from coordinator import stick
    from coordinator.context import Coordinator

    with Coordinator.open(home) as coordinator:
        door.emit(stick.import_file(coordinator, file), as_json=as_json)


@app.command()
def export(
    home: Home,
    site: Annotated[str, typer.Argument(help="The site's id.")],
    out: Annotated[Path, typer.Option("--out", help="Where to write the file.")],
    study: Annotated[
        list[str] | None,
        typer.Option(help="Carry the model of this study only; repeat. Default: of every study."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the file for a site without a line: news, receipts, certificates, models."""
    from coordinator import stick
    from coordinator.context import Coordinator

    with Coordinator.open(home) as coordinator:
        result = stick.export(coordinator, site, out, studies=study or ())
    door.emit(result, as_json=as_json)


@app.command()
def releases(home: Home, as_json: Json = False) -> None:
    """List the releases."""
    from coordinator import releases as services
    from coordinator.context import Coordinator

    with Coordinator.open(home) as coordinator:
        found = services.list_releases(coordinator)
    rows = [
        (r.digest[:16], r.study, "withdrawn" if r.withdrawn else "current", ",".join(r.labels))
        for r in found
    ]
    text = door.columns(rows, ("release", "study", "state", "labels"))
    door.emit(found, as_json=as_json, text=text)


@app.command()
def revoke(
    home: Home,
    blueprint: Blueprint,
    key: Key,
    reason: Reason,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    undo: Annotated[
        bool, typer.Option("--undo", help="Restore it instead, within the grace period.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Take a blueprint out of use and withdraw every release made from it."""
    from coordinator import restoration, revocation
    from coordinator.context import Coordinator
    from coordinator.home import Home as Directory
    from coordinator.reserve import drawn_on
    from pki import keys

    with drawn_on(Directory.open(home)), Coordinator.open(home) as coordinator:
        if undo:
            made = restoration.restore(
                coordinator, blueprint, reviewer_key=keys.load_signing(key), reason=reason
            )
            door.emit(made, as_json=as_json)
            return
        falling = revocation.preview(coordinator, blueprint).withdrawn_releases
        door.note(f"releases that fall with it: {', '.join(r[:16] for r in falling) or 'none'}")
        if not yes and not typer.confirm("Revoke?", err=True):
            raise KitError("nothing was revoked")
        result = revocation.revoke(
            coordinator, blueprint, reviewer_key=keys.load_signing(key), reason=reason
        )
    door.emit(result, as_json=as_json)


@app.command()
def evidence(
    home: Home,
    out: Annotated[
        Path | None, typer.Option("--out", help="Also write evidence.json and evidence.txt here.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the dossier an auditor asks for: rule, check, command, result, and every gap."""
    import json

    from coordinator import evidence as dossiers
    from coordinator.context import Coordinator
    from kit.files import write_atomic

    with Coordinator.open(home) as coordinator:
        made = dossiers.gather(coordinator)
    if out is not None:
        table = json.dumps(door.to_table(made), indent=2, sort_keys=True) + "\n"
        write_atomic(out / "evidence.json", table.encode(), mode=0o600)
        write_atomic(out / "evidence.txt", made.to_text().encode(), mode=0o600)
    door.emit(made, as_json=as_json, text=made.to_text())
    if made.failing:
        raise KitError(f"{len(made.failing)} checks fail: {'; '.join(made.failing)}")


@app.command()
def backup(
    home: Home,
    out: Annotated[Path, typer.Option("--out", help="The folder to make the snapshot in.")],
    as_json: Json = False,
) -> None:
    """Take a snapshot of this home, without `keys/` and `keystore/`; `serve` may run meanwhile."""
    from coordinator import backup as snapshots
    from coordinator.context import Coordinator

    with Coordinator.open(home) as coordinator:
        door.emit(snapshots.back_up(coordinator, out, now=clock.utc_now()), as_json=as_json)


@app.command()
def restore(
    home: Home,
    source: Annotated[Path, typer.Option("--from", help="The snapshot.")],
    keys: Annotated[Path, typer.Option("--keys", help="The folder `keys/` from its own place.")],
    keystore: Annotated[
        Path, typer.Option("--keystore", help="The newest folder `keystore/` there is.")
    ],
    as_json: Json = False,
) -> None:
    """Lay out a new home from a snapshot; sites that saw more of the log refuse it (A4)."""
    from coordinator import backup as snapshots

    result = snapshots.restore(source, home, keys=keys, keystore=keystore)
    door.emit(result, as_json=as_json)
    if result.unreadable_blueprints:
        door.note(
            f"{PROGRAM}: {len(result.unreadable_blueprints)} blueprints have no key any more:"
            " they were destroyed since, or this is not the newest key store"
        )


@audit_app.command("verify")
def audit_verify(home: Home, as_json: Json = False) -> None:
    """Recompute the audit log from its leaves, and compare every table with it."""
    from coordinator import audit
    from coordinator.context import Coordinator

    with Coordinator.open(home) as coordinator:
        door.emit(audit.verify(coordinator), as_json=as_json)


@audit_app.command("export")
def audit_export(
    home: Home,
    out: Annotated[Path, typer.Option("--out", help="A new folder to write into.")],
    as_json: Json = False,
) -> None:
    """Write the whole log, its cosigned checkpoint and keys as plain files."""
    from coordinator import exports
    from coordinator.context import Coordinator

    with Coordinator.open(home) as coordinator:
        size = exports.export(coordinator, out)
    door.emit({"size": size, "out": str(out)}, as_json=as_json)


@audit_app.command("check")
def audit_check(
    folder: Annotated[Path, typer.Argument(help="An export.")],
    log_key: Annotated[
        str, typer.Option("--log-key", help="The log key you trust, hexadecimal; else its own.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Verify an export with nothing but its files: no home, no network."""
    from coordinator import exports

    door.emit(exports.check(folder, log_key), as_json=as_json)


@audit_app.command("recover")
def audit_recover(
    home: Home,
    copy: Annotated[list[Path], typer.Option("--copy", help="A site's export; repeat.")],
    key: Key,
    reason: Reason,
    as_json: Json = False,
) -> None:
    """After a backup was restored: sign its record, and replay the log from sites' copies."""
    from coordinator import recovery
    from coordinator.context import Coordinator
    from pki import keys

    with Coordinator.open(home) as coordinator:
        result = recovery.recover(
            coordinator, copy, reviewer_key=keys.load_signing(key), reason=reason
        )
    door.emit(result, as_json=as_json)


@audit_app.command("erase")
def audit_erase(
    home: Home,
    reviewer: Annotated[str, typer.Option("--reviewer", help="The reviewer's identifier.")],
    as_json: Json = False,
) -> None:
    """Erase every reason that a reviewer wrote; says what still names them."""
    from coordinator import erasure
    from coordinator.context import Coordinator

    with Coordinator.open(home) as coordinator:
        door.emit(erasure.erase_reviewer(coordinator, reviewer), as_json=as_json)


@audit_app.command("list")
def audit_list(home: Home, as_json: Json = False) -> None:
    """List every entry of the audit log."""
    from coordinator import logbook
    from coordinator.context import Coordinator

    with Coordinator.open(home) as coordinator:
        found = logbook.events(coordinator)
    rows = [(str(i), e.time, e.kind, e.actor, e.subject[:16]) for i, e in enumerate(found)]
    text = door.columns(rows, ("entry", "time", "event", "actor", "subject"))
    door.emit(found, as_json=as_json, text=text)


@keys_app.command("list")
def keys_list(home: Home, as_json: Json = False) -> None:
    """List every private key and secret of the coordinator and how it is kept; opens none."""
    from coordinator.home import Home as CoordinatorHome
    from pki import protecting

    found = protecting.inventory(CoordinatorHome.open(home).secrets)
    rows = [(key.name, key.kept, key.mode) for key in found]
    door.emit(found, as_json=as_json, text=door.columns(rows, ("key", "kept", "mode")))


@keys_app.command("protect")
def keys_protect(
    ctx: typer.Context, home: HomeOfKeys = None, key: OneKey = None, as_json: Json = False
) -> None:
    """Seal the keys under a passphrase; not while a server runs; goes on where it was stopped."""
    from coordinator import protection
    from coordinator.home import Home as CoordinatorHome
    from pki import protecting

    if key is not None:
        protecting.protect_file(key, lambda: ctx.obj.new(f"key `{key}`"))
        door.emit({"key": str(key), "kept": protecting.ALONE}, as_json=as_json)
        return
    place = CoordinatorHome.open(_a_home(home))
    done = protection.protect(place, lambda: ctx.obj.new("the coordinator's keys"))
    door.emit(done, as_json=as_json)


@keys_app.command("passphrase")
def keys_passphrase(
    home: HomeOfKeys = None,
    key: OneKey = None,
    new_passphrase_file: NewPassphrase = None,
    as_json: Json = False,
) -> None:
    """Change the passphrase of the home's keys, or of one key file, at once or not at all."""
    from coordinator.home import Home as CoordinatorHome
    from pki import protecting

    if key is not None:
        protecting.change_file(key, lambda: passphrases.chosen(f"key `{key}`", new_passphrase_file))
        door.emit({"key": str(key), "changed": True}, as_json=as_json)
        return
    path = CoordinatorHome.open(_a_home(home)).path
    protecting.change(
        path, lambda: passphrases.chosen("the coordinator's keys", new_passphrase_file)
    )
    door.emit({"home": str(path), "changed": True}, as_json=as_json)


def _a_home(home: Path | None) -> Path:
    if home is None:
        raise KitError("nothing to work on", hint="give --home DIR, or --key FILE")
    return home


def main() -> NoReturn:
    """Run the command line."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # busy cores: waiting threads must not spin
    status = door.command_line(
        PROGRAM,
        lambda: app(prog_name=PROGRAM, standalone_mode=False),
        aborted=typer.Abort,
        usage=typer.exceptions.TyperException,
    )
    sys.exit(status)
