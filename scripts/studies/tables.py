"""Tables of docs/results.md in Markdown, made from the numbers of the runs."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from runner.summary.compare import LEVEL, Interval, t_interval

REVIEW = Path(__file__).resolve().parents[2] / "docs" / "results" / "review_2026_12.csv"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    lines = [" | ".join(header), "|".join(["---", *["--:"] * (len(header) - 1)])]
    lines += [" | ".join(map(str, row)) for row in rows]
    return [f"|{line}|" if line.startswith("---") else f"| {line} |" for line in lines]


def against_published(
    runs: pd.DataFrame,
    key: str,
    published: Mapping[str, Mapping[float, float]],
    tolerance: Mapping[str, float],
) -> list[str]:
    """Return a row for each metric and value of a key: the published number, and ours of the runs that are done.

    Args:
        runs: a row for each run, with the columns of the key, of the metrics and `status`.
        key: the column that was swept.
        published: metric -> value of the key -> number.
        tolerance: metric -> largest difference of our median to the published number that counts as the same.
    """
    rows = []
    done = runs[runs["status"] == "done"]
    for metric, numbers in published.items():
        for value, number in numbers.items():
            ours = done.loc[done[key] == value, metric]
            cells = (f"{number:.4g}", f"{ours.median():.4f}", spread(ours), f"{ours.min():.4f} to {ours.max():.4f}")
            rows.append((metric, f"{value:g}", *cells, verdict(ours, number, tolerance[metric])))
    return table(["metric", key, "published", "our median", "mean (sd)", "our range", "the published number is"], rows)


def verdict(ours: pd.Series, published: float, tolerance: float) -> str:
    """Return whether a published number lies within the tolerance of our median, or at least within our range.

    Nothing for fewer than five runs, whose range says little.
    """
    if len(ours) < 5:
        return ""
    if abs(ours.median() - published) <= tolerance:
        return f"inside {tolerance:g}"
    return f"{'within' if ours.min() <= published <= ours.max() else 'outside'} our range"


def spread(values: pd.Series, digits: int = 4) -> str:
    """Return mean and sample standard deviation, as `0.0123 (0.0004)`; a single value alone."""
    deviation = f" ({values.std():.{digits}f})" if len(values) > 1 else ""
    return f"{values.mean():.{digits}f}{deviation}"


def paired(runs: pd.DataFrame, metric: str, ours: pd.Series, baseline: pd.Series) -> Interval:
    """Return the mean difference of a metric, paired by seed, with its 95 % t interval.

    Args:
        runs: a row for each run, with the columns `seed` and the metric.
        metric: its column.
        ours, baseline: masks of the rows that are compared.
    """
    left, right = (runs[mask].set_index("seed")[metric] for mask in (ours, baseline))
    return t_interval((left - right).dropna().sort_index().to_numpy())


def missed(found: pd.DataFrame, seeds: int) -> tuple[float, float]:
    """Return the least mean difference that can be called one by Holm's first step: median and largest of the rows.

    Its p-value, two-sided by Student's t, is 5 % divided by the number of rows.

    Args:
        found: a row for each comparison, with the ends `low` and `high` of its own 95 % interval.
        seeds: pairs behind each.
    """
    corrected, alone = stats.t.ppf(1 - LEVEL / 2 / np.array([len(found), 1]), seeds - 1)
    least = (found["high"] - found["low"]) / 2 * corrected / alone
    return float(least.median()), float(least.max())


def range_end(value: float, low: float, high: float) -> str:
    return " (end of its range)" if any(math.isclose(value, end, rel_tol=0.01) for end in (low, high)) else ""


def claims_of(section: str = "") -> pd.DataFrame:
    claims = pd.read_csv(REVIEW, dtype=str, keep_default_na=False)
    return claims[claims["section"] == section] if section else claims


def review_of(section: str) -> list[str]:
    lines = [
        f"- {claim.claim}: {claim.new}{f' [{claim.low}, {claim.high}]' if claim.low else ''}"
        f"{f', {claim.n} seeds' if claim.n else ''} ({claim.source}).{f' Above: {claim.old}.' if claim.old else ''}"
        for claim in claims_of(section).itertuples()
    ]
    return ["", "Review of December 2026, with other seeds or another weight:", "", *lines] if lines else []


def interval(found: Interval, digits: int = 4) -> str:
    """Return a difference as `-0.0123 [-0.0150, -0.0096]`; equal differences have no interval."""
    if math.isnan(found.low):
        return f"{found.mean:+.{digits}f} (no interval)"
    return f"{found.mean:+.{digits}f} [{found.low:+.{digits}f}, {found.high:+.{digits}f}]"
