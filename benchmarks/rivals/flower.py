"""Flower with one site on this machine: HTTPS, the site known by its registered key.

SuperLink and SuperNode are started as its documentation says, state in memory as is its default,
without telemetry, without looking for updates, and without `uv sync`, which wants a network.
"""

import shutil

from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric import ec

from benchmarks.rivals import APPS
from kit import clock
from pki import certificates, keys
from pki.identity import Identity, Role
from tests.fakes.terminal import free_ports

NAME, PACKAGE = "Flower", "flwr"
ENV = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
_PROJECT = """
[project]
name = "measured"
version = "1.0.0"
description = "one site"
dependencies = ["flwr>=1.41"]
[tool.flwr.app]
publisher = "bench"
[tool.flwr.app.components]
serverapp = "flower_app:coordinator"
clientapp = "flower_app:site"
[tool.flwr.app.config]
folder = ""
"""


def start(python, started, asks, *, between):
    """Start SuperLink and SuperNode and a run that waits for what is asked in `asks`."""
    folder, commands = started.folder, python.parent
    port, inner = free_ports(2)
    _credentials(folder)
    home = folder / "home"
    home.mkdir()
    started.env["FLWR_HOME"] = str(home)
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "bench"\n[superlink.bench]\naddress = "127.0.0.1:{port}"\n'
        f'root-certificates = "{folder / "root.pem"}"\n'
    )
    started.start(
        "coordinator",
        *(commands / "flower-superlink", "--port", port, "--ssl-certfile", folder / "tls.pem"),
        *("--ssl-keyfile", folder / "tls.key", "--ssl-ca-certfile", folder / "root.pem"),
        *("--enable-supernode-auth", "--disable-runtime-dependency-installation"),
    )
    started.wait_for_word("coordinator", "Uvicorn running")
    started.ask(commands / "flwr", "supernode", "register", folder / "node.pub", "bench")
    started.start(
        "site",
        *(commands / "flower-supernode", "--port", inner),
        *("--superlink", f"127.0.0.1:{between(('127.0.0.1', port))}"),
        *("--root-certificates", folder / "root.pem"),
        *("--auth-supernode-private-key", folder / "node.key"),
    )
    started.wait_for_word("site", "SuperNode ID")
    app = folder / "app"
    app.mkdir()
    (app / "pyproject.toml").write_text(_PROJECT)
    for name in ("turns.py", "flower_app.py"):
        shutil.copy(APPS / name, app / name)
    started.ask(commands / "flwr", "run", app, "bench", "-c", f"folder='{asks}'")


def _credentials(folder):
    """Write a root, the SuperLink's certificate and key under it, and the site's key pair."""
    now = clock.utc_now()
    root, key = certificates.new_root("bench", now=now), keys.new_tls_key()
    coordinator = Identity("bench", Role.COORDINATOR)
    leaf = certificates.issue_tls_server(
        root, coordinator, key.public_key(), ["127.0.0.1", "localhost"], now=now
    )
    (folder / "root.pem").write_bytes(certificates.pem(root.certificate))
    (folder / "tls.pem").write_bytes(certificates.pem(leaf))
    (folder / "tls.key").write_bytes(keys.pem(key))
    node = ec.generate_private_key(ec.SECP384R1())
    (folder / "node.key").write_bytes(
        node.private_bytes(form.Encoding.PEM, form.PrivateFormat.OpenSSH, form.NoEncryption())
    )
    (folder / "node.pub").write_bytes(
        node.public_key().public_bytes(form.Encoding.OpenSSH, form.PublicFormat.OpenSSH)
    )
