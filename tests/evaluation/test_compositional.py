"""ARO's questions: scored as the authors score them, asked of every kind of model, and honest about ties."""

import json
from pathlib import Path

import numpy as np
import pytest

from oculex.evaluation import EvalSet, compositional, evaluate
from oculex.evaluation.compositional import statistics
from oculex.evaluation.statistics import intervals
from tests.evaluation.test_fakes import Dual, Fusion, Listed, image, sample, unit

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "negclip.npz")


def told(n, *, kind="relation", group="on", false=1, **more):
    texts = {"true": f"true {n}", "false": [f"false {n}.{k}" for k in range(false)]}
    return {"kind": kind, "group": group, **texts, **more}


def system(scores, kind):
    """Image n rates its own texts ``scores[n]``, and those of others by chance."""
    n, options = scores.shape
    texts = {f"true {i}": i * options for i in range(n)}
    texts |= {f"false {i}.{k}": i * options + 1 + k for i in range(n) for k in range(options - 1)}
    rated = unit(np.random.default_rng(1), n, n * options) * 0.01
    for i, own in enumerate(scores):
        rated[i, i * options : (i + 1) * options] = own
    made = kind(rated, {text: np.eye(n * options)[column] for text, column in texts.items()})
    return made


def asked(scores, groups=None, kind=Dual, **more):
    groups = ["on"] * len(scores) if groups is None else groups
    samples = [
        sample(n, alternatives=[told(n, group=str(group), false=scores.shape[1] - 1, **more)])
        for n, group in enumerate(groups)
    ]
    return evaluate(system(scores, kind), {"s": EvalSet("s", Listed(samples))}, device="cpu")


@pytest.mark.parametrize("kind", [Dual, Fusion])
def test_relations_are_scored_as_the_authors_do(kind):
    """Their scores hold the false text first; a tie is won by neither there and here."""
    scores = GOLDEN["scores"][:, ::-1].astype(np.float64)
    found = asked(scores, GOLDEN["relations"], kind)
    truths = [json.loads(truth)["group"] for truth in found.table.select(control="")["truth"]]
    right = found.table.select(control="")["status"] == "right"
    for name, accuracy in zip(GOLDEN["relation_names"], GOLDEN["relation_accuracy"], strict=True):
        assert np.mean(right[np.array(truths) == name]) == pytest.approx(float(accuracy), abs=1e-12)
    assert found.metrics["s/compositional/relation_macro"].value == pytest.approx(
        float(np.mean(GOLDEN["relation_accuracy"])), abs=1e-12
    )
    assert found.metrics["s/compositional/relation_macro"].n == 400


def test_questions_without_a_group_do_not_count_in_the_mean_over_groups():
    """ARO leaves out symmetric relations, and pairs of attributes with fewer than 25 questions."""
    scores, names = GOLDEN["scores"][:, ::-1].astype(np.float64), GOLDEN["relations"]
    found = asked(scores, np.where(names == "near", "", names))
    assert found.metrics["s/compositional/relation_macro"].value == pytest.approx(
        float(GOLDEN["relation_macro"]), abs=1e-12
    )
    assert found.metrics["s/compositional/relation"].n == 400
    none = asked(scores, [""] * 400)
    assert "s/compositional/relation_macro" not in none.metrics


def test_precision_at_one_of_five_is_the_authors():
    found = asked(GOLDEN["order_scores"].astype(np.float64), kind=Dual)
    assert found.metrics["s/compositional/relation"].value == pytest.approx(
        float(GOLDEN["order_p1"]), abs=1e-12
    )
    assert found.metrics["s/compositional/relation_chance"].value == pytest.approx(0.2)


@pytest.mark.parametrize("kind", [Dual, Fusion])
def test_a_tie_is_no_right_answer_and_a_score_that_is_no_number_is_none(kind):
    scores = np.array([[1.0, 0.5], [0.5, 0.5], [0.2, 0.9], [0.5, 0.5]])
    found = asked(scores, kind=kind)
    table = found.table.select(control="")
    assert table["status"].tolist() == ["right", "wrong", "wrong", "wrong"]
    assert table["parsed"].tolist() == ["true 0", "", "false 2.0", ""]
    np.testing.assert_allclose(table["score"], [0.5, 0.0, -0.7, 0.0], atol=1e-6)
    answer = compositional._answer(np.array([np.nan, 1.0]))
    assert (answer.status, answer.chosen, json.loads(answer.output)) == ("unparsed", None, [None, 1.0])


def test_a_model_that_reads_words_alone_is_at_chance_beside_another_image():
    """The better text is known from the image alone: with another image half of the answers are right."""
    n, rng = 400, np.random.default_rng(0)
    side = rng.choice([-1.0, 1.0], n)
    texts = {
        f"{word} {i}": sign * np.eye(1)[0]
        for i in range(n)
        for word, sign in (("true", side[i]), ("false", -side[i]))
    }
    texts = {
        name.replace("false " + name.split()[1], f"false {name.split()[1]}.0"): v for name, v in texts.items()
    }
    samples = [sample(i, alternatives=[told(i)]) for i in range(n)]
    found = evaluate(Dual(side[:, None], texts), {"s": EvalSet("s", Listed(samples))}, device="cpu").metrics
    assert found["s/compositional/relation"].value == 1.0
    blind = found["s/compositional/relation_wrong_image"]
    assert blind.low < 0.5 < blind.high


def test_questions_about_one_picture_are_resampled_together():
    scores = np.tile([[1.0, 0.0], [0.0, 1.0]], (20, 1))
    samples = [sample(n, alternatives=[told(n, picture=f"p{n // 2 % 4}")]) for n in range(40)]
    found = evaluate(system(scores, Dual), {"s": EvalSet("s", Listed(samples))}, device="cpu")
    assert set(found.table["cluster"]) == {"p0", "p1", "p2", "p3"}
    again = intervals(statistics(found.table.select(control="")), found.table.select(control="")["cluster"])
    assert again["relation"].value == 0.5


def test_what_cannot_be_asked_says_why():
    plain = evaluate(
        system(np.eye(2), Dual), {"s": EvalSet("s", Listed([sample(0), sample(1)]))}, device="cpu"
    )
    assert plain.refused["s/compositional"] == "samples have no alternatives"
    assert plain.refused["s/order"] == "samples have no captions or caption"


def test_without_the_tagger_order_is_refused_and_the_rest_is_asked(monkeypatch):
    monkeypatch.setattr("oculex.evaluation.task.find_spec", lambda name: None)
    source = Listed([sample(n, caption="true 0", alternatives=[told(n)]) for n in range(2)])
    found = evaluate(
        system(np.eye(2), Dual), {"s": EvalSet("s", source)}, device="cpu", tasks=["compositional", "order"]
    )
    assert found.refused == {"s/order": "HanTa is not installed; pip install 'oculex[text]'"}
    assert len(found.table) == 4


CAPTIONS = ("a red dog behind a blue cat", "two birds fly over the old house", "rain")


class Ordered(Dual):
    """Likes every caption as it was written, and no other order of it."""

    def __init__(self):
        super().__init__(np.ones((3, 1)), {"": np.zeros(1)})

    def view(self, sample, rng):
        return {"image": sample["image"]} if "image" in sample else {"caption": sample["caption"]}

    def encode_text(self, batch):
        return self.images.new_tensor([[float(text in CAPTIONS)] for text in batch["caption"]])


def test_orders_are_asked_of_every_caption_that_has_one():
    pytest.importorskip("HanTa")
    samples = [
        sample(n, captions=[f"{text}.".capitalize()] * (n == 0) + [text]) for n, text in enumerate(CAPTIONS)
    ]
    found = evaluate(Ordered(), {"s": EvalSet("s", Listed(samples))}, device="cpu", tasks=["order"])
    table = found.table.select(control="")
    assert table["item"].tolist() == ["image-0000#0", "image-0000#1", "image-0001#0"]
    assert [json.loads(truth)["of"] for truth in table["truth"]] == [5, 5, 5]
    assert set(table["status"]) == {"right"}
    assert found.metrics["s/order/order_chance"].value == pytest.approx(0.2)


def test_unreadable_images_are_skipped_and_named():
    class Torn(Dual):
        def view(self, sample, rng):
            if "image" in sample and sample["id"] == "image-0001":
                from oculex.contracts import BadSample

                raise BadSample(sample["id"], "torn")
            return super().view(sample, rng)

    scores = np.array([[1.0, 0.0]] * 3)
    made = system(scores, Torn)
    samples = [sample(n, alternatives=[told(n)]) for n in range(3)]
    found = evaluate(made, {"s": EvalSet("s", Listed(samples))}, device="cpu")
    assert found.metrics["s/compositional/relation"].n == 2
    assert found.skipped == (("s", "image-0001", "torn"),)
    assert image(1).shape == (1, 1, 1)
