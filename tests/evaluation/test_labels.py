"""Classification by a system's own classifier: the largest logit wins, other classes are refused."""

import numpy as np
import torch

from oculex.evaluation import EvalSet, evaluate
from tests.evaluation.test_fakes import Given

NAMES = ("ant", "bee", "cat")


class Pictures:
    """Sample n shows number n, of class n modulo 3."""

    name, classes = "pictures", NAMES

    def fingerprint(self):
        return "pictures"

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return {"id": f"i{index}", "image": np.full((1, 1, 1), index, np.uint8), "label": index % 3}


class Classifier(Given):
    """Its vectors are logits."""

    def __init__(self, logits):
        super().__init__(logits, {"": np.zeros(1)})
        self.classes = logits.shape[1]

    def classify(self, batch):
        return self._image(batch)


def test_the_class_with_the_largest_logit_is_the_answer():
    logits = np.eye(3)[[0, 1, 2, 0, 2, 1]] * [2.0, 3.0, 4.0]  # the last two are taken for each other
    logits[3] = 1.0  # and this one cannot be decided
    result = evaluate(Classifier(logits), {"p": EvalSet("p", Pictures())}, device="cpu")
    assert result.table["parsed"].tolist() == ["ant", "bee", "cat", "", "cat", "bee"]
    assert result.table["status"].tolist() == ["right", "right", "right", "unparsed", "wrong", "wrong"]
    assert result.metrics["p/classify/top1"].value == 0.5
    assert result.metrics["p/classify/unparsed"].value == 1 / 6
    assert next(iter(result.metrics)) == "p/classify/top1"


def test_a_classifier_of_other_classes_is_not_asked():
    system = Classifier(torch.zeros(6, 4).numpy())
    result = evaluate(system, {"p": EvalSet("p", Pictures())}, device="cpu")
    assert result.refused["p/classify"] == "the source names 3 classes, the classifier knows 4"
    assert system.asked == 0
    assert len(result.table) == 0
