#!/usr/bin/env bash
# Prints a Python that clew runs on. Without arguments: PYTHON_FOR_VENV if that is set, else the first of 3.10 or later.
# With a version (`python.sh 3.12`): that very one, from the PATH or from pyenv; nothing and status 1 if it is not here.
set -euo pipefail

suits() { # suits PYTHON CONDITION
    "$1" -c "import sys, venv, ensurepip; sys.exit(not ($2))" >/dev/null 2>&1
}

if [ $# -gt 0 ]; then
    for candidate in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1".*/bin/python; do
        if suits "$candidate" "'%d.%d' % sys.version_info[:2] == '$1'"; then
            echo "$candidate"
            exit 0
        fi
    done
    exit 1
fi

if [ -n "${PYTHON_FOR_VENV:-}" ]; then
    if suits "$PYTHON_FOR_VENV" "sys.version_info >= (3, 10)"; then
        echo "$PYTHON_FOR_VENV"
        exit 0
    fi
    echo "PYTHON_FOR_VENV=$PYTHON_FOR_VENV is no Python 3.10 or later with the modules venv and ensurepip." >&2
    exit 1
fi

for candidate in python3 python python3.14 python3.13 python3.12 python3.11 python3.10 \
    "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.1[0-9]*/bin/python; do
    if suits "$candidate" "sys.version_info >= (3, 10)"; then
        echo "$candidate"
        exit 0
    fi
done
echo "clew needs Python 3.10 or later with the modules venv and ensurepip (on Debian: apt-get install python3-venv)." >&2
echo "What is on the PATH as python3: $(python3 --version 2>&1 || true). Another one: make … PYTHON_FOR_VENV=/path/to/python" >&2
exit 1
