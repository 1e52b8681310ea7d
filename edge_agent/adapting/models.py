"""An adapted model at work: its lineage is asked again before every use, as a release's is."""

from dataclasses import dataclass
from datetime import datetime

from edge_agent import erased, installed
from edge_agent.adapting import records
from edge_agent.adapting.records import Record
from edge_agent.home import Home
from edge_agent.inference import InstalledModel, open_model
from federation.release.onnx_lint import ModelContract
from federation.release.statement import MAX_MODEL_BYTES, Release
from federation.study import Study
from kit import canonical
from kit.errors import KitError
from kit.files import read_limited

NOTICE = (
    "for this site alone: trained on its own patients' images without differential privacy; it is"
    " never submitted, and nothing measured on it is sent"
)
_AGAIN = "run `edge-agent fetch`, then `edge-agent adapt` anew"


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapted:
    """An adapted model that was verified just now, with the release it descends from."""

    record: Record
    release: Release
    study: Study
    model: bytes

    def opened(self) -> InstalledModel:
        """Return it ready to predict.

        Raises:
            KitError: the lint refuses it, or the runtime cannot open it.
        """
        image = self.study.image
        contract = ModelContract(
            channels=image.channels,
            height=image.height,
            width=image.width,
            labels=self.record.labels,
        )
        return open_model(self.model, contract=contract)


def load(home: Home, name: str, *, now: datetime) -> Adapted:
    """Return an adapted model after asking what became of everything that is in it.

    Raises:
        KitError: there is none; its release is withdrawn, descends from what is revoked, or is past
            its lease; a patient in it was erased; or its files were altered.
    """
    record = records.read(home, name)
    try:
        return _checked(home, record, now)
    except KitError as error:
        raise KitError(f"adapted model `{name}`: {error}", hint=error.hint or _AGAIN) from error


def _checked(home: Home, record: Record, now: datetime) -> Adapted:
    folder = records.folder_of(home, record.name)
    known = installed.check_known(home, record.release, now=now)
    release = installed.statement_in(home, folder)
    if release.digest != record.release:
        raise KitError("it does not descend from the release that its record names", hint=_AGAIN)
    study = home.study(record.study)
    installed.check_usable(release, study, known, now)
    if erased.holds(home, record.units):
        raise KitError("a patient in it was erased here", hint="run `edge-agent adapt` anew")
    path = folder / records.MODEL
    model = read_limited(path, limit=MAX_MODEL_BYTES, what="adapted model")
    if canonical.digest(model) != record.model:
        raise KitError(
            "its file was altered",
            hint="find out who wrote to this machine, then run `edge-agent adapt` anew",
        )
    return Adapted(record=record, release=release, study=study, model=model)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """An adapted model as `status` shows it; `unusable` says why it would not answer now, if so."""

    name: str
    model: str
    release: str
    study: str
    labels: tuple[str, ...]
    created: str
    unusable: str


def listing(home: Home, *, now: datetime) -> list[Listed]:
    """Return every adapted model of this site, by name."""
    return [_listed(home, name, now) for name in records.names(home)]


def _listed(home: Home, name: str, now: datetime) -> Listed:
    try:
        record = records.read(home, name)
    except KitError as error:
        return Listed(
            name=name,
            model="",
            release="",
            study="",
            labels=(),
            created="",
            unusable=str(error),
        )
    unusable = ""
    try:
        load(home, name, now=now)
    except KitError as error:
        unusable = str(error)
    return Listed(
        name=name,
        model=record.model,
        release=record.release,
        study=record.study,
        labels=record.labels,
        created=record.created,
        unusable=unusable,
    )
