#!/usr/bin/env bash
# Runs the suites of tests that are named, each in a process of its own: the WebSocket server's tests are monkey-patched, the others
# must not be. They wait more than they work, so three run side by side, and three processes share the largest suite, file by file.
# What a process has said comes when it is through.
#   tests/all_suites.sh .venv/bin/python "-x" foundation websocket …
set -uo pipefail
set -m  # a lane is a process group: it can be ended as a whole, and its programs know Ctrl+C
cd "$(dirname "$0")/.."

python=$1 options=$2
shift 2

# The ways of a lane: the suites that nobody has taken, one after the other; of the one that all share the files that nobody has taken.
lane() {
    local output=$folder/output.$1 failed=0 suite share
    export TEST_PORTS=$2 TEST_SHARED=$folder/shared
    shift 2
    for suite in "$@"; do
        share=()
        if [[ $suite == websocket ]]; then
            share=(-p tests.sharing -o console_output_style=count)
        else
            mkdir "$folder/$suite" 2>/dev/null || continue
        fi
        echo "== tests/$suite" >"$output"
        # shellcheck disable=SC2086 # several options
        if ! "$python" -m pytest -q "${share[@]}" "tests/$suite" $options >>"$output" 2>&1 </dev/null; then
            failed=1
            echo "== tests/$suite FAILED" >>"$output"
        fi
        flock "$folder" cat "$output"
        rm "$output"
    done
    return $failed
}

shared=() others=()
for suite in "$@"; do
    if [[ $suite == websocket ]]; then shared+=("$suite"); else others+=("$suite"); fi
done
folder=$(mktemp -d)
mkdir "$folder/shared"
trap 'for job in $(jobs -p); do kill -- "-$job"; done 2>/dev/null; cat "$folder"/output.* 2>/dev/null; rm -rf "$folder"' EXIT

# They start hundreds of programs. Where Python is told to keep nothing that it compiles, each would compile all that it imports.
"$python" -m compileall -q alphavel examples
echo "Running the tests of $*"
lane 1 20000-24000 "${shared[@]}" "${others[@]}" &
lane 2 24000-28000 "${others[@]}" "${shared[@]}" &
lane 3 28000-32000 "${others[@]}" "${shared[@]}" &
failed=0
for job in $(jobs -p); do
    wait "$job" || failed=1
done
exit $failed
