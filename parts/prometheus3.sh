#!/usr/bin/env bash
# Builds Prometheus 3 into build/prometheus3/prometheus: Debian has none, and it is the first that takes OTLP itself.
#
# Needs Go and the Go modules' registry. The first build takes about three minutes; a second one is skipped as long as
# version and Go are those of the binary that is there. Left out is what finds targets to scrape, which is half of it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

VERSION=v0.316.0 # the module's version of Prometheus 3.16.0
DIRECTORY=build/prometheus3
BINARY=$DIRECTORY/prometheus
STAMP=$DIRECTORY/built-from # written last, so an interrupted build is no build

if ! command -v go >/dev/null && [ -x /usr/local/go/bin/go ]; then
    PATH=$PATH:/usr/local/go/bin
fi
if ! command -v go >/dev/null; then
    echo "make parts: go is not on the PATH; building Prometheus 3 needs Go 1.26 or later (go.dev/doc/install)." >&2
    exit 1
fi

wanted="Prometheus $VERSION, $(go env GOVERSION GOOS GOARCH | tr '\n' ' ')"
if [ -x "$BINARY" ] && [ "$wanted" = "$(cat "$STAMP" 2>/dev/null)" ]; then
    echo "Prometheus 3 is up to date: $BINARY"
    exit 0
fi

# A module of its own, since `go install` refuses modules that replace others; a workspace file above it would change them.
export GOFLAGS="${GOFLAGS:-} -buildvcs=false" GOWORK=off CGO_ENABLED=0
rm -rf "$DIRECTORY"
mkdir -p "$DIRECTORY"
echo "Building Prometheus $VERSION with $(go env GOVERSION): about three minutes the first time."
(
    cd "$DIRECTORY"
    go mod init clew.invalid/prometheus3 2>/dev/null
    go get -tool "github.com/prometheus/prometheus/cmd/prometheus@$VERSION" >get.log 2>&1 || { cat get.log >&2 && exit 1; }
    go build -tags remove_all_sd -ldflags "-s -w -X github.com/prometheus/common/version.Version=$VERSION" \
        -o prometheus github.com/prometheus/prometheus/cmd/prometheus
)
"$BINARY" --version | head -n 1
echo "$wanted" >"$STAMP"
