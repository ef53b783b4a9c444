"""Train one model, or with -m a grid of them: `uv run train.py --help`.

The way to the objective: `train` here -> `runner.run.run` -> `runner.loop.Loop.objective`.
"""

import sys
from contextlib import nullcontext

from runner import help_text

if __name__ == "__main__" and {"-h", "--help"} & set(sys.argv[1:]):
    help_text.show(sys.argv[1:])
    sys.exit()

import hydra
from omegaconf import DictConfig

from runner import command_line
from runner.directory import RunDirectory
from runner.job import train_one_of_many
from runner.outcome import conclude, told
from runner.sweep import concluded, in_sweep


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def train(config: DictConfig) -> float:
    """Train one model, unless that is done already, and return what a sweeper minimises."""
    if in_sweep():
        return train_one_of_many(config)
    directory = RunDirectory.of(config)
    print(f"run {directory.run_id} in {directory.path}", flush=True)
    finished = directory.is_finished
    if not finished:
        with told(directory):
            from runner.run import run  # torch comes with it: late, so that mistakes are told at once

            run(directory)
    return conclude(directory, trained=not finished)


if __name__ == "__main__":
    folder = command_line.check(sys.argv[1:])
    with concluded(folder) if folder else nullcontext():
        train()
