"""The blueprint: a site's signed and sealed contribution. Bytes in, verdict out; no torch."""
