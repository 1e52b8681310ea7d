"""Coins are fair, independent, kept for the run, and private."""

import json
import stat

import numpy as np
import pytest

from edge_agent.training import held_out
from kit.errors import KitError

SECRET = bytes(range(32))
UNITS = [f"patient-{i}" for i in range(4000)]


def toss(path, *, share=0.1, units=UNITS, run_id="r-1", secret=SECRET):
    return held_out.tossed(path, units, share, secret=secret, run_id=run_id)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_every_unit_sits_out_with_the_same_chance_and_tossed_ones_with_a_fair_coin(tmp_path, share):
    coins = toss(tmp_path / "coins", share=share)
    spread = 5 * np.sqrt(len(UNITS) * share * (1 - share))
    assert abs(len(coins.excluded) - share * len(UNITS)) < spread
    assert abs(len(coins.included) - share * len(UNITS)) < spread
    assert not coins.included & coins.excluded
    assert coins.included | coins.excluded <= set(UNITS)


def test_coins_are_tossed_anew_for_every_run_and_kept_for_each(tmp_path):
    first, second = toss(tmp_path / "1"), toss(tmp_path / "2", run_id="r-2")
    assert first != second
    assert toss(tmp_path / "1") == first
    assert toss(tmp_path / "1", units=UNITS[::-1]) == first


def test_the_file_names_nobody_and_only_its_owner_reads_it(tmp_path):
    path = tmp_path / "coins"
    coins = toss(path, units=UNITS[:40], share=0.5)
    text = path.read_text()
    assert "patient" not in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    hashes = set(json.loads(text)["excluded"])
    assert len(hashes) == len(coins.excluded) > 0
    for other in ({"secret": b"x" * 32}, {"run_id": "r-2"}):
        path.unlink()
        toss(path, units=UNITS[:40], share=0.5, **other)
        assert not hashes & set(json.loads(path.read_text())["excluded"])


def test_what_does_not_fit_the_coins_is_refused(tmp_path):
    path = tmp_path / "coins"
    assert toss(path).excluded
    for changed in ({"share": 0.2}, {"units": UNITS[:100]}, {"secret": b"y" * 32}):
        with pytest.raises(KitError, match="held"):
            toss(path, **changed)
    path.write_text("{}")
    with pytest.raises(KitError, match="does not fit"):
        toss(path)
    for share in (-0.1, 0.51, float("nan")):
        with pytest.raises(KitError, match="cannot be held out"):
            toss(tmp_path / "other", share=share)
    assert not (tmp_path / "other").exists()


def test_nobody_sits_out_where_nobody_was_asked_to(tmp_path):
    coins = toss(tmp_path / "coins", share=0.0)
    assert (coins.included, coins.excluded) == (frozenset(), frozenset())


def test_all_images_of_a_unit_go_where_its_coin_says(make):
    cohort = make["cohort"](count=66, per_unit=3)
    coins = held_out.Coins(share=0.5, excluded=frozenset({"p0", "p7"}))
    trained, out = held_out.divide(cohort, coins)
    assert set(out.units) == {"p0", "p7"}
    assert len(out.images) == 6
    assert not set(trained.units) & set(out.units)
    assert sorted(trained.digests + out.digests) == sorted(cohort.digests)
    assert trained.unit_kind is out.unit_kind is cohort.unit_kind
