"""The TUF repository: what a federation publishes, and what makes a copy of it fresh and whole."""

import sys

# securesystemslib loads every cloud library that happens to be installed, for signers that are not
# used here: 15 MB and half a second of a server that must stay small. It takes their absence well.
_NOT_FOR_THIS = [name for name in ("boto3", "hvac", "google.cloud") if name not in sys.modules]
for _name in _NOT_FOR_THIS:
    sys.modules[_name] = None  # type: ignore[assignment]
try:
    import securesystemslib.signer  # noqa: F401
finally:
    for _name in _NOT_FOR_THIS:
        del sys.modules[_name]
