"""Sweeps under Ray, on a cluster of this machine: which faults of one job in six the other five survive.

    uv run scripts/check_ray.py             needs the extra `ray`; some minutes
    uv run scripts/check_ray.py crash kill  these faults alone

Ray is large, so the tests leave it out; the faults and what they must lead to are theirs (tests/test_sweep.py).
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from test_sweep import FAULTY, REASONS, Sweeps  # noqa: E402

GRID = (*FAULTY, "hydra/launcher=ray_cluster", "loss.job=range(6)")


def main(faults: list[str]) -> None:
    """Start a cluster, attach a sweep to it for each fault, and say what became of its jobs."""
    ray = Path(sys.executable).with_name("ray")
    with tempfile.TemporaryDirectory() as folder:
        sweeps = Sweeps(Path(folder))
        start = [str(ray), "start", "--head", "--num-cpus=2", "--include-dashboard=false", "--disable-usage-stats"]
        subprocess.run(start, check=True, env=sweeps.environment, capture_output=True)
        try:
            for fault in faults or REASONS:
                check(sweeps, fault)
        finally:
            subprocess.run([str(ray), "stop"], check=False, capture_output=True)


def check(sweeps: Sweeps, fault: str) -> None:
    """Let job 2 of six misbehave; then repeat the sweep without the fault."""
    sweeps.faults.write_text(json.dumps({"2": fault}))
    first, said = ended(sweeps, fault)
    states = [str(result["status"]) for result in sweeps.results(fault).values()]
    sweeps.faults.write_text("{}")
    again, _ = ended(sweeps, fault)
    trained = list(sweeps.times_trained(fault).values())
    print(f"{fault}: exit code {first}, {', '.join(states)}; again: exit code {again}, trained {trained} times")
    if states.count("done") < 5:
        print("    " + "\n    ".join(said.splitlines()[-12:]), flush=True)


def ended(sweeps: Sweeps, name: str) -> tuple[int, str]:
    """Run the sweep to its end and return its exit code and what it said."""
    process = sweeps.start(*GRID, name=name)
    said, _ = process.communicate()
    return process.returncode, said


if __name__ == "__main__":
    main(sys.argv[1:])
