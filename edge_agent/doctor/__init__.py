"""What keeps this site from working: one function per cause, and what to do about it."""
