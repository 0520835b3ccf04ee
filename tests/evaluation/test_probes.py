"""Probes: equal to scikit-learn's, and the search of the paper."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from oculex.contracts import UserError
from oculex.evaluation import EvalSet, evaluate, knn, probe
from tests.evaluation.test_fakes import Dual, Listed, sample

CLASSES = ("a", "b", "c", "d")


def features(n=300, d=12, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, n)
    centres = np.random.default_rng(99).standard_normal((4, d))
    return centres[labels] + 1.5 * rng.standard_normal((n, d)), labels


@pytest.mark.parametrize("strength", [1e-4, 0.316, 100.0])
def test_the_fit_is_scikit_learns(strength):
    x, y = features()
    peer = LogisticRegression(C=strength, max_iter=5000, tol=1e-10).fit(x, y)
    ours = probe.fit(torch.from_numpy(x), torch.from_numpy(y), 4, strength)
    np.testing.assert_allclose(ours.weight.numpy(), peer.coef_, atol=2e-4)
    bias = ours.bias.numpy() - ours.bias.numpy().mean()
    np.testing.assert_allclose(bias, peer.intercept_ - peer.intercept_.mean(), atol=2e-4)
    single = probe.fit(torch.from_numpy(x).float(), torch.from_numpy(y), 4, strength)
    agree = single(torch.from_numpy(x).float()).argmax(1).numpy() == peer.predict(x)
    assert agree.mean() > 0.99


def test_a_warm_start_ends_at_the_same_place():
    x, y = map(torch.from_numpy, features())
    cold = probe.fit(x, y, 4, 1.0)
    warm = probe.fit(x, y, 4, 1.0, start=probe.fit(x, y, 4, 1e3))
    torch.testing.assert_close(cold.weight, warm.weight, atol=1e-3, rtol=0)


@pytest.mark.parametrize("peak", [0, 1, 37, 50, 95, 96])
def test_the_search_finds_the_peak_and_tries_few(peak):
    tried = []

    def accuracy(step):
        tried.append(step)
        return -abs(step - peak)

    assert probe.search(accuracy) == peak
    assert len(tried) == len(set(tried)) <= 7 + 8
    assert tried[:7] == [0, 16, 32, 48, 64, 80, 96]
    assert [probe.strength(step) for step in (0, 8, 48, 96)] == pytest.approx([1e-6, 1e-5, 1, 1e6])


def test_the_search_prefers_the_stronger_regularisation():
    assert probe.search(lambda step: 1.0) == 0


def test_the_validation_split_is_a_fifth_of_each_class_and_fixed():
    labels = torch.tensor([0] * 100 + [1] * 10 + [2] * 3)
    held = probe.split(labels)
    assert [int(held[labels == c].sum()) for c in range(3)] == [20, 2, 0]
    assert torch.equal(held, probe.split(labels))


def parts():
    """(system, test, train) with the features as images."""
    x, y = features(400)
    samples = [sample(k, label=int(c)) for k, c in enumerate(y)]
    return (
        Dual(x, {"": x[0]}),
        Listed(samples[:100], CLASSES, "test"),
        Listed(samples[100:], CLASSES, "train"),
    )


def test_the_probe_task_is_scikit_learns_with_the_strength_it_found():
    import json

    system, test, train = parts()
    found = evaluate(system, {"s": EvalSet("s", test, train)}, tasks=["probe"])
    strength = json.loads(found.table["output"][0])["C"]
    x, y = features(400)
    peer = LogisticRegression(C=strength, max_iter=5000, tol=1e-8).fit(x[100:], y[100:])
    assert found.metrics["s/probe/top1"].value == pytest.approx(peer.score(x[:100], y[:100]), abs=0.011)
    assert found.metrics["s/probe/top1"].value > 0.6


def test_knn_is_scikit_learns():
    system, test, train = parts()
    found = evaluate(system, {"s": EvalSet("s", test, train)}, tasks=["knn"])
    x, y = features(400)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)

    def weights(distance):  # of unit vectors: cosine = 1 - distance^2 / 2
        return np.exp((1 - distance**2 / 2) / knn.TEMPERATURE)

    peer = KNeighborsClassifier(20, weights=weights).fit(x[100:], y[100:])
    assert found.table["parsed"].tolist() == [CLASSES[c] for c in peer.predict(x[:100])]
    votes = knn.votes(*map(torch.from_numpy, (x[:100], x[100:], y[100:])), 4)
    np.testing.assert_allclose(
        (votes / votes.sum(1, keepdim=True)).numpy(), peer.predict_proba(x[:100]), atol=1e-6
    )


def test_knn_in_chunks_and_with_few_known(monkeypatch):
    x, y = map(torch.from_numpy, features())
    whole = knn.votes(x, x, y, 4)
    monkeypatch.setattr(knn, "CELLS", 1000)
    torch.testing.assert_close(knn.votes(x, x, y, 4), whole)
    assert knn.votes(x, x[:3], y[:3], 4).shape == (300, 4)


def test_other_classes_in_training_are_refused():
    system, test, train = parts()
    train.classes = ("b", "a", "c", "d")
    with pytest.raises(UserError, match="other classes"):
        evaluate(system, {"s": EvalSet("s", test, train)}, tasks=["knn"])
