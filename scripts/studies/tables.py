"""Tables of docs/results.md in Markdown, made from the numbers of the runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from runner.summary.compare import Interval, t_interval


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Return a table; the first column is left-aligned, the others right-aligned."""
    lines = [" | ".join(header), "|".join(["---", *["--:"] * (len(header) - 1)])]
    lines += [" | ".join(map(str, row)) for row in rows]
    return [f"|{line}|" if line.startswith("---") else f"| {line} |" for line in lines]


def against_published(
    runs: pd.DataFrame,
    key: str,
    published: Mapping[str, Mapping[object, float]],
    tolerance: Mapping[str, float],
    mark: str = "published",
    unstable: Sequence[object] = (),
    digits: int = 4,
) -> list[str]:
    """Return a row for each metric and value of a key: the published number, and ours of the runs that are done.

    Args:
        runs: a row for each run, with the columns of the key, of the metrics and `status`.
        key: the column that was swept.
        published: metric -> value of the key -> number.
        tolerance: metric -> largest difference of our median to the published number that counts as the same; a metric
            that is not here gets no verdict.
        mark: what the numbers are: published, secondary or recalled.
        unstable: values at which runs scatter from seed to seed, so that one published run says little.
        digits: behind the point.
    """
    rows = []
    done = runs[runs["status"] == "done"]
    for metric, numbers in published.items():
        for value, number in numbers.items():
            ours = done.loc[done[key] == value, metric]
            verdict = _verdict(ours.median() - number, tolerance.get(metric), value in unstable)
            shown = f"{value:g}" if isinstance(value, (int, float)) else value
            cells = (f"{number:.{digits}g}", f"{ours.median():.{digits}f}", spread(ours, digits), len(ours), verdict)
            rows.append((metric, shown, *cells))
    return table(["metric", key, mark, "our median", "mean (sd)", "n", "tolerance"], rows)


def _verdict(difference: float, tolerance: float | None, is_unstable: bool) -> str:
    if is_unstable:
        return "scatters"
    if tolerance is None:
        return ""
    return f"{'inside' if abs(difference) <= tolerance else 'outside'} {tolerance:g}"


def spread(values: pd.Series, digits: int = 4) -> str:
    """Return mean and sample standard deviation, as `0.0123 (0.0004)`."""
    return f"{values.mean():.{digits}f} ({values.std():.{digits}f})"


def paired(runs: pd.DataFrame, metric: str, ours: pd.Series, baseline: pd.Series) -> Interval:
    """Return the mean difference of a metric, paired by seed, with its 95 % t interval.

    Args:
        runs: a row for each run, with the columns `seed` and the metric.
        metric: its column.
        ours, baseline: masks of the rows that are compared.
    """
    left, right = (runs[mask].set_index("seed")[metric] for mask in (ours, baseline))
    return t_interval((left - right).dropna().sort_index().to_numpy())


def interval(found: Interval, digits: int = 4) -> str:
    """Return a difference as `-0.0123 [-0.0150, -0.0096]`."""
    return f"{found.mean:+.{digits}f} [{found.low:+.{digits}f}, {found.high:+.{digits}f}]"
