"""Many sites at once."""

from benchmarks import crowd
from tests.drills.table import drill

SITES, MEGABYTES = 100, 1


@drill(
    "100 sites at once",
    done=f"{SITES} sites submit {MEGABYTES} MB each at the same moment; 50 MB each is what"
    " `benchmarks/crowd.py` measures",
    expected="every one is received and on the log",
    stage="",
)
def hundred_sites(_folder):
    seen = crowd.measure(SITES, MEGABYTES * crowd.MB)
    assert not seen["lost"], seen["lost"][0]
    return (
        f"{SITES} received in {seen['seconds']:.0f} s, {seen['turned_away']} told to come back,"
        f" the last after {seen['longest_wait_s']:.0f} s; server {seen['coordinator_mb']:.0f} MB"
    )
