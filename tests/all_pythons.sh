#!/usr/bin/env bash
# Runs the tests with every Python from 3.10 on that is found: on the PATH, and among pyenv's.
set -uo pipefail
cd "$(dirname "$0")/.."

failed=() passed=()
for minor in 10 11 12 13 14; do
    python=
    for candidate in "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3."$minor".*/bin/python3 "$(command -v "python3.$minor")"; do
        [[ -x $candidate ]] && "$candidate" -c "import sys; sys.exit(sys.version_info[:2] != (3, $minor))" 2>/dev/null && python=$candidate
    done
    [[ -n $python ]] || { echo "== Python 3.$minor: not found"; continue; }
    echo "== Python 3.$minor: $python"
    if make test PYTHON="$python" VENV=".venv-3.$minor"; then passed+=("3.$minor"); else failed+=("3.$minor"); fi
done
echo "passed: ${passed[*]:-none}; failed: ${failed[*]:-none}"
[[ ${#failed[@]} == 0 && ${#passed[@]} != 0 ]]
