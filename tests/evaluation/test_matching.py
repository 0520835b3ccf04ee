"""A fusion encoder's own judgement of pairs, beside what the same system says as a dual encoder."""

import numpy as np
import pytest

from oculex.contracts import MatchesTexts
from oculex.evaluation import EvalSet, evaluate
from tests.evaluation.test_fakes import Dual, Listed, sample


class Both(Dual):
    """As a dual encoder it is wrong of everything that it matches rightly."""

    def match_texts(self, images, texts):
        return -self._image(images) @ self._text(texts).T


def samples(count):
    return [
        sample(
            n,
            captions=[f"own {n}"],
            alternatives=[{"kind": "attribution", "true": f"true {n}", "false": [f"false {n}"]}],
        )
        for n in range(count)
    ]


def system(kind, count, right):
    """The first ``right`` images prefer what is true of them, as a dual encoder the others."""
    signs = np.where(np.arange(count) < right, -1.0, 1.0)
    texts = {f"own {n}": np.eye(count)[n] for n in range(count)}
    texts |= {f"true {n}": np.eye(count)[n] for n in range(count)}
    texts |= {f"false {n}": np.zeros(count) for n in range(count)}
    return kind(signs[:, None] * np.eye(count), texts)


def test_pairs_are_judged_by_the_fusion_encoder_and_not_by_the_vectors():
    found = evaluate(system(Both, 8, 6), {"s": EvalSet("s", Listed(samples(8)))}, device="cpu").metrics
    assert found["s/matching/attribution"].value == pytest.approx(6 / 8)
    assert found["s/compositional/attribution"].value == pytest.approx(2 / 8)
    assert found["s/matching/caption"].value == pytest.approx(6 / 8)
    assert found["s/matching/caption_chance"].value == pytest.approx(1 / 2)
    assert found["s/matching/caption_wrong_image"].value < 6 / 8


def test_a_caption_that_is_also_the_images_own_is_no_wrong_one():
    given = [sample(n, captions=["same"]) for n in range(3)] + [sample(3, captions=["other"])]
    texts = {"same": np.ones(4), "other": np.zeros(4)}
    found = evaluate(Both(-np.ones((4, 4)), texts), {"s": EvalSet("s", Listed(given))}, device="cpu").metrics
    assert found["s/matching/caption"].n == 2, "the fourth, and the one that is compared with it"


def test_a_plain_dual_encoder_is_not_asked():
    assert not isinstance(system(Dual, 4, 2), MatchesTexts)
    found = evaluate(system(Dual, 4, 2), {"s": EvalSet("s", Listed(samples(4)))}, device="cpu").metrics
    assert not any("/matching/" in name for name in found)
