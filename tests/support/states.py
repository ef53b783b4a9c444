"""How runs are compared: their states, the objectives of their steps, their rows of numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def assert_same(found: Any, expected: Any) -> None:
    """Equal in every bit, NaNs and signs of zeros included."""
    assert type(found) is type(expected)
    if isinstance(expected, torch.Tensor):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert torch.equal(*(tensor.reshape(-1).view(torch.uint8) for tensor in (found, expected)))
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, list | tuple):
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert found == expected


def steps_of(notes: Path) -> dict[int, set[str]]:
    """Return the objectives of each step, in hexadecimal: one, if all sessions that made the step agree."""
    found: dict[int, set[str]] = {}
    for step, objective in (line.split() for line in notes.read_text().splitlines()):
        found.setdefault(int(step), set()).add(objective)
    return found


def timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows of metrics without what is measured by the clock."""
    return [{key: value for key, value in row.items() if not key.startswith("time/")} for row in rows]
