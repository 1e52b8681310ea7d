import subprocess
import sys

import pytest

from edge_agent import installed
from federation.release.statement import FILE_NAMES
from kit.errors import KitError
from tests.fakes import site
from tests.fakes.disks import small_disk

_LIMIT_BYTES = 40_000
_FETCH = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, ({_LIMIT_BYTES}, {_LIMIT_BYTES}))
from edge_agent.cli import main
sys.argv = ["edge-agent", "fetch", "--study", "{site.STUDY}", "--home", sys.argv[1]]
main()
"""


def fetch(home):
    return installed.fetch(home, site.STUDY, got=lambda *_: None)


def test_a_file_that_may_not_grow_ends_fetching_in_one_line_and_it_goes_on_later(released):
    home = released.home("a")
    with released.serving():
        done = subprocess.run(
            [sys.executable, "-c", _FETCH, str(home.path)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        errors = [line for line in done.stderr.splitlines() if "error: " in line]
        assert done.returncode == 1
        assert len(errors) == 1
        assert errors[0].startswith("edge-agent: error: file size limit reached")
        assert "Traceback" not in done.stderr
        with pytest.raises(KitError, match="no release of study"):
            installed.load(home, site.STUDY, now=site.clock.utc_now())
        later = fetch(home)
    names = set(FILE_NAMES.values())
    files = [path for path in later.model.parent.iterdir() if path.name in names]
    assert later.bytes_downloaded == sum(f.stat().st_size for f in files) - _LIMIT_BYTES


def test_a_full_disk_installs_nothing_and_the_same_command_later_does(released):
    home = released.home("a")
    home.releases.mkdir(exist_ok=True)
    with released.serving():
        with (
            small_disk(home.releases, "64k"),
            pytest.raises(KitError, match="no space left on the disk") as refusal,
        ):
            fetch(home)
        assert "free some space" in refusal.value.hint
        assert fetch(home).release
    assert installed.load(home, site.STUDY, now=site.clock.utc_now())
