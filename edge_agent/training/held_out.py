"""Units that sit a run out, by coins of their own, so that the gate can ask what training left.

Invariants:

- Every unit's coins are tossed on their own, from operating-system entropy, before the first
  step, and kept: a resumed run leaves out the same units.
- With chance 2 h a unit is *tossed*, and a tossed unit is held out with chance 1/2: each unit is
  held out with chance h, and among the tossed ones in and out are fair coins, which is what a
  bound from one run needs (Steinke, Nasr, Jagielski 2023, section 3).
- The bound of a private run stays: given the coins, training is the same mechanism with the same
  q and sigma on the units that remain, and (epsilon, delta) depends on q and sigma alone. That a
  unit may be absent from the start makes it smaller, which is not claimed.
- The file holds keyed hashes, lies in the run's folder, and goes with it. Who sat out is as
  private as who is a patient.
"""

import hashlib
import hmac
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_agent.datasets.examples import Cohort
from edge_agent.training.noise import secret_uniform
from kit.errors import KitError
from kit.files import read_limited, write_atomic

VERSION = 1
MAX_SHARE = 0.5
_MAX_BYTES = 1 << 26


@dataclass(frozen=True, slots=True, kw_only=True)
class Coins:
    """Whom the coins sent where: tossed units that are trained on, and units that are not."""

    share: float
    included: frozenset[str] = frozenset()
    excluded: frozenset[str] = frozenset()


def tossed(path: Path, units: Iterable[str], share: float, *, secret: bytes, run_id: str) -> Coins:
    """Return the run's coins: those in `path`, or tossed now and written there.

    Args:
        path: the file in the run's folder.
        units: the cohort's unit keys.
        share: h, the chance of each unit to sit out, 0 to 0.5.
        secret: the site's, under which units are hashed.
        run_id: the run, so that the same unit has another hash in every run.

    Raises:
        KitError: the share is out of range or another than the run was started with, or the file
            is damaged.
    """
    require_share(share)
    names = sorted(set(units))
    if path.is_file():
        return _read(path, names, share, secret=secret, run_id=run_id)
    where = secret_uniform(len(names))
    excluded = frozenset(unit for unit, u in zip(names, where, strict=True) if u < share)
    included = frozenset(
        unit for unit, u in zip(names, where, strict=True) if share <= u < 2 * share
    )
    table = {
        "version": VERSION,
        "share": share,
        "included": sorted(_hash(unit, secret, run_id) for unit in included),
        "excluded": sorted(_hash(unit, secret, run_id) for unit in excluded),
    }
    write_atomic(path, (json.dumps(table) + "\n").encode(), mode=0o600)
    return Coins(share=share, included=included, excluded=excluded)


def require_share(share: float) -> None:
    """Check that a share can be held out.

    Raises:
        KitError: it is out of range.
    """
    if not 0 <= share <= MAX_SHARE:
        raise KitError(
            f"a share of {share:g} cannot be held out",
            hint=f"give 0 to {MAX_SHARE:g}; 0.1 by default",
        )


def divide(cohort: Cohort, coins: Coins) -> tuple[Cohort, Cohort]:
    """Return the images that are trained on, and those of the units that sit out."""
    is_out = np.array([unit in coins.excluded for unit in cohort.units], dtype=np.bool_)
    return cohort.part(np.flatnonzero(~is_out)), cohort.part(np.flatnonzero(is_out))


def _read(path: Path, names: list[str], share: float, *, secret: bytes, run_id: str) -> Coins:
    try:
        table = json.loads(read_limited(path, limit=_MAX_BYTES, what="list of held-out units"))
        found, included, excluded = table["share"], table["included"], table["excluded"]
        known = {_hash(unit, secret, run_id): unit for unit in names}
        coins = Coins(
            share=float(found),
            included=frozenset(known[h] for h in included),
            excluded=frozenset(known[h] for h in excluded),
        )
    except (ValueError, TypeError, KeyError) as error:
        raise KitError(
            f"`{path}` does not fit the images: which units were held out is not known any more",
            hint="put the same images back, or start a new run with --run NAME",
        ) from error
    if coins.share != share:
        raise KitError(
            f"this run was started with --held-out {coins.share:g}",
            hint="repeat the first command exactly, or start a new run with --run NAME",
        )
    return coins


def _hash(unit: str, secret: bytes, run_id: str) -> str:
    what = b"held out\0" + run_id.encode() + b"\0" + unit.encode()
    return hmac.digest(secret, what, hashlib.sha256).hex()
