"""Predict with a released model on this site's own machine: ONNX only, no torch.

Invariants:

- Bytes are linted against what the release promises before a runtime sees them, and the runtime
  opens those bytes, not a path.
- A GPU is used only after it has run this very model, alone, and agreed with the CPU; the provider
  in use is said.
- No provider answers for a release whose golden images it computes otherwise than their maker.
- Every row that leaves here names the release and says "research use only, not a medical device".
"""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.datasets.images import ImageSet
from edge_agent.datasets.report import Refusal
from federation.learning.downstream.metrics import Metrics
from federation.learning.downstream.metrics import evaluate as measure
from federation.release import onnx_lint
from federation.release.golden import GoldenImages
from federation.release.onnx_lint import INPUT_NAME, NOTICE, OUTPUT_NAME, ModelContract
from kit import canonical, clock
from kit.errors import KitError

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
RUNTIMES = ("onnxruntime", "onnxruntime-gpu")

MAX_BATCH_IMAGES = 256
MAX_BATCH_PIXELS = 4 << 20  # that wait for the graph's resize at once: 48 MB in colour
_PROBE_SIDES_PX = (37, 41)  # odd, and nobody's study size: the graph's own resize is probed too
_PROVIDER_TOLERANCE = 1e-3  # TF32 convolutions differ from float32 by about this much
_SUM_TOLERANCE = 1e-3
_FORMULA = ("=", "+", "-", "@", "'")  # what a spreadsheet would run, or take for a quoted cell


class InstalledModel:
    """A released classifier, opened; `provider` says what runs it and `why` how that was chosen."""

    def __init__(self, session: Any, contract: ModelContract, *, digest: str, why: str) -> None:
        self._session, self.contract = session, contract
        self.digest, self.why = digest, why
        self.provider = str(session.get_providers()[0])

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, in column order."""
        return self.contract.labels

    def predict(self, images: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Return float32 [N, classes] of probabilities; images of one size share batches.

        Args:
            images: N arrays float32 [C, h, w] in [0, 1], each at its own size.

        Raises:
            KitError: an image has other channels, or the model gives no probabilities.
        """
        result = np.zeros((len(images), len(self.labels)), dtype=np.float32)
        for at, batch in _batches(images, channels=self.contract.channels):
            result[at] = _run(self._session, batch)
        if not np.isfinite(result).all() or np.abs(result.sum(axis=1) - 1).max(initial=0) > (
            _SUM_TOLERANCE
        ):
            raise KitError(
                "the model gave something else than probabilities", hint="do not use this release"
            )
        return result


def open_model(
    data: bytes,
    *,
    contract: ModelContract,
    golden: GoldenImages | None = None,
    use_gpu: bool = True,
) -> InstalledModel:
    """Lint and open a released model.

    Args:
        data: the ONNX file's bytes, already verified against the release's digest.
        contract: channels, size in pixels and labels, from the signed release and study.
        golden: what the model must answer here; None with a release of before there were any.
        use_gpu: try CUDA where the runtime lists it.

    Raises:
        FormatError: the lint refuses the bytes.
        KitError: there is no single ONNX runtime, it cannot open the model, or it answers the
            golden images otherwise than their maker's.
    """
    onnx_lint.lint(data, contract=contract)
    require_one_runtime()
    session, why = _session(data, CPU), "no CUDA in this runtime"
    if use_gpu and CUDA in _available():
        session, why = _try_cuda(data, contract, session)
    model = InstalledModel(session, contract, digest=canonical.digest(data), why=why)
    if golden is None:
        return model
    try:
        golden.check(model.predict, what=model.provider)
    except KitError as error:
        if model.provider == CPU:
            raise
        session, why = _session(data, CPU), f"CUDA is refused: {error}"
        model = InstalledModel(session, contract, digest=canonical.digest(data), why=why)
        golden.check(model.predict, what=model.provider)
    return model


def runtimes() -> list[str]:
    """Return the installed ONNX runtime distributions."""
    installed = {(d.metadata["Name"] or "").lower() for d in metadata.distributions()}
    return [name for name in RUNTIMES if name in installed]


def require_one_runtime() -> str:
    """Return the name of the installed ONNX runtime distribution.

    Raises:
        KitError: there is none, or both are installed (they overwrite each other's files).
    """
    found = runtimes()
    if len(found) > 1:
        raise KitError(
            "both `onnxruntime` and `onnxruntime-gpu` are installed, and they overwrite each other",
            hint="uninstall both, then install the one that this machine needs",
        )
    if not found:
        hint = "install the `predict` extra, or `gpu` on a machine with one"
        raise KitError("no ONNX runtime is installed", hint=hint)
    return found[0]


def _available() -> list[str]:
    import onnxruntime

    return list(onnxruntime.get_available_providers())


def _session(data: bytes, provider: str) -> Any:
    """Open `data` on one provider alone: without a fallback, nothing runs elsewhere in silence."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # failures come as exceptions; the runtime's log names paths
    if provider != CPU:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        return onnxruntime.InferenceSession(data, options, providers=[provider])
    except _runtime_errors() as error:
        reason = canonical.printable(str(error).split("\n")[0])
        raise KitError(f"the ONNX runtime cannot open the model: {reason}") from error


def _run(session: Any, images: NDArray[np.float32]) -> NDArray[np.float32]:
    try:
        (probabilities,) = session.run([OUTPUT_NAME], {INPUT_NAME: images})
    except _runtime_errors() as error:
        reason = canonical.printable(str(error).split("\n")[0])
        raise KitError(f"the ONNX runtime cannot run the model: {reason}") from error
    return np.asarray(probabilities, dtype=np.float32)


def _runtime_errors() -> tuple[type[Exception], ...]:
    """Return every error class of the runtime; they share no base but `Exception`."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    named = (value for value in vars(state).values() if isinstance(value, type))
    return (RuntimeError, ValueError, *(kind for kind in named if issubclass(kind, Exception)))


def _try_cuda(data: bytes, contract: ModelContract, cpu: Any) -> tuple[Any, str]:
    """Return a CUDA session if it runs this model by itself and agrees with the CPU."""
    try:
        cuda = _session(data, CUDA)
        if cuda.get_providers()[0] != CUDA:
            return cpu, "CUDA is listed, but the runtime fell back to the CPU"
        probe = np.linspace(0, 1, contract.channels * int(np.prod(_PROBE_SIDES_PX)))
        images = probe.astype(np.float32).reshape(1, contract.channels, *_PROBE_SIDES_PX)
        difference = float(np.abs(_run(cuda, images) - _run(cpu, images)).max())
    except KitError as error:
        return cpu, f"CUDA is listed, but failed its self-test: {error}"
    if not difference <= _PROVIDER_TOLERANCE:
        return cpu, f"CUDA is listed, but differs from the CPU by {difference:.2g}"
    return cuda, "CUDA passed its self-test"


def _batches(
    images: Sequence[NDArray[np.float32]], *, channels: int
) -> Iterator[tuple[list[int], NDArray[np.float32]]]:
    """Yield positions and batches of images of one size; every image is asked for once.

    Images wait until their size fills a batch, or until all that wait fill one.
    """
    waiting: dict[tuple[int, ...], list[tuple[int, NDArray[np.float32]]]] = {}
    pixels = 0
    for index in range(len(images)):
        image = images[index]
        if image.ndim != 3 or image.shape[0] != channels or 0 in image.shape:
            raise KitError(f"image {index} has shape {image.shape}, not [{channels}, h, w]")
        waiting.setdefault(image.shape, []).append((index, image))
        pixels += image.shape[1] * image.shape[2]
        is_full = len(waiting[image.shape]) >= MAX_BATCH_IMAGES
        if is_full or pixels >= MAX_BATCH_PIXELS or index == len(images) - 1:
            for same in waiting.values():
                batch = np.stack([image for _, image in same])
                yield [at for at, _ in same], batch.astype(np.float32, copy=False)
            waiting, pixels = {}, 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """How a release does on this site's labelled images. Local: the figures describe patients.

    Attributes:
        metrics: accuracy, balanced accuracy and AUROC.
        unknown: labels of images for which the release has no class; they count as wrong.
        probabilities: float32 [N, classes].
        labels: int64 [N], columns of the true classes, -1 for `unknown`.
    """

    metrics: Metrics
    unknown: tuple[str, ...]
    probabilities: NDArray[np.float32]
    labels: NDArray[np.int64]


def evaluate(model: InstalledModel, images: ImageSet) -> Evaluation:
    """Compare a release with the labels of real images.

    Raises:
        KitError: the images have no labels.
    """
    if images.labels is None:
        raise KitError(
            "these images have no labels to compare with",
            hint="use a folder of class folders, or an .npz with labels",
        )
    column = {label: index for index, label in enumerate(model.labels)}
    labels = np.array([column.get(label, -1) for label in images.labels], dtype=np.int64)
    probabilities = model.predict(images.images)
    return Evaluation(
        metrics=measure(probabilities, labels),
        unknown=tuple(sorted(set(images.labels) - set(model.labels))),
        probabilities=probabilities,
        labels=labels,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a release says about one image: a label, and a probability for each class."""

    file: str
    label: str
    probabilities: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionTable:
    """Predictions of one release, with what every row must say beside them.

    `refused` are files that could not be read, each with the reason. `adapted` is the digest of a
    model that this site adapted from the release, where it is that which answered.
    """

    labels: tuple[str, ...]
    rows: tuple[Prediction, ...]
    release: str
    time: str
    refused: tuple[Refusal, ...] = ()
    adapted: str = ""

    def to_json(self) -> str:
        """Return the table as JSON text."""
        rows = [
            {
                "file": row.file,
                "label": row.label,
                "probabilities": dict(zip(self.labels, row.probabilities, strict=True)),
            }
            for row in self.rows
        ]
        refused = [{"file": each.file, "reason": each.reason} for each in self.refused]
        table = {
            "release": self.release,
            "time": self.time,
            "notice": NOTICE,
            "rows": rows,
            "refused": refused,
            **({"adapted": self.adapted} if self.adapted else {}),
        }
        return json.dumps(table, indent=1) + "\n"

    def to_csv(self) -> str:
        """Return the table as CSV text (RFC 4180); no cell starts a spreadsheet formula."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\r\n")
        columns = [f"p({label})" for label in self.labels]
        own = [("adapted", self.adapted)] if self.adapted else []
        head = ["release", *(name for name, _ in own), "time", "notice"]
        tail = [self.release, *(value for _, value in own), self.time, NOTICE]
        writer.writerow(["file", "label", *columns, *head])
        for row in self.rows:
            shares = [f"{p:.6f}" for p in row.probabilities]
            writer.writerow([_cell(row.file), row.label, *shares, *tail])
        return text.getvalue()


def tabulate(
    model: InstalledModel, images: ImageSet, *, release: str, now: datetime, adapted: str = ""
) -> PredictionTable:
    """Predict every image and return the rows for people.

    Args:
        model: the opened release.
        images: what to predict on.
        release: the release's digest.
        now: the time of the prediction.
        adapted: the digest of the model that was adapted from it, if that is `model`.
    """
    probabilities = model.predict(images.images)
    rows = tuple(
        Prediction(
            file=file,
            label=model.labels[int(row.argmax())],
            probabilities=tuple(round(float(p), 6) for p in row),
        )
        for file, row in zip(images.files, probabilities, strict=True)
    )
    return PredictionTable(
        labels=model.labels,
        rows=rows,
        release=release,
        time=clock.rfc3339(now),
        refused=images.refused,
        adapted=adapted,
    )


def _cell(text: str) -> str:
    shown = "".join(c if c.isprintable() else "?" for c in text)
    return f"'{shown}" if shown.startswith(_FORMULA) else shown
