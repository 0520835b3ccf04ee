"""Evaluation: zero-shot classification, retrieval, probes; records and their statistics."""

from oculex.evaluation.protocol import Evaluation, as_json, compare, evaluate, metrics
from oculex.evaluation.task import EvalSet, Untrained

__all__ = ["EvalSet", "Evaluation", "Untrained", "as_json", "compare", "evaluate", "metrics"]
