"""Other systems' exchange beside ours: their own server and one site, as processes over loopback.

They are installed apart, in an interpreter that is named (they pin other versions of grpcio than
ours). Measured is from the site's code letting go of an update to the coordinator's code
holding it; see `benchmarks/README.md` for what that leaves out.
"""

from pathlib import Path

APPS = Path(__file__).parent / "apps"
