#!/usr/bin/env bash
# Runs a command where Python 3.14 is: `python-3.14.sh COMMAND …`; without a command it only brings that Python. It comes
# from Debian's next release, is unpacked below build/python-3.14, and takes the place of /usr for the command alone, in a
# mount namespace of its own. Nothing is installed in the system; /etc, the home and this folder stay as they are.
#
# Needs root on a Debian, whose apt knows where the packages are. Where it cannot, it says why, with status 1.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

RELEASE=forky
DIRECTORY=build/python-3.14
STAMP=$DIRECTORY/brought # written last, so what was interrupted is brought again

cannot() {
    echo "Python 3.14 cannot be brought: $1" >&2
    exit 1
}

mirror() {
    apt-get indextargets --format '$(REPO_URI)' 'Origin: Debian' 'Label: Debian' 'Component: main' | sort -u | head -n 1
}

bring() {
    if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
        cannot "this is no Debian; a python3.14 on the PATH or in pyenv's folder would be used."
    fi
    [ "$(id -u)" = 0 ] || cannot "unpacking a release needs root; a python3.14 on the PATH or in pyenv's folder would be used."
    [ -L /lib ] || cannot "/lib is not in /usr on this machine, so that nothing can take the place of /usr."
    unshare --mount true 2>/dev/null || cannot "this machine allows no mount namespaces (unshare --mount)."
    rm -rf "$DIRECTORY"
    mkdir -p "$DIRECTORY/package"
    [ -n "$(mirror)" ] || apt-get update -q
    if ! (cd "$DIRECTORY/package" && apt-get download -q debootstrap); then
        apt-get update -q # lists that are older than the archive name a file that is gone by now
        (cd "$DIRECTORY/package" && apt-get download -q debootstrap) || cannot "apt-get has no package debootstrap."
    fi
    dpkg-deb -x "$DIRECTORY"/package/debootstrap_*.deb "$DIRECTORY/package"
    local tools=$PWD/$DIRECTORY/package/usr
    echo "Unpacking $RELEASE with its Python: a minute or two the first time."
    # In a namespace of its own too, so that what debootstrap mounts is gone with it. It checks the release's signature.
    if ! DEBOOTSTRAP_DIR=$tools/share/debootstrap unshare --mount "$tools/sbin/debootstrap" --variant=minbase \
        --include=python3,python3-venv,make "$RELEASE" "$PWD/$DIRECTORY/release" "$(mirror)" \
        "$tools/share/debootstrap/scripts/sid" >"$DIRECTORY/log" 2>&1; then
        tail -n 5 "$DIRECTORY/log" >&2
        cannot "debootstrap failed, see $DIRECTORY/log."
    fi
    rm -rf "$DIRECTORY/release/var" "$DIRECTORY/package"
    touch "$STAMP"
}

[ -e "$STAMP" ] || bring >&2
if [ $# -eq 0 ]; then
    echo "Python 3.14 is up to date: $DIRECTORY"
    exit 0
fi
# shellcheck disable=SC2016 # expanded inside
exec unshare --mount --propagation private \
    sh -c 'mount --bind "$0" /usr && exec "$@"' "$PWD/$DIRECTORY/release/usr" "$@"
