"""A PKCS#11 token without hardware: SoftHSM2, in a folder of its own."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

LABEL, PIN = "north", "928374"
_MODULES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
)


def module():
    """Return the module's path, or skip."""
    pytest.importorskip("pkcs11", reason="the extra `hsm` is not installed")
    found = [path for path in _MODULES if Path(path).is_file()]
    if not found or shutil.which("softhsm2-util") is None:
        pytest.skip("SoftHSM2 is not installed")
    return found[0]


def make(folder):
    """Make a token below `folder`; returns its URI and the environment that finds it."""
    path = module()
    (folder / "tokens").mkdir(parents=True)
    configuration = folder / "softhsm2.conf"
    configuration.write_text(f"directories.tokendir = {folder}/tokens\nlog.level = ERROR\n")
    environment = {"SOFTHSM2_CONF": str(configuration)}
    words = ["softhsm2-util", "--init-token", "--free", "--label", LABEL, "--so-pin", "12345678"]
    subprocess.run(
        [*words, "--pin", PIN], env=os.environ | environment, check=True, capture_output=True
    )
    return f"pkcs11:token={LABEL}?module-path={path}", environment
