"""Torch's own modules with up to 40 of their options each, both modes, both float types, eager and functional."""

from collections.abc import Callable

import pytest
import torch
from support import zoo

SEEN: dict[torch.dtype, list[zoo.Seen]] = {dtype: [] for dtype in zoo.DTYPES}
SAMPLE = {"LayerNorm", "Softmax"}
NAMES = [
    pytest.param(name, marks=pytest.mark.sample if name.split()[1] in SAMPLE else ())
    for name in zoo.MODULES
    if name.split()[1] not in zoo.LEFT_OUT
]


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
@pytest.mark.parametrize("dtype", zoo.DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_each_sample(name: str, dtype: torch.dtype, judged: Callable[..., None]) -> None:
    for training in (True, False):
        seen = zoo.compared(name, dtype, training, most=40)
        assert seen.cases
        SEEN[dtype].append(seen)
        method = f"the zoo, {'training' if training else 'evaluation'}, {str(dtype).removeprefix('torch.')}"
        judged(method, "naive loop", name.split()[1], seen.values, seen.gradients, tolerance=zoo.CLOSE[dtype])


def test_what_was_seen() -> None:
    """Tells, with -s -n 0, the numbers of docs/library.md."""
    for dtype, seen in SEEN.items():
        if not seen:
            pytest.skip("run this file whole, in one process")
        cases, mixed, lacking = (sum(getattr(one, name) for one in seen) for name in ("cases", "mixed", "lacking"))
        values, gradients = (max(getattr(one, name) for one in seen) for name in ("values", "gradients"))
        print(f"{dtype}: {cases} cases, {values:.2g} in values, {gradients:.2g} in gradients;", end=" ")
        print(f"refused: {mixed} since examples mix, {lacking} since torch lacks a derivative")
