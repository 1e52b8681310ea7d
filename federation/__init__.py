"""What both sides must agree on, as rules over bytes: no network, no clock, only named files."""
