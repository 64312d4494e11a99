#!/usr/bin/env bash
# Sees to it that `redis-server` is there for the tests of workers: on the PATH, or installed from Debian without being
# started as a service.
set -euo pipefail

if command -v redis-server >/dev/null; then
    echo "redis-server is on the PATH: $(command -v redis-server)"
    exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "make parts: redis-server is not on the PATH; install it (Debian: apt-get install redis-server)." >&2
    exit 1
fi

# While this file says 101, Debian's packages start no service.
POLICY=/usr/sbin/policy-rc.d
if [ ! -e "$POLICY" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$POLICY"
    chmod +x "$POLICY"
    trap 'rm -f "$POLICY"' EXIT
fi
if ! apt-get install -q -y --no-install-recommends redis-server; then
    apt-get update -q
    apt-get install -q -y --no-install-recommends redis-server
fi
redis-server --version
