#!/bin/sh
# Makes the gateway's OpenAPI document from the protos, where there is Go; `--to DIR` writes elsewhere.
set -eu
cd "$(dirname "$0")/.."
out=services/vistaflow_services/gateway/openapi
[ "${1:-}" = --to ] && out=$2
gen=$PWD/.codegen
if ! [ -x "$gen/bin/protoc-gen-openapi" ]; then
    if ! command -v go >/dev/null; then
        echo "There is no Go: $out/openapi.yaml was left as it is." >&2
        exit 77
    fi
    GOBIN=$gen/bin go install github.com/google/gnostic/cmd/protoc-gen-openapi@v0.7.1
fi
if ! "$gen/bin/python" -c 'import yaml, google.api' 2>/dev/null; then
    "$gen/bin/pip" install --quiet 'googleapis-common-protos>=1.70' 'pyyaml>=6.0'
fi
printf '#!/bin/sh\nexec "%s/bin/python" "%s/protos/openapi.py"\n' "$gen" "$PWD" >"$gen/bin/openapi"
chmod +x "$gen/bin/openapi"
# shellcheck disable=SC2046 # one file name a word
"$gen/bin/python" -m grpc_tools.protoc -Iprotos -Iprotos/third_party \
    --plugin=protoc-gen-document="$gen/bin/openapi" \
    --document_out="plugin=$gen/bin/protoc-gen-openapi:$out" \
    $(cd protos && find vistaflow -name '*.proto' | LC_ALL=C sort)
