#!/usr/bin/env bash
# Sees to it that `prometheus` and `promtool` are there for the tests: on the PATH, or unpacked below build/prometheus from
# the Debian package. The package is only unpacked: nothing is installed in the system, no service starts, no root needed
# unless the package lists have never been fetched.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

DIRECTORY=build/prometheus
BINARIES=$DIRECTORY/usr/bin

if command -v prometheus >/dev/null && command -v promtool >/dev/null; then
    echo "Prometheus is on the PATH: $(command -v prometheus)"
    exit 0
fi
if [ -x "$BINARIES/prometheus" ] && [ -x "$BINARIES/promtool" ]; then
    echo "Prometheus is up to date: $BINARIES/prometheus"
    exit 0
fi
if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
    echo "make parts: prometheus and promtool are not on the PATH and this is no Debian to bring them;" >&2
    echo "install Prometheus 2.42 or later (prometheus.io/download) and put both on the PATH." >&2
    exit 1
fi

if [ "$(id -u)" = 0 ] && ! apt-cache show prometheus >/dev/null 2>&1; then
    apt-get update -q
fi
rm -rf "$DIRECTORY"
mkdir -p "$DIRECTORY/package"
if ! (cd "$DIRECTORY/package" && apt-get download -q prometheus); then
    # Lists that are older than the archive name a file that is gone by now.
    if [ "$(id -u)" != 0 ]; then
        echo "make parts: apt-get could not fetch the package prometheus; run 'apt-get update' as root, then 'make parts' again." >&2
        exit 1
    fi
    apt-get update -q
    (cd "$DIRECTORY/package" && apt-get download -q prometheus)
fi
dpkg-deb -x "$DIRECTORY"/package/prometheus_*.deb "$DIRECTORY"
"$BINARIES/prometheus" --version | head -n 1
"$BINARIES/promtool" --version | head -n 1
