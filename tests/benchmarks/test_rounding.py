import json
import sys

from benchmarks import rounding


def test_the_rounding_benchmark_compares_one_generator_with_itself(tmp_path, monkeypatch, capsys):
    file = tmp_path / "rows.json"
    monkeypatch.setattr(sys, "argv", ["rounding", "--quick", "--json", str(file)])
    assert rounding.main() == 0
    (row,) = json.loads(file.read_text())
    assert set(row) == {"seed", "exact", "rounded", "pixel_rms"}
    assert 0 < row["pixel_rms"] < 0.1  # rounded, and still the same generator
    assert "bfloat16" in capsys.readouterr().out
