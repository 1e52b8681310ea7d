"""`coordinator list`, `show`, `approve`, `reject` and `revoke`: what people do with blueprints."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coordinator.cli.options import Blueprint, Home, Json
from kit import clock, door, prompts
from kit.errors import KitError

if TYPE_CHECKING:
    from coordinator.bases import Withdrawn
    from coordinator.context import Coordinator
    from coordinator.restoration import Restoration
    from coordinator.reviews import Review
    from coordinator.revocation import Revocation
    from federation.learning.review.finding import Finding
    from pki.keys import SigningKey

_COMMANDS = {
    "approve": "approve",
    "reject": "reject",
    "revoke": "revoke",
    "restore": "revoke --undo",
}
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


def list_blueprints(home: Home, as_json: Json = False) -> None:
    """List the blueprints that have arrived."""
    from coordinator import reviews
    from coordinator.context import Coordinator

    with Coordinator.open(home) as coordinator:
        found = reviews.list_reviews(coordinator)
    rows = [(r.digest[:16], r.site, r.study, r.state, ",".join(r.outputs)) for r in found]
    text = door.columns(rows, ("blueprint", "site", "study", "state", "classes"))
    door.emit(found, as_json=as_json, text=text)


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


def inspect(
    home: Home,
    name: Annotated[
        str,
        typer.Argument(
            metavar="BLUEPRINT|STUDY",
            help="The first digits of a blueprint's digest, or a study: everything in play there.",
        ),
    ],
    as_json: Json = False,
) -> None:
    """Run the review aids, which flag and decide nothing; `show` repeats what they found."""
    from coordinator import aids
    from coordinator.context import Coordinator

    with Coordinator.open(home) as coordinator:
        found = aids.inspect(coordinator, name)
    blocks = (
        door.columns(
            [_aid_row(finding) for finding in each.findings],
            (f"{each.blueprint[:16]} {each.site}", "outcome", "measure", "threshold", "words"),
        )
        for each in found
    )
    door.emit(found, as_json=as_json, text="\n\n".join(blocks) or "nothing is in play")


def _aid_row(finding: "Finding") -> tuple[str, ...]:
    measure = "-" if finding.measure is None else f"{finding.measure:.3g}"
    return (finding.aid, finding.outcome, measure, f"{finding.threshold:.3g}", finding.words)


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


def revoke(
    blueprint: Blueprint,
    home: AtHome = None,
    key: MaybeKey = None,
    reason: MaybeReason = "",
    record: Record = None,
    digest: Typed = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    undo: Annotated[
        bool, typer.Option("--undo", help="Restore it instead, within the grace period.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Take a blueprint, or a base, out of use with everything that was made from it."""
    from coordinator.context import Coordinator
    from coordinator.home import Home as Directory
    from coordinator.reserve import drawn_on

    decision = "restore" if undo else "revoke"
    if record is not None and key is not None:
        _sign_elsewhere(Path(blueprint), decision, key, reason, record, digest, as_json=as_json)
        return
    home = _require(decision, home, key, reason, record)
    with drawn_on(Directory.open(home)):
        if not undo:
            with Coordinator.open(home) as coordinator:
                _confirm_revocation(coordinator, blueprint, yes=yes)
        _decide(home, blueprint, decision, key, reason, record, digest, as_json=as_json)


def _require(
    decision: str, home: Path | None, key: Path | None, reason: str, record: Path | None
) -> Path:
    """Return the home, and say exactly what else is missing to decide in it."""
    command = _COMMANDS[decision]
    if home is None:
        raise KitError(
            f"`{command}` needs the coordinator's folder",
            hint="give --home DIR; or, to sign on a machine of your own, the file of"
            " `show --to-sign` with --key, --reason and --record",
        )
    if record is None and key is None:
        raise KitError(
            f"`{command}` needs a reviewer's signature",
            hint="give --key FILE with --reason; or --record FILE, signed on another machine",
        )
    if record is None and not reason:
        raise KitError(
            f"`{command}` needs a reason",
            hint='give --reason "..."; it is kept outside the audit log',
        )
    return home


def _confirm_revocation(coordinator: "Coordinator", blueprint: str, *, yes: bool) -> None:
    """Ask, after saying what goes along (A19)."""
    from coordinator import bases, revocation

    of_base = bases.preview(coordinator, blueprint)
    falling = of_base or revocation.preview(coordinator, blueprint)
    for what, digests in (
        ("blueprints", falling.revoked_blueprints),
        ("releases", falling.withdrawn_releases),
    ):
        door.note(f"{what} that fall with it: {', '.join(d[:16] for d in digests) or 'none'}")
    if not yes and not prompts.confirm("Revoke?"):
        raise KitError("nothing was revoked")


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
    from coordinator import remote_review
    from coordinator.context import Coordinator
    from federation.blueprint.approval import Decision
    from kit.files import read_document
    from pki import keys

    if record is not None and key is not None:
        _sign_elsewhere(Path(blueprint), decision, key, reason, record, digest, as_json=as_json)
        return
    home = _require(decision, home, key, reason, record)
    with Coordinator.open(home) as coordinator:
        result: object = None
        if record is not None:
            signed = read_document(
                record,
                remote_review.read_record,
                limit=remote_review.MAX_RECORD_BYTES,
                what="signed record",
                hint=f"it is what `{_COMMANDS[decision]}` with --key and --record wrote elsewhere",
            )
            result = remote_review.take(coordinator, blueprint, Decision(decision), signed)
        elif key is not None:
            signer = keys.load_signing(key)
            result = _decide_here(coordinator, blueprint, decision, signer, reason)
    door.emit(result, as_json=as_json)


def _decide_here(
    coordinator: "Coordinator", blueprint: str, decision: str, key: "SigningKey", reason: str
) -> "Review | Revocation | Restoration | Withdrawn":
    from coordinator import bases, restoration, reviews, revocation
    from federation.blueprint.approval import Decision

    if decision == Decision.REVOKE:
        if bases.preview(coordinator, blueprint) is not None:
            return bases.withdraw(coordinator, blueprint, reviewer_key=key, reason=reason)
        return revocation.revoke(coordinator, blueprint, reviewer_key=key, reason=reason)
    if decision == Decision.RESTORE:
        return restoration.restore(coordinator, blueprint, reviewer_key=key, reason=reason)
    if decision == Decision.APPROVE:
        _remind(coordinator, blueprint)
    return reviews.decide(
        coordinator, blueprint, Decision(decision), reviewer_key=key, reason=reason
    )


def _remind(coordinator: "Coordinator", blueprint: str) -> None:
    """Say what the aids flagged, or that nobody asked them; the decision is the reviewer's."""
    from coordinator import inspections, reviews

    with coordinator.state.read() as tx:
        found = inspections.of(tx, reviews.find(tx, blueprint))
    if found.made is None:
        door.note(f"review aids: {inspections.NONE_YET}")
    for finding in found.flagged:
        door.note(f"review aids: {finding.line()}")


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
    from kit.files import read_document, write_atomic
    from pki import keys

    if not reason:
        raise KitError(
            f"`{_COMMANDS[decision]}` needs a reason",
            hint='give --reason "..."; the record holds the words',
        )
    asked = read_document(
        package,
        remote_review.Package.from_bytes,
        limit=remote_review.MAX_PACKAGE_BYTES,
        what="file to sign",
        hint="it is what `coordinator show DIGEST --to-sign FILE` wrote; to decide at the"
        " coordinator's home, leave one of --key and --record away",
    )
    if not digest:
        door.note(door.plain(asked.shown()))
        door.note(f"what would be signed, as {decision}: {asked.statement.digest}")
        digest = prompts.answer("its first eight digits", instead="--digest DIGITS")
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
