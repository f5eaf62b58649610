#!/usr/bin/env bash
# Runs the suites of tests that are named, each in a process of its own: the WebSocket server's tests are monkey-patched, the others
# must not be. They wait more than they work, so the largest one runs beside the others, whose output comes when it is through.
#   tests/all_suites.sh .venv/bin/python "-x" foundation websocket …
set -uo pipefail
cd "$(dirname "$0")/.."

python=$1 options=$2
shift 2

run() {
    local failed=0
    for suite in "$@"; do
        echo "== tests/$suite"
        # shellcheck disable=SC2086 # several options
        "$python" -m pytest -q "tests/$suite" $options || failed=1
    done
    return $failed
}

largest=() others=()
for suite in "$@"; do
    if [[ $suite == websocket ]]; then largest+=("$suite"); else others+=("$suite"); fi
done
output=$(mktemp)
trap 'kill $(jobs -p) 2>/dev/null; rm -f "$output"' EXIT

TEST_PORTS=26000-32000 run "${others[@]}" >"$output" 2>&1 &
beside=$!
TEST_PORTS=20000-26000 run "${largest[@]}"
failed=$?
tail -n +1 -f --pid=$beside "$output"
wait $beside || failed=1
exit $failed
