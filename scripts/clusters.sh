#!/usr/bin/env bash
# Set real engines up on this machine, run the whole matrix of faults on them, and print a table `case | result`.
#
#     bash scripts/clusters.sh slurm FOLDER      # as root, after: apt-get install slurm-wlm slurmdbd munge mariadb-server
#     bash scripts/clusters.sh ray FOLDER        # after: uv sync --extra ray
#     bash scripts/clusters.sh search FOLDER     # as root, after: apt-get install postgresql
#
# FOLDER is new or empty; engines, runs and logs lie in it. Loopback addresses only; what was started is ended.
set -euo pipefail

what=${1:?what to try: slurm, ray or search} folder=${2:?an empty folder}
[[ ! -e $folder || -z $(ls -A "$folder") ]] || { echo "$folder is not empty" >&2; exit 2; }
mkdir -p "$folder"
here=$(cd "$(dirname "$0")/.." && pwd)
folder=$(cd "$folder" && pwd)
python=${PYTHON:-$here/.venv/bin/python}
export OMP_NUM_THREADS=1

row() { printf '| %s | %s |\n' "$1" "$2" | tee -a "$folder/table.md"; }

for file in "$here"/scripts/clusters/*.sh; do
    # shellcheck source=/dev/null
    . "$file"
done
trap "end_$what" EXIT
"try_$what"
