"""How the state of every older version becomes that of this one.

Each step is SQL that is never edited once it was on the main branch, so that a home of any age
passes through the very tables that its version knew. A new column or table is a new step at the
end, beside its definition in `coordinator.state`: `tests/coordinator/test_migrations.py` holds the
two equal.
"""

# STEPS[0] leads from schema 1 to schema 2, and so on.
STEPS: tuple[tuple[str, ...], ...] = ()
NEWEST = len(STEPS) + 1


def steps_from(version: int) -> list[str]:
    """Return the statements that lead from `version` to the newest, in order."""
    return [statement for step in STEPS[version - 1 :] for statement in step]
