"""The protocol: tasks by capabilities and samples, numbers from records alone, comparisons in pairs."""

import json

import numpy as np
import pytest

from oculex.contracts import UserError
from oculex.evaluation import EvalSet, as_json, compare, evaluate, metrics
from oculex.evaluation.prompts import PHOTO
from oculex.evaluation.records import concat, read
from oculex.evaluation.zeroshot import texts
from tests.evaluation.test_fakes import Dual, Fusion, Listed, sample, unit

CLASSES = ("cat", "dog", "bird")
N, D = 60, 8


def made(kind=Dual, noise=1.0, seed=0):
    rng = np.random.default_rng(0)
    vectors, labels = unit(rng, 3, D), rng.integers(0, 3, N)
    images = vectors[labels] + 0.3 * rng.standard_normal((N, D))
    noises = np.random.default_rng(seed)
    said = {text: vectors[k // len(PHOTO)] for k, text in enumerate(texts(CLASSES, PHOTO))}
    said |= {
        f"text {n} {k}": images[n] + noise * noises.standard_normal(D) / 4 for n in range(N) for k in range(2)
    }
    samples = [
        sample(n, label=int(labels[n]), captions=[f"text {n} {k}" for k in range(2)]) for n in range(N)
    ]
    shown = images + noise * noises.standard_normal((N, D)) / 4
    return kind(shown, said), Listed(samples, CLASSES)


def without(source, *keys):
    return Listed([{k: v for k, v in s.items() if k not in keys} for s in source.samples], source.classes)


def tasks_of(found):
    return {name.split("/")[1] for name in found.metrics}


def test_tasks_follow_from_capabilities_and_samples():
    system, source = made()
    both = evaluate(system, {"s": EvalSet("s", source, source)})
    assert tasks_of(both) == {"zeroshot", "retrieval", "order", "image_retrieval", "knn", "probe"}
    assert next(iter(both.metrics)) == "s/zeroshot/top1"
    assert tasks_of(evaluate(system, {"s": EvalSet("s", without(source, "label"), None)})) == {
        "retrieval",
        "order",
    }
    no_captions = evaluate(system, {"s": EvalSet("s", without(source, "captions"))})
    assert tasks_of(no_captions) == {"zeroshot", "image_retrieval"}
    assert (
        no_captions.refused.items()
        >= {
            "s/classify": "Dual is not Classifies",
            "s/retrieval": "samples have no captions or caption",
            "s/order": "samples have no captions or caption",
            "s/compositional": "samples have no alternatives",
            "s/language": "samples have no captions or caption",
            "s/knn": "the set has no training part",
            "s/probe": "the set has no training part",
        }.items()
    )
    fusion = evaluate(made(Fusion)[0], {"s": EvalSet("s", source, source)})
    assert tasks_of(fusion) == {"zeroshot", "retrieval", "order"}
    assert "RepresentsImages" in fusion.refused["s/knn"]
    nameless = Listed(source.samples)
    assert (
        evaluate(system, {"s": EvalSet("s", nameless)}).refused["s/zeroshot"] == "the source names no classes"
    )


def test_metrics_are_a_pure_function_of_the_file(tmp_path):
    system, source = made()
    found = evaluate(system, {"a": EvalSet("a", source), "b": EvalSet("b", without(source, "label"))})
    found.table.write(tmp_path / "records.parquet")
    assert metrics(read(tmp_path / "records.parquet")) == found.metrics
    shuffled = found.table.rows(np.random.default_rng(0).permutation(len(found.table)))
    again = metrics(shuffled)
    for name, estimate in found.metrics.items():
        assert vars(again[name]) == pytest.approx(vars(estimate)), name


def test_json_form():
    system, source = made()
    shown = as_json(evaluate(system, {"s": EvalSet("s", source)}).metrics)
    assert set(shown["s/retrieval/text_to_image_r1"]) == {"value", "low", "high", "n"}
    json.dumps(shown, allow_nan=False)
    one = as_json(evaluate(system, {"s": EvalSet("s", Listed(source.samples[:1], CLASSES))}).metrics)
    json.dumps(one, allow_nan=False)


def test_every_interval_contains_its_value():
    system, source = made()
    for name, estimate in evaluate(system, {"s": EvalSet("s", source, source)}).metrics.items():
        assert estimate.low <= estimate.value <= estimate.high, name
        assert estimate.n > 0


def table(**how):
    system, source = made(**how)
    return evaluate(system, {"s": EvalSet("s", source)}).table


def test_a_comparison_is_paired_and_signed():
    good, bad = table(noise=0.5), table(noise=3.0)
    found, back, ours, theirs = compare(good, bad), compare(bad, good), metrics(good), metrics(bad)
    assert found.keys() == ours.keys()
    chosen = ("worst_prompt_top1", "best_prompt_top1", "prompt_spread")  # by each model for itself
    for name in [name for name in found if not name.endswith(chosen)]:
        assert found[name].value == pytest.approx(ours[name].value - theirs[name].value), name
        assert back[name].value == pytest.approx(-found[name].value)
    difference = found["s/retrieval/text_to_image_r1"]
    assert difference.low > 0
    assert difference.p < 0.01
    assert difference.n == 2 * N


def test_dual_and_fusion_are_compared_on_the_same_items():
    found = compare(table(), table(kind=Fusion))
    assert found["s/retrieval/mean_recall"].value == 0
    assert found["s/retrieval/mean_recall"].p == 1


def test_only_common_items_are_compared():
    a = table()
    some = a.rows(np.flatnonzero(np.isin(a["cluster"], [f"image-{n:04d}" for n in range(40)])))
    assert compare(a, some)["s/zeroshot/top1"].n == 40
    with pytest.raises(UserError, match="no item in common"):
        compare(a, a.rows(np.arange(0)))
    with pytest.raises(UserError, match="twice"):
        compare(a, concat([a, a]))


def test_ranks_in_galleries_of_different_sizes_are_not_compared():
    system, source = made()
    small = evaluate(system, {"s": EvalSet("s", source)}, limit=30, tasks=["retrieval"]).table
    with pytest.raises(UserError, match="limit"):
        compare(table(), small)


def test_nothing_of_the_set_but_its_items_is_in_the_way():
    system, source = made()
    limited = evaluate(system, {"s": EvalSet("s", source)}, limit=20)
    assert limited.metrics["s/zeroshot/top1"].n == 20
    assert limited.metrics["s/retrieval/text_to_image_r1"].n == 40


def test_mistakes_are_named():
    system, source = made()
    with pytest.raises(UserError, match="no evaluation task zero-shot"):
        evaluate(system, {"s": EvalSet("s", source)}, tasks=["zero-shot"])
    with pytest.raises(UserError, match="no sample can be read"):
        evaluate(system, {"s": EvalSet("s", Listed(source.samples, CLASSES, broken=range(N)))})
    foreign = table()
    foreign["task"][:] = "astrology"
    with pytest.raises(UserError, match="astrology"):
        metrics(foreign)


def test_bad_samples_are_listed_by_set():
    system, source = made()
    source.broken = {5}
    found = evaluate(system, {"s": EvalSet("s", source, source)})
    assert found.skipped == (("s", "image-0005", "truncated"),)
    assert "image-0005" not in set(found.table["item"])
