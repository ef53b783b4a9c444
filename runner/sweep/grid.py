"""What a command sweeps: its jobs, from overrides to checked runs, and the grid that says which jobs there are."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf

from runner.config.allowlist import resolve
from runner.config.check import exit_with_problems, problems_of
from runner.config.command_line import Command
from runner.config.compose import Composed, combinations, is_hydras
from runner.config.hydra_node import SEARCH
from runner.storage.directory import Run
from runner.storage.members import SweepIndex
from runner.sweep.arms import run_arms
from runner.sweep.cluster import Jobs, StopCheck

LONG_NUMBER = re.compile(r"(?<==)-?\d*\.\d{5,}(?:e-?\d+)?(?!\S)")  # of more digits than anybody reads, as optuna's
SLURM = "runner.sweep.slurm.SlurmEngine"  # whose jobs need no driver


class Sweep:
    """What a command sweeps, and what runs its jobs.

    Args:
        command: that was typed.

    Attributes:
        config: with the first value of each key, plain.
        composer: of the jobs' configs.
        index: the list of the sweep's runs.
        lines: the overrides as they were typed, behind those that a file gives.
    """

    def __init__(self, command: Command) -> None:
        self.config, self.composer = command.config.values, command.composer.for_jobs(command.lines)
        self.index = SweepIndex(command.folder, command.arguments)
        self.nodes = _resolved({key: command.config.hydra[key] for key in ("launcher", "sweeper")}, self.config)
        params = self.nodes["sweeper"].pop("params") or {}
        self.lines = [f"{key}={value}" for key, value in params.items()]
        self.lines += [line for line in command.lines if not is_hydras(line)]
        self.launcher: Any = None

    def run(self) -> int:
        """Run all jobs, however they end; return 1 if an arm could not be compared, else 0."""
        return _built(self.nodes["sweeper"]).run(self)

    def runs(self, jobs: Jobs) -> list[Run]:
        """Return the runs of some jobs, and add them to the index; exit with code 2 and all that is wrong in any."""
        composed = [self.composer.compose(lines) for lines in jobs]
        if problems := [problem for each in composed for problem in problems_of(each) + _problems_of_leaving(each)]:
            exit_with_problems(problems)
        titles = titles_of(jobs)
        runs = [Run(each.values, each.words, title) for each, title in zip(composed, titles, strict=True)]
        self.index.add(runs)
        return runs

    def train(self, jobs: Jobs, stop_check: StopCheck | None = None) -> list[Run]:
        """Train the runs of some jobs, those that need it, and return them."""
        runs = self.runs(jobs)
        self.launcher = self.launcher or _built(self.nodes["launcher"])
        self.launcher.run_all(runs, stop_check)
        return runs


class Grid:
    """A job for each point of the grid, or of the grids of all arms.

    Args:
        max_batch_size: jobs that the launcher gets at a time (null: all).
    """

    def __init__(self, max_batch_size: int | None = None) -> None:
        self.max_batch_size = max_batch_size

    def run(self, sweep: Sweep) -> int:
        """Run all jobs; return 1 if an arm could not be compared, else 0."""
        sweep.index.start()
        if sweep.config["sweep"]["arms"]:
            return run_arms(sweep.config["sweep"], sweep.lines, sweep.composer, sweep.train)
        overrides = {each.get_key_element(): each for each in map(sweep.composer.parsed, sweep.lines)}  # the last wins
        jobs = combinations([*overrides.values()])
        size = self.max_batch_size or len(jobs)
        for start in range(0, len(jobs), size):
            sweep.train(jobs[start : start + size])
        return 0


def _resolved(node: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Return Hydra's node with the values that its `${KEY}` name; the texts of arms are their jobs' to resolve."""
    plain = {**values, "sweep": {**values["sweep"], "arms": None}}
    found: Any = OmegaConf.to_container(OmegaConf.create({**plain, "hydra": node}), resolve=True)
    return found["hydra"]


def _built(node: Mapping[str, Any]) -> Any:
    return resolve(node["_target_"])(**{key: value for key, value in node.items() if key != "_target_"})


def _problems_of_leaving(composed: Composed) -> list[str]:
    if composed.values["sweep"]["wait"]:
        return []
    if composed.hydra["launcher"]["_target_"] != SLURM:
        return ["sweep.wait=false needs hydra/launcher=submitit_cluster: under others the jobs end with this command"]
    if composed.hydra["sweeper"]["_target_"] == SEARCH:
        return ["sweep.wait=false needs hydra/sweeper=grid: a search proposes jobs by what others have shown"]
    if size := composed.hydra["sweeper"].get("max_batch_size"):
        got = f"null, got {size}: the command would leave after the first batch and never submit the others"
        return [f"sweep.wait=false needs hydra.sweeper.max_batch_size={got}"]
    return []


def titles_of(batch: Sequence[Sequence[str]]) -> list[str]:
    """Return the overrides of each job that tell it from the others, such as "penalty.l2.weight=0.01 seed=1".

    In a sweep with arms the arm's name stands first, and what tells the job from the others of its arm after it.
    """
    arms = [next((line for line in lines if line.startswith("sweep.arm=")), "") for lines in batch]
    shared = {
        arm: set.intersection(*(set(lines) for lines, of in zip(batch, arms, strict=True) if of == arm))
        for arm in set(arms)
    }
    words = [
        [arm.partition("=")[2], *(line for line in lines if line not in shared[arm])]
        for lines, arm in zip(batch, arms, strict=True)
    ]
    titles = [" ".join(filter(None, each)) for each in words]
    short = [LONG_NUMBER.sub(lambda found: f"{float(found[0]):.4g}", title) for title in titles]
    return short if len({*short}) == len({*titles}) else titles
