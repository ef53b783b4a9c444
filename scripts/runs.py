"""Look at many runs: list, show, compare, curves, best, delete, export; cancel their jobs.

RUN is a directory, or an id below runs/.

    uv run scripts/runs.py list runs/<name>
    uv run scripts/runs.py compare 1a2b3c4d 5e6f7a8b
    uv run scripts/runs.py curves runs/<name> --metric test/error
    uv run scripts/runs.py best runs/<name> --seeds 10

Exit code 2 and one sentence for what is not there.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the package: runner

import yaml

from runner.console import summary_lines
from runner.outcome import uv_prefix
from runner.results import config_columns, delete, export, load_epochs, load_runs
from runner.storage.lock import Busy
from runner.storage.slurm import queue, queued
from runner.summary.groups import summarize
from runner.summary.rows import NothingToShow
from runner.summary.runs import directories, read_run
from runner.summary.settings import as_typed

SHOWN = 20  # directories, before they are deleted
DIGITS = "{:.4g}".format
NO_SWEEP = ("sweep.arms=null", "sweep.baseline=null", "hydra.sweeper.params=null")  # of an option of the group sweep


def found(run: str) -> Path:
    """Return the directory of a run, given as such or by its id."""
    paths = [Path(run)] if Path(run).exists() else directories(sorted(Path("runs").rglob(f"*{run}")))
    if len(paths) != 1:
        raise NothingToShow(f"RUN must be the directory of one run, or its id below runs, got {run}")
    return paths[0]


def show_list(options: argparse.Namespace) -> None:
    """Print a line for each run."""
    runs = load_runs(*options.folders, trials=True)
    kind = "error" if "test/error" in runs else "loss"
    names = [f"validation/{kind}", f"test/{kind}", f"best/test/{kind}", "seconds"]
    arms = [name for name in ("arm", "stage") if name in runs]
    columns = ["run_id", "status", *arms, "setting", "seed", "epoch", *(name for name in names if name in runs)]
    print(runs.reindex(columns=columns).to_string(index=False, float_format=DIGITS, na_rep=""))


def show_run(options: argparse.Namespace) -> None:
    """Print what is known of a run: how it ended, the command, all numbers."""
    run = read_run(found(options.run))
    if run.status == "done":
        print("\n".join(summary_lines(run.result, run.path, uv_prefix())))
    else:
        print(f"{run.status}: {run.reason}\ndirectory     {run.path}")
    print(f"command       {command(run.path)}\n")
    print("\n".join(f"{tag:<40} {DIGITS(value)}" for tag, value in run.numbers.items()))


def show_differences(options: argparse.Namespace) -> None:
    """Print the keys in which runs differ, and their metrics beside each other."""
    if len(options.runs) < 2:
        raise NothingToShow(f"compare needs at least two runs, got {options.runs[0]}")
    runs = load_runs(*map(found, options.runs), trials=True).set_index("run_id")
    facts = ("group_id", "path", "reason", "setting", "best/by")
    keys = [key for key in config_columns(runs) if key not in facts and runs[key].map(as_typed).nunique() > 1]
    numbers = [tag for tag in runs if "/" in tag and tag not in facts]
    for columns, form in ((keys, as_typed), (numbers, DIGITS)):
        table = runs[columns].astype(object).map(lambda value, form=form: "" if value != value else form(value))
        print(table.T.to_string() + "\n")


def draw_curves(options: argparse.Namespace) -> None:
    """Draw a metric against the epoch."""
    from runner.summary.curves import curves  # late: matplotlib

    figure = curves(load_epochs(*options.folders), options.metric, options.by, options.band)
    out = options.out or options.folders[0] / f"curves_{options.metric.replace('/', '_')}.png"
    figure.savefig(out)
    print(out)


def show_best(options: argparse.Namespace) -> None:
    """Print the best setting by the validation metric, never the test's, and the command that repeats it."""
    summary = summarize(*options.folders)
    if not summary.best or summary.monitor is None:
        raise NothingToShow(f"no run in {', '.join(map(str, options.folders))} has ended well")
    if "validation" not in summary.monitor:
        print("there are no validation examples: the training split decides", file=sys.stderr)
    for row in summary.best:
        keys = " ".join(f"{key}={as_typed(value)}" for key, value in row.keys.items())
        mean = DIGITS(row.mean(summary.monitor))
        print(f"{summary.monitor} {mean}, mean of n = {len(row.done)}: {keys or 'all runs'}")
        seeds = [run.result.get("seed", 0) for run in row.runs]
        fresh = range(max(seeds) + 1, max(seeds) + 1 + options.seeds) if options.seeds else None
        print(command(row.done[0].path, fresh))


def command(path: Path, seeds: range | None = None) -> str:
    """Return the command that repeats a run, as it can be typed; with seeds, a sweep over them instead of its own."""
    try:
        words = yaml.safe_load((path / "overrides.yaml").read_text())
        keys = {word: word.partition("=")[0].lstrip("+") for word in words}
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError):
        return "unknown: overrides.yaml is missing or no list of words"
    dropped = ("force", "seed") if seeds else ("force",)
    kept = [word for word, key in keys.items() if key not in dropped and not key.startswith("sweep.")]
    if "sweep" in keys.values():
        kept += NO_SWEEP if seeds else (*NO_SWEEP, "hydra.mode=RUN")
    if seeds:
        kept = ["-m", *kept, f"seed=range({seeds.start},{seeds.stop})"]
    return shlex.join(["uv", "run", "train.py", *kept])


def delete_runs(options: argparse.Namespace) -> None:
    """Delete the directories of runs, after a question."""
    runs = [read_run(path) for run in options.runs for path in directories([found(run)])]
    paths = [run.path for run in runs if options.status in (None, run.status)]
    if not paths:
        raise NothingToShow(f"there is no such run in {', '.join(options.runs)}: nothing is deleted")
    print("\n".join(map(str, paths[:SHOWN])) + (f"\nand {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""))
    if not options.yes:
        print(f"delete {len(paths)} runs with all their files? [y/N] ", end="", flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise NothingToShow("nothing is deleted")
    for path in paths:
        delete(path)
    print(f"deleted {len(paths)} runs")


def cancel_jobs(options: argparse.Namespace) -> None:
    """Cancel the jobs on Slurm of all runs in some folders; those that run save their states first."""
    tickets = queued(directories(options.folders))
    if not tickets:
        raise NothingToShow(f"no job of a run in {', '.join(map(str, options.folders))} is queued or running")
    queue().cancel([ticket.job for ticket in tickets.values()])
    print(f"cancelled {len(tickets)} jobs; the sweep's command goes on from the states that they save")


def export_run(options: argparse.Namespace) -> None:
    print(export(found(options.run), options.folder, options.epoch))


def parser() -> argparse.ArgumentParser:
    """Return the reader of the command line."""
    root = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = root.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, function: Any) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=function.__doc__, description=function.__doc__)
        made.set_defaults(function=function)
        return made

    folders: dict[str, Any] = {"nargs": "+", "type": Path, "metavar": "FOLDER", "help": "folder of runs"}
    run: dict[str, Any] = {"metavar": "RUN", "help": "directory or id of a run"}
    add("list", show_list).add_argument("folders", **folders)
    add("show", show_run).add_argument("run", **run)
    add("compare", show_differences).add_argument("runs", nargs="+", **run)
    drawn = add("curves", draw_curves)
    drawn.add_argument("folders", **folders)
    drawn.add_argument("--metric", default="test/error", help="what to draw (default: test/error)")
    drawn.add_argument("--by", default="setting", help="column that tells the curves apart (default: what was swept)")
    drawn.add_argument("--band", choices=("range", "sd"), default="range", help="least to greatest seed, or deviation")
    drawn.add_argument("--out", type=Path, help="picture (default: curves_<metric>.png in the first folder)")
    best = add("best", show_best)
    best.add_argument("folders", **folders)
    best.add_argument("--seeds", type=int, help="print a sweep over so many fresh seeds instead")
    add("cancel", cancel_jobs).add_argument("folders", **folders)
    removed = add("delete", delete_runs)
    removed.add_argument("runs", nargs="+", metavar="RUN", help="directory or id of a run, or a folder of runs")
    removed.add_argument("--status", help="only runs of this status, such as failed")
    removed.add_argument("--yes", action="store_true", help="do not ask")
    exported = add("export", export_run)
    exported.add_argument("run", **run)
    exported.add_argument("folder", type=Path, help="where model.safetensors and config.yaml go")
    exported.add_argument("--epoch", choices=("last", "best"), default="last", help="which weights (default: last)")
    return root


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and do what it says."""
    options = parser().parse_args(arguments)
    try:
        options.function(options)
    except (NothingToShow, Busy, ValueError, OSError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
