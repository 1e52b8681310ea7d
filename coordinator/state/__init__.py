"""State: one SQL database, one writer at a time, and the log in the same transaction.

Invariants:

- A transition and its log entry commit together or not at all.
- `log` rows are never updated or deleted (the database itself refuses).
- Every write goes through `State.write`, which holds the database's one write lock: a command line
  beside a running server waits its turn.

It lies in SQLite in the home, or in a PostgreSQL database that the configuration names; nothing
outside this package can tell which.
"""

from coordinator.state.database import SERVE_LOCK, State
from coordinator.state.location import FILE, Location
from coordinator.state.schema import SCHEMA_VERSION
from coordinator.state.tables import (
    approvals,
    authorities,
    blueprints,
    build_events,
    builds,
    certificates,
    cosignatures,
    delegations,
    jobs,
    lineage,
    log,
    log_causes,
    log_nodes,
    lost,
    meta,
    metadata,
    papers,
    readmissions,
    recipient_keys,
    releases,
    review_aids,
    site_metrics,
    sites,
    sketches,
    studies,
)
from coordinator.state.transaction import Transaction

__all__ = [
    "FILE",
    "SCHEMA_VERSION",
    "SERVE_LOCK",
    "Location",
    "State",
    "Transaction",
    "approvals",
    "authorities",
    "blueprints",
    "build_events",
    "builds",
    "certificates",
    "cosignatures",
    "delegations",
    "jobs",
    "lineage",
    "log",
    "log_causes",
    "log_nodes",
    "lost",
    "meta",
    "metadata",
    "papers",
    "readmissions",
    "recipient_keys",
    "releases",
    "review_aids",
    "site_metrics",
    "sites",
    "sketches",
    "studies",
]
