"""Before a sweep, check every config; after it, report each run and print the table. Independent of the launcher."""

import os
import re
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig

from runner.config.check import ConfigError, exit_with_problems, problems_of
from runner.config.compose import Composed, Composer
from runner.config.conf_files import CONF
from runner.config.hydra_node import SEARCH
from runner.console import MEANS, board_lines
from runner.outcome import BAD_CONFIG, BUSY, FAILED, resume_command, uv_prefix
from runner.signals import STOP_CODES
from runner.storage.atomic import read_json, write_json
from runner.storage.directory import Run
from runner.storage.lock import Busy, locked, make_folder, require_locks
from runner.storage.members import Member, add_to_list, listed, use_list_of
from runner.storage.status import Status

LONG_NUMBER = re.compile(r"(?<==)-?\d*\.\d{5,}(?:e-?\d+)?(?!\S)")  # of more digits than anybody reads, as optuna's
SLURM = "hydra_plugins.local_launcher.SlurmLauncher"  # whose jobs need no driver
DIED = "its process died during training (killed, or a crash in native code)"


class Submitted(SystemExit):
    """Leave jobs in the queue of a cluster, which does not need this process any more.

    Args:
        number: of the jobs.
        code: exit code.
    """

    def __init__(self, number: int, code: int) -> None:
        super().__init__(code)
        self.number = number


def checked_runs(loader: ConfigLoader, config: DictConfig, batch: Sequence[Sequence[str]]) -> list[Run]:
    """Return the runs of a sweep's jobs and add them to its list; exit with code 2 and all that is wrong in any.

    Args:
        loader: Hydra's.
        config: of the sweep.
        batch: the overrides of each job.
    """
    composer = Composer(loader, config.hydra.overrides.hydra)
    composed = [composer.compose(lines) for lines in batch]
    if problems := [problem for each in composed for problem in problems_of(each) + _problems_of_leaving(each)]:
        exit_with_problems(problems)
    titles = titles_of(batch)
    runs = [Run(each.values, each.words, title) for each, title in zip(composed, titles, strict=True)]
    add_to_list(runs)
    return runs


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


@contextmanager
def sweep_report(folder: Path) -> Iterator[None]:
    """Run a sweep, then print the table of its runs, however it ended, and exit with its code.

    That is 1 if a run failed or diverged (now, or earlier and left as it was) or an arm could not be compared, 3 if a
    run is busy in another process, and 128 + its number after a signal.

    Args:
        folder: of the runs.
    """
    _prepare_environment()
    try:
        make_folder(folder)
        require_locks(folder)
    except ConfigError as error:
        exit_with_problems([str(error)])
    use_list_of(sys.argv[1:], folder)
    code: int | str | None = 0
    try:
        yield
    except KeyboardInterrupt:
        code = 130
    except Submitted as left:
        print(f"{left.number} jobs are queued or running; see them with: {_collect_command(folder)}")
        raise
    except SystemExit as leaving:
        code = leaving.code
    members = listed()
    started = [member for member in members if member.path.exists()]
    if code == BAD_CONFIG and not started:
        with suppress(OSError):  # the folder holds something from before
            folder.rmdir()
        sys.exit(code)
    statuses = [_final_status(member) for member in (started if code else members)]  # if stopped, not all were started
    _show_table(members, folder)
    if code in STOP_CODES:
        print(f"stopped; go on with: {resume_command()}", file=sys.stderr)
    sys.exit(code or _exit_code_of(statuses))


def _collect_command(folder: Path) -> str:
    script = os.path.relpath(CONF.parent / "scripts" / "summarize.py")
    return shlex.join([*(uv_prefix() or ["python"]), script, str(folder)])


def _prepare_environment() -> None:
    # They find our packages, wherever the command was given.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(CONF.parent), os.environ.get("PYTHONPATH")]))
    # Numpy starts threads as soon as it is imported, and no job is to be forked beside threads.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def _final_status(member: Member) -> str:
    """Return how a run stands after the sweep; one whose process died without a record is recorded as failed.

    A trial that diverged has done what it was there for.
    """
    status = _recorded_status(member.path)
    return Status.DONE if member.stage == "trial" and status == Status.DIVERGED else status


def _recorded_status(path: Path) -> str:
    if not path.exists():  # to lock it would make it
        print(f"failed: {path.name}: its process ended before it wrote anything", file=sys.stderr)
        return Status.FAILED
    try:  # another process may have begun the run and written no result yet
        if (path / "result.json").exists() and read_json(path / "result.json")["status"] != Status.RUNNING:
            return str(read_json(path / "result.json")["status"])
        with locked(path):
            result = read_json(path / "result.json")  # the other process may have ended just now
            if result["status"] == Status.RUNNING:
                result |= {"status": Status.FAILED, "reason": DIED}
                write_json(path / "result.json", result)
            return str(result["status"])
    except Busy:
        return Status.BUSY
    except (OSError, ValueError, KeyError, TypeError):  # no result, a damaged one, or no room to write it
        return Status.FAILED


def _exit_code_of(statuses: list[str]) -> int:
    if set(statuses) - {Status.DONE, Status.PRUNED, Status.BUSY}:
        return FAILED
    return BUSY if Status.BUSY in statuses else 0


def _show_table(members: Sequence[Member], folder: Path) -> None:
    try:
        from runner.summary.report import report  # late: matplotlib takes half a second
        from runner.sweep.board import write_groups

        if started := [member for member in members if member.path.exists()]:
            report([member.path for member in started], out=folder, members=members)
            has_mean = write_groups(folder, started)
            print("\n".join(board_lines(folder, MEANS if has_mean else "", uv_prefix())), flush=True)
    except (ValueError, OSError) as error:
        print(f"the report of the sweep is incomplete: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print(f"stopped while the table was made; the runs are stored: {_collect_command(folder)}", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
