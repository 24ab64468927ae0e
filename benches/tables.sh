#!/bin/sh
# The accuracy tables of docs/learning.md, from the data in ../shared/data (or NIGHTWATT_DATA). The two
# hundred nights take minutes. Cost: learner.sh.
set -eu
cd "$(dirname "$0")/.."
data=${NIGHTWATT_DATA:-$PWD/../shared/data}
cargo build --release
backtest="$PWD/${CARGO_TARGET_DIR:-target}/release/nightwatt backtest"
(
    cd "$data"
    upm="upm_madrid_5min.csv.gz --site=40.45,-3.73,Europe/Madrid"
    $backtest $upm
    $backtest $upm --device upm-1-47596
    $backtest enerpos_reunion_10min.csv.gz --site=-21.34,55.49,Indian/Reunion
    $backtest ugm_tracker_2min.csv.gz --site=-7.77,110.38,Asia/Jakarta
    $backtest $upm --horizon 60,180,1440
    $backtest $upm --device upm-1-47596 --horizon 60,180,1440
    $backtest $upm --device upm-1-47596 --protocol nightly --days 60
    $backtest $upm --device upm-1-47596 --protocol nightly
)
NIGHTWATT_DATA=$data cargo test --release --lib settings -- --ignored --nocapture
