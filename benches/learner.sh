#!/bin/sh
# What learning costs, beside LightGBM and the reference forest on the same rows: one table from one run.
# Builds the program and its bench, makes a Python environment in target/ (numpy, pandas, scikit-learn,
# lightgbm from PyPI) and runs learner.py. Some ten minutes on two cores. PYTHON=… uses an environment
# that is there; what follows is handed on.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
shared=${NIGHTWATT_SHARED:-$here/../../shared}
cd "$here/.."
target=${CARGO_TARGET_DIR:-target}
if [ -z "${PYTHON:-}" ]; then
    PYTHON=$target/bench-venv/bin/python
    [ -x "$PYTHON" ] || python3 -m venv "$target/bench-venv"
    "$PYTHON" -m pip install --quiet numpy pandas scikit-learn lightgbm
fi
# NIGHTWATT=… measures a program that is there, such as the shipped one.
if [ -z "${NIGHTWATT:-}" ]; then
    cargo build --release
    NIGHTWATT=$target/release/nightwatt
fi
bench=$(cargo bench --no-run -p nightwatt-learner --bench learner --message-format=json 2>/dev/null |
    sed -n 's/.*"executable":"\([^"]*learner-[^"]*\)".*/\1/p' | tail -n 1)
exec "$PYTHON" -W ignore "$here/learner.py" "$NIGHTWATT" "$bench" \
    "${NIGHTWATT_DATA:-$shared/data}" "$shared/bench/ml" "$@"
