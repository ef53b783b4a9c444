"""Jobs on Ray: what we make of its answers, with a stand-in for Ray; and on a real cluster of two machines.

Both machines are this one. Ray is large, so the real one takes its extra:
`uv run --extra ray pytest -m slow tests/test_ray.py`.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import psutil
import pytest
from support.sweeps import FAULTY, LONG, REASONS, TIMES, Sweeps

from runner.config.conf_files import file_of, load
from runner.sweep.cluster import Refused
from runner.sweep.job import PR_SET_PDEATHSIG

FAULTS = {1: "raise", 2: "diverge", 3: "kill", 4: "crash", 5: "leave"}
CAUSES = {**REASONS, **dict.fromkeys(("kill", "crash", "leave"), "its process died")}


ERRORS = ("RayError", "NodeDiedError", "OutOfMemoryError", "TaskCancelledError", "WorkerCrashedError", "RayTaskError")


class Task:
    """A task that Ray knows the end of, or none yet."""

    def __init__(self, end: Any) -> None:
        self.end = end

    def task_id(self) -> bytes:
        return bytes([1, 2])


class FakeRay(ModuleType):
    """What we use of Ray; the tasks end as the list `ends` says, and what was asked for stands in `asked`."""

    def __init__(self) -> None:
        super().__init__("ray")
        self.exceptions: Any = ModuleType("ray.exceptions")
        base = type("RayError", (Exception,), {})
        for name in ERRORS:
            setattr(self.exceptions, name, base if name == "RayError" else type(name, (base,), {}))
        self.engine: Any = None
        self.ends: list[Any] = []
        self.asked: list[dict[str, Any]] = []
        self.machines: list[dict[str, float]] = [{"CPU": 2.0, "memory": 8 * 2.0**30}]
        self.init = lambda **options: self.asked.append(options)
        self.is_initialized = lambda: bool(self.asked)
        self.nodes = lambda: [{"Alive": True, "Resources": machine} for machine in self.machines]
        self.remote = lambda function: self

    def options(self, **options: Any) -> FakeRay:
        self.asked.append(options)
        return SimpleNamespace(remote=lambda *arguments: Task(self.ends.pop(0)))  # type: ignore[return-value]

    def wait(self, tasks: list[Task], timeout: float) -> tuple[list[Task], list[Task]]:
        return [task for task in tasks if task.end is not None], []

    def get(self, task: Task) -> Any:
        if isinstance(task.end, Exception):
            raise task.end
        return task.end


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeRay]:
    ray = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.exceptions", ray.exceptions)
    monkeypatch.setenv("PYTHONPATH", f"mine{os.pathsep}/packages")
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "1")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("runner.sweep.ray_engine", None)
    ray.engine = importlib.import_module("runner.sweep.ray_engine")
    yield ray
    del sys.modules["runner.sweep.ray_engine"]  # it knows the stand-in


def engine_of(fake: FakeRay, **options: Any) -> Any:
    usual = load(file_of("hydra/launcher", "ray_cluster"))
    return fake.engine.RayEngine(**{key: options.get(key, usual[key]) for key in usual if key != "_target_"})


def test_what_the_processes_of_a_cluster_are_told(fake: FakeRay, tmp_path: Path, composed: Any) -> None:
    engine = engine_of(fake, num_cpus=0.5)
    assert engine.attached([]) == {}
    assert not fake.asked  # a sweep that is settled needs no cluster
    assert engine.attached([composed()]) == {}
    (options,) = fake.asked
    assert options["address"] == "auto"
    assert options["runtime_env"]["env_vars"]["PYTHONPATH"] == f"{tmp_path / 'mine'}{os.pathsep}/packages"
    assert os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] == "0"
    fake.ends = [0, 0]
    list(engine.submit([composed("resources.gpus=0.25"), composed("resources.mem_gb=2")]))
    assert [(asked["num_cpus"], asked["num_gpus"], asked["memory"]) for asked in fake.asked[1:]] == [
        (0.5, 0.25, None),
        (0.5, 0, 2 * 2**30),
    ]
    assert all(asked["max_retries"] == 0 for asked in fake.asked[1:])


@pytest.mark.parametrize("line", ["resources.gpus=0.25", "resources.mem_gb=9", "epochs=3"])
def test_what_no_machine_has_is_refused(fake: FakeRay, composed: Any, line: str) -> None:
    fake.machines.append({"CPU": 1.0, "GPU": 0.0, "memory": 2.0**30})
    engine = engine_of(fake, num_cpus=2 if line.startswith("resources") else 3)
    engine.attached([composed()]) if line.startswith("resources") else None
    with pytest.raises(Refused, match="the most that one has: 2 CPU, 0 GPU, 8 GB"):
        engine.attached([composed(), composed(line)])


def test_a_wrong_address_is_refused(fake: FakeRay, composed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Refused, match=r"hydra.launcher.address=127.0.0.1:9 leads to no Ray cluster: "):
        engine_of(fake, address="127.0.0.1:9").attached([composed()])
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:7")
    with pytest.raises(Refused, match=r"hydra.launcher.address=127.0.0.1:7 leads to no Ray cluster: "):
        engine_of(fake).attached([composed()])
    assert not fake.asked
    engine_of(fake, address=None).attached([composed()])
    assert fake.asked[0]["address"] == "local"


@pytest.mark.parametrize(
    ("name", "code", "reason"),
    [
        ("WorkerCrashedError", 1, "its process died (killed by somebody, or a crash in native code)"),
        ("OutOfMemoryError", 1, "Ray killed its process, since the memory of its machine was nearly used up"),
        ("TaskCancelledError", 130, "its task was cancelled"),
        ("NodeDiedError", 1, "its machine died"),
        ("RayTaskError", 1, "RayTaskError: first"),
    ],
)
def test_how_a_job_ended(fake: FakeRay, composed: Any, name: str, code: int, reason: str) -> None:
    fake.ends = [getattr(fake.exceptions, name)("first\nsecond")]
    ((_, job),) = engine_of(fake, restarts=0).submit([composed()])
    assert tuple(job.ended()) == (code, reason)


def test_an_error_outside_of_training_is_told(fake: FakeRay, composed: Any) -> None:
    """As when the other machine does not have the folder."""
    error = fake.exceptions.RayTaskError("ray::_train (pid=1)")
    error.cause = FileNotFoundError(2, "No such file", "/work")
    fake.ends = [error]
    ((_, job),) = engine_of(fake).submit([composed()])
    assert job.ended().reason == "FileNotFoundError: [Errno 2] No such file: '/work'"


def test_a_job_whose_machine_dies_is_started_again(
    fake: FakeRay, composed: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    dead, killed = fake.exceptions.NodeDiedError(), fake.exceptions.WorkerCrashedError()
    for ends, restarts, code in (([dead, dead, 0], 2, 0), ([dead, killed, 0], 2, 1), ([dead, dead, 0], 1, 1)):
        fake.ends, fake.asked = [*ends], []
        ((_, job),) = engine_of(fake, restarts=restarts).submit([composed()])
        answers = [job.ended() for _ in range(3)]
        assert next(end for end in answers if end).code == code
        assert len(fake.asked) == 1 + answers.index(next(filter(None, answers)))
        assert capsys.readouterr().out.count("started again") == len(fake.asked) - 1
    fake.ends = [None]
    ((_, job),) = engine_of(fake).submit([composed()])
    assert job.ended() is None


def test_a_task(fake: FakeRay, composed: Any, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    """It waits for the one before, whose machine has died; what it prints is in the run's log."""
    run, held = composed(), [True, True, False]

    def train(code: int | None) -> None:
        os.write(1, b"native words\n")
        if code is not None:
            sys.exit(code)

    monkeypatch.setattr(fake.engine, "is_held", lambda path: held.pop(0))
    monkeypatch.setattr(fake.engine.time, "sleep", lambda seconds: None)
    for code, found in ((None, 0), (130, 130), (143, 143), (1, 143)):
        monkeypatch.setattr(fake.engine, "train_in_engines_process", lambda *job, code=code: train(code))
        assert fake.engine._train(run, Path.cwd(), 1) == found
        assert not held
        held.append(False)
    assert run.log.read_text() == "native words\n" * 4
    os.write(1, b"mine\n")
    assert capfd.readouterr().out == "mine\n"


PATIENCE = {  # of Ray with its own processes, on a loaded machine
    "RAY_raylet_start_wait_time_s": "300",
    "RAY_agent_register_timeout_ms": "300000",
    "RAY_worker_register_timeout_seconds": "300",
}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def end_with_the_tests() -> None:
    """Have the system end a machine, as it ends itself, when the tests are killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Cluster:
    """Two machines of a Ray cluster, of one core each.

    Args:
        folder: of Ray's own files.
    """

    def __init__(self, folder: Path) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.folder, self.faults = folder, folder / "faults.json"
        self.faults.write_text("{}")
        self.machines: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start both machines."""
        port = self.address.partition(":")[2]
        self.add("--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={self.folder}")
        self.add(f"--address={self.address}")

    def add(self, *how: str) -> None:
        """Start a machine; its processes find neither the packages nor the options of any driver."""
        options = ["--num-cpus=1", "--node-ip-address=127.0.0.1", "--object-store-memory=100000000"]
        options.append(f"--runtime-env-agent-port={free_port()}")
        line = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats", *options, *how]
        environment = {**os.environ, **PATIENCE, "FAULTS": str(self.faults)}
        said = self.folder / f"said.{len(self.machines)}"
        with said.open("wb") as file:
            machine = subprocess.Popen(
                line, env=environment, stdout=file, stderr=file, start_new_session=True, preexec_fn=end_with_the_tests
            )
        self.machines.append(machine)
        while "Ray runtime started" not in said.read_text():
            assert machine.poll() is None, said.read_text()
            time.sleep(0.2)

    def kill(self) -> None:
        """Kill the second machine: its raylet, as if by a loss of power; all else of it notices that."""
        machine = self.machines.pop()
        raylet = next(each for each in psutil.Process(machine.pid).children(recursive=True) if each.name() == "raylet")
        raylet.kill()
        machine.wait(60)

    def end(self) -> None:
        for machine in reversed(self.machines):
            machine.terminate()
            machine.wait(60)
            with suppress(ProcessLookupError):
                os.killpg(machine.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("ray"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.end()


@pytest.fixture
def on_ray(sweeps: Sweeps, cluster: Cluster) -> Sweeps:
    """Sweeps that find the cluster."""
    sweeps.faults = cluster.faults
    sweeps.faults.write_text("{}")
    sweeps.environment |= {"RAY_ADDRESS": cluster.address, "FAULTS": str(cluster.faults)}
    return sweeps


def numbers(sweeps: Sweeps, name: str = "train") -> dict[str, dict[str, Any]]:
    """Return what must not depend on where a run was trained, and how often it was killed."""
    other = (*TIMES, "git_commit")  # somebody may be at work in the clone
    results = sweeps.results(name)
    return {run: {key: result[key] for key in result if key not in other} for run, result in results.items()}


@pytest.mark.slow
@pytest.mark.needs("ray")
def test_eight_jobs_of_which_five_go_wrong(on_ray: Sweeps) -> None:
    """Each bad job ends alone, with its cause; the others are bit-equal to local ones; the same command repeats it."""
    grid = (*FAULTY, "hydra/launcher=ray_cluster", "loss.job=range(8)")
    on_ray.faults.write_text(json.dumps(FAULTS))
    said = on_ray.run(*grid, code=1)
    assert "Traceback" not in said
    found = {int(re.search(r"job=(\d+)|$", name)[1] or 0): result for name, result in on_ray.results().items()}
    assert len(found) == said.count("submitted: ") == 8
    for job, result in found.items():
        fault = FAULTS.get(job)
        assert result["status"] == {None: "done", "diverge": "diverged"}.get(fault, "failed")
        assert fault is None or CAUSES[fault] in result["reason"]
        assert fault is None or result["run_id"] in said.partition("[8/8]")[2]
    on_ray.faults.write_text("{}")
    said = on_ray.run(*grid, code=1)  # a divergence stays one
    assert said.count("submitted: ") == 4
    assert sorted(on_ray.times_trained().values()) == [0] + [1] * 7
    on_ray.run(*FAULTY, "loss.job=range(8)", name="local")
    found, local = numbers(on_ray), numbers(on_ray, "local")
    assert sum(found[run] == local[run] for run in local) == 7
    assert "submitted: " not in on_ray.run(*grid, code=1)


def long(sweeps: Sweeps, name: str = "train") -> int:
    """Start a sweep of four long jobs, and return once two of them are in training."""
    process = sweeps.start(*LONG, "epochs=4000", "hydra/launcher=ray_cluster", name=name)
    sweeps.wait_until(lambda: len({path.parent for path in sweeps.paths(name, "checkpoint-*.pt")}) == 2, process)
    return process


def check_long(sweeps: Sweeps, name: str = "train") -> None:
    """Compare a sweep of four long jobs with an undisturbed one of this machine."""
    sweeps.run(*LONG, "epochs=4000", name="local")
    assert numbers(sweeps, name) == numbers(sweeps, "local")
    assert list(sweeps.times_trained(name).values()) == [1] * 4


@pytest.mark.slow
@pytest.mark.needs("ray")
def test_a_machine_dies(on_ray: Sweeps, cluster: Cluster) -> None:
    """Its jobs go on, from their checkpoints, on the machine that is left."""
    process = long(on_ray)
    cluster.kill()
    code, said = on_ray.wait(process)
    cluster.add(f"--address={cluster.address}")
    assert code == 0, said
    assert said.count("started again") == 1
    logs = [path.read_text() for path in on_ray.paths("train", "train.log")]
    assert sum("resumed at epoch" in log for log in logs) == 1
    check_long(on_ray)


@pytest.mark.slow
@pytest.mark.needs("ray")
def test_the_driver_is_killed(on_ray: Sweeps) -> None:
    """Its tasks die; the same command goes on."""
    process = long(on_ray)
    os.kill(process, signal.SIGKILL)
    on_ray.wait(process)
    said = on_ray.run(*LONG, "epochs=4000", "hydra/launcher=ray_cluster")
    assert said.count("submitted: ") == 4
    check_long(on_ray)


@pytest.mark.slow
@pytest.mark.needs("ray")
def test_ctrl_c_and_kill_of_single_jobs(on_ray: Sweeps) -> None:
    """Ctrl-C has all jobs save; SIGTERM to a job's own process has that one save and end alone."""
    process = long(on_ray)
    os.kill(process, signal.SIGINT)
    code, said = on_ray.wait(process)
    assert code == 130, said
    assert [result["status"] for result in on_ray.results().values()] == ["interrupted"] * 4
    process = long(on_ray)
    logs = on_ray.paths("train", "train.log")
    on_ray.wait_until(lambda: sum("resumed at epoch" in log.read_text() for log in logs) == 2, process)
    next(each for each in psutil.process_iter() if each.name().startswith("ray::_train")).terminate()
    code, said = on_ray.wait(process)
    assert code == 1, said
    assert sorted(result["status"] for result in on_ray.results().values()) == ["done"] * 3 + ["interrupted"]
    on_ray.run(*LONG, "epochs=4000", "hydra/launcher=ray_cluster")
    check_long(on_ray)


@pytest.mark.slow
@pytest.mark.needs("ray")
def test_what_the_cluster_does_not_have_is_told(on_ray: Sweeps) -> None:
    grid = (*LONG, "epochs=1", "hydra/launcher=ray_cluster")
    for more in (
        "hydra.launcher.num_gpus=0.25",
        "resources.gpus=1",
        "hydra.launcher.num_cpus=1.5",
        "resources.mem_gb=1e6",
    ):
        assert "the most that one has: 1 CPU, 0 GPU" in on_ray.run(*grid, more, code=2)
    assert "needs hydra/launcher=submitit_cluster" in on_ray.run(*grid, "sweep.wait=false", code=2)
    on_ray.environment["RAY_ADDRESS"] = "127.0.0.1:9"
    assert "hydra.launcher.address=127.0.0.1:9 leads to no Ray cluster: " in on_ray.run(*grid, code=2)
    assert not on_ray.results()
