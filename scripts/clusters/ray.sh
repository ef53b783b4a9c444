# Ray: the tests on a real cluster, which start it themselves. Sourced by scripts/clusters.sh.

try_ray() { try_tests Ray -m slow tests/test_ray.py; }

end_ray() { :; }

try_tests() {  # $1: a title, then arguments of pytest; a row for each test
    cd "$here"
    "$python" -m pytest -n 0 -v --basetemp="$folder/sweeps" "${@:2}" >"$folder/$1.said" 2>&1 || true
    local test result
    while read -r test result; do
        row "$1: ${test//_/ }" "${result,,}"
    done < <(sed -nE 's/.*::test_(\S+) (PASSED|FAILED|ERROR|SKIPPED).*/\1 \2/p' "$folder/$1.said")
}
