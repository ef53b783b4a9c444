"""Where the trials of a search are stored: a journal in the sweep's folder, or a database that machines share."""

import fcntl
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import optuna
from optuna.exceptions import OptunaError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection

from runner.config.check import exit_with_problems
from runner.outcome import FAILED, resume_command

SEARCHED = "searched"  # attribute of a study: a hash of what it searches
PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)  # seconds between tries at a database that another process may be creating
LOCK_SECONDS = 60  # for which a process waits while others write into an SQLite file


def open_study(url: str | None, folder: Path, name: str, searched: str, objectives: int, anew: bool) -> optuna.Study:
    """Open a study, or begin it; exit with code 2 and a sentence if it cannot be used.

    Args:
        url: of a database (null: the journal).
        folder: of the sweep.
        name: of the study.
        searched: a hash of what is searched; a study of that name must have the same.
        objectives: how many numbers are minimised.
        anew: discard what the journal holds of it.
    """
    where = re.sub(r":[^:@/]+@", ":***@", url or str(folder / "search.journal"))  # no password
    for pause in (*PAUSES, None):
        try:
            study = _opened(_database(url) if url else _journal(folder / "search.journal"), name, objectives, anew)
            break
        except _errors() as error:
            if pause is None:
                exit_with_problems([f"hydra.sweeper.storage={where} cannot be used: {_first_line(error)}"])
            if pause == PAUSES[0]:
                why = f"({_first_line(error)}): trying again for {sum(PAUSES):g} seconds"
                print(f"hydra.sweeper.storage={where} cannot be used yet {why}", file=sys.stderr)
            time.sleep(pause)
    if study.user_attrs.get(SEARCHED, searched) != searched:
        exit_with_problems(
            [f"hydra.sweeper.study_name={name} holds another search, with other options: choose another name"]
        )
    study.set_user_attr(SEARCHED, searched)
    return study


def _opened(storage: BaseStorage, name: str, objectives: int, anew: bool) -> optuna.Study:
    if anew:
        with suppress(KeyError):
            optuna.delete_study(study_name=name, storage=storage)
    directions = [StudyDirection.MINIMIZE] * objectives
    return optuna.create_study(study_name=name, storage=storage, directions=directions, load_if_exists=True)


def _errors() -> tuple[type[Exception], ...]:
    from sqlalchemy.exc import SQLAlchemyError

    return OptunaError, SQLAlchemyError, OSError, RuntimeError, ValueError


@contextmanager
def exit_if_lost() -> Iterator[None]:
    """Exit with a sentence if the storage fails in the midst of a search."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (OptunaError, SQLAlchemyError) as error:
        print(
            f"hydra.sweeper.storage has failed: {_first_line(error)}; go on with: {resume_command()}", file=sys.stderr
        )
        sys.exit(FAILED)


def _first_line(error: Exception) -> str:
    return next(iter(str(error.__cause__ or error).splitlines()), type(error).__name__)


def _database(url: str) -> BaseStorage:
    """Return a database; it is connected only while it is asked, never when jobs are forked."""
    from sqlalchemy.pool import NullPool  # late: the journal does without

    options: dict[str, Any] = {"poolclass": NullPool}
    if url.startswith("sqlite"):
        options["connect_args"] = {"timeout": LOCK_SECONDS}
        url = f"sqlite:///{os.path.expanduser(url.removeprefix('sqlite:///'))}"
    # Which driver "postgresql:" means depends on the version of sqlalchemy.
    url = url.replace("postgresql:", "postgresql+psycopg:", 1)
    return RDBStorage(url, engine_kwargs=options)


def _journal(path: Path) -> BaseStorage:
    return JournalStorage(JournalFileBackend(str(path), lock_obj=_JournalLock(path)))  # type: ignore[arg-type]


class _JournalLock:
    """One writer at a time, by the system's lock: it ends with its process, where optuna's own would stay for 30 s.

    Args:
        path: of the journal.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def acquire(self) -> bool:
        """Wait for the lock; then cut off a last line that a full disk or a kill has left unfinished."""
        self._file: IO[bytes] = self._path.open("a+b")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        last = max(0, self._file.seek(0, os.SEEK_END) - 1)
        self._file.seek(last)
        if self._file.read() not in (b"", b"\n"):
            self._file.seek(0)
            self._file.truncate(self._file.read().rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        """Let others write."""
        self._file.close()
