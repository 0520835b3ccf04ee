"""The Frechet distance of two sets of features as a statistic of records (Heusel et al. 2017, section 2, equation 6)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from oculex.evaluation.measures import Bound


@dataclass(frozen=True)
class Frechet:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^1/2) of means and covariances (n - 1 in the denominator).

    It is the larger the fewer the samples, also for two halves of one set, and larger still for samples drawn with
    replacement: it says something only beside such a distance of equal n.
    """

    rows: np.ndarray
    features: np.ndarray
    """[n, D] of ``rows``."""
    others: np.ndarray
    other_features: np.ndarray
    proportion: bool = False

    def bind(self, clusters: np.ndarray, m: int) -> Bound:
        own, other = clusters[self.rows], clusters[self.others]

        def value(weights: np.ndarray) -> np.ndarray:
            pairs = ((self.features, weights[:, own]), (self.other_features, weights[:, other]))
            (mean, spread), (other_mean, other_spread) = (_moments(x, w) for x, w in pairs)
            return distance(mean, spread, other_mean, other_spread)

        return value


def distance(
    mean: np.ndarray, spread: np.ndarray, other_mean: np.ndarray, other_spread: np.ndarray
) -> np.ndarray:
    """[draws] of means [draws, D] and covariances [draws, D, D]; nan where one is not known."""
    known = np.isfinite(spread).all((1, 2)) & np.isfinite(other_spread).all((1, 2))
    a, b = np.where(known[:, None, None], spread, 0), np.where(known[:, None, None], other_spread, 0)
    values, vectors = np.linalg.eigh(a)
    root = (vectors * np.sqrt(values.clip(min=0))[:, None]) @ vectors.swapaxes(1, 2)
    both = np.sqrt(np.linalg.eigvalsh(root @ b @ root).clip(min=0)).sum(1)
    traces = np.trace(a, axis1=1, axis2=2) + np.trace(b, axis1=1, axis2=2)
    return np.where(known, ((mean - other_mean) ** 2).sum(1) + traces - 2 * both, np.nan)


def _moments(x: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean [draws, D] and covariance [draws, D, D] of rows that count as often as ``weights`` [draws, n] say."""
    total = weights.sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = weights @ x / total[:, None]
        second = np.stack([(x * w[:, None]).T @ x for w in weights])
        spread = second - total[:, None, None] * mean[:, :, None] * mean[:, None]
        return mean, np.where(total[:, None, None] > 1, spread / (total - 1)[:, None, None], np.nan)
