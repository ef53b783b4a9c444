"""Train one model, or with -m a grid of models; `uv run train.py --help` lists the options.

The way to the objective: `main` here -> `runner.run.train_run` -> `runner.loop.Loop.objective`.
"""

import sys
from contextlib import nullcontext

from runner.config import help

if __name__ == "__main__" and {"-h", "--help", "--version"} & set(sys.argv[1:]):
    help.show(sys.argv[1:])
    sys.exit()

import hydra
from omegaconf import DictConfig

from runner.config import command_line
from runner.config.words import as_read
from runner.console import Console
from runner.outcome import exit_on_error, report_stored_result
from runner.storage.directory import Run
from runner.sweep.conclude import sweep_report
from runner.system import importing_much


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config: DictConfig) -> float:
    """Train one model unless its result is stored already, and return the value that a sweeper minimises."""
    run = Run.of(config)
    finished = run.is_finished
    # At once, for torch takes seconds to import.
    Console().show(run.announcement if finished else "importing torch, then reading the data")
    if not finished:
        with exit_on_error(run):
            with importing_much("torch"):  # late, so that mistakes are reported at once
                import torch._dynamo  # noqa: F401 (the first optimizer of a process imports it)

                from runner.run import train_run

            train_run(run)
    return report_stored_result(run, trained=not finished)


if __name__ == "__main__":
    sys.argv[1:] = map(as_read, sys.argv[1:])  # where Hydra reads them
    folder = command_line.check(sys.argv[1:])
    with sweep_report(folder) if folder else nullcontext():
        main()
