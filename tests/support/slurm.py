"""Slurm's commands, as far as we use them, on one machine: jobs are processes, a few at a time.

`install` puts a script for each command into a folder. The folder FAKE_SLURM holds a file `<job>.json` for each job:
state and exit status. Files there that change what the commands do: `away` (nothing answers), `full` (no job
starts), `arrays` (MaxArraySize).
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(os.environ.get("FAKE_SLURM", "."))
SLOTS = 3  # jobs that run at the same time
COMMANDS = ("sbatch", "squeue", "scancel", "scontrol", "srun")
NAMES = {-signal.SIGTERM: "CANCELLED", 0: "COMPLETED"}

# A Python for the jobs that trains nothing: it does what FAULTS says for the run's seed (wait, kill), else it is done.
PYTHON = """#!{python}
import json, os, runpy, signal, sys, time, types
from pathlib import Path

def train_run(run, stream):
    from runner.signals import Interrupted, StopSignals
    from runner.storage.lock import locked
    from runner.storage.status import Status
    facts = {{"epoch": 1, "seed": run.config["seed"], "best/by": "validation/loss", "validation/loss": 1.0}}
    with locked(run.path), StopSignals() as signals:
        run.write_config()
        resumed = run.status == Status.INTERRUPTED
        run.write_result({{"status": Status.RUNNING, **facts}})
        while fault := json.loads(Path(os.environ["FAULTS"]).read_text()).get(str(run.config["seed"])):
            if fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                signals.check(lambda: run.write_result({{"status": Status.INTERRUPTED, "reason": "", **facts}}))
            except Interrupted as stop:
                run.write_result({{"status": Status.INTERRUPTED, "reason": str(stop), **facts}})
                raise
            time.sleep(0.02)
        with run.log.open("a") as log:
            print("loss, last" + " resumed" * resumed, file=log)
        return run.write_result({{"status": Status.DONE, **facts}})

sys.modules["runner.run"] = types.ModuleType("runner.run")
sys.modules["runner.run"].train_run = train_run
assert sys.argv[1:4] == ["-u", "-m", "submitit.core._submit"], sys.argv
sys.argv = sys.argv[3:]
runpy.run_module(sys.argv[0], run_name="__main__")
"""


def install(folder: Path) -> dict[str, str]:
    """Put the commands and the jobs' Python into a folder; return the environment that they need."""
    commands, state = folder / "bin", folder / "slurm"
    for made in (commands, state):
        made.mkdir()
    scripts = {name: f'#!/bin/sh\nexec {sys.executable} -S {__file__} {name} "$@"\n' for name in COMMANDS}
    for name, script in (scripts | {"python": PYTHON.format(python=sys.executable)}).items():
        (commands / name).write_text(script)
        (commands / name).chmod(0o755)
    return {"PATH": f"{commands}:{os.environ['PATH']}", "FAKE_SLURM": str(state)}


def write(job: str, **facts: Any) -> None:
    path = HERE / f"{job}.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(known | facts))
    temporary.replace(path)


def jobs() -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text()) for path in sorted(HERE.glob("*.json"))}


def sbatch(script: str) -> None:
    text = Path(script).read_text()
    options = dict(re.findall(r"^#SBATCH --([\w-]+)='?([^'\n]*)'?$", text, re.MULTILINE))
    if options.get("partition") == "nowhere":
        sys.exit("sbatch: error: invalid partition specified: nowhere")
    with (HERE / "numbers").open("a+") as numbers:
        fcntl.flock(numbers, fcntl.LOCK_EX)
        numbers.write("x")
        numbers.flush()
        number = str(numbers.tell())
    (HERE / f"{number}.sh").write_text(text)
    last = re.match(r"0-(\d+)", options.get("array", ""))
    for index in [f"_{index}" for index in range(int(last[1]) + 1)] if last else [""]:
        write(number + index, state="PENDING", status=0, options=options)
        line = [sys.executable, "-S", __file__, "job", number, index[1:]]
        subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    print(f"Submitted batch job {number}")


def job(number: str, index: str) -> None:
    """Wait for a slot, then run the script in a process group of its own; again if it has had itself queued again."""
    name = f"{number}_{index}" if index else number
    slots = [(HERE / f"slot{slot}").open("w") for slot in range(SLOTS)]
    while (HERE / "full").exists() or not any(map(_is_taken, slots)):
        if jobs()[name]["state"] != "PENDING":
            return  # cancelled
        time.sleep(0.05)
    environment = {**os.environ, "SLURM_JOB_ID": number, "SLURM_JOB_NUM_NODES": "1"}
    if index:
        environment |= {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": index}
    process = subprocess.Popen(["bash", str(HERE / f"{number}.sh")], env=environment, start_new_session=True)
    write(name, state="RUNNING", group=process.pid)
    code = process.wait()
    if jobs()[name].get("requeued"):
        write(name, state="PENDING", requeued=False)
        return job(number, index)
    end = jobs()[name].get("ending") or NAMES.get(code, "FAILED")
    write(name, state=end, status=-code if code < 0 else code << 8)


def _is_taken(slot: Any) -> bool:
    try:
        fcntl.flock(slot, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def srun(*words: str) -> None:
    """Run a command with its output in a file; the job's own process waits for it, as the real one does."""
    output = words[words.index("--output") + 1]
    name = os.environ["SLURM_JOB_ID"]
    output = output.replace("%A_%a", f"{name}_{os.environ.get('SLURM_ARRAY_TASK_ID')}").replace("%j", name)
    path = Path(output.replace("%t", "0"))
    path.parent.mkdir(parents=True, exist_ok=True)
    command = next(place for place, word in enumerate(words) if word.endswith("python"))
    with path.open("a") as file:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        step = subprocess.Popen(
            words[command:], stdout=file, stderr=file, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
        )
        code = step.wait()
    sys.exit(128 - code if code < 0 else code)


def squeue(*words: str) -> None:
    for name, facts in jobs().items():
        print(f"{name:64}|{facts['state']:32}|{facts['status']:<16}|{'Resources':128}|")


def scancel(*words: str) -> None:
    options = dict(word.lstrip("-").split("=") for word in words if word.startswith("--"))
    number = getattr(signal, f"SIG{options.get('signal', 'TERM')}")
    for name in [word for word in words if not word.startswith("--")]:
        facts = jobs()[name]
        if facts["state"] == "PENDING" and "signal" not in options:
            write(name, state="CANCELLED", status=15)
        if facts["state"] == "RUNNING" and options.get("state", "RUNNING") == "RUNNING":
            if "signal" not in options:
                write(name, ending="CANCELLED")
                number = signal.SIGKILL
            os.killpg(facts["group"], number)


def scontrol(*words: str) -> None:
    if words[0] == "requeue":
        return write(words[1], requeued=True)
    arrays = (HERE / "arrays").read_text() if (HERE / "arrays").exists() else "1001"
    print(f"Configuration data\nClusterName             = fake\nMaxArraySize            = {arrays}")


if __name__ == "__main__":
    called, *words = sys.argv[1:]
    if called != "srun" and called != "job" and (HERE / "away").exists():
        sys.exit(f"{called}: error: Unable to contact slurm controller")
    globals()[called](*words)
