"""Log lines hold what a closed table allows, and rotate; names and paths are not among it."""

import json
import logging

import pytest

from kit import logs
from kit.errors import KitError

PATIENT = "Mustermann-Erika"
PATH = f"/data/{PATIENT}/1.png"
ours, others = logging.getLogger("edge_agent.somewhere"), logging.getLogger("library")


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_is_json_with_the_fields_of_its_call_and_of_its_surroundings(tmp_path):
    path = tmp_path / "logs" / "x.jsonl"
    with logs.to_file(path), logs.bound(request="0123456789abcdef", site="s-3828ce145dbe"):
        ours.info("call ended", extra=logs.fields(code="OK", seconds=0.25, count=3))
    [line] = lines(path)
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "info",
        "source": "edge_agent.somewhere",
        "event": "call ended",
        "request": "0123456789abcdef",
        "site": "s-3828ce145dbe",
        "code": "OK",
        "seconds": 0.25,
        "count": 3,
    }
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_patients_name_reaches_no_line_however_it_is_passed(tmp_path):
    path = tmp_path / "x.jsonl"
    with logs.to_file(path), logs.bound(site=PATIENT):
        ours.warning("left out %s of %s", PATH, PATIENT)
        ours.warning("refused: %s", KitError(f"image `{PATH}` has no row", hint=PATIENT))
        ours.warning("half a value: %s", KitError(f"image `{PATH}"))
        ours.info("done", extra=logs.fields(command=PATH, blueprint=PATIENT, bytes=PATIENT))
        ours.info("done", extra={"patient": PATIENT})
        others.warning("cannot open %s", PATH)
        others.warning(f"cannot open {PATH}")
        try:
            raise ValueError(PATH)
        except ValueError:
            ours.exception("internal error")
    written = path.read_text()
    assert PATIENT.lower() not in written.lower()
    found = lines(path)
    assert len(found) == 8  # every one is there: it is the values that are not
    assert found[0]["event"] == "left out ... of ..."
    assert (found[1]["error"], found[1]["reason"]) == ("KitError", "image `...` has no row")
    assert [line.get("event") for line in found[5:7]] == [None, None]
    assert found[7]["error"] == "ValueError"
    assert {line["site"] for line in found} == {"?"}


def test_a_field_that_nobody_allowed_is_a_defect():
    assert logs.fields(count=1)
    with pytest.raises(RuntimeError, match="patient"):
        logs.fields(patient="p")
    with pytest.raises(RuntimeError, match="path"), logs.bound(path="x"):
        pass


def test_logs_rotate_by_size_and_old_ones_go(tmp_path):
    path = tmp_path / "x.jsonl"
    with logs.to_file(path, max_bytes=2_000):
        for number in range(400):
            ours.info("tick", extra=logs.fields(count=number))
    files = sorted(tmp_path.iterdir())
    assert len(files) == 1 + logs.KEPT_FILES
    assert all(file.stat().st_size <= 2_000 for file in files)
    assert lines(path)[-1]["count"] == 399
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    assert ours.getEffectiveLevel() == logging.WARNING  # nothing stays behind


def test_a_hostile_error_text_stays_on_its_line(tmp_path):
    path = tmp_path / "x.jsonl"
    with logs.to_file(path):
        ours.warning("refused: %s", KitError('a\n{"level": "info"}\x1b[2J\u202e'))
    [line] = lines(path)
    assert line["reason"] == 'a?{"level": "info"}?[2J?'
