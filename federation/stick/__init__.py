"""The exchange by stick: one signed file per direction, specified in docs/stick-format.md."""
