"""Which job of Slurm's has a run, and how that stands in the queue. Only `squeue` is asked: no accounting is needed.

For some minutes (Slurm's MinJobAge, by default 5) the queue also knows the jobs that have ended. One call answers for
all jobs of the user; it is repeated only after a few seconds.
"""

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

from runner.storage.atomic import read_json

POLL_SECONDS, LONGEST_SECONDS = 3.0, 60.0  # between two calls of squeue: longer where it is slow
MOST_IDS = 500  # of jobs in one command line
DEFAULT_ARRAY_SIZE = 1001
ENDS = {  # state of a job that has ended -> what that means for its run, unless its process says more
    "COMPLETED": "its process ended without a result",
    "FAILED": "",
    "CANCELLED": "cancelled, by scancel or by Slurm",
    "TIMEOUT": "stopped at its time limit",
    "OUT_OF_MEMORY": "its process was killed for lack of memory: raise resources.mem_gb",
    "NODE_FAIL": "its node died",
    "PREEMPTED": "preempted, and not queued again",
    "BOOT_FAIL": "its node did not start",
    "DEADLINE": "its deadline has passed",
    "REVOKED": "another cluster runs it",
}
FIELDS = "JobArrayID:64|,State:32|,exit_code:16|,Reason:128|"


class NoAnswer(OSError):
    """Slurm does not answer; the text is one sentence."""


class Ticket(NamedTuple):
    """A run's job, as the run's directory says it.

    Attributes:
        cluster: its name.
        job: its id.
        log: what its process prints.
    """

    cluster: str
    job: str
    log: str

    def write(self, folder: Path) -> None:
        """Leave the ticket in a run's directory; one that is lost only means that the run is submitted again."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "job.json").write_text(json.dumps(self._asdict()) + "\n")


def ticket_of(folder: Path) -> Ticket | None:
    """Return the ticket in a run's directory, if there is one."""
    with suppress(OSError, ValueError, TypeError):
        return Ticket(**read_json(folder / "job.json"))
    return None


class State(NamedTuple):
    """How a job stands in the queue.

    Attributes:
        name: Slurm's, such as PENDING.
        status: of the process's end, as `os.wait` gives it.
        why: it is pending, in Slurm's words.
    """

    name: str
    status: int
    why: str

    @property
    def has_ended(self) -> bool:
        return self.name in ENDS


class Queue:
    """The jobs of this user on the cluster of this machine."""

    def __init__(self) -> None:
        self.states: dict[str, State] = {}
        self.asked = self.next = 0.0
        self.failure: NoAnswer | None = None

    @property
    def cluster(self) -> str:
        """The cluster's name."""
        return _settings().get("ClusterName", "")

    @property
    def largest_array(self) -> int:
        """The number of jobs that an array may have."""
        return max(1, int(_settings().get("MaxArraySize", DEFAULT_ARRAY_SIZE)))

    def state(self, job: str) -> State | None:
        """Return how a job stands, None if Slurm knows it no more.

        Raises:
            NoAnswer: if squeue has never answered; later its last answer counts.
        """
        if time.monotonic() >= self.next:
            self.ask()
        if self.failure:
            raise self.failure
        return self.states.get(job)

    def knows_of(self, moment: float) -> bool:
        """Tell whether the last answer is of after a moment."""
        return self.asked > moment

    def ask(self) -> None:
        """Ask for the states of all jobs."""
        began = time.monotonic()
        try:
            options = ("--noheader", "--array", "--states=all", f"--user={os.getuid()}", f"--Format={FIELDS}")
            self.states, self.asked, self.failure = dict(_states_in(_answer("squeue", *options))), began, None
        except NoAnswer as error:
            self.failure = None if self.asked else error
        now = time.monotonic()
        self.next = now + min(max(POLL_SECONDS, 20 * (now - began)), LONGEST_SECONDS)

    def cancel(self, jobs: Sequence[str], at_once: bool = False) -> None:
        """Take jobs out of the queue, and have those that run save their states and end, unless it is to be at once."""
        for first in range(0, len(jobs), MOST_IDS):
            some = jobs[first : first + MOST_IDS]
            for options in ((),) if at_once else (("--state=PENDING",), ("--signal=INT",)):
                with suppress(NoAnswer):  # some may have ended meanwhile
                    _answer("scancel", *options, *some)
        self.next = 0.0


@cache
def queue() -> Queue:
    """Return the queue of this process."""
    return Queue()


@cache
def _settings() -> dict[str, str]:
    return dict(re.findall(r"^(\w+)\s*= (.*?)\s*$", _answer("scontrol", "show", "config"), re.MULTILINE))


def _answer(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoAnswer(f"{command[0]} does not answer: {error}") from error
    if done.returncode:
        raise NoAnswer(f"{command[0]} does not answer: {' '.join(done.stderr.split())}")
    return done.stdout


def _states_in(output: str) -> Iterator[tuple[str, State]]:
    for line in output.splitlines():
        words = [word.strip() for word in line.split("|")]
        if len(words) == 5:  # the last one is empty
            yield words[0], State(words[1], int(words[2]) if words[2].isdecimal() else 0, words[3])


def queued(folders: Sequence[Path]) -> dict[Path, Ticket]:
    """Return the tickets of the jobs that are queued or running, by the directories of their runs.

    Raises:
        NoAnswer: if Slurm does not answer.
    """
    tickets = {folder: ticket for folder in folders if (ticket := ticket_of(folder))}
    return {
        folder: ticket for folder, ticket in tickets.items() if (state := _state_of(ticket)) and not state.has_ended
    }


def _state_of(ticket: Ticket) -> State | None:
    state = queue().state(ticket.job)  # first: it remembers if nobody answers
    return state if ticket.cluster == queue().cluster else None


def standing(folder: Path) -> tuple[str, str] | None:
    """Return how the run in a directory stands in the queue, and why: waiting, running, lost; None if unknown.

    Args:
        folder: of a run that has not ended, as its result says.
    """
    ticket = ticket_of(folder)
    if ticket is None:
        return None
    try:
        state = _state_of(ticket)
        if ticket.cluster != queue().cluster:
            return None
    except NoAnswer:
        return None
    if state is None or state.has_ended:
        cause = ENDS[state.name] if state else "it left the queue"
        return "lost", f"job {ticket.job}: {cause or 'its process died'}; the same command submits it again"
    if state.name == "RUNNING":
        return "running", f"job {ticket.job}"
    return "waiting", f"job {ticket.job} is {state.name.lower()} ({state.why})"
