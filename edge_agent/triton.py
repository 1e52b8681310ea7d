"""A release in the layout of a Triton model repository: `STUDY/config.pbtxt`, `STUDY/1/model.onnx`.

For hospitals that run Triton already. The copy stands outside the kit: nothing there learns of a
withdrawal, ends with a lease or waits for a person's word, and the folder says so. Keys of
`config.pbtxt` are those of `ModelConfig` in Triton's `model_config.proto`, in protobuf's text form.
"""

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from edge_agent import rollout
from edge_agent.home import Home
from edge_agent.inference import MAX_BATCH_IMAGES
from federation.release.onnx_lint import INPUT_NAME, OUTPUT_NAME, ModelContract
from federation.release.statement import Release
from kit import clock
from kit.errors import KitError
from kit.files import write_atomic

CONFIG, LABELS, MODEL, ABOUT = "config.pbtxt", "labels.txt", "model.onnx", "release.json"
VERSION = "1"  # Triton's versions are numbers; which release it is stands in the parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written."""

    release: str
    accepted: bool
    folder: Path
    files: tuple[str, ...]
    outside: str


def export(home: Home, study_name: str, into: Path, *, prefix: str = "", now: datetime) -> Exported:
    """Write the accepted release (or the one named) into a Triton model repository.

    The model's own folder must be new: a Triton that watches the repository never sees half of it.

    Raises:
        KitError: no release may be used, it cannot be opened here, or the folder exists.
    """
    study = home.study(study_name)
    found, is_accepted = rollout.load(home, study_name, now=now, prefix=prefix)
    rollout.opened(home, study_name, found)  # the lint, and that a runtime takes it
    folder = into / study.id
    if folder.exists():
        raise KitError(f"`{folder}` is there already", hint="remove it, or export somewhere else")
    files = _files(found.release, found.model, found.contract(study), now=now)
    # `config.pbtxt` last: without it, and with automatic completion off, Triton loads nothing.
    for name, data in files.items():
        write_atomic(folder / name, data)
    return Exported(
        release=found.release.digest,
        accepted=is_accepted,
        folder=folder,
        files=tuple(files),
        outside="Triton learns of no withdrawal and of no lease: remove this folder by hand",
    )


def _files(
    release: Release, model: bytes, contract: ModelContract, *, now: datetime
) -> dict[str, bytes]:
    about = {
        "release": release.digest,
        "study": release.study,
        "labels": list(release.labels),
        "notice": release.notice,
        "personal_data": release.personal_data,
        "created": release.created,
        "lease_until": release.lease_until,
        "exported": clock.rfc3339(now),
    }
    return {
        ABOUT: (json.dumps(about, indent=1) + "\n").encode(),
        LABELS: ("\n".join(release.labels) + "\n").encode(),
        f"{VERSION}/{MODEL}": model,
        CONFIG: config(release, contract).encode(),
    }


def config(release: Release, contract: ModelContract) -> str:
    """Return `config.pbtxt`: dynamic batch and sizes, labels for the classification extension."""
    parameters = {"release": release.digest, "notice": release.notice, "study": release.study}
    lines = [
        f"name: {_text(release.study)}",
        'platform: "onnxruntime_onnx"',
        f"max_batch_size: {MAX_BATCH_IMAGES}",
        *_tensor("input", INPUT_NAME, [contract.channels, -1, -1]),
        *_tensor("output", OUTPUT_NAME, [len(contract.labels)], label_filename=LABELS),
        "dynamic_batching { }",
        "version_policy { all { } }",
    ]
    for key, value in parameters.items():
        lines += [
            "parameters {",
            f"  key: {_text(key)}",
            f"  value {{ string_value: {_text(value)} }}",
            "}",
        ]
    return "\n".join(lines) + "\n"


def _tensor(kind: str, name: str, dims: list[int], **more: Any) -> list[str]:
    extra = [f"  {key}: {_text(value)}" for key, value in more.items()]
    head = [f"{kind} {{", f"  name: {_text(name)}", "  data_type: TYPE_FP32"]
    return [*head, f"  dims: [ {', '.join(map(str, dims))} ]", *extra, "}"]


def _text(value: str) -> str:
    """Quote text of the closed character sets, for which JSON's quoting is protobuf's."""
    return json.dumps(value)
