#!/usr/bin/env bash
# Builds the OpenTelemetry Collector that collector-config/builder.yaml describes into build/collector/otelcol-clew.
#
# Needs Go and the Go modules' registry. The first build takes two to three minutes; a second one is skipped as long as
# the manifest, the builder's version and Go's are those of the binary that is there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

BUILDER_VERSION=v0.159.0
MANIFEST=collector-config/builder.yaml
DIRECTORY=build/collector
BINARY=$DIRECTORY/otelcol-clew
STAMP=$DIRECTORY/built-from # written last, so an interrupted build is no build

if ! command -v go >/dev/null && [ -x /usr/local/go/bin/go ]; then
    PATH=$PATH:/usr/local/go/bin
fi
if ! command -v go >/dev/null; then
    echo "make collector: go is not on the PATH; building the Collector needs Go 1.25 or later (go.dev/doc/install)." >&2
    exit 1
fi

wanted=$(echo "builder $BUILDER_VERSION, $(go env GOVERSION GOOS GOARCH | tr '\n' ' ')" && cat "$MANIFEST")
if [ -x "$BINARY" ] && [ "$wanted" = "$(cat "$STAMP" 2>/dev/null)" ]; then
    echo "The Collector is up to date: $BINARY"
    exit 0
fi

# The version control stamp would need git to trust this directory; a workspace file above it would change the modules.
export GOFLAGS="${GOFLAGS:-} -buildvcs=false" GOWORK=off CGO_ENABLED=0
mkdir -p build/tools "$DIRECTORY"
rm -f "$STAMP"
echo "Building the Collector with builder $BUILDER_VERSION and $(go env GOVERSION): two to three minutes the first time."
GOBIN=$PWD/build/tools go install "go.opentelemetry.io/collector/cmd/builder@$BUILDER_VERSION"
build/tools/builder --config "$MANIFEST"
"$BINARY" --version
echo "$wanted" >"$STAMP"
