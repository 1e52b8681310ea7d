"""The privacy ledger: what every unit of this site has spent of its lifetime (epsilon, delta).

Invariants:

- One ledger per installation. Units are HMAC-SHA256 pseudonyms under the site's secret.
- A run reserves all of its events before it starts. Until it is settled, all of it counts against
  other runs; afterwards the steps that were charged do.
- A step is charged, and on the disk, before its result may be used; never more than were reserved.
- The account of the worst unit decides. Renyi curves are composed, epsilons are never added.
- Rows are only ever appended, under one writer's lock, and every entry is chained to the one
  before: `H_i = SHA-256(H_{i-1} || body_i)`, `H_0 = SHA-256("ledger" || random id)`.
- A run without privacy spends without bound: its units take part in no private run afterwards.
- An image is protected as itself or as one of its patient's, for its lifetime: a bound per image
  says nothing of a patient with several, so the two kinds of run are never mixed over one image.

The chain shows that this file was changed or rolled back; a person who rewrites the whole file is
caught by the statements that earlier heads went into.
"""

from edge_agent.ledger.account import Ledger, Reservation, pseudonym
from edge_agent.ledger.entries import Budget, GateVerdict, LedgerRun, LedgerStatus, Trials

__all__ = [
    "Budget",
    "GateVerdict",
    "Ledger",
    "LedgerRun",
    "LedgerStatus",
    "Reservation",
    "Trials",
    "pseudonym",
]
