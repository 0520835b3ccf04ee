"""What a terminal says at the end of a run: few lines, every number with interval and chance."""

from __future__ import annotations

import json

from oculex.report.terminal import differences, finals, learnt, results
from tests.report.conftest import estimate, metrics, race


def test_the_end_of_a_run_in_few_lines(run):
    said = learnt(run, ".venv/bin/oculex").splitlines()
    assert said[0] == "clip learnt from 107,520 samples in 2 min 30 s. On data it never saw (95 % intervals):"
    last = json.loads((run / "evaluations.jsonl").read_text().splitlines()[-1])["metrics"]
    top1 = last["world/zeroshot/top1"]
    assert said[2].startswith("  Zero-shot classification, top-1 accuracy")
    assert f"{100 * top1['value']:.1f} %   {100 * top1['low']:.1f} to {100 * top1['high']:.1f} %" in said[2]
    assert "chance 0.83 %" in said[2]
    assert "chance 0.05 %" in said[3]
    assert f"page  {run / 'report.html'}" in said
    assert f"next  .venv/bin/oculex evaluate {run}" in said
    assert len(said) <= 14
    assert all(len(line) <= 110 or str(run) in line for line in said)


def test_a_run_that_was_stopped_says_how_to_go_on(run):
    (run / "plan.json").write_text(json.dumps({"steps": 900}))
    state = run / "checkpoints" / "step-000000420" / "state.json"
    state.parent.mkdir(parents=True)
    state.write_text(json.dumps({"step": 420, "files": {}}))
    said = learnt(run)
    assert "420 of 900 steps are saved" in said
    assert said.endswith(f"oculex resume {run}")


def test_metrics_stand_in_groups_in_columns(run):
    said = results(metrics(1.0), run / "records" / "step-000000416.parquet")
    zeroshot, retrieval = said.split("\n\n")
    assert zeroshot.splitlines()[0] == "world · Zero-shot classification"
    assert retrieval.splitlines()[0] == "world · Retrieval"
    assert "chance 0.83 %" in zeroshot.splitlines()[1]
    assert "chance_r1" not in said
    assert "chance r1" not in said
    assert len({line.index("n = ") for line in retrieval.splitlines()[1:]}) == 1


def test_differences_are_in_points_with_sign_and_mark():
    better = {"value": 0.031, "low": 0.01, "high": 0.052, "n": 500}
    unclear = {"value": -0.2, "low": -1.0, "high": 0.5, "n": 500}
    said = differences({"a/zeroshot/top1": better, "a/retrieval/text_to_image_median_rank": unclear})
    first, second = (line for line in said.splitlines() if line.startswith("  "))
    assert first.split("   ")[1:4] == ["+3.1 points", "1 to 5.2", "*"]
    assert second.split("   ")[1:3] == ["−0.2", "−1 to 0.5"]
    assert "*" not in second


def test_unbounded_intervals_are_words():
    said = results({"a/b/c": estimate(0.5, float("inf"), 1)})
    assert "no interval" in said


def test_a_race_is_a_table():
    title, *rows = finals(race()).splitlines()
    assert title == "world: Zero-shot classification, top-1 accuracy"
    assert [row.split()[0] for row in rows] == ["clip", "negclip", "tips"]
    assert all("n = 2,000" in row for row in rows)
