"""How well scores rank what should come first: ROC, recall, rank correlation.

All functions take one sample a row. Equal scores count in expectation, as if their
order were drawn at random: it is what a ranking with ties is worth.
"""

from __future__ import annotations

import dataclasses

import numpy as np

# False positive rates at which ROC curves are averaged; close together near 0, where
# it matters what the first candidates are worth.
FALSE_POSITIVE_RATES = np.linspace(0.0, 1.0, 101) ** 2


@dataclasses.dataclass(frozen=True)
class Ranking:
    """What a ranking is worth, a figure or curve for each of `n` samples.

    Attributes:
        found: `[n, units]`; `found[:, c - 1]` are the true neurons to expect among the
            first `c`, as a fraction of `wanted`, at most 1.
        true_positive_rate: `[n, 101]`, the ROC curve at `FALSE_POSITIVE_RATES`; NaN
            where all neurons are true ones.
        auc: `[n]`, the area under the ROC curve; NaN likewise.
        correlation: `[n]`, Spearman's, with the values; NaN where all scores or all
            values are equal.
    """

    found: np.ndarray
    true_positive_rate: np.ndarray
    auc: np.ndarray
    correlation: np.ndarray


def rank(
    scores: np.ndarray, values: np.ndarray, true: np.ndarray, wanted: int
) -> Ranking:
    """Judges scores.

    Args:
        scores: `[n, units]`, without NaN; the larger, the earlier.
        values: `[n, units]`, without NaN: what the scores estimate.
        true: bool `[n, units]`, at least one a row: who should come first.
        wanted: How many true neurons there are to find in a row.
    """
    samples, units = scores.shape
    order, first, last = _descending(scores)
    positives = np.cumsum(np.take_along_axis(true, order, axis=1), axis=1)
    of_all = positives[:, -1:]

    # Within a group of equal scores, true neurons are evenly spread.
    before = np.where(
        first > 0, np.take_along_axis(positives, np.maximum(first - 1, 0), axis=1), 0
    )
    within = np.take_along_axis(positives, last, axis=1) - before
    place = np.arange(1, units + 1)
    expected = before + within * ((place - first) / (last + 1 - first))

    curves = np.full([samples, FALSE_POSITIVE_RATES.size], np.nan)
    start = np.zeros(1)
    for sample in np.flatnonzero(of_all[:, 0] < units):
        true_rate = expected[sample] / of_all[sample]
        false_rate = (place - expected[sample]) / (units - of_all[sample])
        curves[sample] = np.interp(
            FALSE_POSITIVE_RATES,
            np.concatenate([start, false_rate]),
            np.concatenate([start, true_rate]),
        )
    # The trapezoids between all places, not only at the rates above.
    steps = np.diff(expected, axis=1, prepend=0.0)
    height = expected - steps / 2.0
    area = ((1.0 - steps) * height).sum(axis=1)
    pairs = (of_all * (units - of_all))[:, 0]
    auc = np.where(pairs > 0, area / np.maximum(pairs, 1), np.nan)

    ranks = (first + last) / 2.0
    value_order, first, last = _descending(values)
    value_ranks = np.empty_like(ranks)
    np.put_along_axis(value_ranks, value_order, (first + last) / 2.0, axis=1)
    correlation = _correlation(ranks, np.take_along_axis(value_ranks, order, axis=1))
    return Ranking(np.minimum(expected / wanted, 1.0), curves, auc, correlation)


def jaccard(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Size of the intersection over that of the union; 1 for two empty sets.

    Args:
        one: int `[n, any]`, a set of ids a row, each id once; -1 is none.
        other: int `[n, any]`, likewise.

    Returns:
        float64 `[n]`.
    """
    sizes = (one >= 0).sum(axis=1) + (other >= 0).sum(axis=1)
    ids = np.sort(np.concatenate([one, other], axis=1), axis=1)
    common = ((ids[:, 1:] == ids[:, :-1]) & (ids[:, 1:] >= 0)).sum(axis=1)
    union = sizes - common
    return np.where(union > 0, common / np.maximum(union, 1), 1.0)


def gini(counts: np.ndarray) -> float:
    """Gini's coefficient: 0 if all counts are equal, near 1 if few have it all.

    NaN if there is nothing to share.
    """
    counts = np.sort(counts).astype(np.float64)
    total, n = counts.sum(), counts.size
    if total == 0:
        return float("nan")
    return float(2 * (np.arange(1, n + 1) @ counts) / (n * total) - (n + 1) / n)


def _descending(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The order of each row, and where the group of equals of each place begins, ends.

    Returns:
        int `[n, units]` each: the columns in descending order of the values, and the
        first and the last place of those that have the value of a place.
    """
    order = np.argsort(values, axis=1)[:, ::-1]
    ranked = np.take_along_axis(values, order, axis=1)
    units = values.shape[1]
    place = np.arange(units)
    changes = ranked[:, 1:] != ranked[:, :-1]
    edge = np.ones([len(values), 1], bool)
    first = np.where(np.concatenate([edge, changes], axis=1), place, 0)
    first = np.maximum.accumulate(first, axis=1)
    last = np.where(np.concatenate([changes, edge], axis=1), place, units - 1)
    last = np.minimum.accumulate(last[:, ::-1], axis=1)[:, ::-1]
    return order, first, last


def _correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson's, of each row of `x` with that of `y`."""
    x = x - x.mean(axis=1, keepdims=True)
    y = y - y.mean(axis=1, keepdims=True)
    norms = np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(norms > 0, (x * y).sum(axis=1) / norms, np.nan)
