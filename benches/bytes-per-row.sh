#!/usr/bin/env bash
# What reaches the disk per reading, at several lingers: the real daemon, mosquitto, `nightwatt simulate`.
#   benches/bytes-per-row.sh [SECONDS [TRACKERS [STEP]]]     NIGHTWATT=path to the binary
# Prints write_bytes of /proc/PID/io over the time in which the rows arrived: log, checkpoints, forecasts.
# The folder for the store is made in $TMPDIR, which must be on a disk (a tmpfs counts nothing).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH="$PATH:/usr/sbin:/sbin"

seconds=${1:-120} trackers=${2:-10} step=${3:-1}
nightwatt=$(realpath "${NIGHTWATT:-target/release/nightwatt}")
work=$(mktemp -d)
[[ $(stat -f -c %T "$work") != tmpfs ]] || { echo "$work is on a tmpfs: set TMPDIR" >&2; exit 1; }
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$work"' EXIT

written() { awk '/^write_bytes/ { print $2 }' "/proc/$1/io"; }
rows() { sqlite3 -readonly "$1/n.db" 'SELECT count(*) FROM reading' 2>/dev/null || echo 0; }
command -v sqlite3 >/dev/null || { echo "sqlite3 is needed to count rows" >&2; exit 1; }

port=$((20000 + RANDOM % 20000))
printf 'listener %d 127.0.0.1\nallow_anonymous true\nlog_type error\n' "$port" >"$work/mosquitto.conf"
mosquitto -c "$work/mosquitto.conf" &
pids+=($!)

echo "$trackers trackers, a reading each every $step s, $seconds s a round; WAL, synchronous=FULL"
printf '%9s %8s %10s %10s\n' linger_ms rows bytes/row MB/day
for linger in 0 1000 5000 30000; do
    dir=$work/$linger
    mkdir "$dir"
    cat >"$dir/n.toml" <<TOML
[mqtt]
url = "mqtt://127.0.0.1:$port"
client_id = "bytes-$linger"
[store]
path = "n.db"
linger_ms = $linger
reserve_mb = 0
[http]
socket = "n.sock"
[training]
enabled = false
TOML
    "$nightwatt" run -c "$dir/n.toml" 2>"$dir/log" &
    daemon=$!
    pids+=("$daemon")
    for _ in $(seq 100); do [[ -S $dir/n.sock ]] && break; sleep 0.1; done
    sleep 2 # the session with the broker
    before=$(written "$daemon")
    timeout -s INT "$seconds" "$nightwatt" simulate --broker "mqtt://127.0.0.1:$port" \
        --devices "$trackers" --step "$step" --forever >"$dir/simulate" 2>&1 || true
    # Until what lingers is committed.
    sleep $((linger / 1000 + 1))
    after=$(written "$daemon")
    n=$(rows "$dir")
    awk -v l="$linger" -v n="$n" -v b=$((after - before)) -v s="$seconds" 'BEGIN {
        printf "%9d %8d %10.0f %10.1f\n", l, n, n ? b / n : 0, b / 1e6 * 86400 / s }'
    kill "$daemon"
    wait "$daemon" || true
done
