#!/bin/sh
# Regenerates client/vistaflow/api from the protos with the pinned generator, in
# an environment of its own: the generator's version is the floor of every
# user's grpcio and protobuf. `--to DIR` writes elsewhere.
set -eu
cd "$(dirname "$0")/.."
out=client
[ "${1:-}" = --to ] && out=$2
gen=.codegen
if ! [ -x $gen/bin/protoc-gen-mypy_grpc ]; then
    "${PYTHON:-python3}" -m venv $gen
    $gen/bin/pip install --quiet 'grpcio-tools==1.76.0' 'mypy-protobuf==5.1.0' 'setuptools<81'
fi
rm -rf "$out/vistaflow/api"
mkdir -p "$out/vistaflow/api"
# shellcheck disable=SC2046 # one file name a word
PATH=$PWD/$gen/bin:$PATH $gen/bin/python -m grpc_tools.protoc -Iprotos -Iprotos/third_party \
    --python_out="$out" --grpc_python_out="$out" \
    --mypy_out=quiet:"$out" --mypy_grpc_out=quiet:"$out" \
    --include_source_info --descriptor_set_out=$gen/descriptors.binpb \
    $(cd protos && find vistaflow -name '*.proto' | LC_ALL=C sort)
# The comments, which reflection serves with the descriptors; the generated code has none.
$gen/bin/python protos/strip_comments.py $gen/descriptors.binpb "$out/vistaflow/api/comments.binpb.gz"
find "$out/vistaflow/api" -type d -exec touch {}/__init__.py \;
