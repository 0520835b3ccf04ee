"""Evaluation: zero-shot classification, retrieval, probes; records and their statistics."""

from oculex.evaluation.protocol import Evaluation, as_json, compare, evaluate, metrics
from oculex.evaluation.task import EvalSet

__all__ = ["EvalSet", "Evaluation", "as_json", "compare", "evaluate", "metrics"]
