#!/usr/bin/env bash
# Builds uWSGI into the environment of the Python that is named (`uwsgi.sh .venv/bin/python`). It comes as source alone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${1:?the Python to build uWSGI for}
if [ -x "$(dirname "$python")/uwsgi" ]; then
    echo "uWSGI is there: $(dirname "$python")/uwsgi"
    exit 0
fi
if ! command -v "${CC:-cc}" >/dev/null && ! command -v gcc >/dev/null; then
    echo "make parts: uWSGI is built from source, and there is no C compiler (on Debian: apt-get install gcc python3-dev)." >&2
    exit 1
fi
"$python" -m pip --disable-pip-version-check install --quiet 'uwsgi>=2.0.28' -c requirements/constraints.txt
"$(dirname "$python")/uwsgi" --version
