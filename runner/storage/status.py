"""How a run stands, as `result.json` says it."""

from enum import StrEnum


class Status(StrEnum):
    """The states of a run; a line for each says what the same command does next."""

    RUNNING = "running"  # a process trains it, or died while it did: goes on from the checkpoint
    INTERRUPTED = "interrupted"  # a signal stopped it and its state is saved: goes on from the checkpoint
    DONE = "done"  # trained to the end: shows the stored result
    DIVERGED = "diverged"  # the objective became NaN or infinite, which is a result: shows it
    PRUNED = "pruned"  # a search gave it up, its state is saved: is left alone by the search, else goes on from there
    FAILED = "failed"  # an error or a kill ended it: tries again from the checkpoint
    BUSY = "busy"  # another process holds its directory; never stored: exits, or waits for its turn
    UNREADABLE = "unreadable"  # its result.json is missing or damaged; never stored: trains


FINISHED = (Status.DONE, Status.DIVERGED)  # results to keep
ENDED = (*FINISHED, Status.PRUNED, Status.FAILED)
