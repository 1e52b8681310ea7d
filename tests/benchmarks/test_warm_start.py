import json

from benchmarks.warm_start import main


def test_the_path_runs_from_a_base_and_from_random_weights(tmp_path, capsys):
    out = tmp_path / "warm.json"
    words = ["--quick", "--epsilons", "8", "--images", "300", "--json", str(out)]
    assert main(words) == 0
    rows = json.loads(out.read_text())
    assert [(row["start"], row["epsilon"]) for row in rows] == [("random", 8), ("all", 8)]
    assert all(0 <= row["accuracy"] <= 1 for row in rows)
    assert "random" in capsys.readouterr().out
