"""The wire contract and its generated stubs; no logic."""
