"""The `edge-agent` command: a thin door over this side's rooms."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from kit import clock, door, passphrases
from kit.errors import KitError
from kit.progress import Progress

if TYPE_CHECKING:
    from edge_agent.home import Home

PROGRAM = "edge-agent"

app = typer.Typer(
    name=PROGRAM,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train a private generator on a hospital's images, submit it, and use what comes back.",
)
audit_app = typer.Typer(no_args_is_help=True, help="Check the receipts this site holds.")
app.add_typer(audit_app, name="audit")
keys_app = typer.Typer(no_args_is_help=True, help="List private keys; put them under a passphrase.")
app.add_typer(keys_app, name="keys")

HomeDir = Annotated[
    Path, typer.Option("--home", envvar="EDGE_AGENT_HOME", help="This installation's folder.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
StudyName = Annotated[str, typer.Option("--study", help="The study's id.")]
Data = Annotated[
    Path, typer.Option("--data", help="A folder of class folders, or an .npz with MedMNIST keys.")
]
ToFile = Annotated[
    Path | None,
    typer.Option("--to-file", help="Without a line: write the file for `coordinator import`."),
]
FromFile = Annotated[
    Path | None,
    typer.Option("--from-file", help="Without a line: read the file of `coordinator export`."),
]
Run = Annotated[str, typer.Option("--run", help="The run's name; default: the study's id.")]
ProtectKeys = Annotated[
    bool, typer.Option("--protect-keys", help="Put the keys under a passphrase from the start.")
]
HomeOfKeys = Annotated[
    Path | None, typer.Option("--home", envvar="EDGE_AGENT_HOME", help="All keys of this home.")
]
OneKey = Annotated[
    Path | None, typer.Option("--key", help="One key file that travels alone, as an officer's.")
]

TlsCertificate = Annotated[
    Path | None, typer.Option(help="A TLS chain (PEM, leaf first) of this site's own authority.")
]
TlsKey = Annotated[Path | None, typer.Option(help="Its key (PEM).")]
SigningCertificate = Annotated[
    Path | None, typer.Option(help="A document-signing chain of this site's own authority.")
]
SigningKey = Annotated[Path | None, typer.Option(help="Its key (PEM).")]
NewPassphrase = Annotated[
    Path | None,
    typer.Option("--new-passphrase-file", help="Read the new passphrase here; asked if absent."),
]


@app.callback()
def sources(
    ctx: typer.Context,
    passphrase_file: Annotated[
        list[Path] | None,
        typer.Option(
            envvar="EDGE_AGENT_PASSPHRASE_FILE",
            help="Where the keys' passphrase is read (`/dev/fd/3` works); may be repeated.",
        ),
    ] = None,
    pin_file: Annotated[
        Path | None,
        typer.Option(envvar="EDGE_AGENT_PIN_FILE", help="Where a PKCS#11 token's PIN is read."),
    ] = None,
) -> None:
    """Say where passphrases come from, before any command."""
    from pki import unlocking

    ctx.obj = passphrases.Sources(tuple(passphrase_file or ()), "edge-agent.passphrase")
    pins = passphrases.Sources((pin_file,) if pin_file else (), "edge-agent.pin", "--pin-file")
    unlocking.use(ctx.obj, pins=pins)


@app.command()
def enroll(
    ctx: typer.Context,
    home: HomeDir,
    token: Annotated[
        Path | None, typer.Option("--token", help="The token file from the coordinator.")
    ] = None,
    lifetime_epsilon: Annotated[
        float | None,
        typer.Option(help="Lifetime privacy budget of every patient here: epsilon; first 8."),
    ] = None,
    lifetime_delta: Annotated[
        float | None, typer.Option(help="Its delta, at most 1e-5; first 1e-5.")
    ] = None,
    protect_keys: ProtectKeys = False,
    hsm: Annotated[
        str | None,
        typer.Option(
            help="Make TLS and signing key in this token: pkcs11:token=NAME?module-path=FILE."
        ),
    ] = None,
    officer: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=PUBLIC-KEY (hexadecimal) of who signs what leaves; repeat. Set once."
        ),
    ] = None,
    without_outbound_approval: Annotated[
        bool,
        typer.Option(
            "--without-outbound-approval",
            help="One person alone may send from this site. Set once.",
        ),
    ] = False,
    proxy: Annotated[
        str | None,
        typer.Option(help="An HTTP CONNECT proxy to go through, as http://host:port; kept."),
    ] = None,
    to_file: ToFile = None,
    from_file: FromFile = None,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
    signing_certificate: SigningCertificate = None,
    signing_key: SigningKey = None,
    as_json: Json = False,
) -> None:
    """Enrol this site; run it again after the coordinator confirmed the code."""
    from edge_agent import bringing, contact, enrolment, outbound
    from edge_agent.errors import UnreachableError
    from edge_agent.exchange import Exchange
    from edge_agent.home import Home
    from pki.tokens import TokenUri

    policy = outbound.new_policy(officer or (), off=without_outbound_approval)
    if policy is not None and token is None and enrolment.is_settled(home):
        outbound.set_policy(Home.open(home), policy)
        door.emit(policy, as_json=as_json)
        return
    keeping = enrolment.Keeping(
        new_passphrase=(lambda: ctx.obj.new("this site's keys")) if protect_keys else None,
        token=TokenUri.parse(hsm) if hsm else None,
        tls=bringing.pair(tls_certificate, tls_key, what="TLS"),
        signing=bringing.pair(signing_certificate, signing_key, what="signing"),
    )
    if _one_way(to_file, from_file):
        from edge_agent import stick

        request = enrolment.prepare(
            home, token, epsilon=lifetime_epsilon, delta=lifetime_delta, keeping=keeping
        )
        if policy is not None:
            outbound.set_policy(Home(home.absolute()), policy)
        door.emit(stick.enrol(request, to_file, from_file, now=clock.utc_now()), as_json=as_json)
        return
    try:
        result = enrolment.enrol(
            home,
            token,
            epsilon=lifetime_epsilon,
            delta=lifetime_delta,
            keeping=keeping,
            proxy=proxy,
        )
    finally:
        if policy is not None and enrolment.has_begun(home):
            outbound.set_policy(Home(home.absolute()), policy)
    door.emit(result, as_json=as_json)
    enrolled = Home.open(home)
    try:
        with Exchange.open(enrolled) as exchange:
            contact.contact(enrolled, exchange)
    except UnreachableError as error:
        hint = "the enrolment is done; `edge-agent status` fetches the studies once it answers"
        raise UnreachableError(str(error), hint=hint) from error


@app.command()
def train(
    home: HomeDir,
    study: StudyName,
    data: Data,
    labels: Annotated[
        str, typer.Option(help="The classes this site declares, by commas, before data are read.")
    ],
    declared_count: Annotated[
        int | None,
        typer.Option(help="A round lower bound of the units here; public in effect."),
    ] = None,
    run: Run = "",
    preset: Annotated[str, typer.Option(help="A generator preset the study allows.")] = "",
    steps: Annotated[
        int | None, typer.Option(help="Training steps, instead of the preset's.")
    ] = None,
    without_privacy: Annotated[
        bool,
        typer.Option("--without-privacy", help="Only where the study allows personal data."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Train a generator on this site's images; offline, resumable by the same command."""
    from edge_agent import runs
    from edge_agent.home import Home

    request = runs.Request(
        study=study,
        data=data,
        labels=tuple(label.strip() for label in labels.split(",") if label.strip()),
        declared_count=declared_count,
        run=run or study,
        preset=preset,
        without_privacy=without_privacy,
        steps=steps,
    )
    result = runs.train(Home.open(home), request, now=clock.utc_now(), tell=door.note)
    door.emit(result, as_json=as_json)


@app.command()
def inspect(
    home: HomeDir,
    study: StudyName,
    run: Run = "",
    sign: Annotated[
        Path | None,
        typer.Option("--sign", help="An officer's private key: let exactly this leave."),
    ] = None,
    digest: Annotated[
        str, typer.Option(help="With --sign: the statement's first digits, instead of typing them.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Show exactly what would leave for a finished run; a second person signs it here."""
    from edge_agent import inspection, runs
    from edge_agent.home import Home

    agent, now = Home.open(home), clock.utc_now()
    name = runs.named(agent, study, run)
    shown = inspection.inspect(agent, name, now=now)
    if sign is not None and shown.statement is not None:
        if not digest:
            door.note(door.plain(shown))
            door.note(f"what would be signed: {shown.statement}")
            digest = typer.prompt("its first eight digits", err=True)
        inspection.sign_outbound(agent, name, sign, digest, now=now)
        shown = inspection.inspect(agent, name, now=now)
    elif sign is not None:
        raise KitError(f"nothing to sign: {shown.outbound_approval}")
    door.emit(shown, as_json=as_json)


@app.command()
def submit(
    home: HomeDir,
    study: StudyName,
    run: Run = "",
    to_file: ToFile = None,
    as_json: Json = False,
) -> None:
    """Seal a finished run and bring it to the coordinator; goes on where it was cut off."""
    from edge_agent import journal, stick, submission
    from edge_agent.home import Home

    agent, now = Home.open(home), clock.utc_now()
    if to_file is not None:
        written = stick.submit(agent, run or study, to_file, now=now)
        door.emit(written, as_json=as_json)
        return
    bar = Progress("upload (KiB)", 0)
    with journal.command(agent, "submit"):
        result = submission.submit(
            agent,
            run or study,
            now=now,
            sent=lambda d, t: bar.move(d >> 10, t >> 10),
            tell=door.note,
        )
    door.emit(result, as_json=as_json)


@app.command()
def status(
    home: HomeDir,
    to_file: ToFile = None,
    from_file: FromFile = None,
    acknowledge: Annotated[
        list[int] | None,
        typer.Option(
            "--acknowledge", help="A person here knows what stands behind this log entry; repeat."
        ),
    ] = None,
    metrics: Annotated[
        Path | None,
        typer.Option("--metrics", help="Also write this file for Prometheus' node exporter."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Ask the coordinator for news, verify it, and show where this site stands.

    Exit status 4: the log shows something about this site that it did not do.
    """
    from edge_agent import alarms, inspection, journal, stick
    from edge_agent import metrics as figures
    from edge_agent.home import Home

    agent, now = Home.open(home), clock.utc_now()
    _one_way(to_file, from_file)
    for entry in acknowledge or ():
        alarms.acknowledge(agent, entry, now=now)
    if to_file is not None:
        door.emit(stick.write(agent, to_file, now=now, asks={}), as_json=as_json)
        return
    with journal.command(agent, "status"), figures.written(agent, metrics, now=now):
        if from_file is not None:
            world = stick.visit(agent, from_file, now=now)
            standing = inspection.standing(agent, world, now=now)
        else:
            standing = inspection.status(agent, now=now)
        door.emit(standing, as_json=as_json)
    alarms.require_none(agent)


@app.command()
def renew(
    home: HomeDir,
    reclaim: Annotated[
        bool,
        typer.Option("--reclaim", help="Take every other TLS certificate of this site out of use."),
    ] = False,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
    signing_certificate: SigningCertificate = None,
    signing_key: SigningKey = None,
    as_json: Json = False,
) -> None:
    """Renew this site's certificates now; or put those of its own authority in place."""
    from edge_agent import bringing, renewal
    from edge_agent.home import Home

    agent = Home.open(home)
    tls = bringing.pair(tls_certificate, tls_key, what="TLS")
    signing = bringing.pair(signing_certificate, signing_key, what="signing")
    bringing.renew(agent, tls=tls, signing=signing, reclaim=reclaim, now=clock.utc_now())
    door.emit(renewal.standing(agent), as_json=as_json)


@app.command()
def fetch(
    home: HomeDir, study: StudyName, from_file: FromFile = None, as_json: Json = False
) -> None:
    """Install the newest release of a study, after verifying everything about it."""
    from edge_agent import installed, journal, stick
    from edge_agent.home import Home

    agent = Home.open(home)
    if from_file is not None:
        found = stick.fetch(agent, study, from_file, now=clock.utc_now())
        door.emit(found, as_json=as_json)
        return
    with journal.command(agent, "fetch"):
        result = installed.fetch(agent, study, got=_kibibytes("download"), tell=door.note)
    door.emit(result, as_json=as_json)


@app.command()
def predict(
    home: HomeDir,
    study: StudyName,
    data: Data,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write a .csv or .json file instead of stdout.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Predict images with the installed release; research use only, not a medical device."""
    from edge_agent import inference, inspection, installed, stick
    from edge_agent.datasets.load import load_images
    from edge_agent.home import Home
    from kit.files import write_atomic

    agent, now = Home.open(home), clock.utc_now()
    for warning in stick.warnings(agent, now):
        door.note(warning)
    found, rule = installed.load(agent, study, now=now), agent.study(study)
    model = inference.open_model(found.model, contract=found.contract(rule))
    images = load_images(data, rule.image, rule.classes)
    table = inference.tabulate(model, images, release=found.release.digest, now=now)
    wants_json = as_json if out is None else out.suffix == ".json"
    text = table.to_json() if wants_json else table.to_csv()
    door.note(f"{len(table.rows)} images; {model.why}; research use only, not a medical device")
    if out is None:
        sys.stdout.write(text)
    else:
        write_atomic(out, text.encode(), mode=0o600)
    inspection.require_all_read(images)


@app.command()
def evaluate(
    home: HomeDir,
    study: StudyName,
    data: Data,
    probabilities: Annotated[
        Path | None, typer.Option("--probabilities", help="Also write them to this JSON file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Evaluate the installed release on this site's own labelled images; figures stay here."""
    from edge_agent import inspection
    from edge_agent.home import Home

    agent, now = Home.open(home), clock.utc_now()
    result, images = inspection.evaluate(agent, study, data, probabilities, now=now)
    door.emit(result, as_json=as_json)
    inspection.require_all_read(images)


@app.command()
def withdraw(
    home: HomeDir,
    reason: Annotated[str, typer.Option(help="Why; only a commitment to it is sent.")],
    study: Annotated[
        str, typer.Option("--study", help="The study whose blueprint is taken back.")
    ] = "",
    patient: Annotated[
        str,
        typer.Option(
            help="Instead: a patient's id; every blueprint the patient is in, everywhere."
        ),
    ] = "",
    undo: Annotated[
        bool, typer.Option("--undo", help="Undo this site's withdrawal, within the grace period.")
    ] = False,
    to_file: ToFile = None,
    as_json: Json = False,
) -> None:
    """Take this site's blueprint back: out of use at once, shredded after the grace period."""
    from edge_agent import journal, stick, withdrawal
    from edge_agent.home import Home

    if bool(study) == bool(patient) or (patient and (undo or to_file is not None)):
        raise KitError("give --study or --patient", hint="see `edge-agent withdraw --help`")
    agent, now = Home.open(home), clock.utc_now()
    if patient:
        with agent.reserve.drawn_on(), journal.command(agent, "withdraw"):
            erased = withdrawal.withdraw_patient(agent, patient, reason=reason, now=now)
        door.emit(erased, as_json=as_json)
        return
    if to_file is not None:
        if undo:
            raise KitError("an undo does not travel by stick: the grace period may be over")
        written = stick.withdraw(agent, study, to_file, reason=reason, now=now)
        door.emit(written, as_json=as_json)
        return
    act = withdrawal.undo if undo else withdrawal.withdraw
    with agent.reserve.drawn_on(), journal.command(agent, "withdraw"):
        status_now = act(agent, study, reason=reason, now=now)
    result = {"blueprint": status_now.digest, "state": status_now.state}
    door.emit(result, as_json=as_json)


@app.command()
def backup(
    home: HomeDir,
    out: Annotated[Path, typer.Option("--out", help="The folder to make the snapshot in.")],
    as_json: Json = False,
) -> None:
    """Take a snapshot of this home, keys and ledger included; keep it inside the hospital."""
    from edge_agent import backup as snapshots
    from edge_agent.home import Home

    door.emit(snapshots.back_up(Home.open(home), out, now=clock.utc_now()), as_json=as_json)


@app.command()
def restore(
    home: HomeDir,
    source: Annotated[Path, typer.Option("--from", help="The snapshot.")],
    as_json: Json = False,
) -> None:
    """Lay out a new home from a snapshot; never run it beside the first one."""
    from edge_agent import backup as snapshots

    door.emit(snapshots.restore(source, home), as_json=as_json)


@audit_app.command("verify")
def audit_verify(
    home: HomeDir,
    offline: Annotated[
        bool, typer.Option("--offline", help="Do not ask the coordinator for consistency.")
    ] = False,
    receipt: Annotated[
        Path | None,
        typer.Option("--receipt", help="Verify this one .tlog-proof file, without any network."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Verify every receipt held here, and that the coordinator's log still contains them."""
    from edge_agent import inspection
    from edge_agent.home import Home

    agent = Home.open(home)
    if receipt is not None:
        door.emit(inspection.audit_receipt(agent, receipt), as_json=as_json)
    else:
        door.emit(inspection.audit(agent, offline=offline), as_json=as_json)


@audit_app.command("export")
def audit_export(
    home: HomeDir,
    out: Annotated[Path, typer.Option("--out", help="A new folder to write into.")],
    as_json: Json = False,
) -> None:
    """Write this site's copy of the log as plain files: for an auditor, or for a recovery."""
    from edge_agent import recovery
    from edge_agent.home import Home

    size = recovery.export(Home.open(home), out)
    door.emit({"size": size, "out": str(out)}, as_json=as_json)


@audit_app.command("compare")
def audit_compare(
    home: HomeDir,
    folder: Annotated[Path, typer.Argument(help="Another site's or the coordinator's export.")],
    as_json: Json = False,
) -> None:
    """Hold another copy of the log against this site's: two logs under one key are a fork."""
    from edge_agent import recovery
    from edge_agent.home import Home

    door.emit(recovery.compare(Home.open(home), folder), as_json=as_json)


@audit_app.command("accept")
def audit_accept(
    home: HomeDir,
    record: Annotated[Path, typer.Option("--record", help="The signed record of a recovery.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Believe a recovered log that lacks entries this site saw; asks a person first."""
    from edge_agent import recovery
    from edge_agent.home import Home

    agent = Home.open(home)
    _, dropped = recovery.prepare(agent, record)
    door.note(
        f"recovery {dropped.epoch} keeps {dropped.keeps} entries; this site saw these as well:"
    )
    for line in dropped.entries:
        door.note(f"  {line}")
    if not yes and not typer.confirm("Did the federation's people announce it?", err=True):
        raise KitError("nothing was changed")
    world = recovery.accept(agent, record)
    result = {"log_size": world.trust.size, "kept_aside": str(dropped.kept_aside)}
    door.emit(result, as_json=as_json)


@audit_app.command("rebuild")
def audit_rebuild(
    home: HomeDir,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Start again from the receipts after `state/trust.json` was lost; asks a person first."""
    from edge_agent import inspection
    from edge_agent.home import Home

    agent = Home.open(home)
    door.note(inspection.rebuild_warning(agent))
    if not yes and not typer.confirm("Believe the log that the coordinator shows now?", err=True):
        raise KitError("nothing was changed")
    door.emit(inspection.rebuild(agent), as_json=as_json)


@app.command()
def doctor(
    home: HomeDir,
    token: Annotated[
        Path | None, typer.Option(help="Before an enrolment: the token file it will take.")
    ] = None,
    proxy: Annotated[
        str, typer.Option(help="With --token: the proxy that the enrolment will name.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Find what keeps this site from working, with cause and fix; exit 0 only if all is well."""
    from edge_agent.doctor.rounds import before_enrolment, rounds
    from edge_agent.home import Home
    from kit.files import read_limited
    from pki.enrolment import MAX_TOKEN_BYTES, Token
    from pki.tls import check_proxy

    if token is None:
        found = list(rounds(Home.open(home), clock.utc_now))
    else:
        given = Token.from_bytes(read_limited(token, limit=MAX_TOKEN_BYTES, what="token file"))
        found = list(before_enrolment(home, given, check_proxy(proxy), clock.utc_now))
    rows = [(f.check, f.verdict, f.seen) for f in found]
    text = door.columns(rows, ("check", "verdict", "seen"))
    fixes = "".join(f"\n{f.check}: {f.fix}" for f in found if f.fix)
    door.emit(found, as_json=as_json, text=text + fixes)
    failed = [f.check for f in found if f.passed is False]
    if failed:
        raise KitError(f"failed: {', '.join(failed)}", hint="see the fixes above")


@keys_app.command("list")
def keys_list(home: HomeDir, as_json: Json = False) -> None:
    """List every private key of this site and how it is kept; opens none."""
    from edge_agent.home import Home
    from pki import protecting

    found = protecting.inventory(Home.open(home).secrets)
    rows = [(key.name, key.kept, key.mode) for key in found]
    door.emit(found, as_json=as_json, text=door.columns(rows, ("key", "kept", "mode")))


@keys_app.command("protect")
def keys_protect(
    ctx: typer.Context, home: HomeOfKeys = None, key: OneKey = None, as_json: Json = False
) -> None:
    """Seal this site's keys, or an officer's, under a passphrase; goes on where it was stopped."""
    from pki import protecting

    if key is not None:
        protecting.protect_file(key, lambda: ctx.obj.new(f"key `{key}`"))
        door.emit({"key": str(key), "kept": protecting.ALONE}, as_json=as_json)
        return
    place = _a_home(home).secrets
    done = protecting.protect(place, lambda: ctx.obj.new("this site's keys"))
    door.emit(done, as_json=as_json)


@keys_app.command("passphrase")
def keys_passphrase(
    home: HomeOfKeys = None,
    key: OneKey = None,
    new_passphrase_file: NewPassphrase = None,
    as_json: Json = False,
) -> None:
    """Change the passphrase of this site's keys, or of one key file, at once or not at all."""
    from pki import protecting

    if key is not None:
        protecting.change_file(key, lambda: passphrases.chosen(f"key `{key}`", new_passphrase_file))
        door.emit({"key": str(key), "changed": True}, as_json=as_json)
        return
    path = _a_home(home).path
    protecting.change(path, lambda: passphrases.chosen("this site's keys", new_passphrase_file))
    door.emit({"home": str(path), "changed": True}, as_json=as_json)


def _a_home(home: Path | None) -> "Home":
    from edge_agent.home import Home

    if home is None:
        raise KitError("nothing to work on", hint="give --home DIR, or --key FILE")
    return Home.open(home)


def _one_way(to_file: Path | None, from_file: Path | None) -> bool:
    """Say whether a file takes the place of the line; it goes one way at a time."""
    if to_file is not None and from_file is not None:
        raise KitError("--to-file and --from-file are two trips", hint="run them one by one")
    return to_file is not None or from_file is not None


def _kibibytes(what: str) -> Callable[[int, int], None]:
    bar = Progress(f"{what} (KiB)", 0)
    return lambda done, total: bar.move(done >> 10, total >> 10)


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
