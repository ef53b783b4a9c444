"""A sweep from its command to its exit code: run, then each run's status and the table. Independent of the launcher."""

import os
import shlex
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from runner.config.check import ConfigError, exit_with_problems
from runner.config.command_line import Command
from runner.config.conf_files import CONF
from runner.console import MEANS, board_lines
from runner.outcome import BAD_CONFIG, BUSY, FAILED, resume_command, uv_prefix
from runner.signals import STOP_CODES
from runner.storage.atomic import read_json, write_json
from runner.storage.lock import Busy, locked, make_folder, require_locks
from runner.storage.members import Member
from runner.storage.status import Status
from runner.sweep.cluster import Submitted
from runner.sweep.grid import Sweep

DIED = "its process died during training (killed, or a crash in native code)"


def run_sweep(command: Command) -> int:
    """Run a sweep, then print the table of its runs, however it ended; return its exit code.

    That is 1 if a run failed or diverged (now, or earlier and left as it was) or an arm could not be compared, 3 if a
    run is busy in another process, and 128 + its number after a signal.
    """
    _prepare_environment()
    sweep, folder, code = Sweep(command), command.folder, 0
    try:
        make_folder(folder)
        require_locks(folder)
        code = sweep.run()
    except ConfigError as error:
        exit_with_problems([str(error)])
    except KeyboardInterrupt:
        code = 130
    except Submitted as left:
        print(f"{left.number} jobs are queued or running; see them with: {_collect_command(folder)}")
        return left.code
    except SystemExit as leaving:
        code = int(leaving.code or 0)
    members = sweep.index.members()
    started = [member for member in members if member.path.exists()]
    if code == BAD_CONFIG and not started:
        with suppress(OSError):  # the folder holds something from before
            folder.rmdir()
        return code
    statuses = [_final_status(member) for member in (started if code else members)]  # if stopped, not all were started
    _show_table(members, folder)
    if code in STOP_CODES:
        print(f"stopped; go on with: {resume_command()}", file=sys.stderr)
    return code or _exit_code_of(statuses)


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
