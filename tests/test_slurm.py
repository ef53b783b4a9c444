"""Sweeps on Slurm: submitted, left, found again, cancelled; on a Slurm that is played by scripts (`support.slurm`).

scripts/clusters.sh tries the real one.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from support import ROOT
from support.forked import wait_until
from support.slurm import install
from support.sweeps import TINY, Sweeps

from runner.storage import slurm as slurm_queue
from runner.storage.identity import ids
from runner.storage.slurm import NoAnswer, Queue, Ticket, standing
from runner.summary.runs import read_run
from runner.sweep import cluster
from runner.sweep.cluster import End
from runner.sweep.slurm import SlurmEngine, _SlurmJob


class Slurm:
    """A cluster with three places, and sweeps on it."""

    def __init__(self, sweeps: Sweeps) -> None:
        self.sweeps, self.folder = sweeps, sweeps.folder / "slurm"
        sweeps.environment |= install(sweeps.folder)
        python = f"hydra.launcher.python={sweeps.folder / 'bin' / 'python'}"
        self.line = (*TINY, "hydra/launcher=submitit_cluster", python)

    def faults(self, **faults: str) -> None:
        """Say what the runs of some seeds do."""
        whole = self.sweeps.faults.with_suffix(".new")  # jobs read it all the time
        whole.write_text(json.dumps({name.strip("_"): fault for name, fault in faults.items()}))
        whole.replace(self.sweeps.faults)

    def start(self, *words: str) -> int:
        return self.sweeps.start(*self.line, *words)

    def run(self, *words: str, code: int = 0) -> str:
        return self.sweeps.run(*self.line, *words, code=code)

    def wait_for(self, count: int, state: str, process: int | None = None) -> None:
        """Wait until so many jobs are in a state."""

        def is_reached() -> bool:
            return sum(job["state"] == state for job in self.jobs().values()) == count

        wait_until(is_reached, lambda: process is None or self.sweeps.forks.is_running(process))

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, **self.sweeps.environment}

    def jobs(self) -> dict[str, dict[str, object]]:
        return {path.stem: json.loads(path.read_text()) for path in self.folder.glob("*.json")}

    def script(self, name: str, *words: str) -> str:
        """Return what one of scripts/ prints."""
        code = f"import runpy; runpy.run_path({str(ROOT / 'scripts' / name)!r}, run_name='__main__')"
        return self.sweeps.wait(self.sweeps.start(code=code, line=words))[1]

    def statuses(self) -> list[str]:
        return [result["status"] for result in self.sweeps.results().values()]


@pytest.fixture
def slurm(sweeps: Sweeps) -> Slurm:
    return Slurm(sweeps)


def test_submit_leave_and_collect(slurm: Slurm) -> None:
    slurm.faults(_0="wait", _1="wait", _2="wait", _3="wait")
    said = slurm.run("seed=range(4)", "sweep.wait=false")
    assert said.count("submitted: ") == 4
    assert "summarize.py runs/train" in said
    slurm.wait_for(3, "RUNNING")
    said = slurm.script("summarize.py", "runs/train")
    assert "3 running, 1 waiting" in said
    assert "is pending (Resources)" in said
    said = slurm.run("seed=range(5)", "sweep.wait=false")
    assert (said.count("submitted: "), said.count("found: ")) == (1, 4)
    assert "cancelled 5 jobs" in slurm.script("runs.py", "cancel", "runs/train")
    slurm.wait_for(0, "RUNNING")
    said = slurm.script("summarize.py", "runs/train")
    assert "2 lost, 3 interrupted" in said
    assert "is queued or running" in slurm.script("runs.py", "cancel", "runs/train")
    slurm.faults()
    said = slurm.run("seed=range(5)")
    assert (said.count("submitted: "), said.count("found: ")) == (5, 0)
    assert list(slurm.sweeps.times_trained().values()) == [1] * 5
    assert sum(path.read_text().count("resumed") for path in slurm.sweeps.paths("train", "train.log")) == 3


def test_a_driver_is_killed_and_the_same_command_attaches(slurm: Slurm) -> None:
    slurm.faults(_0="wait", _2="wait")
    process = slurm.start("seed=range(4)")
    slurm.wait_for(2, "COMPLETED", process)
    os.kill(process, signal.SIGKILL)
    slurm.sweeps.wait(process)
    process = slurm.start("seed=range(4)")
    said = slurm.sweeps.folder / "said.1"
    slurm.sweeps.wait_until(lambda: said.exists() and "found: " in said.read_text(), process)
    slurm.faults()
    code, words = slurm.sweeps.wait(process)
    assert code == 0, words
    assert (words.count("submitted: "), words.count("found: ")) == (0, 2)
    assert list(slurm.sweeps.times_trained().values()) == [1] * 4
    assert "submitted" not in slurm.run("seed=range(4)")


def test_each_job_ends_alone(slurm: Slurm) -> None:
    slurm.faults(_1="kill", _2="wait")
    process = slurm.start("seed=range(4)")
    for count, state in ((2, "COMPLETED"), (1, "FAILED"), (1, "RUNNING")):
        slurm.wait_for(count, state, process)
    running = next(name for name, job in slurm.jobs().items() if job["state"] == "RUNNING")
    (slurm.folder / "away").touch()  # for a while nobody answers
    slurm.script("summarize.py", "runs/train")
    (slurm.folder / "away").unlink()
    subprocess.run(["scancel", running], env=slurm.environment, check=True)
    code, said = slurm.sweeps.wait(process)
    assert code == 1, said
    for cause in ("its process was killed by SIGKILL", "cancelled, by scancel or by Slurm"):
        assert len(re.findall(rf"failed.*: {cause}", said)) == 1, said
    slurm.faults()
    assert slurm.run("seed=range(4)").count("submitted: ") == 2
    assert list(slurm.sweeps.times_trained().values()) == [1] * 4


def test_a_preempted_job_is_queued_again_and_goes_on(slurm: Slurm) -> None:
    """Submitit's signal, which Slurm sends before it takes the nodes away: the state is saved at once."""
    slurm.faults(_0="wait")
    process = slurm.start("seed=0")
    slurm.sweeps.wait_until(lambda: "running" in slurm.statuses(), process)
    trained = [each for each in psutil.process_iter() if is_training(each, slurm.folder)]
    assert len(trained) == 1
    trained[0].send_signal(signal.SIGUSR2)
    slurm.sweeps.wait_until(lambda: not trained[0].is_running(), process)
    slurm.faults()
    code, said = slurm.sweeps.wait(process)
    assert code == 0, said
    assert slurm.statuses() == ["done"]
    assert [path.read_text().count("resumed") for path in slurm.sweeps.paths("train", "train.log")] == [1]


def is_training(process: psutil.Process, folder: Path) -> bool:
    """Tell whether a process is the Python of a job in this folder; `srun` only waits for it."""
    with suppress(psutil.Error):
        words = process.cmdline()
        is_job = "submitit.core._submit" in words and "srun" not in words
        return is_job and process.environ().get("FAKE_SLURM") == str(folder)
    return False


def test_a_job_that_slurm_has_forgotten(composed: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Some minutes after its end squeue does not know a job any more: then its run's directory is believed."""
    monkeypatch.setattr(cluster, "LAG_SECONDS", 0)
    monkeypatch.setattr(slurm_queue, "_answer", lambda *command: "")
    job = _SlurmJob(Queue(), Ticket("fake", "7_1", "log"))
    end = job.ended()
    assert end == End(0, "job 7_1 left the queue without a result")
    lost, done, again = composed(), composed("seed=1"), composed("seed=2", "force=true")
    for run in (done, again):
        run.write_result({"status": "done"})
    watch = cluster._Watch(SlurmEngine, [lost, done, again], {}, 3)
    watch.before[again.path] = again.written_at  # from before the job
    watch.before[done.path] = done.written_at  # of an earlier command's job, which ended while this one was submitted
    ends = [watch.status_after(run, job, end) for run in (lost, done, again)]
    assert ends == ["failed", "done", "failed"]
    assert lost.result()["reason"] == f"{end.reason}; its output is in log"
    assert done.status == "done"


@pytest.mark.parametrize(
    ("state", "status", "code", "words"),
    [
        ("COMPLETED", 0, 0, "without a result"),
        ("FAILED", 3 << 8, 3, "code 3"),
        ("FAILED", 137 << 8, -9, "SIGKILL"),
        ("FAILED", 143 << 8, 143, "code 143"),  # stopped by a signal, with its state saved
        ("OUT_OF_MEMORY", 9, -9, "raise resources.mem_gb"),
        ("NODE_FAIL", 0, -9, "its node died"),
        ("RUNNING", 0, None, ""),
    ],
)
def test_ends(state: str, status: int, code: int, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_queue, "_answer", lambda *command: f"7_1   |{state}  |{status} |None  |\n")
    end = _SlurmJob(Queue(), Ticket("fake", "7_1", "log")).ended()
    assert end is None if code is None else end.code == code and words in end.reason


def test_arrays_by_resources_as_long_as_slurm_allows(slurm: Slurm) -> None:
    (slurm.folder / "arrays").write_text("3")
    (slurm.folder / "full").touch()
    arms = "sweep.arms={small: {penalty: none}, large: {penalty: l2, resources.gpus: 2, resources.mem_gb: 7}}"
    options = ("hydra.launcher.srun_args=[--exact]", "hydra.launcher.array_parallelism=2", "hydra.launcher.mem_gb=1")
    slurm.run(arms, "seed=range(4)", "sweep.wait=false", *options)
    found = {name: job["options"] for name, job in slurm.jobs().items()}
    wanted = [(options.get("array"), options["mem"], options.get("gpus-per-node")) for options in found.values()]
    assert sorted(wanted, key=str) == [
        *[("0-2%2", "1GB", None)] * 3, *[("0-2%2", "7GB", "2")] * 3, (None, "1GB", None), (None, "7GB", "2"),
    ]  # fmt: skip
    assert {options["job-name"] for options in found.values()} == {"train"}
    assert "--exact" in next(slurm.folder.glob("*.sh")).read_text()
    slurm.script("runs.py", "cancel", "runs/train")


def test_a_stage_after_the_other(slurm: Slurm) -> None:
    line = ("sweep.arms={l2: {penalty: l2}}", "sweep.trials=2", "seed=0", "sweep.wait=false")
    line += ("sweep.tuning_seeds=[100]", "data.validation_size=1")
    for submitted in (2, 1):  # two weights, then the comparison
        assert slurm.run(*line).count("submitted: ") == submitted
        slurm.wait_for(0, "PENDING")
        slurm.wait_for(0, "RUNNING")
        if submitted == 2:  # a second stage that is refused: what was trained is shown
            said = slurm.run(*line, "hydra.launcher.partition=nowhere", code=2)
            assert "slurm does not take the jobs: invalid partition specified: nowhere" in said
            assert "There are trials, and no run of the comparison." in said
    assert "submitted" not in slurm.run(*line)


def test_what_slurm_refuses_is_one_sentence(slurm: Slurm) -> None:
    said = slurm.run("hydra.launcher.partition=nowhere", code=2)
    assert said.splitlines()[1:] == ["slurm does not take the jobs: invalid partition specified: nowhere"]
    (slurm.folder / "away").touch()
    assert "scontrol does not answer" in slurm.run(code=2)


@pytest.mark.parametrize(
    "line",
    [
        (),
        ("hydra/sweeper=optuna", "seed=range(3)"),
        ("hydra.sweeper.max_batch_size=2", "seed=range(3)"),
    ],
)
def test_jobs_that_cannot_be_left(slurm: Slurm, line: tuple[str, ...]) -> None:
    slurm.line = slurm.line if line else TINY
    assert "sweep.wait=false needs hydra" in slurm.run(*line, "sweep.wait=false", code=2)
    assert not slurm.jobs()


def test_a_queue_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing has ended then, and nobody is asked again at once."""
    asked = []

    def no_answer(*command: str) -> str:
        asked.append(command)
        raise NoAnswer("squeue does not answer")

    monkeypatch.setattr(slurm_queue, "_answer", no_answer)
    queue, ticket = Queue(), Ticket("fake", "7_1", "log")
    assert [_SlurmJob(queue, ticket).ended() for _ in range(9)] == [None] * 9
    assert len(asked) == 1
    monkeypatch.setattr(slurm_queue, "queue", lambda: queue)
    ticket.write(tmp_path)
    assert standing(tmp_path) is None
    assert read_run(tmp_path).status == "unreadable"
    assert len(asked) == 1


def test_resources_do_not_count_for_the_identity(composed: Callable[..., Any]) -> None:
    assert ids(composed().config) == ids(composed("resources.gpus=1", "resources.mem_gb=9").config)


def test_the_size_of_a_submission(slurm: Slurm) -> None:
    """What is written for a job stays small, and does not grow with their number."""
    (slurm.folder / "full").touch()
    slurm.run("seed=range(20)", "sweep.wait=false")
    assert "cancelled 20 jobs" in slurm.script("runs.py", "cancel", "runs/train")
    sizes = [path.stat().st_size for path in Path(slurm.sweeps.folder, "runs/train/.submitit").glob("*/*.pkl")]
    assert len(sizes) >= 20
    assert max(sizes) < 5000
