"""Train one model, or with -m a grid of models; `uv run train.py --help` lists the options.

The way to the objective: `main` here -> `runner.run.train_run` -> `runner.training.loop.Loop.objective`.
The way to many runs: `main` -> `runner.sweep.report.run_sweep` -> a grid, arms or a search -> a launcher's `run_all`.
"""

import sys
from collections.abc import Sequence

from runner.config import help

if __name__ == "__main__" and {"-h", "--help", "--version"} & set(sys.argv[1:]):
    help.show(sys.argv[1:])
    sys.exit()

from runner.config.command_line import read_command
from runner.console import Console
from runner.outcome import exit_on_error, report_stored_result
from runner.storage.directory import Run
from runner.system import importing_much


def main(arguments: Sequence[str]) -> int:
    """Do what a command line asks for, and return the exit code; a mistake in it ends with code 2."""
    if {"-sc", "--shell-completion"} & set(arguments):  # Hydra's own, which asks its whole application
        import hydra

        hydra.main(version_base="1.3", config_path="conf", config_name="config")(lambda config: None)()
        return 0
    command = read_command(arguments)
    if command.shown:
        print(command.shown_config(), end="")
        return 0
    if command.is_sweep:
        from runner.sweep.report import run_sweep

        return run_sweep(command)
    return train(Run(command.config.values, command.config.words))


def train(run: Run) -> int:
    """Train one model unless its result is stored already; return the exit code."""
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
    sys.exit(main(sys.argv[1:]))
