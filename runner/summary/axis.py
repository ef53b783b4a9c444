"""The axis of a swept number: each value marked where it stands, by its logarithm where the values are spaced so."""

import math
import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes

from runner.summary.settings import as_typed, is_number

MOST_TICKS = 14
LONGEST_TICKS = 70  # characters side by side
LOG_RATIO = 8.0  # of the largest to the least value, from which on values can be log-spaced


def set_ticks(axes: Axes, values: Sequence[Any], diverged: Mapping[str, int]) -> dict[str, float]:
    """Return the place of each value on the axis, and mark it: by its logarithm if the values are spaced so.

    Zero has no logarithm, and no value no place: they stand to the left, a step apart each.
    """
    numbers = [value for value in values if is_number(value)]
    logarithmic = are_log_spaced(numbers)
    scaled = {as_typed(n): math.log10(n) if logarithmic else float(n) for n in numbers if n > 0 or not logarithmic}
    ordered = sorted(scaled.values())
    gaps = [b - a for a, b in pairwise(ordered)]
    step = statistics.median(gaps) if gaps else 1.0
    start = ordered[0] if ordered else 0.0
    left = [value for value in values if as_typed(value) not in scaled]
    places = {as_typed(value): start - step * (len(left) - index) for index, value in enumerate(left)} | scaled
    if logarithmic or left or len(values) <= MOST_TICKS:
        shown = _thinned(list(places.items()))
        below = {label: f"\n{count} diverged" for label, count in diverged.items() if count}
        axes.set_xticks([place for _, place in shown], [(label or "none") + below.get(label, "") for label, _ in shown])
        if sum(len(label) + 2 for label, _ in shown) > LONGEST_TICKS:
            axes.tick_params(axis="x", rotation=45)
    if left and ordered:
        place = (start - step / 2, 0)  # the scale is broken here
        axes.text(*place, "//", transform=axes.get_xaxis_transform(), ha="center", va="center", backgroundcolor="w")
    return places


def are_log_spaced(numbers: Sequence[float]) -> bool:
    """Tell whether the positive ones among sorted numbers, none being negative, are more even by ratio than by step."""
    positive = [float(number) for number in numbers if number > 0]
    if len(positive) < 2 or numbers[0] < 0 or positive[-1] / positive[0] < LOG_RATIO:
        return False
    return _unevenness([math.log(number) for number in positive]) <= _unevenness(positive)


def _unevenness(ordered: Sequence[float]) -> float:
    gaps = [b - a for a, b in pairwise(ordered)]
    return statistics.pstdev(gaps) / statistics.fmean(gaps)


def _thinned(places: Sequence[tuple[str, float]]) -> Sequence[tuple[str, float]]:
    return places[:: math.ceil(len(places) / MOST_TICKS)]
