"""The floor every room stands on: standard library only."""
