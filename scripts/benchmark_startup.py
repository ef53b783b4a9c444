"""Measure the time from the command to the end of the first step, and to the answers that need no training.

    uv run scripts/benchmark.py startup                        5 rounds
    uv run scripts/benchmark.py startup --rounds 9 --wall      by the clock on the wall, on a quiet machine

A bare script that imports torch and makes one step of an optimizer is the limit: nothing that trains can be faster.
Times are CPU seconds of the processes unless --wall is given. Targets: the first step at most 1.25 of the bare script;
`--help` under 0.2 s; a misspelt key under 0.5 s.
"""

import os
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from functools import partial

from benchmark import TRAIN, Table, at_least, children_cpu, compare

BARE = """
import torch
model = torch.nn.Linear(4, 4)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model(torch.randn(2, 4)).sum().backward()
optimizer.step()
"""
# train.py itself, which ends as soon as the first optimizer's first step has ended.
FIRST_STEP = """
import importlib.machinery, os, runpy, sys
del sys.argv[0]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
class Ending:
    def find_spec(self, name, path=None, target=None):
        if name != "runner.loop":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module
        def exec_module(module):
            execute(module)
            step = module.Loop.step
            module.Loop.step = lambda *arguments: (step(*arguments), os._exit(0))
        spec.loader.exec_module = exec_module
        return spec
sys.meta_path.insert(0, Ending())
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def main(arguments: list[str]) -> list[Table]:
    """Time the starts side by side."""
    parser = ArgumentParser("benchmark.py startup", description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=at_least(2), default=5, help="timed rounds (>= 2, default 5)")
    parser.add_argument("--wall", action="store_true", help="the clock on the wall instead of CPU seconds")
    options = parser.parse_args(arguments)
    clock = time.perf_counter if options.wall else children_cpu
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory() as folder:
        run = partial(subprocess.run, cwd=folder, env=environment, capture_output=True, check=False)
        alternatives = {
            "bare script": partial(run, [sys.executable, "-c", BARE]),
            "first step": partial(run, [sys.executable, "-c", FIRST_STEP, str(TRAIN), "force=true"]),
            "--help": partial(run, [sys.executable, str(TRAIN), "--help"]),
            "misspelt key": partial(run, [sys.executable, str(TRAIN), "epoch=3"]),
        }
        timings = compare(alternatives, options.rounds, clock=clock)
    rows = [[name, found.seconds, found.ratio, f"{found.low:.2f}-{found.high:.2f}"] for name, found in timings.items()]
    unit = "seconds" if options.wall else "CPU seconds"
    return [Table("Start: from the command", ["to", unit, "of the bare script", "quartiles"], rows)]
