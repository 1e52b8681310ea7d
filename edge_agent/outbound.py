"""Outbound approval at the site: whose word a blueprint needs before it leaves, and giving it.

The policy lies in a file of its own, which the site's security officer may own; it is on unless
that file says otherwise, and a study may demand an approval even then. The officer's private key is
the officer's: it is read for one signature and never kept here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from edge_agent import outbox
from edge_agent.home import Home
from federation.blueprint.approval import SCHEME
from federation.blueprint.outbound import Officer, Outbound, require_typed
from federation.study import Study
from kit import canonical, clock, config
from kit.errors import FormatError, KitError
from kit.files import write_atomic
from pki import certificates, keys

POLICY, RECORD = "outbound.toml", "outbound.dsse.json"
REQUIRED, OFF = "required", "off"
ENDORSED, ANYBODY = "endorsed", "anybody"
MAX_OFFICERS = 16
_WHO = "officers are named in `outbound.toml` by their public keys"


@dataclass(frozen=True, slots=True)
class Policy:
    """What `outbound.toml` says; `officers` is `NAME=PUBLIC-KEY` (hexadecimal), by commas.

    `reviewers` says whether those of a study must all be endorsed by a site (A15).
    """

    approval: str = REQUIRED
    officers: str = ""
    reviewers: str = ANYBODY

    def keys(self) -> dict[str, bytes]:
        """Return each officer's public key (32 bytes) by name.

        Raises:
            FormatError: a name or a key is none, or two are the same.
        """
        found: dict[str, bytes] = {}
        for text in filter(None, self.officers.split(",")):
            name, _, key = text.strip().partition("=")
            canonical.name(name, what="officer")
            if name in found:
                raise FormatError(f"officer `{name}` is named twice")
            found[name] = bytes.fromhex(canonical.sha256_hex(key, what="officer key"))
        if len(set(found.values())) != len(found) or len(found) > MAX_OFFICERS:
            raise FormatError(f"officers are at most {MAX_OFFICERS} people with a key of their own")
        return found


def policy(home: Home) -> Policy:
    """Return this site's policy; a home without the file wants approval and has no officer yet.

    Raises:
        KitError: the file is damaged or says a word that is not in it.
    """
    path = home.path / POLICY
    found = config.load(path, Policy) if path.is_file() else Policy()
    if found.approval not in (REQUIRED, OFF):
        raise KitError(f"`{path}`: approval is `{REQUIRED}` or `{OFF}`")
    if found.reviewers not in (ENDORSED, ANYBODY):
        raise KitError(f"`{path}`: reviewers is `{ENDORSED}` or `{ANYBODY}`")
    found.keys()
    return found


def new_policy(officers: Sequence[str], *, off: bool) -> Policy | None:
    """Return the policy that the options of `enroll` ask for; None if they ask for none.

    Raises:
        KitError: they contradict each other, or an officer is none.
    """
    if off and officers:
        raise KitError("--officer and --without-outbound-approval exclude each other")
    if not off and not officers:
        return None
    made = Policy(approval=OFF if off else REQUIRED, officers=",".join(officers))
    made.keys()
    return made


def set_policy(home: Home, wanted: Policy) -> None:
    """Write the policy, once: to change it later is the officer's business, not a command's.

    Raises:
        KitError: there is another one already.
    """
    path = home.path / POLICY
    if path.is_file() and policy(home) != wanted:
        raise KitError(
            "the outbound policy of this home is set already",
            hint=f"whoever may write `{path}` changes it; see the edge manual",
        )
    config.save(path, wanted)


def is_required(home: Home, study: Study) -> bool:
    """Say whether a blueprint for `study` needs an officer's word."""
    return study.safeguards.outbound_approval or policy(home).approval == REQUIRED


def sign(home: Home, study: Study, folder: Path, key_file: Path, typed: str, now: datetime) -> str:
    """Give an officer's word that a sealed blueprint may leave; returns the officer's name.

    `typed` are digits of the statement's digest that the officer typed back.

    Raises:
        KitError: other digits, nobody's key, or a key that lies in this home.
    """
    digest = outbox.statement(folder).digest
    require_typed(digest, typed)
    if key_file.absolute().resolve().is_relative_to(home.path.resolve()):
        raise KitError(
            f"`{key_file}` lies in the agent's own home: it is no second person's",
            hint="the officer keeps it where whoever runs the agent cannot read it",
        )
    key = keys.load_signing(key_file)
    officers = policy(home).keys()
    name = next((n for n, k in officers.items() if k == keys.public_bytes(key)), None)
    if name is None:
        raise KitError(f"`{key_file}` is the key of none of this site's officers", hint=_WHO)
    record = Outbound(
        blueprint=digest, study=study.digest, time=clock.rfc3339(now), scheme=SCHEME
    ).sign(key)
    write_atomic(folder / RECORD, record, mode=0o600)
    return name


def signed_by(home: Home, study: Study, folder: Path) -> str | None:
    """Return the name of the officer whose word a sealed blueprint has, None without one.

    Raises:
        KitError: there is a record that does not hold.
    """
    if not (folder / RECORD).is_file():
        return None
    envelope = home.read(folder / RECORD, "outbound approval")
    digest = outbox.statement(folder).digest
    for name, key in policy(home).keys().items():
        try:
            Outbound.verify(envelope, officers=[key], blueprint=digest, study=study.digest)
        except FormatError:
            continue
        return name
    raise KitError(
        "the outbound approval in the outbox is not one of an officer of this site",
        hint="look at it again and sign it: `edge-agent inspect --sign KEY`",
    )


def require(home: Home, study: Study, folder: Path | None) -> None:
    """Let a sealed blueprint pass only with an officer's word, where one is wanted.

    `folder` is None while nothing is sealed.

    Raises:
        KitError: it is wanted and not there, or does not hold.
    """
    if not is_required(home, study):
        return
    found = policy(home)
    asks = f"study `{study.id}`" if found.approval == OFF else "this site's policy"
    if not found.keys():
        raise KitError(
            f"{asks} wants a second person's signature on what leaves; this site has no officer",
            hint="run `edge-agent enroll --officer NAME=PUBLIC-KEY` in this home",
        )
    if folder is None or signed_by(home, study, folder) is None:
        raise KitError(
            f"{asks} wants a second person's signature on what leaves; nothing was sent",
            hint="an officer looks and signs: `edge-agent inspect --study ... --sign KEY`",
        )


def papers(home: Home, study: Study, folder: Path) -> tuple[bytes, bytes]:
    """Return what goes to the coordinator: the record, and the site's word for the officer's key.

    Both are empty unless the study demands an approval: the coordinator learns no more than asked.

    Raises:
        KitError: an approval is wanted and not there.
    """
    require(home, study, folder)
    if not study.safeguards.outbound_approval:
        return b"", b""
    key = policy(home).keys()[signed_by(home, study, folder) or ""]
    chain = certificates.from_pem(home.read(home.signing_chain, "certificate"))
    signing = keys.load_signing(home.key("signing.key"))
    issued = outbox.statement(folder).issued  # one document per blueprint, however often it is sent
    officer = Officer(public_key=key.hex(), time=issued).sign(signing, chain[0])
    return home.read(folder / RECORD, "outbound approval"), officer
