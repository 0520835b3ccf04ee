"""Retrieval: equal to a slow loop, ties and repeated captions as stated, chance for a blind model."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oculex.evaluation import EvalSet, evaluate, retrieval
from tests.evaluation.test_fakes import Dual, Fusion, Listed, sample, unit


def made(captions, seed=0, noise=1.0, kind=Dual, dim=16):
    rng = np.random.default_rng(seed)
    images = unit(rng, len(captions), dim)
    said = {}
    for n, own in enumerate(captions):
        for text in own:
            said.setdefault(text, images[n] + noise * rng.standard_normal(dim) / dim**0.5)
    return kind(images, said), Listed([sample(n, captions=own) for n, own in enumerate(captions)])


def asked(system, source):
    found = evaluate(system, {"s": EvalSet("s", source)}, tasks=["retrieval"])
    return found, {name.removeprefix("s/retrieval/"): estimate for name, estimate in found.metrics.items()}


def distinct(n=40, k=3):
    return [[f"caption {i} {j}" for j in range(k)] for i in range(n)]


def slow_ranks(scores, captions):
    """Ranks by the definition: every caption as it was written, one loop for each question."""
    texts = [(n, text) for n, own in enumerate(captions) for text in own]
    to_text, to_image = [], []
    for n, own in enumerate(captions):
        right = [c for c, (_, text) in enumerate(texts) if text in own]
        best = max(scores[n, c] for c in right)
        to_text.append(1 + sum(scores[n, c] >= best for c in range(len(texts)) if c not in right))
    for c, (_, text) in enumerate(texts):
        right = [n for n, own in enumerate(captions) if text in own]
        best = max(scores[n, c] for n in right)
        to_image.append(1 + sum(scores[n, c] >= best for n in range(len(captions)) if n not in right))
    return to_text, to_image


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from("abcdefghijkl"), min_size=1, max_size=4), min_size=2, max_size=12),
    st.integers(0, 99),
    st.sampled_from([Dual, Fusion]),
)
def test_equal_to_a_slow_loop_with_repeated_captions_and_ties(captions, seed, kind):
    system, source = made(captions, seed, kind=kind, dim=4)
    system.images.data.round_(decimals=0)  # small integers: many exact ties
    system.vectors.data.round_(decimals=0)
    found, metrics = asked(system, source)
    numbers = [system.number[text] for own in captions for text in own]
    scores = (system.images @ system.vectors[numbers].T).detach().numpy()
    to_text, to_image = slow_ranks(scores, captions)
    assert found.table.select(prompt="image_to_text", control="")["score"].tolist() == to_text
    assert found.table.select(prompt="text_to_image", control="")["score"].tolist() == to_image
    for k in (1, 5, 10):
        assert metrics[f"image_to_text_r{k}"].value == pytest.approx(np.mean(np.array(to_text) <= k))
        assert metrics[f"text_to_image_r{k}"].value == pytest.approx(np.mean(np.array(to_image) <= k))


def test_known_answer():
    system, source = made([["a", "b"], ["c"]])
    system.images.data = system.images.data[:, :2] * 0
    system.images.data += system.images.new_tensor([[1.0, 0.0], [0.0, 1.0]])
    vectors = {"a": [0.5, 0.6], "b": [0.9, 0.0], "c": [1.0, 0.1]}
    system.vectors.data = system.vectors.new_tensor([vectors[text] for text in system.number])
    found, metrics = asked(system, source)
    assert found.table.select(prompt="image_to_text", control="")["score"].tolist() == [2, 2]
    assert found.table.select(prompt="text_to_image", control="")["score"].tolist() == [2, 1, 2]
    assert metrics["image_to_text_r1"].value == 0
    assert metrics["text_to_image_r1"].value == pytest.approx(1 / 3)
    assert metrics["text_to_image_r5"].value == 1
    assert metrics["image_to_text_median_rank"].value == 2


def test_records_name_the_answers():
    captions = distinct()
    system, source = made(captions, noise=2.0)
    table = asked(system, source)[0].table.select(control="")
    assert len(table) == 40 + 120
    for row in range(len(table)):
        top, truth = json.loads(table["output"][row])["top"], json.loads(table["truth"][row])
        assert len(top) == 10
        assert table["parsed"][row] == top[0]
        assert (table["status"][row] == "right") == (top[0] in truth["ids"])
        assert table["item"][row].startswith(table["cluster"][row])
        assert (truth["right"], truth["of"]) == (
            (3, 120) if table["prompt"][row] == "image_to_text" else (1, 40)
        )


def test_a_perfect_model_needs_its_image():
    _, metrics = asked(*made(distinct(), noise=0.1))
    assert metrics["mean_recall"].value == 1
    assert metrics["mean_recall"].low < 1
    assert metrics["image_to_text_median_rank"].value == 1
    assert metrics["image_to_text_wrong_image_r1"].value == 0
    assert metrics["text_to_image_wrong_image_r1"].value == 0


def test_an_untrained_model_scores_chance():
    captions = distinct(600, 2)
    rng = np.random.default_rng(3)
    said = {text: vector for own in captions for text, vector in zip(own, unit(rng, 2, 16), strict=True)}
    _, metrics = asked(
        Dual(unit(rng, 600, 16), said), Listed([sample(n, captions=c) for n, c in enumerate(captions)])
    )
    assert metrics["image_to_text_chance_r1"].value == pytest.approx(1 / 600)
    assert metrics["text_to_image_chance_r1"].value == pytest.approx(1 / 600)
    assert metrics["image_to_text_r1"].value < 0.01
    assert metrics["text_to_image_r10"].value == pytest.approx(10 / 600, abs=0.012)
    assert 240 < metrics["text_to_image_median_rank"].value < 360


def test_chance_counts_repeated_captions():
    captions = [["same"], ["same"], ["same"], ["other"]]
    _, metrics = asked(*made(captions))
    assert metrics["image_to_text_chance_r1"].value == pytest.approx((3 * 3 / 4 + 1 / 4) / 4)
    assert metrics["text_to_image_chance_r1"].value == pytest.approx((3 * 3 / 4 + 1 / 4) / 4)


def test_a_collapsed_model_ranks_last():
    system, source = made(distinct())
    system.vectors.data[:] = 1.0
    found, metrics = asked(system, source)
    assert set(found.table.select(prompt="image_to_text", control="")["score"]) == {118.0}
    assert metrics["image_to_text_r10"].value == 0
    system.vectors.data[:] = float("nan")
    found, metrics = asked(system, source)
    assert metrics["image_to_text_r10"].value == 0
    assert metrics["unparsed"].value == 1


def test_chunks_do_not_matter(monkeypatch):
    system, source = made(distinct(), noise=2.0)
    whole = asked(system, source)[0].table["score"]
    monkeypatch.setattr(retrieval, "CELLS", 300)
    np.testing.assert_array_equal(asked(system, source)[0].table["score"], whole)


def test_the_order_of_samples_does_not_matter():
    system, source = made(distinct(), noise=2.0)
    shuffled = Listed([source.samples[k] for k in np.random.default_rng(2).permutation(40)])
    a, b = asked(system, source)[1], asked(system, shuffled)[1]
    for name in a:
        assert vars(a[name]) == pytest.approx(vars(b[name])), name


def test_dual_and_fusion_answer_alike_and_bad_images_leave_with_their_captions():
    captions = distinct()
    for kind in (Dual, Fusion):
        system, source = made(captions, noise=2.0, kind=kind)
        source.broken = {4}
        found, metrics = asked(system, source)
        assert found.skipped == (("s", "image-0004", "truncated"),)
        assert metrics["image_to_text_r1"].n == 39
        assert json.loads(found.table["truth"][0])["of"] == 117
    ours = asked(*made(captions, noise=2.0))[1]
    theirs = asked(*made(captions, noise=2.0, kind=Fusion))[1]
    assert ours == theirs
