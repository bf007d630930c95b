#!/bin/sh
# The main job from an empty folder: starts the suite, runs the MOSFET kit and follows it, while a
# second watcher records every state change.
set -eu
BIN=${BIN:-.venv/bin}
VISTAFLOW_HOME=$(mkdir -p "${DEMO_HOME:-.demo}" && cd "${DEMO_HOME:-.demo}" && pwd)
KIT=${KIT:-mosfet}
PORT=$("$BIN/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
VISTAFLOW_REGISTRY=127.0.0.1:$PORT
export VISTAFLOW_HOME VISTAFLOW_REGISTRY

watcher=
finish() {
    [ -z "$watcher" ] || kill "$watcher" 2>/dev/null || true
    "$BIN/vistaflow" down >/dev/null
}
trap finish EXIT
trap 'exit 130' INT TERM

"$BIN/vistaflow" down >/dev/null
"$BIN/vistaflow" up --detach --port "$PORT"
kit=$("$BIN/vistaflow" run "$KIT" --detach --json | "$BIN/python" -c 'import json, sys; print(json.load(sys.stdin)["kit_id"])')
"$BIN/vistaflow" watch "$kit" --json >"$VISTAFLOW_HOME/watch.jsonl" &
watcher=$!
"$BIN/vistaflow" watch "$kit"
wait "$watcher" && watcher=
"$BIN/vistaflow" show "$kit"
"$BIN/python" - "$VISTAFLOW_HOME/watch.jsonl" <<'PYTHON'
import json, sys

rows = [json.loads(line)["revision"] for line in open(sys.argv[1])]
ordered = all(a < b for a, b in zip(rows, rows[1:]))
print(f"a second watcher saw {len(rows)} state changes live, {'in order, none twice' if ordered else 'OUT OF ORDER'}")
sys.exit(not ordered)
PYTHON
