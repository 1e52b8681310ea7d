"""How long a transaction waits for another one."""

WAIT_FOR_LOCK_MS = 30_000
