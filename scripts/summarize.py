"""The table of a sweep, or of several compared: mean and spread over seeds, also while it runs or after a crash.

    uv run scripts/summarize.py runs/<name> [runs/<other> ...] [--metric test/error] [--out FOLDER]

Prints the table and writes summary.csv, summary.md and summary.png into the folder; of several, into one beside the
first that is named after all of them, unless --out says where. Exit status 2 and one sentence if there is nothing.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the package: runner

from runner.summary.groups import NothingToShow
from runner.summary.report import report


def main() -> None:
    """Read the command line and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="of sweeps, or above them")
    parser.add_argument("--metric", help="what to show first and draw (default: test/error, or test/loss)")
    parser.add_argument("--out", type=Path, help="folder of the files (default: the folder of the sweep)")
    options = parser.parse_args()
    try:
        report(options.folders, options.metric, options.out)
    except (NothingToShow, OSError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
