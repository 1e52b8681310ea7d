"""NVFlare with one site on this machine: gRPC, mutual TLS, its own provisioning and start script.

Its default scheme is HTTP; gRPC was the faster of the two. All else is as provisioned, but for the
folder of its job store.
"""

import json
import shutil

from benchmarks.rivals import APPS
from tests.fakes.terminal import free_ports

NAME, PACKAGE = "NVFlare", "nvflare"
ENV = {}
_BUILDERS = "nvflare.lighter.impl."


def start(python, started, asks, *, between):
    """Start server and site and give them a job that waits for what is asked in `asks`."""
    (port,) = free_ports(1)
    kits = _provision(python, started, port)
    folder = started.folder
    resources = kits / "localhost/local/resources.json"
    text = resources.with_suffix(".json.default").read_text()
    resources.write_text(text.replace("/tmp/nvflare", str(folder / "store")))
    _edit(
        kits / "site-1/startup/fed_client.json",
        lambda made: made["servers"][0]["service"].update(
            target=f"localhost:{between(('127.0.0.1', port))}"
        ),
    )
    for side, kit, said in (
        ("coordinator", "localhost", "Server started"),
        ("site", "site-1", "Successfully registered client"),
    ):
        started.start(side, "bash", kits / kit / "startup/sub_start.sh", "--once")
        started.wait_for_word(side, said)
    started.ask(
        *(python.parent / "nvflare", "--connect-timeout", "60", "job", "submit"),
        *("-j", _job(folder, asks), "--startup-kit", kits / "admin@bench.org"),
    )


def _provision(python, started, port):
    """Let NVFlare make keys and start-up kits; return their folder."""
    project = {
        "api_version": 3,
        "name": "bench",
        "description": "one site",
        "participants": [
            {
                "name": "localhost",
                "type": "server",
                "org": "bench",
                "fed_learn_port": port,
                "admin_port": port,
            },
            {"name": "site-1", "type": "client", "org": "bench"},
            {"name": "admin@bench.org", "type": "admin", "org": "bench", "role": "project_admin"},
        ],
        "builders": [
            {"path": _BUILDERS + "workspace.WorkspaceBuilder"},
            {
                "path": _BUILDERS + "static_file.StaticFileBuilder",
                "args": {"config_folder": "config", "scheme": "grpc"},
            },
            {"path": _BUILDERS + "cert.CertBuilder"},
            {"path": _BUILDERS + "signature.SignatureBuilder"},
        ],
    }
    path = started.folder / "project.yml"
    path.write_text(json.dumps(project))  # JSON is YAML
    started.ask(
        *(python.parent / "nvflare", "provision", "-p", path, "-w", started.folder / "kits")
    )
    return started.folder / "kits/bench/prod_00"


def _job(folder, asks):
    """Write the job; return its folder."""
    job = folder / "job"
    (job / "app/config").mkdir(parents=True)
    (job / "app/custom").mkdir()
    for name in ("turns.py", "nvflare_app.py"):
        shutil.copy(APPS / name, job / "app/custom" / name)
    meta = {"name": "send", "resource_spec": {}, "min_clients": 1, "deploy_map": {"app": ["@ALL"]}}
    receiver = {
        "id": "receiver",
        "path": "nvflare_app.Receiver",
        "args": {"folder": str(asks)},
    }
    sender = {"tasks": ["send"], "executor": {"path": "nvflare_app.Sender", "args": {}}}
    for path, document in (
        ("meta.json", meta),
        ("app/config/config_fed_server.json", {"format_version": 2, "workflows": [receiver]}),
        ("app/config/config_fed_client.json", {"format_version": 2, "executors": [sender]}),
    ):
        (job / path).write_text(json.dumps(document))
    return job


def _edit(path, change):
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
