"""Facts about sweeps in runs/, for the matrices of scripts/clusters.sh: `facts.py WHAT NAME [ARGUMENT]`."""

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any


def results(name: str) -> dict[str, dict[str, Any]]:
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(Path("runs", name).glob("*/result.json"))}


def times(name: str) -> str:
    logs = [path.read_text() for path in Path("runs", name).glob("*/train.log")]
    counts = Counter(len(re.findall("(?:error|loss), last", log)) for log in logs)
    return ", ".join(f"{number} trained {count} times" for count, number in counts.items())


def statuses(name: str) -> str:
    counts = Counter(result["status"] for result in results(name).values())
    return ", ".join(f"{number} {status}" for status, number in sorted(counts.items()))


def equal(name: str, other: str) -> str:
    """Return how many runs have the bits of the same ones of another sweep."""
    found, wanted = results(name), results(other)
    done = [run for run, result in found.items() if result["status"] == "done"]
    same = [run for run in done if wanted[run].get("weights_sha256") == found[run]["weights_sha256"]]
    return f"{len(done)} of {len(found)} done, {len(same)} bit-equal, {times(name)}"


def causes(name: str, other: str | None = None) -> str:
    """Return how each run stands, with the reason that the table gives."""
    found = [
        f"{run.partition('job=')[2].partition(',')[0]} {each['status']} {each.get('reason', '')}".strip()
        for run, each in results(name).items()
    ]
    return "; ".join(found) + (f"; {equal(name, other)}" if other else "")


def submitted(name: str, which: str) -> str:
    """Return how many jobs the last command of a sweep has submitted and found."""
    *_, said = re.split("^sweep of ", Path(f"{name}.said").read_text(), flags=re.MULTILINE)
    return f"{said.count('submitted: ')} submitted, {said.count('found: ')} found"


def counts(name: str) -> str:
    script = Path(__file__).parent.parent / "summarize.py"
    said = subprocess.run([sys.executable, script, f"runs/{name}"], capture_output=True, text=True).stdout
    lines = [line for line in said.splitlines() if re.match(r"\d+ (done|running|waiting|lost)", line)]
    return lines[0] if lines else statuses(name)


def is_running(name: str, number: str) -> str:
    found = subprocess.run(["squeue", "--noheader", "--states=RUNNING"], capture_output=True, text=True).stdout
    if len(found.splitlines()) < int(number):
        sys.exit(1)
    return ""


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    print(globals()[what](*arguments))
