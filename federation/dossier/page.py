"""The page of a dossier for people: Markdown, from what was proved and nothing else."""

from collections.abc import Iterable

from federation.dossier.document import WORDS
from federation.dossier.verification import Asked, Destroyed, Verified
from kit import canonical


def to_text(found: Verified) -> str:
    """Return the page."""
    here = [a for a in found.acknowledgements if a.log_size]
    lines = [
        f"# Dossier of a revocation in federation `{found.federation}`",
        "",
        f"Blueprint `{found.blueprint}` of study `{found.study}`, revoked {found.revoked}.",
        f"As of {found.made}; log `{found.log_origin}` of {found.log_size} entries, root"
        f" `{found.log_root}`; the log key is {found.log_key_is}.",
        "",
        "## Who asked",
        "",
        _asked(found.asked),
        "",
        "## What fell with it",
        "",
        *_listed("blueprint", found.fallen_blueprints),
        *_listed("release", found.fallen_releases),
        "",
        "## What was destroyed",
        "",
        *(_destroyed(item) for item in found.destroyed),
        "",
        "## Releases since, without it",
        "",
        *(
            [f"- `{r.digest}`, {r.time}: {', '.join(r.labels)}" for r in found.releases_since]
            or ["- none yet"]
        ),
        "",
        f"## Sites: {len(here)} of {len(found.acknowledgements)} acknowledged",
        "",
        *(
            f"- {a.site} (`{a.pseudonym}`): "
            + (
                f"signed {a.time} for a log of {a.log_size} entries, the revocation among them"
                if a.log_size
                else "NO ACKNOWLEDGEMENT"
            )
            for a in found.acknowledgements
        ),
        "",
        "## What this does not reach",
        "",
        *(f"- {canonical.printable(line, width=300)}" for line in found.not_reached),
        "",
        WORDS,
    ]
    return "\n".join(lines) + "\n"


def _asked(asked: Asked) -> str:
    if asked.site:
        return f"The site itself, `{asked.site}`, by an order under its signing key."
    if asked.cause:
        return f"Nobody for itself: it came from `{asked.cause}`, which was taken out of use."
    return (
        f"A quorum of the study's reviewers, each by a signed record: {', '.join(asked.reviewers)}."
    )


def _listed(what: str, digests: Iterable[str]) -> list[str]:
    return [f"- {what} `{digest}`" for digest in digests] or [f"- no {what}"]


def _destroyed(item: Destroyed) -> str:
    if item.time:
        return f"- {item.what} `{item.subject}`: destroyed {item.time}"
    when = f"due {item.due}" if item.due else "not destroyed"
    return f"- {item.what} `{item.subject}`: NOT YET, {when}"
