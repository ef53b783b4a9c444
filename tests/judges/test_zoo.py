"""Torch's own modules with up to 40 of their options each, both modes, both float types, eager and functional."""

import pytest
import torch
from support import zoo

SEEN: dict[torch.dtype, list[zoo.Seen]] = {dtype: [] for dtype in zoo.DTYPES}


@pytest.mark.parametrize("dtype", zoo.DTYPES, ids=str)
@pytest.mark.parametrize("name", [name for name in zoo.MODULES if name.split()[1] not in zoo.LEFT_OUT])
def test_each_sample(name: str, dtype: torch.dtype) -> None:
    for training in (True, False):
        seen = zoo.compared(name, dtype, training, most=40)
        assert seen.cases
        SEEN[dtype].append(seen)


def test_what_was_seen() -> None:
    """Tells, with -s, the numbers of docs/correctness.md."""
    for dtype, seen in SEEN.items():
        if not seen:
            pytest.fail("run this file whole")
        cases, mixed, lacking = (sum(getattr(one, name) for one in seen) for name in ("cases", "mixed", "lacking"))
        values, gradients = (max(getattr(one, name) for one in seen) for name in ("values", "gradients"))
        print(f"{dtype}: {cases} cases, {values:.2g} in values, {gradients:.2g} in gradients;", end=" ")
        print(f"refused: {mixed} since examples mix, {lacking} since torch lacks a derivative")
