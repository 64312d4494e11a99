#!/usr/bin/env bash
# Runs the tests that need no real parts on the other Python versions that are found here, each in a virtual environment of
# its own (.venv-3.x) and within LIMIT; 3.14 is brought where it is not here. Stops at the first version that fails.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

LIMIT=${LIMIT:-10m}
# what depends on the version of Python; the rest is about other programs, or takes minutes
TESTS=(
    tests/core tests/metrics tests/settings tests/delivery tests/integrations tests/logs
    tests/local tests/answers tests/cli tests/run/test_by_name.py tests/run/test_programs.py
)
limited=()
if command -v timeout >/dev/null; then
    limited=(timeout "$LIMIT")
fi

for version in ${VERSIONS:-3.10 3.12 3.13 3.14}; do
    within=()
    if [ "$version" = 3.14 ] && ! parts/python.sh "$version" >/dev/null && parts/python-3.14.sh; then
        within=(parts/python-3.14.sh)
    fi
    if ! interpreter=$("${within[@]}" parts/python.sh "$version"); then
        echo "Python $version is not here; left out."
        continue
    fi
    echo "Python $version:"
    "${within[@]}" make --no-print-directory PYTHON_FOR_VENV="$interpreter" VENV=".venv-$version" REQUIREMENTS=test \
        installed-for-tests
    "${within[@]}" "${limited[@]}" ".venv-$version/bin/python" -m pytest -q -m "not real" -p no:cacheprovider \
        -n auto --ignore=tests/integrations/contrib "${TESTS[@]}" ${PYTEST_ARGS:-}
done
