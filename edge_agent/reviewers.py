"""Whose people a study's reviewers are: this site's word for its own, and the others' words (A15).

Invariants:

- A reviewer who is said to be of a site counts as endorsed only by the certificate that the log
  gives to that site, active, where it records the study; and one said to be of this site only if
  this site said so and did not take it back.
- A false claim never raises at a contact, which must bring withdrawals whatever a manifest says: it
  is an alarm there, and nothing is sealed for the study. A reviewer of no site is a matter of the
  site's policy.
"""

from dataclasses import asdict, dataclass
from datetime import datetime

from edge_agent import acts, outbound
from edge_agent.home import Home
from edge_agent.trust import World
from federation.auditlog import pseudonyms
from federation.auditlog.history import Logged
from federation.endorsement import DEFAULT_DAYS, Endorsement
from federation.study import Reviewer, Study
from kit import canonical, clock
from kit.errors import KitError
from kit.files import write_atomic
from pki import certificates, identity, keys

VERSION = 1
_KIND = "reviewers"  # of a study's file


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What is wrong about one reviewer: a false claim, or no site that answers for them."""

    reviewer: str
    words: str
    is_false: bool

    @property
    def line(self) -> str:
        """The finding in one line."""
        return f"reviewer `{self.reviewer}`: {self.words}"


def endorse(
    home: Home, name: str, public_key: str, *, now: datetime, days: int = DEFAULT_DAYS
) -> Reviewer:
    """Sign that a person with a name and a public key (hexadecimal) is a reviewer of this site.

    The word is for studies that the log records within so many `days`.

    Raises:
        FormatError: name or key is none, the key is the site's own, or the days out of bounds.
    """
    word = _word(home, name, public_key, now=now, days=days)
    [leaf, *_] = certificates.from_pem(home.read(home.signing_chain, "certificate"))
    made = word.sign(keys.load_signing(home.key("signing.key")), leaf)
    own = certificates.fingerprint(leaf)
    Endorsement.verify(made, federation=word.federation, certified=own, logged=now)
    acts.note(home, word.digest)
    return made


def withdraw(home: Home, name: str, public_key: str, *, now: datetime) -> None:
    """Take this site's word for a reviewer back, as far as this site goes, from now on.

    An open study that lists them is an alarm here at every contact, and nothing is sealed for it.
    Other sites go on taking the word until it ends or this site's signing key is renewed.

    Raises:
        FormatError: name or key is none.
        KitError: this site never gave its word for them, or took it back already.
    """
    if not acts.forget(home, _word(home, name, public_key, now=now).digest):
        raise KitError(
            f"this site did not endorse `{name}` with that key, or took it back",
            hint="name and key are those that were given to `edge-agent endorse`",
        )


def _word(
    home: Home, name: str, public_key: str, *, now: datetime, days: int = DEFAULT_DAYS
) -> Endorsement:
    return Endorsement.of(
        federation=home.config.federation,
        site=home.config.site,
        reviewer=canonical.name(name, what="reviewer"),
        public_key=canonical.sha256_hex(public_key, what="reviewer key"),
        now=now,
        days=days,
    )


def look(home: Home, world: World) -> list[Finding]:
    """Examine the reviewers of every open study, keep what is found; returns the false claims."""
    done = acts.known(home)
    own = frozenset() if done is None else done.digests
    false = []
    for offer in world.studies:
        if offer.open:
            people = offer.study.reviewers
            logged = world.log.history.studies[offer.study.digest]
            found = [f for r in people if (f := _examine(home, world, r, own, logged))]
            table = {"version": VERSION, "study": offer.study.digest}
            data = canonical.encode(table | {"findings": [asdict(f) for f in found]})
            write_atomic(home.study_file(offer.study.id, _KIND), data)
            false += [finding for finding in found if finding.is_false]
    return false


def found(home: Home, study: Study) -> list[Finding] | None:
    """Return what the newest contact found about a study's reviewers; None if none looked.

    Raises:
        FormatError: the file is damaged.
    """
    path = home.study_file(study.id, _KIND)
    if not path.is_file():
        return None
    data = canonical.decode(home.read(path, "findings about reviewers"))
    table = canonical.fields(data, {"version", "study", "findings"}, what="findings")
    canonical.version(table["version"], expected=VERSION, what="findings")
    if table["study"] != study.digest:
        return None
    names = set(Finding.__slots__)
    return [Finding(**canonical.fields(f, names, what="finding")) for f in table["findings"]]


def require(home: Home, study: Study) -> None:
    """Refuse to seal for a study whose reviewers this site must not trust.

    Raises:
        KitError: one is falsely said to be of a site; or the policy wants all of them endorsed.
    """
    findings = found(home, study)
    for finding in (*_disowned(home, study), *(findings or [])):
        if finding.is_false:
            raise KitError(
                f"study `{study.id}` names a reviewer falsely: {finding.line}",
                hint="nothing is sealed for it; ask that site, and the coordinator, by telephone",
            )
    if outbound.policy(home).reviewers != outbound.ENDORSED or findings == []:
        return
    line = findings[0].line if findings else "no contact has looked at its reviewers yet"
    raise KitError(
        f"this site's policy wants every reviewer of study `{study.id}` endorsed; {line}",
        hint=f"a site endorses with `edge-agent endorse`; `reviewers` in `{outbound.POLICY}` says"
        " what this one wants",
    )


def _disowned(home: Home, study: Study) -> list[Finding]:
    """Say who is listed as of this site without its word as it is now, whatever a contact found."""
    done = acts.known(home)
    own = frozenset() if done is None else done.digests
    mine = [r for r in study.reviewers if r.site == home.config.site]
    now = clock.utc_now()  # no part of the digest
    return [
        _not_ours(r) for r in mine if _word(home, r.name, r.public_key, now=now).digest not in own
    ]


def _not_ours(reviewer: Reviewer) -> Finding:
    words = "said to be of this site, which did not endorse them, or took that back"
    return Finding(reviewer=reviewer.name, words=words, is_false=True)


def _examine(
    home: Home, world: World, reviewer: Reviewer, own: frozenset[str], logged: Logged
) -> Finding | None:
    if not reviewer.site:
        return Finding(reviewer=reviewer.name, words="endorsed by no site", is_false=False)
    try:
        uri = identity.site(home.config.federation, reviewer.site).uri
        name = pseudonyms.pseudonym(world.pseudonym_salt, uri)
        word = Endorsement.verify(
            reviewer,
            federation=home.config.federation,
            certified=world.log.history.signer_at(name, logged.index),
            logged=clock.parse_rfc3339(logged.time),
        )
    except KitError as error:
        return Finding(reviewer=reviewer.name, words=str(error), is_false=True)
    if reviewer.site == home.config.site and word.digest not in own:
        return _not_ours(reviewer)
    return None
