#!/usr/bin/env bash
# Try this project on a GPU, in less than ten minutes, and write date, machine, versions and a verdict for each row.
#
#     bash scripts/gpu.sh                   with the Python of $PYTHON, else of .venv, else python3; needs no network
#     bash scripts/gpu.sh WHEELS            installs what it needs from this folder first, and nothing from elsewhere
#     DEVICE=cpu OUT=FILE bash scripts/gpu.sh    the same on the CPU, into another file than docs/performance/cuda.json
#
# Where torch and torchvision are there, the others are packed on a machine with a network by `pip wheel -w WHEELS
# hydra-core==1.3.8 tensorboard scikit-learn matplotlib rich pandas scipy safetensors pytest pytest-xdist psutil`.
# `scripts/performance.py` then puts the file on docs/performance.md. Exit code 1 if a row has failed.
set -euo pipefail
export DEVICE=${DEVICE:-cuda}
cd "$(dirname "$0")/.."
out=${OUT:-docs/performance/cuda.json}
if [[ $DEVICE != cuda && -z ${OUT:-} ]]; then
    echo "DEVICE=$DEVICE needs OUT=FILE: docs/performance/cuda.json is for a GPU" >&2
    exit 2
fi
python=${PYTHON:-$([[ -x .venv/bin/python ]] && echo .venv/bin/python || echo python3)}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
[[ $# == 0 ]] || "$python" -m pip install --quiet --no-index --find-links "$1" hydra-core tensorboard scikit-learn \
    matplotlib rich pandas scipy safetensors pytest pytest-xdist psutil

patience=$([[ $DEVICE == cuda ]] && echo 1 || echo 4)  # a CPU takes longer
failed=()
row() {  # row NAME SECONDS COMMAND...: run a command within so many seconds of a GPU's, and note how it ended
    local name=$1 limit=$(($2 * patience)) began=$SECONDS code=0
    shift 2
    printf '\n== %s: %s\n' "$name" "$*"
    timeout --kill-after 10 "$limit" "$@" 2>&1 | tee "$folder/log" || code=${PIPESTATUS[0]}
    [[ $code == 0 ]] || failed+=("$name")
    "$python" - "$folder" "$name" "$code" "$((SECONDS - began))" "$*" <<'PYTHON'
import json, pathlib, sys
folder, name, code, seconds, command = sys.argv[1:]
folder = pathlib.Path(folder)
lines = [line for line in (folder / "log").read_text().splitlines() if line.strip()]
verdict = "passed" if code == "0" else "took too long" if code in ("124", "137") else f"failed with code {code}"
row = {"row": name, "verdict": verdict, "seconds": int(seconds), "command": command.replace(str(folder), "FOLDER")}
with (folder / "rows").open("a") as file:
    file.write(json.dumps(row | {"last line": lines[-1] if lines else ""}) + "\n")
PYTHON
}

small=(data=digits model=mlp epochs=5 histograms=false pictures=false "device=$DEVICE")
row "torch sees the device" 60 "$python" -c "import torch; print(torch.zeros(1, device='$DEVICE').device)"
row "tests" 200 "$python" -m pytest -n 0 -q -m gpu $(grep -lE '[(,] ?gpu[,:)]' tests/test_*.py)
row "a run" 60 "$python" train.py epochs=3 "device=$DEVICE" runs_dir="$folder/runs"
row "a sweep of stacks" 80 "$python" train.py -m "${small[@]}" hydra/launcher=stacked sweep.n_jobs=1 penalty=jacobian \
    penalty.jacobian.weight=0.001,0.01 "seed=range(4)" runs_dir="$folder/runs" name=stacks
row "cost of the penalties" 100 "$python" scripts/benchmark.py penalties --json "$folder/penalties.json" \
    --device "$DEVICE" --rounds 2
row "stacks" 80 "$python" scripts/benchmark.py stacked --json "$folder/stacked.json" \
    --device "$DEVICE" --rounds 2 --sizes 8 32 --models line digits

mkdir -p "$(dirname "$out")"
"$python" - "$folder" "$out" <<'PYTHON'
import datetime, json, os, pathlib, platform, sys
from importlib.metadata import version
import torch
folder, out = map(pathlib.Path, sys.argv[1:])
rows = [json.loads(line) for line in (folder / "rows").read_text().splitlines()]
files = [folder / f"{name}.json" for name in ("penalties", "stacked")]
cuda = os.environ["DEVICE"] == "cuda" and torch.cuda.is_available()
record = {
    "device": torch.cuda.get_device_name() if cuda else "cpu",
    "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
    "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
    "versions": {"python": platform.python_version(), "CUDA": torch.version.cuda if cuda else None}
    | {name: version(name) for name in ("torch", "hydra-core", "numpy")},
    "rows": rows,
    "tables": [table for file in files if file.exists() for table in json.loads(file.read_text())["tables"]],
}
out.write_text(json.dumps(record, indent=1) + "\n")
print(f"\n{len(rows)} rows in {sum(row['seconds'] for row in rows)} s, written to {out}")
PYTHON
[[ ${#failed[@]} == 0 ]] || { printf 'failed: %s\n' "${failed[@]}" >&2; exit 1; }
