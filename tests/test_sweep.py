"""Sweeps survive: bad jobs, kills, repetition, two at once; under our launcher and under others."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import psutil
import pytest
from hydra.types import RunMode
from support.sweeps import FAULTY, LONG, REASONS, TIMES, TINY, Sweeps

from runner.config.command_line import read_command
from runner.config.compose import Composer, composed_of, loader_with
from runner.config.words import parsed
from runner.outcome import BUSY
from runner.signals import Interrupted, StopSignals
from runner.storage import checkpoint
from runner.storage.lock import locked
from runner.storage.members import Member, SweepIndex
from runner.storage.status import Status
from runner.sweep import pool
from runner.sweep.grid import Sweep, titles_of
from runner.sweep.job import record_exit, train_in_own_process, train_job
from runner.sweep.report import _final_status, _show_table, run_sweep
from runner.system import gpus


def outcome(sweeps: Sweeps, name: str) -> dict[str, Any]:
    """Return all that must not depend on how often a sweep was killed: numbers and final weights, by run."""
    found: dict[str, Any] = {}
    for run, result in sweeps.results(name).items():
        numbers = {key: value for key, value in result.items() if key not in TIMES}
        state = checkpoint.load(sweeps.folder / "runs" / name / run)
        assert state is not None
        weights = {key: value.tolist() for key, value in state["loop"]["model"].items()}
        found[run] = (numbers, weights)
    return found


def test_a_grid_is_trained_once(sweeps: Sweeps) -> None:
    grid = (*TINY, "epochs=3", "penalty=l2", "seed=range(2)")
    said = sweeps.run(*grid, "penalty.l2.weight=0,0.01")
    assert len(sweeps.results()) == 4
    assert all(result["status"] == "done" for result in sweeps.results().values())
    assert "[4/4] done: " in said
    assert "l2.weight" in said
    folder = sweeps.folder / "runs" / "train"
    assert (folder / "groups.csv").read_text().count("\n") == 3  # a line of names, and one for each weight
    assert (folder / "summary.png").stat().st_size > 1000
    logs = {path: path.read_bytes() for path in sweeps.paths("train", "train.log")}
    said = sweeps.run_without_torch(*grid, "penalty.l2.weight=0.01,0")
    assert "4 of them ended before" in said
    assert logs == {path: path.read_bytes() for path in sweeps.paths("train", "train.log")}
    said = sweeps.run(*grid, "penalty.l2.weight=0,0.01,0.1")
    assert "[2/2] done: " in said
    assert sorted(sweeps.times_trained().values()) == [1] * 6
    assert logs.items() <= {path: path.read_bytes() for path in sweeps.paths("train", "train.log")}.items()
    assert (folder / "groups.csv").read_text().count("\n") == 4
    sweeps.run(*TINY, "epochs=2", "optimizer.lr=0.01,0.02")
    assert (folder / "groups.csv").read_text().count(
        "\n"
    ) == 3  # of what this sweep looked at, not of all in the folder


def check_faults(sweeps: Sweeps, faults: Mapping[int, str], jobs: int) -> None:
    """Run a sweep some of whose jobs misbehave, look at what became of all, and repeat it after the fix."""
    sweeps.faults.write_text(json.dumps({str(job): fault for job, fault in faults.items()}))
    grid = (*FAULTY, f"loss.job=range({jobs})")
    said = sweeps.run(*grid, code=1)
    results = {int(re.search(r"job=(\d+)|$", name)[1] or 0): result for name, result in sweeps.results().items()}
    assert len(results) == jobs
    for job, result in results.items():
        if job not in faults:
            assert result["status"] == "done"
            continue
        assert result["status"] == ("diverged" if faults[job] == "diverge" else "failed"), result
        assert REASONS[faults[job]] in result["reason"]
        assert result["run_id"] in said
    logs = {name: path.read_text() for path in sweeps.paths("train", "train.log") for name in [path.parent.name]}
    for name, log in logs.items():
        fault = faults.get(int(re.search(r"job=(\d+)|$", name)[1] or 0))
        assert ("Traceback" in log) == (fault in ("raise", "exit", "memory")), log
        assert ("Segmentation fault" in log) == (fault == "crash")
    sweeps.faults.write_text("{}")
    diverged = "diverge" in faults.values()
    sweeps.run(*grid, code=1 if diverged else 0)  # a divergence is a result, and stays one
    changed = {
        path.parent.name for path in sweeps.paths("train", "train.log") if path.read_text() != logs[path.parent.name]
    }
    assert {int(re.search(r"job=(\d+)", name)[1]) for name in changed} == {j for j in faults if faults[j] != "diverge"}
    assert sorted(result["status"] for result in sweeps.results().values()) == ["diverged"] * diverged + ["done"] * (
        jobs - diverged
    )


def test_bad_jobs_end_alone(sweeps: Sweeps) -> None:
    check_faults(sweeps, dict(enumerate(REASONS, 1)), jobs=len(REASONS) + 2)


@pytest.mark.slow
@pytest.mark.parametrize("fault", REASONS)
def test_one_bad_job_of_six(sweeps: Sweeps, fault: str) -> None:
    check_faults(sweeps, {2: fault}, jobs=6)


def test_failed_runs_can_be_left(sweeps: Sweeps) -> None:
    sweeps.faults.write_text('{"1": "raise"}')
    grid = (*FAULTY, "loss.job=1,2,3,4", "sweep.n_jobs=1")
    said = sweeps.run(*grid, "sweep.on_error=stop", code=1)
    assert "sweep.on_error=stop" in said
    assert [result["status"] for result in sweeps.results().values()] == ["failed"]
    sweeps.faults.write_text("{}")
    sweeps.run(*grid, "sweep.retry_failed=false", code=1)
    assert sorted(result["status"] for result in sweeps.results().values()) == ["done"] * 3 + ["failed"]


def test_bad_configs_are_told_before_anything_starts(sweeps: Sweeps) -> None:
    # Each value is fine where the other key is at its first one: only the whole grid shows what is wrong.
    said = sweeps.run(*TINY, "loss.weight=1,0", "penalty={},null", code=2)
    assert said.splitlines() == [
        "penalty={} is not an option: for none write penalty=none",
        "penalty=null is not an option: did you mean penalty=none?",
    ]
    assert not (sweeps.folder / "runs").exists() or not sweeps.results()


def check_kills(sweeps: Sweeps, kills: int, generator: random.Random) -> None:
    """Kill a sweep at random moments, repeat it, and compare with one that was left alone."""
    sweeps.run(*LONG, "epochs=1000", name="whole")
    whole = outcome(sweeps, "whole")
    seconds = sum(result["seconds"] for result in sweeps.results("whole").values()) / 2  # two at a time
    for number in range(kills):
        name = f"killed{number}"
        process = sweeps.start(*LONG, "epochs=1000", name=name)
        sweeps.wait_until(lambda name=name: sweeps.paths(name, "result.json"), process)
        time.sleep(generator.uniform(0, seconds))
        os.kill(process, signal.SIGKILL)
        sweeps.wait(process)
        finished = {run for run, result in sweeps.results(name).items() if result["status"] == "done"}
        times = sweeps.times_trained(name)
        sweeps.run(*LONG, "epochs=1000", name=name)
        assert outcome(sweeps, name) == whole
        assert set(sweeps.times_trained(name).values()) == {1}
        assert all(times[run] == 1 for run in finished)


def test_a_killed_sweep_goes_on(sweeps: Sweeps) -> None:
    seed = random.randrange(10**6)
    print("seed", seed)
    check_kills(sweeps, kills=1, generator=random.Random(seed))


@pytest.mark.slow
def test_a_sweep_killed_five_times(sweeps: Sweeps) -> None:
    seed = random.randrange(10**6)
    print("seed", seed)
    check_kills(sweeps, kills=5, generator=random.Random(seed))


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)], ids=lambda number: number.name
)
def test_a_signal_stops_all(sweeps: Sweeps, number: signal.Signals) -> None:
    # Long steps: a job that got the signal from the terminal and from the sweep would leave in the midst of one.
    # The sum of an epoch's gradients needs a small rate: at the default one some seeds diverge before the signal comes.
    slow = (
        "data=digits",
        "optimizer.gradient=full",
        "optimizer.lr=0.001",
        "seed=range(4)",
        "evaluate_every=0",
        "pictures=false",
    )
    process = sweeps.start(*slow, "sweep.n_jobs=2", "epochs=1000000")
    sweeps.wait_until(lambda: len({path.parent for path in sweeps.paths("train", "checkpoint-*.pt")}) == 2, process)
    os.killpg(process, number)  # as a terminal does
    code, said = sweeps.wait(process)
    assert code == 128 + number, said
    assert re.search(r"go on with: (python|uv run) ", said)
    assert "epochs=1000000" in said
    assert [result["status"] for result in sweeps.results().values()] == ["interrupted"] * 2
    assert {result["threads"] for result in sweeps.results().values()} == {max(1, len(os.sched_getaffinity(0)) // 2)}
    for path in sweeps.paths("train", "result.json"):
        state = checkpoint.load(path.parent)
        assert state is not None
        assert state["loop"]["epoch"] == json.loads(path.read_text())["epoch"]


def test_jobs_die_with_their_sweep(sweeps: Sweeps) -> None:
    process = sweeps.start(*LONG, "epochs=1000000")
    sweeps.wait_until(lambda: len(sweeps.paths("train", "checkpoint-*.pt")) >= 2, process)
    jobs = psutil.Process(process).children(recursive=True)
    os.kill(process, signal.SIGKILL)
    sweeps.wait(process)
    _, alive = psutil.wait_procs(jobs, timeout=20)
    for job in alive:
        job.kill()
    assert len(jobs) == 2
    assert not alive


def test_two_sweeps_share_no_run(sweeps: Sweeps) -> None:
    both = [sweeps.start(*LONG, "epochs=300", "seed=0,1,1,0") for _ in range(2)]
    ends = [sweeps.wait(process) for process in both]
    assert {code for code, _ in ends} <= {0, 3}, ends
    assert list(sweeps.times_trained().values()) == [1, 1]
    assert all(result["status"] == "done" for result in sweeps.results().values())


def test_a_run_that_another_sweep_has_finished_is_told(sweeps: Sweeps) -> None:
    """It was in the queue of this one, which goes on with what is left."""
    sweeps.faults.write_text('{"1": "slow"}')
    first = sweeps.start(*FAULTY, "loss.job=1,2,3", "sweep.n_jobs=1")
    sweeps.wait_until(lambda: sweeps.results(), first)
    sweeps.run(*FAULTY, "loss.job=2")
    sweeps.faults.write_text("{}")
    code, said = sweeps.wait(first)
    assert code == 0, said
    assert re.findall(r"^\[(./3)\] done: loss.job=(\d)", said, re.MULTILINE) == [
        ("1/3", "1"),
        ("2/3", "2"),
        ("3/3", "3"),
    ]
    assert "Traceback" not in said
    assert list(sweeps.times_trained().values()) == [1] * 3


class Child:
    """A process of a pool that has ended as soon as it starts, as `_Pool` sees it.

    Args:
        end: what it does before.
        exit_code: its own.
    """

    pid = sentinel = 0

    def __init__(self, end: Callable[..., None], exit_code: int) -> None:
        self.end, self.exitcode = end, exit_code

    def __call__(self, target: Callable[..., None], args: Any) -> Child:
        self.runs = args[0]
        return self

    def start(self) -> None:
        self.end(self.runs)

    def close(self) -> None:
        pass


@pytest.fixture
def pool_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return a function that returns a pool with a child in place of processes."""

    def made(child: Child, total: int) -> Any:
        monkeypatch.setattr(pool, "wait", lambda sentinels, timeout: None)
        found = pool._Pool(1, 1, [], "continue", total, None)
        found.processes = type("", (), {"Process": child})()
        return found

    return made


def test_a_stack_tells_what_another_sweep_has_finished(
    composed: Callable[..., Any], pool_of: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [composed(*TINY, f"seed={seed}") for seed in range(4)]
    for number, run in enumerate(runs):
        run.title = f"seed={number}"
    for number in (0, 1, 3):
        runs[number].write_result({"status": "done"})

    def end(stack: Any) -> None:
        assert stack == runs[:3]  # nothing is started for the fourth
        runs[2].write_result({"status": "done"})

    pool_of(Child(end, 0), 4).run([runs[:3], runs[3:]], runs[1:])  # the first one had ended before
    lines = [f"[{place}/3] done: {runs[number].title}" for place, number in ((1, 1), (2, 2), (3, 3))]
    assert re.findall(r"^\[.*? done: \S+", capsys.readouterr().out, re.MULTILINE) == lines


def test_the_reason_of_the_last_run_of_a_stack_stays(composed: Callable[..., Any], pool_of: Callable[..., Any]) -> None:
    """The others have ended, and an error ends the process as well."""
    runs = [composed(*TINY, f"seed={seed}") for seed in range(2)]
    runs[0].write_result({"status": "done"})

    def end(stack: Any) -> None:
        runs[1].write_result({"status": "failed", "reason": "on purpose"})

    pool_of(Child(end, 1), 2).run([runs], runs[1:])
    assert runs[1].result()["reason"] == "on purpose"


def test_a_job_whose_run_has_just_ended_does_nothing(
    composed: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "setpgid", lambda *ids: None)
    monkeypatch.setattr(signal, "signal", lambda *handler: None)
    monkeypatch.setattr("runner.sweep.job.die_with", lambda parent: None)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # restored at the end
    run = composed(*TINY)
    run.write_result({"status": "done"})
    train_in_own_process([run], 1, None, 0)
    assert not run.log.exists()


def test_a_run_that_another_process_has_just_begun_is_busy(tmp_path: Path) -> None:
    with locked(tmp_path):
        assert _final_status(Member(tmp_path)) == "busy"
    assert _final_status(Member(tmp_path)) == "failed"  # nobody has it, and it left no result


def test_a_run_that_nothing_was_written_of_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _final_status(Member(tmp_path / "never")) == "failed"
    assert capsys.readouterr().err == "failed: never: its process ended before it wrote anything\n"
    assert not (tmp_path / "never").exists()  # the table would have an empty row of it


LOSS_THAT_LOOKS_AT_GPUS = """
import os, time
from losses import MSE

class Looking(MSE):
    def __init__(self, job: int = 0) -> None:
        print("sees", os.environ.get("CUDA_VISIBLE_DEVICES"))
"""


def test_jobs_take_gpus_in_turn(sweeps: Sweeps) -> None:
    (sweeps.folder / "looking.py").write_text(LOSS_THAT_LOOKS_AT_GPUS)
    line = (*(word for word in TINY if word != "device=cpu"), "allow_targets=[looking]",
            "loss._target_=looking.Looking", "+loss.job=range(6)", "epochs=2", "sweep.n_jobs=3")  # fmt: skip
    sweeps.environment["CUDA_VISIBLE_DEVICES"] = "GPU-a, GPU-b,GPU-c"
    said = sweeps.run(*line)
    assert "3 at a time" in said
    assert "on 3 GPUs in turn" in said
    seen = [re.search("sees (.*)", path.read_text())[1] for path in sweeps.paths("train", "train.log")]
    assert set(seen) == {"GPU-a", "GPU-b", "GPU-c"}
    assert "GPUs" not in sweeps.run(*line, "device=cpu", "force=true")


@pytest.mark.parametrize(("given", "expected"), [("", []), ("-1", []), ("0", ["0"]), ("GPU-a, 1", ["GPU-a", "1"])])
def test_gpus_that_are_given(given: str, expected: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert gpus() == expected


def test_gpus_are_asked_of_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus() == []
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho GPU-1; echo GPU-2\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert gpus() == ["GPU-1", "GPU-2"]
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho no devices were found; exit 9\n")
    assert gpus() == []


def test_two_spellings_of_a_run_are_trained_once(sweeps: Sweeps) -> None:
    said = sweeps.run(*TINY, "epochs=2", "loss.weight=1,1.0", "optimizer=momentum")
    assert "sweep of 1 job, 0 of them ended before" in said
    line = ("optimizer=sgd", "optimizer.lr=0.02", "+optimizer.momentum=0.9")
    assert "sweep of 1 job, 1 of them ended before" in sweeps.run(*TINY, "epochs=2", *line)
    assert list(sweeps.times_trained().values()) == [1]


def test_a_sweep_ends_by_its_own_runs_alone(sweeps: Sweeps) -> None:
    """Another one fails in the same folder meanwhile."""
    sweeps.faults.write_text('{"0": "raise"}')
    good = sweeps.start(*TINY, "epochs=400", "seed=range(2)", "sweep.n_jobs=1")
    sweeps.wait_until(lambda: sweeps.results(), good)
    os.kill(good, signal.SIGSTOP)  # so that it ends later
    assert "ArithmeticError" in sweeps.run(*FAULTY, code=1)
    os.kill(good, signal.SIGCONT)
    code, said = sweeps.wait(good)
    assert (code, "ArithmeticError" in said) == (0, False), said
    assert len(sweeps.results()) == 3
    assert len(sweeps.paths("", "groups.csv")) == 1
    assert ",2," in (sweeps.folder / "runs" / "train" / "groups.csv").read_text().splitlines()[1]


def test_a_sweep_that_is_stopped_before_its_first_job_has_no_table(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for variable in ("PYTHONPATH", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(variable, "")  # restored at the end
    folder = tmp_path / "runs" / "train"

    def stop_after_the_list(sweep: Sweep) -> int:
        sweep.runs([["seed=0"], ["seed=1"]])
        raise KeyboardInterrupt

    monkeypatch.setattr(Sweep, "run", stop_after_the_list)
    assert run_sweep(read_command(["-m", "seed=0,1", f"runs_dir={tmp_path}/runs"])) == 130
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("stopped; go on with: ")
    assert [path.name for path in folder.iterdir()] == [".sweeps"]


def test_lines_name_a_job_by_what_tells_it_from_the_others() -> None:
    batch = [["data=line", f"penalty.l2.weight={weight}", f"seed={seed}"] for weight in (0, 0.01) for seed in (0, 1)]
    assert titles_of(batch)[2:] == ["penalty.l2.weight=0.01 seed=0", "penalty.l2.weight=0.01 seed=1"]
    assert titles_of(batch[:1]) == [""]  # then the directory's name takes its place
    searched = [["optimizer.lr=0.0123456789", "seed=0"], ["optimizer.lr=1.23456e-05", "seed=0"]]
    assert titles_of(searched) == ["optimizer.lr=0.01235", "optimizer.lr=1.235e-05"]
    near = [["optimizer.lr=0.01234561"], ["optimizer.lr=0.01234562"]]
    assert titles_of(near) == ["optimizer.lr=0.01234561", "optimizer.lr=0.01234562"]


def test_the_list_of_a_sweep_is_that_of_its_command(tmp_path: Path) -> None:
    class Named:
        def __init__(self, name: str) -> None:
            self.path, self.config = (
                tmp_path / name,
                {"sweep": {"arm": None, "baseline": None}, "objective_metric": None},
            )

    SweepIndex(tmp_path, ["-m", "seed=1,2"]).add([Named("a"), Named("b")])  # type: ignore[list-item]
    SweepIndex(tmp_path, ["-m", "seed=3"]).add([Named("c")])  # type: ignore[list-item]
    index = SweepIndex(tmp_path, ["-m", "force=true", "seed=1,2"])
    index.add([Named("b"), Named("d")])  # type: ignore[list-item]
    assert [member.path for member in index.members()] == [tmp_path / name for name in "abd"]
    index.start()
    assert index.members() == []


def test_an_end_is_recorded_with_the_lock_held(composed: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import runner.run

    def broken(*arguments: Any) -> None:
        raise ArithmeticError("on purpose")

    monkeypatch.setattr(runner.run, "build", broken)
    run = composed(*TINY)
    with locked(run.path):
        train_job(run)
        assert run.status is None  # another process is training
    train_job(run)
    assert run.status == "failed"


def test_a_run_that_was_stopped_elsewhere_stays_interrupted(composed: Callable[..., Any]) -> None:
    """Our process found it busy; then the other one was stopped."""
    run = composed(*TINY)
    with locked(run.path):
        run.write_end(Status.INTERRUPTED, "SIGINT")
    assert record_exit(run, BUSY, "its process exited with code 3") == "interrupted"
    assert run.result()["reason"] == "SIGINT"


def test_a_run_that_another_process_works_on_is_as_that_leaves_it(composed: Callable[..., Any]) -> None:
    run = composed(*TINY)
    with locked(run.path):
        run.write_end(Status.FAILED, "an earlier attempt")
        assert record_exit(run, BUSY, "its process exited with code 3") == Status.BUSY
    run.write_result({"status": "done"})
    assert record_exit(run, BUSY, "its process exited with code 3") == "done"
    with locked(run.path):
        assert record_exit(run, 0, "") == "done"  # the end of most jobs, which needs no lock
    assert run.status == "done"


def test_an_end_that_cannot_be_recorded_is_told(
    composed: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    run = composed(*TINY)
    run.path.parent.mkdir(parents=True, exist_ok=True)
    run.path.write_text("a file where the directory should be")
    assert record_exit(run, 1, "its process exited with code 1") == "failed"
    assert str(run.path) in capsys.readouterr().err


@pytest.mark.parametrize("error", [ArithmeticError("on purpose"), SystemExit(3)], ids=["error", "exit"])
def test_what_ends_an_interrupted_run_before_it_goes_on(
    composed: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """An error is recorded as in any run; an exit is that of a launcher's signal handler, which is to get through."""
    import runner.run

    def broken(*arguments: Any) -> None:
        raise error

    monkeypatch.setattr(runner.run, "build", broken)
    run = composed(*TINY)
    run.write_result({"status": "interrupted"})
    with pytest.raises(SystemExit) if isinstance(error, SystemExit) else nullcontext():
        train_job(run)
    assert run.status == ("interrupted" if isinstance(error, SystemExit) else "failed")


@pytest.fixture
def composer() -> Composer:
    return Composer(loader_with())


@pytest.mark.parametrize(
    "lines",
    [
        (),
        ("penalty=l2", "penalty.l2.weight=3"),
        ("epochs=7", "threads=2", "data.root=null", "name='7'", "runs_dir=a b", "data=mnist"),
        ("penalty=l2", "seed=4", "penalty.l2={weight: 5}"),
        ("epochs=3", "batch_size=${epochs}", "name=x", "seed=2"),
        ("penalty=[l2,jacobian]", "model=mlp", "epochs=7", "penalty.jacobian.projections=2", "model.widths=[3,4]"),
        ("optimizer=adam", "+optimizer.groups={fc2: {lr: 0.5}}", "~seed"),
    ],
)
def test_quick_composition_is_hydras(composer: Composer, lines: tuple[str, ...]) -> None:
    composer.compose([line for line in lines if composer.is_choice(parsed(line))])  # what is kept must not change
    whole = composer._loader.load_configuration("config", list(lines), RunMode.RUN, from_shell=False)
    assert composer.compose(lines).values == composed_of(whole, whole.hydra, lines).values


def test_quick_composition_follows_references(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nbatch_size: ${epochs}\n")
    composer = Composer(loader_with(str(tmp_path)))
    for epochs in (3, 4):
        assert composer.compose(["experiment=mine", f"epochs={epochs}"]).values["batch_size"] == epochs


def test_a_launchers_handler_is_called_after_saving() -> None:
    order: list[object] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR2, signal.SIGTERM)}
    try:
        signal.signal(signal.SIGUSR2, lambda number, frame: order.append(number))
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with StopSignals() as signals:
            os.kill(os.getpid(), signal.SIGUSR2)
            assert order == []
            signals.check(lambda: order.append("saved"))
            assert order == ["saved", signal.SIGUSR2]
            signals.check(lambda: order.append("saved"))
            assert len(order) == 2
            os.kill(os.getpid(), signal.SIGTERM)
            with pytest.raises(Interrupted):
                signals.check(lambda: order.append("saved"))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    from runner.config.hydra_node import EXTRAS, problems_of_choice

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert {extra for _, extra in EXTRAS.values()} == {"ray", "slurm"}
    for launcher, (_, extra) in EXTRAS.items():
        problems = problems_of_choice("launcher", {"_target_": launcher})
        assert len(problems) == 1
        assert problems[0].endswith(f"uv sync --extra {extra}")


def test_ctrl_c_while_the_table_is_made_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import runner.summary.report

    def stop(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runner.summary.report, "report", stop)
    with pytest.raises(SystemExit) as stopped:
        _show_table([Member(tmp_path)], tmp_path)
    assert stopped.value.code == 128 + signal.SIGINT
    said = capsys.readouterr().err
    assert said.startswith("stopped while the table was made; the runs are stored: ")
    assert said.endswith(f"summarize.py {tmp_path}\n")


def test_a_sweep_below_the_home_folder(sweeps: Sweeps, tmp_path: Path) -> None:
    """Hydra makes the folder of a grid by itself, and would take ~ for a name."""
    home = {"HOME": str(tmp_path / "home")}
    assert sweeps.forks.run("-m", *TINY, "seed=0", "runs_dir='~/runs'", "name=here", environment=home) == 0
    assert list((tmp_path / "home" / "runs" / "here").glob("*/result.json"))
    assert not (tmp_path / "~").exists()
