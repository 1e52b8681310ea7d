"""Intake: every received payload is opened and tried in limited processes before anyone sees it."""
