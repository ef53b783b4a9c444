"""The answer of a comparison in words: what differs from the baseline, by how much, and what the intervals cover."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from runner.summary.compare import LEVEL, Difference
from runner.summary.groups import Summary
from runner.summary.table import form_for


def answer_of(summary: Summary, found: Sequence[Difference], metric: str) -> list[str]:
    """Return the lines of the answer: each difference, what they come to, and what the intervals cover."""
    if not found:
        named = summary.baseline and not any(row.is_baseline for row in summary.rows)
        return [f"No comparison: no row is the baseline, sweep.baseline={summary.baseline}."] if named else []
    names = sorted({summary.label(difference.baseline) for difference in found})
    to = names[0] if len(names) == 1 else "the row without a penalty"
    lines = [f"Difference to {to} in {metric}, paired by seed: mean, 95 % interval, p corrected by Holm; * different"]
    lines += _table_of(summary, found)
    lines += [f"{_sentence(summary, found, metric)}."]
    return lines + _notes_on(found)


def _table_of(summary: Summary, found: Sequence[Difference]) -> list[str]:
    """Return a line for each difference, in columns, with the bootstrap's interval where there is one."""
    form = form_for([number for each in found for number in each.interval[:3]])
    width = max(len(summary.label(each.row)) for each in found)
    lines = []
    for each in found:
        interval, (n, p) = each.interval, (each.n, each.p)
        ends = "(no interval)" if math.isnan(interval.low) else f"[{interval.low:+{form}}, {interval.high:+{form}}]"
        again = f"  bootstrap [{each.bootstrap[0]:+{form}}, {each.bootstrap[1]:+{form}}]" if each.bootstrap else ""
        p_value = "" if math.isnan(p) else f"  p={p:.2g}"
        mark = "*" if each.is_different else " "
        lines.append(
            f"{mark} {summary.label(each.row):<{width}}  {interval.mean:+{form}}  {ends}  n={n}{p_value}{again}"
        )
    return lines


def _sentence(summary: Summary, found: Sequence[Difference], metric: str) -> str:
    """Return in words what differs, by how much, and what does not."""
    form = form_for([number for each in found for number in each.interval[:3]])
    clauses = []
    for each in (each for each in found if each.is_different):
        mean, low, high, _ = each.interval
        verb, ends = ("lowers", (-high, -low)) if mean < 0 else ("raises", (low, high))
        interval = "" if math.isnan(low) else f" [{ends[0]:{form}}, {ends[1]:{form}}]"
        clauses.append(f"{summary.label(each.row)} {verb} {metric} by {abs(mean):{form}}{interval}, {each.n} seeds")
    sound = [each for each in found if not each.has_diverged]
    if same := _names(summary, (each for each in sound if not each.is_different and not math.isnan(each.p))):
        clauses.append(f"no difference found for {same}")
    if untested := _names(summary, (each for each in sound if math.isnan(each.p))):
        clauses.append(f"too few pairs of seeds to tell for {untested}: train more, such as 'seed=range(5)'")
    if diverged := _names(summary, (each for each in found if each.has_diverged)):
        clauses.append(f"nothing is said of {diverged}, where runs diverged")
    return "; ".join(clauses)


def _names(summary: Summary, found: Iterable[Difference]) -> str:
    return ", ".join(summary.label(each.row) for each in found)


def _notes_on(found: Sequence[Difference]) -> list[str]:
    """Return what a reader of the intervals has to know."""
    both = [run for each in found for row in (each.row, each.baseline) for run in row.done]
    has_splits = len({run.seeds[1] for run in both}) > 1
    covered = "the seeds and the splits of the data" if has_splits else "the seeds, not other splits of the data"
    hint = "" if has_splits else " ('data.seed=${seed}' varies these too)"
    chance = f"By chance alone, any row would be called different in at most {LEVEL:.0%} of such tables."
    return [f"The intervals cover {covered}{hint}. {chance}"]
