"""Claims run: tuned alike, interrupted and gone on with, shared, judged, kept; and every claim that is written."""

import json
import os
import signal
from dataclasses import replace

import pytest

from oculex import catalog, runs
from oculex.claims import experiment, ledger
from oculex.claims.race import race
from oculex.contracts import Arm, Claim, Tuning, UserError
from oculex.training.folder import RunFolder, finished, read_lines
from tests import toys

METRIC = "squares.parquet/zeroshot/top1"
WRITTEN = [
    (row.name, claim)
    for row in (*catalog.ROWS, *catalog.BASELINES)
    if catalog.has_code(row)
    for claim in catalog.load(row.name).claims
]


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return str(toys.squares(tmp_path_factory.mktemp("data")))


def toy_claim(toy, **changes):
    """Words in any order against word by word, on eight colours: settled within seconds."""
    common = toys.SMALL | {"data.sources": [toy], "evaluation.times": 4}
    arms = (
        Arm("words", METRIC, system="caption_bow", set=common),
        Arm("text", METRIC, system="caption_lm", set=common | toys.TEXT),
    )
    claim = Claim("toy", "Words are learnt from fewer samples than texts.", "no paper", arms, "words", "text",
                  measure="samples_to", threshold=0.6, compare="ratio", at_least=1.0, seeds=(0, 1),
                  budget="1536samples")  # fmt: skip
    return replace(claim, **changes)


@pytest.fixture(scope="module")
def judged(toy, tmp_path_factory):
    out = tmp_path_factory.mktemp("claims")
    tuning = Tuning((1e-4, 3e-3), seed=7)
    return experiment.judge("clip", toy_claim(toy, tuning=tuning), out), out


def test_a_claim_is_judged_from_its_runs(judged):
    result, _ = judged
    assert set(result) >= {"name", "statement", "paper", "arms", "effect", "verdict"}
    assert {arm: value["n"] for arm, value in result["arms"].items()} == {"words": 2, "text": 2}
    assert set(result["effect"]) == {"value", "low", "high", "n"}
    assert result["verdict"] in ("holds", "inconclusive", "does not hold at this scale")
    assert all(
        len(curve) == 4 and curve[-1][0] == 1536 for seeds in result["curves"].values() for curve in seeds
    )
    json.loads(json.dumps(result, allow_nan=False))


def test_every_arm_is_tuned_by_the_same_search(judged):
    result, out = judged
    tuning = result["tuning"]
    assert tuning["seed"] == 7
    assert [[value for value, *_ in tried] for tried in tuning["tried"].values()] == [[1e-4, 3e-3]] * 2
    for arm, tried in tuning["tried"].items():  # fewest samples, then the highest end
        assert tuning["chosen"][arm] == min(tried, key=lambda each: (each[1], -each[2]))[0]
    assert tuning["chosen"]["words"] == 3e-3  # with 1e-4 nothing is learnt in 48 steps
    recipes = [json.loads(path.read_text()) for path in out.glob("runs/*/recipe.json")]
    judged_rates = {
        (recipe["system"], recipe["optimizer"]["lr"]) for recipe in recipes if recipe["seed"] != 7
    }
    assert judged_rates == {("caption_bow", 3e-3), ("caption_lm", tuning["chosen"]["text"])}
    assert len(recipes) == 2 * (2 + 2)


def test_finished_runs_are_shared_and_not_run_again(judged, toy, monkeypatch):
    _, out = judged
    monkeypatch.setattr(runs, "start", lambda *_: pytest.fail("trained again"))
    again = experiment.judge(
        "clip", toy_claim(toy, name="other", seeds=(1,), tuning=Tuning((1e-4, 3e-3), seed=7)), out
    )
    assert again["verdict"] == "inconclusive"
    assert again["effect"]["high"] is None
    with pytest.raises(pytest.fail.Exception):
        experiment.judge("clip", toy_claim(toy, seeds=(5,)), out)


def test_an_interrupted_claim_goes_on(toy, tmp_path, monkeypatch):
    """Stopped in the middle of an arm: that arm goes on from its checkpoint, the finished ones stay."""
    claim = toy_claim(toy)
    steps = []
    evaluate = runs._Evaluator.__call__

    def stops(self, system, pool, step, final):
        steps.append(step)
        if len(steps) == 6:
            raise KeyboardInterrupt
        return evaluate(self, system, pool, step, final)

    monkeypatch.setattr(runs._Evaluator, "__call__", stops)
    common = {"checkpoint.every": 10}
    claim = replace(claim, arms=tuple(replace(arm, set=dict(arm.set) | common) for arm in claim.arms))
    with pytest.raises(KeyboardInterrupt):
        experiment.judge("clip", claim, tmp_path)
    result = experiment.judge("clip", claim, tmp_path)
    assert steps[5] == steps[6]  # the evaluation that was interrupted, of the run that went on
    assert len(steps) == 1 + 4 * 4
    assert all([samples for samples, _ in curve] == [384, 768, 1152, 1536] for seeds in result["curves"].values()
               for curve in seeds)  # fmt: skip


def test_a_claim_that_is_asked_to_stop_stops(toy, tmp_path, monkeypatch):
    """With the arm that was in hand, and does not go on with the next one."""
    evaluate = runs._Evaluator.__call__

    def asked(self, *of):
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(self, *of)

    monkeypatch.setattr(runs._Evaluator, "__call__", asked)
    with pytest.raises(UserError, match="the same command goes on"):
        experiment.judge("clip", toy_claim(toy), tmp_path)
    assert len(list(tmp_path.glob("runs/*"))) == 1
    with pytest.raises(UserError, match="needs another folder"):
        race(["caption_bow", "clip"], data=[toy], budget="60steps", out=tmp_path / "race", changes=toys.SMALL)


def test_a_run_that_stopped_before_it_had_a_plan_is_gone_on_with(toy, tmp_path):
    claim = toy_claim(toy, seeds=(0,))
    experiment.judge("clip", claim, tmp_path)
    folder = RunFolder(next(tmp_path.glob("runs/caption_bow-*")))
    for path in (folder.plan, folder.evaluations, folder.metrics):
        path.unlink()
    for saved in folder.checkpoints.iterdir():
        saved.rename(tmp_path / saved.name)
    experiment.judge("clip", claim, tmp_path)
    assert finished(folder)


def test_arms_that_differ_in_more_than_they_say_are_refused(toy, tmp_path):
    words, text = toy_claim(toy).arms
    for changes in ({"evaluation.prompts": "photo"}, {"budget": "9steps"}):
        unequal = toy_claim(toy, arms=(words, replace(text, set=dict(text.set) | changes)), budget="")
        with pytest.raises(ValueError, match="its arms differ"):
            experiment.judge("clip", unequal, tmp_path)
    with pytest.raises(ValueError, match="tuned on seed 1"):
        experiment.judge("clip", toy_claim(toy, tuning=Tuning((1e-3,), seed=1)), tmp_path)


def test_one_run_can_give_both_arms(judged, toy):
    _, out = judged
    words = toy_claim(toy).arms[0]
    other = Arm("top5", "squares.parquet/zeroshot/top5", weights_of="words")
    result = experiment.judge(
        "clip", toy_claim(toy, arms=(words, other), treatment="top5", control="words", measure="final",
                          compare="difference", at_least=0.0), out)  # fmt: skip
    assert result["arms"]["top5"]["value"] >= result["arms"]["words"]["value"]
    with pytest.raises(UserError, match=r"no metric 'squares/top1'; it has squares\.parquet/zeroshot"):
        experiment.judge("clip", toy_claim(toy, arms=(words, replace(other, metric="squares/top1")),
                                           treatment="top5", control="words"), out)  # fmt: skip


def test_the_ledger_keeps_the_newest_and_the_evidence_stays_small(judged, toy, tmp_path, monkeypatch):
    result, _ = judged
    written = replace(catalog.load("clip"), claims=(toy_claim(toy), toy_claim(toy, name="second")))
    monkeypatch.setattr(catalog, "load", lambda name: written)
    monkeypatch.setattr(catalog, "evidence_path", lambda name: tmp_path / f"{name}.json")
    long = result | {"curves": {"words": [[(n, n / 997) for n in range(100)]]}}
    ledger.record([long])
    ledger.record([result | {"name": "second"}])
    kept = catalog.evidence("clip")["claim"]
    assert set(kept) == {"toy", "second"}
    curve = kept["toy"]["curves"]["words"][0]
    assert len(curve) <= ledger.POINTS
    assert curve[-1] == [99, 0.099298]
    ledger.enter(result | {"verdict": "inconclusive", "statement": "new"}, tmp_path)
    found = {entry["name"]: entry["statement"] for entry in ledger.merged(tmp_path)}
    assert found["toy"] == "new"
    assert found["second"] == result["statement"]
    for other in ({"budget": "10steps"}, {"seeds": [0]}, {"threshold": 0.1}, {"name": "third"}):
        with pytest.raises(UserError, match="no evidence"):
            ledger.record([result | other])


def test_an_empty_ledger_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(catalog, "evidence_path", lambda name: tmp_path / f"{name}.json")
    with pytest.raises(UserError, match="oculex claim NAME"):
        ledger.merged(tmp_path)


def test_a_point_that_is_none_is_refused():
    with pytest.raises(ValueError, match="no point 'vibes'"):
        catalog.record("clip", "vibes", {})


@pytest.mark.parametrize(
    ("system", "claim"), WRITTEN, ids=[f"{name}-{claim.name}" for name, claim in WRITTEN]
)
def test_written_claims_can_be_run(system, claim):
    """Fields exist, arms are trained and judged alike, and the budget does not depend on the machine's load."""
    experiment.check(system, claim)
    names = [arm.name for arm in claim.arms]
    asked = {claim.treatment, claim.control, *claim.minus} - {""}
    assert asked <= set(names)
    assert len(asked) >= 2 or claim.compare == "rank_correlation"
    assert len(set(names)) == len(names)
    assert all(not arm.weights_of or arm.weights_of in names for arm in claim.arms)
    assert len(claim.seeds) >= 3
    for arm in claim.arms:
        if not arm.weights_of:
            assert experiment._recipe(system, claim, arm, {}).budget.endswith(("samples", "steps"))


def test_a_race_ranks_by_the_same_items_and_tells_how_sure_it_is(toy, tmp_path):
    changes = toys.SMALL
    result, folder = race(
        ["caption_bow", "clip"], data=[toy], budget="60steps", out=tmp_path / "race", changes=changes
    )
    assert json.loads((folder / "race.json").read_text()) == json.loads(json.dumps(result))
    assert result["metric"] == METRIC
    finals = {name: system["final"]["value"] for name, system in result["systems"].items()}
    leader, other = sorted(finals, key=finals.get, reverse=True)
    assert (result["leader"], list(result["ahead"]), result["less_is_better"]) == (leader, [other], False)
    assert result["ahead"][other]["value"] == pytest.approx(finals[leader] - finals[other])
    assert result["ahead"][other]["n"] == 60
    assert result["differences"][other][METRIC] == result["ahead"][other]
    for name, system in result["systems"].items():
        seconds, samples = ([point[axis] for point in system["curve"]] for axis in (0, 1))
        assert seconds == sorted(seconds)
        assert samples[-1] == 60 * 32
        lines = list(read_lines(RunFolder(folder / name).evaluations))
        assert system["final"] == lines[-1]["metrics"][METRIC]


def test_a_race_of_one_system_against_itself_is_refused(tmp_path):
    with pytest.raises(UserError, match="each name once"):
        race(["clip", "clip"], out=tmp_path)


def test_one_claim_of_a_system_is_run_by_its_name(toy, tmp_path, monkeypatch):
    written = replace(catalog.load("clip"), claims=(toy_claim(toy), toy_claim(toy, name="second")))
    monkeypatch.setattr(catalog, "load", lambda name: written)
    monkeypatch.setattr(
        experiment, "judge", lambda system, claim, out: {"system": system, "name": claim.name}
    )

    def run(*names):
        return [r["name"] for r in experiment.judge_claims(names, all_systems=False, out=tmp_path)]

    assert run("clip:second") == ["second"]
    assert run("clip", "107:toy") == ["toy", "second", "toy"]
    with pytest.raises(UserError, match="clip has no claim 'third'; known: toy, second"):
        run("clip:third")
