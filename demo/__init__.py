"""The demonstration: one coordinator and three hospitals on this machine."""
