"""The dossier an auditor asks for: the rule, what is shown for it, how to see it, what is not.

Every row is computed here from the coordinator's state and files, names the command with which the
reader sees the same, and says in its `gap` what it does not show. A row whose check fails is part
of the dossier, as `fails`; leaving it out would be the only wrong answer. Evidence for controls is
not compliance.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from typing import Any

import sqlalchemy as sa

from coordinator import (
    audit,
    ceremony,
    papers,
    payloads,
    recipients,
    registry,
    releases,
    reviews,
    state,
)
from coordinator.context import Coordinator
from coordinator.errors import StateError
from coordinator.revocation import NOT_REACHED
from coordinator.submissions import BlueprintState
from federation.study import Study
from kit import clock
from kit.errors import KitError
from kit.files import CHUNK_BYTES
from pki import protecting

WORDS = (
    "Differentially private if the site ran this code unmodified with secret noise; (epsilon,"
    " delta) per stated unit.",
    "Declared by the site, arithmetic rechecked.",
    "Gone from the coordinator's live stores and all future releases; not from predictions already"
    " made, copies outside the kit, or what people saw.",
    "Evidence for controls, not compliance. Research use only, not a medical device.",
)


class Standing(StrEnum):
    """What a row comes to."""

    SHOWN = "shown"  # the check holds; the gap says what it does not cover
    NOTHING = "nothing-to-show"  # nothing of the kind happened yet
    FAILS = "fails"
    GAP = "gap"  # the kit has nothing for this


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One rule: what is checked, the command that shows it, what came out, what is missing."""

    rule: str
    what: str
    command: tuple[str, ...]
    standing: Standing
    result: dict[str, Any]
    gap: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dossier:
    """Everything the kit can show, as of one moment."""

    federation: str
    made: str
    kit_version: str
    rows: tuple[Row, ...]
    words: tuple[str, ...] = WORDS

    @property
    def failing(self) -> tuple[str, ...]:
        """The rules whose check fails."""
        return tuple(row.rule for row in self.rows if row.standing is Standing.FAILS)

    def to_text(self) -> str:
        """Return the dossier for people."""
        lines = [
            f"Evidence of federation `{self.federation}`, made {self.made}",
            f"hospital edge kit {self.kit_version}",
            "",
        ]
        for number, row in enumerate(self.rows, start=1):
            lines += [f"{number}. {row.rule}", f"   checked  {row.what}"]
            lines += [f"   command  {' '.join(row.command) or '-'}", f"   state    {row.standing}"]
            lines += [f"   result   {name}: {_plain(v)}" for name, v in row.result.items()]
            lines += [f"   gap      {row.gap or '-'}", ""]
        return "\n".join([*lines, *self.words]) + "\n"


Check = Callable[[Coordinator], tuple[Standing, dict[str, Any]]]


def gather(coordinator: Coordinator) -> Dossier:
    """Return the dossier as of now."""
    home = str(coordinator.home.path)
    return Dossier(
        federation=coordinator.config.federation,
        made=clock.rfc3339(coordinator.now()),
        kit_version=metadata.version("hospital-edge-kit"),
        rows=tuple(_row(coordinator, home, *entry) for entry in _ROWS),
    )


def _row(
    coordinator: Coordinator, home: str, rule: str, what: str, command: str, check: Check, gap: str
) -> Row:
    try:
        standing, result = check(coordinator)
    except KitError as error:
        standing, result = Standing.FAILS, {"error": str(error)}
    words = tuple(command.split())
    if words and words[0] != "python":
        words = ("coordinator", *words, "--home", home, "--json")
    return Row(rule=rule, what=what, command=words, standing=standing, result=result, gap=gap)


def _sites(coordinator: Coordinator) -> tuple[Standing, dict[str, Any]]:
    found = registry.list_sites(coordinator)
    active = [site for site in found if site.state == registry.ACTIVE]
    expired = [s.id for s in active if (s.certificate_expires or "") <= _now(coordinator)]
    result = {
        "sites": len(found),
        "active": len(active),
        "tls_certificate_expired": sorted(expired),
    }
    return _seen(bool(found)), result


def _at_rest(coordinator: Coordinator) -> tuple[Standing, dict[str, Any]]:
    with coordinator.state.read() as tx:
        table = state.blueprints
        here = tx.all(sa.select(table.c.digest).where(table.c.destroyed.is_(None)))
    store = coordinator.stores.payloads
    sealed = [row for row in here if store.has(payloads.payload_name(row.digest))]
    kept: dict[str, int] = {}
    for key in protecting.inventory(coordinator.home.secrets):
        kept[key.kept] = kept.get(key.kept, 0) + 1
    loose = [k.name for k in protecting.inventory(coordinator.home.secrets) if k.mode != "0600"]
    if loose:
        raise StateError(f"key files that others may read: {', '.join(loose)}")
    result = {
        "payloads_under_a_key_of_their_own": len(sealed),
        "keys": kept,
        "offline_keys_in_reach": [str(seen.path) for seen in ceremony.still_here(coordinator.home)],
    }
    return Standing.SHOWN, result


def _log(coordinator: Coordinator) -> tuple[Standing, dict[str, Any]]:
    found = audit.verify(coordinator)
    result = {
        "entries": found.size,
        "root": found.root,
        "witnesses": found.witnesses,
        "cosigned_at_this_size_by": found.cosigned,
    }
    return Standing.SHOWN, result


def _models(coordinator: Coordinator) -> tuple[Standing, dict[str, Any]]:
    current = [r for r in releases.list_releases(coordinator) if not r.withdrawn]
    altered = [r.digest for r in current if _stored_digest(coordinator, r.digest) != r.digest]
    if altered:
        raise StateError(f"models that are not the signed ones: {', '.join(altered)}")
    return _seen(bool(current)), {"current": [r.digest for r in current]}


def _stored_digest(coordinator: Coordinator, release: str) -> str:
    with coordinator.stores.releases.open(releases.model_name(release)) as stream:
        found = hashlib.sha256()
        while data := stream.read(CHUNK_BYTES):
            found.update(data)
    return found.hexdigest()


def _reviewed(coordinator: Coordinator) -> tuple[Standing, dict[str, Any]]:
    with coordinator.state.read() as tx:
        table = state.blueprints
        rows = tx.all(sa.select(table).where(table.c.state == BlueprintState.APPROVED))
        for row in rows:
            study = Study.from_bytes(registry.find_study(tx, row.study_digest).manifest)
            reviews.require_quorum(tx, row.digest, study)
    return _seen(bool(rows)), {"approved_by_a_signed_quorum": [row.digest for row in rows]}


def _outbound(coordinator: Coordinator) -> tuple[Standing, dict[str, Any]]:
    with coordinator.state.read() as tx:
        studies = [Study.from_bytes(r.manifest) for r in tx.all(sa.select(state.studies))]
        strict = {s.digest for s in studies if s.safeguards.outbound_approval}
        table = state.blueprints
        rows = tx.all(sa.select(table.c.digest).where(table.c.study_digest.in_(strict)))
        bare = [r.digest for r in rows if not papers.of(tx, r.digest, papers.Paper.OUTBOUND)]
    if bare:
        raise StateError(f"blueprints without their outbound approval: {', '.join(bare)}")
    return _seen(bool(rows)), {"studies_that_ask": len(strict), "blueprints_with_it": len(rows)}


def _erased(coordinator: Coordinator) -> tuple[Standing, dict[str, Any]]:
    store = payloads.keystore(coordinator)
    keys_left = store.digests(payloads.BLUEPRINT)
    cases = []
    with coordinator.state.read() as tx:
        table, edge = state.blueprints, state.lineage
        for row in tx.all(sa.select(table).where(table.c.state == BlueprintState.REVOKED)):
            if row.destroyed and row.digest in keys_left:
                raise StateError(f"the key of `{row.digest[:16]}` is here though it was destroyed")
            made = tx.all(sa.select(edge.c.descendant).where(edge.c.ancestor == row.digest))
            orders = papers.of(tx, row.digest, papers.Paper.WITHDRAWAL)
            case = {
                "blueprint": row.digest,
                "destroyed": row.destroyed,
                "destroy_after": row.destroy_after,
                "signed_orders": [order.digest for order in orders],
                "releases_made_from_it": sorted(entry.descendant for entry in made),
            }
            cases.append(case)
        idle = store.digests(payloads.RECIPIENT) - recipients.needed(tx)
    result = {"cases": cases, "idle_recipient_keys": len(idle), "not_reached": NOT_REACHED}
    return _seen(bool(cases)), result


def _privacy(coordinator: Coordinator) -> tuple[Standing, dict[str, Any]]:
    found = [r for r in reviews.list_reviews(coordinator) if r.state != BlueprintState.REVOKED]
    return _seen(bool(found)), {review.digest: review.privacy for review in found}


def _studies(coordinator: Coordinator) -> tuple[Standing, dict[str, Any]]:
    found = registry.list_studies(coordinator)
    result = {
        study.id: {
            "open": is_open,
            "unit": study.privacy.unit,
            "epsilon": study.privacy.epsilon,
            "delta": study.privacy.delta,
            "personal_data": study.privacy.personal_data,
            "quorum": study.quorum,
        }
        for study, is_open in found
    }
    return _seen(bool(found)), result


def _parts(_coordinator: Coordinator) -> tuple[Standing, dict[str, Any]]:
    found = {str(d.metadata["Name"]): d.version for d in metadata.distributions()}
    return Standing.SHOWN, dict(sorted(found.items()))


def _nothing(_coordinator: Coordinator) -> tuple[Standing, dict[str, Any]]:
    return Standing.GAP, {}


def _seen(is_there: bool) -> Standing:
    return Standing.SHOWN if is_there else Standing.NOTHING


def _now(coordinator: Coordinator) -> str:
    return clock.rfc3339(coordinator.now())


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return "; ".join(_plain(inner) for inner in value) or "-"
    return str(value)


# Rule, what is checked, command, check, gap.
_ROWS: tuple[tuple[str, str, str, Check, str], ...] = (
    (
        "HIPAA 164.312(a)(1), (d): access, unique identity",
        "every site is one certificate that the registry holds, asked for again on every call",
        "sites list",
        _sites,
        "says which machine calls, not which person; operators of this machine are its own matter",
    ),
    (
        "HIPAA 164.312(a)(2)(iv), GDPR 32: encryption at rest",
        "payloads and shards are sealed under a key per blueprint; key files are the owner's only",
        "keys list",
        _at_rest,
        "keys counted as clear have no passphrase; the database and released models are not sealed;"
        " offline keys are looked for in the home, beside it and where `init` wrote them",
    ),
    (
        "HIPAA 164.312(b), EU AI Act 12, 19, 26(6): audit controls, automatic logs",
        "the log's tree is recomputed, and every table compared with what the log says",
        "audit verify",
        _log,
        "keeping it (six years, six months) is the operator's; a log that no site cosigned is"
        " vouched for by this machine alone",
    ),
    (
        "HIPAA 164.312(c), EU AI Act 15: integrity of what is published",
        "every current model is the file that its signed release names",
        "releases",
        _models,
        "no search for backdoors or poisoning beyond the intake's checks and what reviewers see",
    ),
    (
        "HIPAA 164.312(e), GDPR 32: transmission",
        "",
        "",
        _nothing,
        "the server speaks TLS 1.3 only, but keeps no record per connection of version, group and"
        " chain; ask for `openssl s_client` against the running server",
    ),
    (
        "EU AI Act 14: human oversight, signed decisions",
        "each approved blueprint carries valid signatures of its study's quorum of reviewers",
        "list",
        _reviewed,
        "a signature shows a key, not that its holder looked; keys are named by the manifest only",
    ),
    (
        "GDPR 32: two people at the hospital",
        "where a study asks for it, each blueprint came with an officer's signature",
        "audit list",
        _outbound,
        "a site's own policy, where no study asks, is not known here",
    ),
    (
        "GDPR 17: erasure",
        "each revocation: its order, when its key was destroyed, and the releases it took along",
        "audit list",
        _erased,
        "shows this coordinator's stores; what it cannot reach is under not_reached; for an auditor"
        " elsewhere `audit dossier` signs one revocation",
    ),
    (
        "GDPR 25, 35: data protection by design",
        "what each blueprint promises per unit, its arithmetic rechecked",
        "list",
        _privacy,
        "declared by the site; membership tests stay at the site, and no empirical bound is kept",
    ),
    (
        "GDPR 30, EU AI Act 10: record of processing, data governance",
        "the signed manifest of every study: unit, budget, quorum",
        "study list",
        _studies,
        "purpose, legal basis and recipients are in no manifest; no processing record is written",
    ),
    (
        "GDPR 33: breach timeline",
        "",
        "",
        _nothing,
        "`audit list` prints the whole timeline; no report of one incident is made from it",
    ),
    (
        "IEC 62304, IEC 81001-5-1, MDR 2017/745 Annex I 17: software of unknown provenance",
        "name and version of every package in this environment",
        "python -m pip list --format json",
        _parts,
        "no purpose or list of anomalies per package, no requirement matrix, no risk file; the kit"
        " is not a medical device by itself",
    ),
    (
        "FDA 524B, EU CRA 2024/2847, CycloneDX ML-BOM: bill of materials",
        "",
        "",
        _nothing,
        "no SBOM, VEX or ML-BOM is written",
    ),
    (
        "NIST SSDF 800-218, SLSA: provenance of the kit itself",
        "",
        "",
        _nothing,
        "no signed builds or attestations; a release names its study, plan and ancestors only",
    ),
)
