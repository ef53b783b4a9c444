"""Is a row different from the baseline? Differences paired by seed, their intervals, and Holm's correction."""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from runner.summary.rows import Row, Summary

LEVEL = 0.05  # chance that any row is called different if none is
POWER = 0.9  # chance to find a difference that is as large as `detectable` says
LEAST_FOR_BOOTSTRAP = 10  # pairs


class Interval(NamedTuple):
    """Mean of some differences, the ends of its 95 % interval, and the p-value of no difference."""

    mean: float
    low: float
    high: float
    p: float


class Difference(NamedTuple):
    """A row less its baseline, in one metric.

    Attributes:
        row: that is compared.
        baseline: with which it is compared.
        n: pairs of runs that have the same seeds and ended well.
        interval: by Student's t distribution; NaN for less than two pairs.
        bootstrap: ends of the interval by resampling the pairs (BCa); None for less than 10 of them.
        p: the p-value, corrected by Holm for all rows on the same data.
        detectable: a true difference of less than this could have been missed; NaN for less than two pairs.
    """

    row: Row
    baseline: Row
    n: int
    interval: Interval
    bootstrap: tuple[float, float] | None
    p: float
    detectable: float = math.nan

    @property
    def has_diverged(self) -> bool:
        """Whether a run of either row did: those that are left are not a fair sample."""
        return bool(self.row.diverged or self.baseline.diverged)

    @property
    def is_different(self) -> bool:
        return self.p <= LEVEL and not self.has_diverged


def differences_of(summary: Summary, metric: str | None) -> list[Difference]:
    """Return the difference of each row to the baseline in its setting, the least first; [] if there is no baseline."""
    baselines = {row.setting: row for row in reversed(summary.rows) if row.is_baseline and metric in row.metrics}
    pairs = [
        (row, baselines[row.setting], paired(row, baselines[row.setting], str(metric)))
        for row in summary.rows
        if not row.is_baseline and row.setting in baselines and metric in row.metrics
    ]
    families: dict[str, list[tuple[Row, Row, np.ndarray]]] = defaultdict(list)
    for pair in pairs:
        families[pair[0].family].append(pair)
    differences = [difference for family in families.values() for difference in _compared(family)]
    return sorted(differences, key=lambda difference: (math.isnan(difference.interval.mean), difference.interval.mean))


def _compared(pairs: Sequence[tuple[Row, Row, np.ndarray]]) -> list[Difference]:
    intervals = [t_interval(values) for _, _, values in pairs]
    corrected = holm([interval.p for interval in intervals])
    rows = sum(not math.isnan(p) for p in corrected)
    return [
        Difference(row, baseline, len(values), interval, bootstrap_interval(values), p, detectable(values, rows))
        for (row, baseline, values), interval, p in zip(pairs, intervals, corrected, strict=True)
    ]


def paired(row: Row, baseline: Row, metric: str) -> np.ndarray:
    """Return the differences of the runs that have the same seeds, in the order of the seeds."""
    difference = row.metrics[metric].values - baseline.metrics[metric].values
    return difference.replace([math.inf, -math.inf], math.nan).dropna().sort_index().to_numpy()


def t_interval(values: Sequence[float] | np.ndarray) -> Interval:
    """Return the mean of differences with its 95 % interval, mean ± t * s / sqrt(n), t of Student with n - 1 degrees.

    Equal differences have no spread to estimate an interval from; for these the p-value is that of the sign test,
    2 / 2^n, or 1 if they are all zero.

    Args:
        values: one for each pair, (n,).

    Source: Student 1908, "The probable error of a mean".
    """
    n = len(values)
    if n < 2:
        return Interval(float(np.mean(values)) if n else math.nan, math.nan, math.nan, math.nan)
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(n)
    if error <= 1e-9 * abs(mean):  # rounding
        return Interval(mean, math.nan, math.nan, 1.0 if mean == 0 else 2 / 2**n)
    from scipy import stats  # late: it takes a second, and most sweeps have nothing to compare

    reach = float(stats.t.ppf(1 - LEVEL / 2, n - 1)) * error
    return Interval(mean, mean - reach, mean + reach, float(2 * stats.t.sf(abs(mean) / error, n - 1)))


def detectable(values: Sequence[float] | np.ndarray, rows: int) -> float:
    """Return the true mean that would be called different in 90 % of the comparisons with so many pairs.

    That is d with P(T > t(1 - .05 / (2 rows), n - 1)) = .9, T of the noncentral t distribution with n - 1 degrees of
    freedom and noncentrality d sqrt(n) / s; the level is that of the first step of Holm's correction, its strictest.
    NaN for less than two pairs.

    Args:
        values: differences, one for each pair, (n,); s is their standard deviation (n - 1).
        rows: that are compared.

    Source: Cohen 1988, "Statistical Power Analysis for the Behavioral Sciences".
    """
    n = len(values)
    if n < 2:
        return math.nan
    from scipy import optimize, stats  # late, as above

    limit = float(stats.t.ppf(1 - LEVEL / (2 * rows), n - 1))
    shift = optimize.brentq(lambda shift: stats.nct.sf(limit, n - 1, shift) - POWER, 0, 10 * limit)
    return float(shift * np.std(values, ddof=1) / math.sqrt(n))


def bootstrap_interval(values: np.ndarray) -> tuple[float, float] | None:
    """Return the ends of the 95 % interval of the mean by the bootstrap (BCa, 9,999 samples, always the same).

    Source: Efron 1987, "Better bootstrap confidence intervals".
    """
    if len(values) < LEAST_FOR_BOOTSTRAP or np.ptp(values) == 0:
        return None
    from scipy import stats

    found = stats.bootstrap((values,), np.mean, confidence_level=1 - LEVEL, rng=np.random.default_rng(0))
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number: the k-th least of m times m - k + 1, never below those before.

    Calling different what is then at most .05 is wrong about any of them in at most 5 % of comparisons without a
    difference. A NaN (no test was made) stays and does not count.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    corrected = list(p_values)
    order = sorted((index for index, p in enumerate(p_values) if not math.isnan(p)), key=lambda index: p_values[index])
    least = 0.0
    for rank, index in enumerate(order):
        least = max(least, min(1.0, p_values[index] * (len(order) - rank)))
        corrected[index] = least
    return corrected
