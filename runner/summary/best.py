"""Which of several is the best: one rule for the rows of a table, the trials of a search, and those of an arm."""

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

TIE = 1e-6  # relative difference of two means that is rounding: sums of float32 in another order

T = TypeVar("T")


def least(candidates: Sequence[T], *measures: Callable[[T], float]) -> list[T]:
    """Return the candidates with the least first measure; of those that tie, the ones with the least second one, ...

    Numbers that differ by rounding are equal; what is not finite is worse than any number.
    """
    best = list(candidates)
    for measure in measures:
        values = [value if math.isfinite(value := measure(candidate)) else math.inf for candidate in best]
        lowest = min(values, default=math.inf)
        best = [one for one, value in zip(best, values, strict=True) if math.isclose(value, lowest, rel_tol=TIE)]
    return best
