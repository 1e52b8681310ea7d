import json

from benchmarks import adapting


def test_the_adapting_benchmark_judges_every_recipe_on_the_same_real_images(tmp_path, capsys):
    out = tmp_path / "out.json"
    assert adapting.main(["--quick", "--epsilons", "none", "--json", str(out)]) == 0
    rows = json.loads(out.read_text())
    recipes = ["release", "own images alone", "published", "adapt"]
    assert [row["recipe"] for row in rows] == recipes
    assert all(0 <= float(row["other classes"]) <= 100 for row in rows)
    assert "own images alone" in capsys.readouterr().out
