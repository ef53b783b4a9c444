"""Print the table of one or several sweeps, with mean and spread over seeds; also during a sweep or after a crash.

    uv run scripts/summarize.py runs/<name> [runs/<other> ...] [--metric test/error] [--baseline optimizer=sgd]

It also writes summary.csv (each number of each run), groups.csv (means), summary.md and pictures into the folder. For
several folders they go into a new one beside the first, named after all of them, unless --out names another. Exit
code 2 and one sentence without any run.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the package: runner

from runner.summary.report import report
from runner.summary.rows import NothingToShow


def main() -> None:
    """Read the command line, print the table and write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="folders of sweeps, or folders that contain them")
    parser.add_argument("--metric", help="metric to show first and to draw (default: test/error, or test/loss)")
    parser.add_argument("--baseline", help="what to compare with: an arm, or KEY=VALUE (default: what has no penalty)")
    parser.add_argument("--out", type=Path, help="folder for the files (default: the folder of the sweep)")
    options = parser.parse_args()
    try:
        report(options.folders, options.metric, options.out, baseline=options.baseline)
    except (NothingToShow, OSError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
