"""`python -m demo`: run the story, print the table, write demo/summary.json."""

import argparse
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from demo import data as demo_data
from demo.story import NON_PRIVATE, PRIVATE, REVOKED, SITES, Setting, Story, serving
from kit.door import columns, note, run

FOLDER = Path(__file__).parent


def main() -> None:
    """Parse the options and run the story."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--data", type=Path, help="an .npz or a folder of class folders")
    parser.add_argument("--seed", type=int, default=0, help="deals the images")
    parser.add_argument(
        "--setting", action="append", choices=[PRIVATE, NON_PRIVATE], help="only this one"
    )
    parser.add_argument("--quick", action="store_true", help="every step, without learning")
    parser.add_argument("--work", type=Path, default=FOLDER / "work", help="where homes are made")
    parser.add_argument("--summary", type=Path, default=FOLDER / "summary.json")
    options = parser.parse_args()
    sys.exit(run("demo", lambda: _tell(options)))


def _tell(options: argparse.Namespace) -> None:
    started = time.monotonic()
    work = options.work.absolute()
    _clear(work)
    note("== data: three hospitals with disjoint classes")
    described = _json(demo_data.make(work / "data", data=options.data, seed=options.seed))
    chosen = options.setting or [PRIVATE, NON_PRIVATE]
    story = Story(work, described, settings=chosen, quick=options.quick)
    settings = {setting.name: _first_half(story, setting) for setting in _enrolled(story)}
    _keep_hospitals(story)
    with ThreadPoolExecutor(max_workers=2) as lanes:  # one core each
        beside = lanes.submit(_never_had, story, settings)
        _second_half(story, settings)
        beside.result()
    baselines = _baselines(work, quick=options.quick)
    table = {
        "settings": {
            name.replace("-", "_"): _setting_table(rows, baselines)
            for name, rows in settings.items()
        },
        "seconds": {name: round(s, 1) for name, s in story.clock.seconds.items()}
        | {"total": round(time.monotonic() - started, 1)},
    }
    options.summary.write_text(json.dumps(table, indent=2) + "\n")
    _show(table)
    peaks = sorted(story.shell.peak_mib.items(), key=lambda item: -item[1])
    note("peak memory: " + ", ".join(f"{name} {mib} MiB" for name, mib in peaks))
    picture = options.summary.with_name("samples.png")
    _picture(work, list(settings), picture)
    note(f"written: {options.summary}, {picture}")


def _clear(work: Path) -> None:
    import shutil

    from kit.errors import KitError

    mark = work / ".demo"
    if work.exists() and any(work.iterdir()) and not mark.exists():
        raise KitError(f"`{work}` holds something else", hint="choose another --work")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    mark.touch()


def _json(value: Any) -> dict[str, Any]:
    from kit.door import to_table

    table: dict[str, Any] = to_table(value)
    return table


def _enrolled(story: Story) -> tuple[Setting, ...]:
    note("== federation: keys, studies, enrolment with a spoken code")
    story.found()
    with serving(story.shell, "hub"):
        for site in SITES:
            if site != REVOKED:
                story.enrol(site)
    note(f"== a copy of the coordinator's home, before hospital {REVOKED} enrols")
    story.keep_copy("hub", "hub-before")
    with serving(story.shell, "hub"):
        story.enrol(REVOKED)
    return story.settings


def _first_half(story: Story, setting: Setting) -> dict[str, Any]:
    note(f"== {setting.name}: train at the three hospitals, offline")
    rows: dict[str, Any] = {"setting": setting, "sites": story.train(setting)}
    return rows


def _baselines(work: Path, *, quick: bool) -> dict[str, Any]:
    note("== the same classifier: pooled data, FedAvg at one exchange, FedAvg at many rounds")
    out = work / "baselines.json"
    command = ["-m", "benchmarks.baselines", "--sites", str(work / "data"), "--json", str(out)]
    command += ["--quick"] if quick else []
    note(f"$ python {' '.join(command)}")
    subprocess.run([sys.executable, *command], check=True, stdout=sys.stderr)
    table: dict[str, Any] = json.loads(out.read_text())
    return table


def _keep_hospitals(story: Story) -> None:
    note("== copies of hospitals a and b, before they submit")
    for site in SITES:
        if site != REVOKED:
            story.keep_copy(site, f"{site}-before")
    story.move_copies()


def _second_half(story: Story, settings: dict[str, dict[str, Any]]) -> None:
    with serving(story.shell, "hub"):
        for name, rows in settings.items():
            note(f"== {name}: submit, review, build, release, fetch, predict, evaluate")
            setting = rows["setting"]
            rows["submitted"] = story.submit(setting, "hub", SITES)
            story.approve(setting, "hub", sheets=True)
            rows["built"] = story.build(setting, "hub")
            rows["release"] = story.evaluate(setting)
            note(f"== {name}: hospital {REVOKED} is revoked, the release rebuilt")
            rows["rebuilt"] = story.revoke(setting)
        note("== audit: both sides verify the log")
        story.audit()


def _never_had(story: Story, settings: dict[str, dict[str, Any]]) -> None:
    note(f"== the federation that never had hospital {REVOKED}: fresh process, opposite order")
    with serving(story.shell, "hub-before"):
        for rows in settings.values():
            rows["never_had"] = story.never_had(rows["setting"])


def _setting_table(rows: dict[str, Any], baselines: dict[str, Any]) -> dict[str, Any]:
    after, never = rows["rebuilt"]["release"], rows["never_had"]
    figures = ("accuracy", "balanced_accuracy", "auroc")
    exchange = (*figures, "bytes", "rounds")
    return {
        "sites": rows["sites"],
        "release": rows["release"] | {"digest": f"sha256:{rows['built']['release']}"},
        "fedavg_one_exchange": {k: baselines["fedavg_one_exchange"][k] for k in exchange},
        "fedavg_many_rounds": {k: baselines["fedavg_many_rounds"][k] for k in exchange},
        "centralized": {k: baselines["centralized"][k] for k in figures},
        "bytes": {"submitted": rows["submitted"], "released": rows["built"]["model_bytes"]},
        "revocation": {
            "revoked_site": REVOKED,
            "digest_before": f"sha256:{rows['built']['release']}",
            "digest_after": f"sha256:{after}",
            "digest_never_had": f"sha256:{never}",
            "identical": after == never,
        },
    }


def _picture(work: Path, settings: list[str], out: Path) -> None:
    """Put the sheets that the reviewer saw side by side: a column per setting, a row per site."""
    from PIL import Image

    sheets = [
        [Image.open(work / f"review-{name}-{site}.png").convert("RGB") for site in SITES]
        for name in settings
    ]
    width = sum(max(sheet.width for sheet in column) for column in sheets)
    height = max(sum(sheet.height for sheet in column) for column in sheets)
    picture = Image.new("RGB", (width, height), "white")
    left = 0
    for column in sheets:
        top = 0
        for sheet in column:
            picture.paste(sheet, (left, top))
            top += sheet.height
        left += max(sheet.width for sheet in column)
    picture.save(out)


def _show(table: dict[str, Any]) -> None:
    lines = []
    for name, setting in table["settings"].items():
        mine = setting["release"]
        label = "ours, private" if name == PRIVATE else "ours, without privacy"
        exchanged = setting["bytes"]["submitted"] + len(SITES) * setting["bytes"]["released"]
        lines.append(_line(label, mine, rounds=1, exchanged=exchanged))
    setting = next(iter(table["settings"].values()))
    for key, label in (("fedavg_one_exchange", "FedAvg"), ("fedavg_many_rounds", "FedAvg, tuned")):
        row = setting[key]
        lines.append(_line(label, row, rounds=row["rounds"], exchanged=row["bytes"]))
    lines.append(_line("all data in one place", setting["centralized"], rounds=0, exchanged=0))
    head = ("method", "rounds", "bytes", "accuracy", "balanced", "AUROC")
    sys.stdout.write(columns(lines, head) + "\n\n")
    for name, setting in table["settings"].items():
        same = "identical" if setting["revocation"]["identical"] else "DIFFERENT"
        gone = setting["revocation"]["revoked_site"]
        sys.stdout.write(f"{name}: rebuilt without {gone}, against never had {gone}: {same}\n")
    seconds = ", ".join(f"{key} {value:.0f} s" for key, value in table["seconds"].items())
    sys.stdout.write(f"{seconds}\n")


def _line(label: str, row: dict[str, Any], *, rounds: int, exchanged: int) -> tuple[str, ...]:
    shares = (f"{100 * row['accuracy']:.1f} %", f"{100 * row['balanced_accuracy']:.1f} %")
    return (label, str(rounds), f"{exchanged:,}", *shares, f"{row['auroc']:.3f}")


if __name__ == "__main__":
    main()
