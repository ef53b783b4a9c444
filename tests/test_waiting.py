"""A sweep of which another process trains runs waits for it, and ends as if it had trained them itself."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest
from support.sweeps import TINY, Sweeps

pytestmark = pytest.mark.process
LINE = (*TINY, "epochs=2000", "penalty=l2", "penalty.l2.weight=0,0.1", "seed=range(2)", "checkpoint_seconds=0.1",
        "sweep.n_jobs=4")  # fmt: skip
WAITING = "another process trains 4 of these runs: waiting for it; Ctrl-C leaves it alone\n"


def all_run(sweeps: Sweeps) -> Callable[[], bool]:
    return lambda: len(sweeps.paths("train", "result.json")) == 4


def started(sweeps: Sweeps, *more: str) -> tuple[int, int]:
    """Return two processes with the same sweep, the second one waiting for the first one."""
    first = sweeps.start(*LINE, *more)
    sweeps.wait_until(all_run(sweeps), first)
    second = sweeps.start(*LINE, *more)
    said = sweeps.folder / "said.1"
    sweeps.wait_until(lambda: said.exists() and WAITING in said.read_text(), second)
    return first, second


@pytest.mark.parametrize("launcher", ["local", "stacked"])
def test_the_same_sweep_in_a_second_terminal_waits_and_shows_the_same(sweeps: Sweeps, launcher: str) -> None:
    ends = [sweeps.wait(process) for process in started(sweeps, f"hydra/launcher={launcher}")]
    assert [code for code, _ in ends] == [0, 0], ends
    first, second = (said for _, said in ends)
    assert "Difference to l2.weight=0 in test/loss" in second
    assert first[first.index("l2.weight  n") :] == second[second.index("l2.weight  n") :]
    assert second.count("another process") == 1
    assert "busy" not in second
    assert list(sweeps.times_trained().values()) == [1] * 4


def test_ctrl_c_leaves_the_other_process_alone_and_shows_no_answer(sweeps: Sweeps) -> None:
    first, second = started(sweeps)
    os.killpg(second, signal.SIGINT)
    code, said = sweeps.wait(second)
    assert code == 130
    assert "Difference to" not in said
    assert "4 of 4 runs have not ended (4 running): no answer before; the same command goes on." in said
    assert sweeps.wait(first)[0] == 0


def test_what_the_other_process_leaves_is_trained_here(sweeps: Sweeps) -> None:
    first, second = started(sweeps)
    os.killpg(first, signal.SIGINT)
    assert sweeps.wait(first)[0] == 130
    code, said = sweeps.wait(second)
    assert code == 0, said
    assert said.count("] done: ") == 4
    assert {result["status"] for result in sweeps.results().values()} == {"done"}
