"""Jobs on a cluster, whatever its engine: each ends alone, and how it ended stands in its directory."""

from __future__ import annotations

import json
import os
import re
import signal
from typing import Any

from support import ROOT
from support.engine import CODE
from support.sweeps import FAULTY, LONG, REASONS, Sweeps

FAULTS = {1: "raise", 2: "diverge", 3: "kill", 4: "early", 5: "leave"}
CAUSES = {**REASONS, "kill": "ended with code -9", "early": "left the queue", "leave": "ended with code 3"}


def start(sweeps: Sweeps, *arguments: str) -> int:
    sweeps.environment["TESTS"] = str(ROOT / "tests")
    return sweeps.start(*arguments, code=CODE)


def run(sweeps: Sweeps, *arguments: str, code: int = 0) -> str:
    found, said = sweeps.wait(start(sweeps, *arguments))
    assert found == code, said
    return said


def results(sweeps: Sweeps) -> dict[int, dict[str, Any]]:
    return {int(re.search(r"job=(\d+)|$", name)[1] or 0): result for name, result in sweeps.results().items()}


def test_bad_jobs_end_alone(sweeps: Sweeps) -> None:
    grid = (*FAULTY, "loss.job=range(8)")
    sweeps.faults.write_text(json.dumps(FAULTS))
    said = run(sweeps, *grid, code=1)
    found = results(sweeps)
    assert len(found) == said.count("submitted: ") == 8
    for job, result in found.items():
        fault = FAULTS.get(job)
        assert result["status"] == {None: "done", "diverge": "diverged"}.get(fault, "failed")
        assert fault is None or CAUSES[fault] in result["reason"]
        assert fault is None or re.search(f"{CAUSES[fault]}.*\n.*{result['run_id']}", said.partition("[8/8]")[2])
    assert len(re.findall(r"^\[\d/8\] ", said, re.MULTILINE)) == 8
    assert "Traceback" not in said
    sweeps.faults.write_text("{}")
    said = run(sweeps, *grid, code=1)  # a divergence stays one
    assert said.count("submitted: ") == 4
    assert sorted(result["status"] for result in results(sweeps).values()) == ["diverged"] + ["done"] * 7
    assert sorted(sweeps.times_trained().values()) == [0] + [1] * 7
    assert "submitted: " not in run(sweeps, *grid, code=1)


def test_an_old_result_does_not_stand_for_a_job_that_died(sweeps: Sweeps) -> None:
    """A job that is killed before it writes anything leaves the result of before."""
    run(sweeps, *FAULTY, "loss.job=1")
    sweeps.faults.write_text('{"1": "early"}')
    run(sweeps, *FAULTY, "loss.job=1", "force=true", code=1)
    assert "left the queue" in results(sweeps)[1]["reason"]


def test_a_job_that_fails_twice_in_the_same_way_keeps_its_reason(sweeps: Sweeps) -> None:
    """Its second result says what the first one said: it is new all the same."""
    misfit = ("data=line", "model=convnet", "loss=mse")
    reasons = []
    for _ in range(2):
        run(sweeps, *misfit, code=1)
        reasons += [result["reason"] for result in sweeps.results().values()]
    assert len(reasons) == 2
    assert reasons[0] == reasons[1]
    assert "without a result" not in reasons[0]


def test_what_the_engine_refuses_has_failed(sweeps: Sweeps) -> None:
    sweeps.faults.write_text('{"2": "refuse"}')
    said = run(sweeps, *FAULTY, "loss.job=1,2,3", code=1)
    assert {job: result["status"] for job, result in results(sweeps).items()} == {1: "done", 2: "failed", 3: "failed"}
    assert said.count("the engine takes no more jobs") >= 2
    said = run(sweeps, *FAULTY, "loss.job=2", "epochs=21", code=2)
    assert said.splitlines()[-1] == "the engine takes no more jobs"


def test_a_failure_may_stop_the_others(sweeps: Sweeps) -> None:
    sweeps.faults.write_text('{"1": "raise"}')
    said = run(sweeps, *FAULTY, "loss.job=1,2", "epochs=1000000", "sweep.on_error=stop", code=1)
    assert "sweep.on_error=stop" in said
    assert {job: result["status"] for job, result in results(sweeps).items()} == {1: "failed", 2: "interrupted"}


def test_ctrl_c_has_all_jobs_save(sweeps: Sweeps) -> None:
    line = (*LONG, "epochs=1000000", "checkpoint_seconds=3600")
    process = start(sweeps, *line)
    sweeps.wait_until(lambda: len(sweeps.paths("train", "checkpoint-*.pt")) >= 4, process)
    os.kill(process, signal.SIGINT)
    code, said = sweeps.wait(process)
    assert code == 130, said
    assert [result["status"] for result in sweeps.results().values()] == ["interrupted"] * 4
    assert "stopped; go on with" in said
