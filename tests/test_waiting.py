"""A sweep of which another process trains runs waits for it, and ends as if it had trained them itself."""

from __future__ import annotations

import os
import signal

import pytest
from support.sweeps import FAULTY, TINY, Sweeps

pytestmark = pytest.mark.process
LINE = (*FAULTY[:-1], "epochs=1000", "penalty=l2", "penalty.l2.weight=0,0.1", "seed=range(2)",
        "sweep.n_jobs=4", "checkpoint_seconds=0.1")  # fmt: skip
WAITING = "another process trains 4 of these runs: waiting for it; Ctrl-C leaves it alone\n"


def go_on(sweeps: Sweeps) -> None:
    """Let the steps be fast, by a file that the jobs read all the time."""
    new = sweeps.folder / "new.json"
    new.write_text("{}")
    new.replace(sweeps.faults)


def started(sweeps: Sweeps) -> tuple[int, int]:
    """Return two processes with the same sweep, the second one waiting for the first one, whose steps are slow."""
    sweeps.faults.write_text('{"0": "slow"}')
    first = sweeps.start(*LINE)
    sweeps.wait_until(lambda: len(sweeps.paths("train", "result.json")) == 4, first)
    second, said = sweeps.start(*LINE), sweeps.folder / "said.1"
    sweeps.wait_until(lambda: said.exists() and WAITING in said.read_text(), second)
    return first, second


def test_the_same_sweep_in_a_second_terminal_waits_and_shows_the_same(sweeps: Sweeps) -> None:
    both = started(sweeps)
    go_on(sweeps)
    ends = [sweeps.wait(process) for process in both]
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
    go_on(sweeps)
    assert sweeps.wait(first)[0] == 0


def test_what_the_other_process_leaves_is_trained_here(sweeps: Sweeps) -> None:
    first, second = started(sweeps)
    os.killpg(first, signal.SIGINT)
    assert sweeps.wait(first)[0] == 130
    go_on(sweeps)
    code, said = sweeps.wait(second)
    assert code == 0, said
    assert said.count("] done: ") == 4
    assert {result["status"] for result in sweeps.results().values()} == {"done"}


def test_a_number_that_a_probe_lacks_is_told_once_before_anything_is_trained(sweeps: Sweeps) -> None:
    line = (*TINY, "epochs=1", "probe=zeros", "objective_metric=probe/zeros/al", "seed=range(8)")
    said = sweeps.run(*line, code=2)
    assert said.count("objective_metric must be one of probe/zeros/all, ") == 1
    assert not sweeps.results()
