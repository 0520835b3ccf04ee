"""Zero-shot classification: known answers, parity with open_clip, chance for a blind model, no guesses."""

import json

import numpy as np
import pytest
import torch

from oculex.contracts import UserError
from oculex.evaluation import EvalSet, evaluate
from oculex.evaluation.classification import confusion
from oculex.evaluation.prompts import PHOTO, PROMPTS, WORLD, prompts
from oculex.evaluation.zeroshot import class_weights, texts
from tests.evaluation.test_fakes import Dual, Fusion, Listed, sample, unit

CLASSES = ("cat", "dog", "bird", "fish", "tree", "car")
D = 16


def made(kind=Dual, n=60, noise=0.0, seed=0):
    """(system, source): images are their class's vector with noise, prompts their class's with noise."""
    rng = np.random.default_rng(seed)
    vectors, labels = unit(rng, len(CLASSES), D), rng.integers(0, len(CLASSES), n)
    said = {
        text: vectors[k // len(PHOTO)] + noise * rng.standard_normal(D) / 4
        for k, text in enumerate(texts(CLASSES, PHOTO))
    }
    images = vectors[labels] + noise * rng.standard_normal((n, D)) / 2
    return kind(images, said), Listed([sample(k, label=int(c)) for k, c in enumerate(labels)], CLASSES)


def asked(system, source):
    return evaluate(system, {"s": EvalSet("s", source)}, tasks=["zeroshot"])


@pytest.mark.parametrize("kind", [Dual, Fusion])
def test_a_perfect_model_is_right_and_only_with_the_right_image(kind):
    system, source = made(kind)
    found = asked(system, source)
    for name in ("top1", "top5", "mean_per_class", "single_prompt_top1", "worst_prompt_top1"):
        assert found.metrics[f"s/zeroshot/{name}"].value == 1, name
    assert found.metrics["s/zeroshot/top1"].n == 60
    assert found.metrics["s/zeroshot/wrong_image_top1"].value < 0.5
    assert found.metrics["s/zeroshot/ensemble_gain"].value == 0


def test_equal_to_open_clip():
    from open_clip import build_zero_shot_classifier

    system, source = made(noise=1.0)

    class Peer:
        def encode_text(self, numbers, normalize):
            assert normalize
            return torch.nn.functional.normalize(system.vectors[numbers].detach(), dim=-1)

    def tokenizer(said):
        return torch.tensor([system.number[text] for text in said])

    weights = build_zero_shot_classifier(Peer(), tokenizer, CLASSES, PHOTO)
    ours = class_weights(system.vectors.detach().view(len(CLASSES), len(PHOTO), D))
    torch.testing.assert_close(ours.T, weights)
    logits = torch.nn.functional.normalize(system.images.detach(), dim=-1) @ weights
    truth = torch.tensor([s["label"] for s in source.samples])
    metrics = asked(system, source).metrics
    right = logits.argmax(1) == truth
    assert 0.3 < right.double().mean() < 0.98
    assert metrics["s/zeroshot/top1"].value == pytest.approx(right.double().mean().item())
    top5 = (logits.topk(5).indices == truth[:, None]).any(1).double().mean().item()
    assert metrics["s/zeroshot/top5"].value == pytest.approx(top5)
    per_class = np.mean([right[truth == c].double().mean() for c in range(len(CLASSES))])
    assert metrics["s/zeroshot/mean_per_class"].value == pytest.approx(per_class)


def test_pairs_are_averaged_over_prompts():
    system, source = made(Fusion, noise=1.0)
    scores = (system.images @ system.vectors.T).detach().view(60, len(CLASSES), len(PHOTO)).mean(2)
    right = scores.argmax(1) == torch.tensor([s["label"] for s in source.samples])
    assert asked(system, source).metrics["s/zeroshot/top1"].value == pytest.approx(
        right.double().mean().item()
    )


def test_records_hold_the_question_and_the_raw_answer():
    system, source = made(noise=1.0)
    table = asked(system, source).table
    ensemble = table.select(prompt="ensemble", control="")
    assert len(ensemble) == 60
    assert len(table) == 60 * (len(PHOTO) + 2)
    for row in range(60):
        top = json.loads(ensemble["output"][row])["top"]
        assert len(top) == 5
        assert [s for _, s in top] == sorted((s for _, s in top), reverse=True)
        assert ensemble["parsed"][row] == top[0][0]
        assert (ensemble["status"][row] == "right") == (ensemble["parsed"][row] == ensemble["truth"][row])
        if ensemble["score"][row] <= 5:
            assert top[int(ensemble["score"][row]) - 1][0] == ensemble["truth"][row]
    names, counts = confusion(ensemble)
    assert counts.sum() == 60
    assert np.trace(counts) == (ensemble["status"] == "right").sum()
    assert set(names) <= set(CLASSES)


def test_single_prompts_are_the_paraphrases():
    system, source = made(noise=1.5)
    found = asked(system, source)
    truth = torch.tensor([s["label"] for s in source.samples])
    vectors = torch.nn.functional.normalize(system.vectors.detach().view(len(CLASSES), len(PHOTO), D), dim=-1)
    each = [
        ((system.images @ vectors[:, t].T).argmax(1) == truth).double().mean().item()
        for t in range(len(PHOTO))
    ]
    metric = {name.split("/")[-1]: estimate.value for name, estimate in found.metrics.items()}
    assert metric["single_prompt_top1"] == pytest.approx(each[0])
    assert metric["worst_prompt_top1"] == pytest.approx(min(each))
    assert metric["best_prompt_top1"] == pytest.approx(max(each))
    assert metric["prompt_spread"] == pytest.approx(max(each) - min(each))
    assert metric["ensemble_gain"] == pytest.approx(metric["top1"] - each[0])


def test_an_untrained_model_scores_chance():
    rng = np.random.default_rng(1)
    said = dict(zip(texts(CLASSES, PHOTO), unit(rng, len(CLASSES) * len(PHOTO), D), strict=True))
    samples = [sample(k, label=k % len(CLASSES)) for k in range(1200)]
    metrics = asked(Dual(unit(rng, 1200, D), said), Listed(samples, CLASSES)).metrics
    for name in ("top1", "wrong_image_top1"):
        found = metrics[f"s/zeroshot/{name}"]
        assert found.low - 0.01 <= 1 / len(CLASSES) <= found.high + 0.01


@pytest.mark.parametrize("value", [1.0, float("nan")])
def test_a_collapsed_model_has_no_answer(value):
    system, source = made()
    system.vectors.data[:] = value
    metrics = asked(system, source).metrics
    assert metrics["s/zeroshot/top1"].value == 0
    assert metrics["s/zeroshot/unparsed"].value == 1


def test_the_order_of_samples_does_not_matter():
    system, source = made(noise=1.0)
    shuffled = Listed([source.samples[k] for k in np.random.default_rng(2).permutation(60)], CLASSES)
    a, b = asked(system, source).metrics, asked(system, shuffled).metrics
    assert list(a) == list(b)
    for name in a:
        assert vars(a[name]) == pytest.approx(vars(b[name])), name


def test_a_label_out_of_range_is_the_users_mistake():
    system, source = made()
    source.samples[7]["label"] = 9
    with pytest.raises(UserError, match=r"image-0007 has label 9, not 0..5"):
        asked(system, source)


def test_prompts_are_frozen():
    assert len(set(PHOTO)) == len(PHOTO) == len(set(WORLD)) == len(WORLD) == 12
    assert len(prompts("openai_imagenet")) == 80
    assert prompts("openai_imagenet")[0] == "a bad photo of a {}."
    for name in PROMPTS:
        assert all(prompt.count("{}") == 1 for prompt in prompts(name))
    with pytest.raises(UserError, match="photos"):
        prompts("photos")
