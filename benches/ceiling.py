#!/usr/bin/env python3
"""nightwatt against the C subscriber that only acknowledges, alternating, in the ingest harness's own terms.

    python3 benches/ceiling.py HARNESS_FOLDER CSUB [ROUNDS] [COUNT]

HARNESS_FOLDER holds harness.py; CSUB is its peers/csub.c, compiled with -lmosquitto.
$NIGHTWATT names the binary; the release build is the default.
"""
import os
import statistics
import subprocess
import sys
import tempfile
import types

here = os.path.dirname(os.path.abspath(__file__))
folder, csub = sys.argv[1:3]
rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 5
count = int(sys.argv[4]) if len(sys.argv) > 4 else 50000
sys.path.insert(0, folder)
import harness  # noqa: E402
import json  # noqa: E402


def subscriber(work):
    broker = harness.Broker(work, 20)
    sub = subprocess.Popen([csub, str(broker.port), str(count)], stdout=subprocess.PIPE, text=True)
    try:
        assert sub.stdout.readline().strip() == "ready"
        pub = harness.publisher(broker.port, "--count", count)
        rate = json.loads(sub.stdout.readline())["rate"]
        pub.wait()
        return rate
    finally:
        sub.kill()
        sub.wait()
        broker.stop()


def ours(work):
    [spec] = harness.load([os.path.join(here, "ingest.json")], None)
    a = types.SimpleNamespace(inflight=20, broker_line=[], count=count, rate=0, window=2000,
                              idle=1, timeout=180, quiet=8)
    result = harness.run_live(spec, a, work)
    assert result["lost"] == 0, result
    return result["rate"]


pairs = []
for number in range(rounds):
    pair = []
    for run in (subscriber, ours):
        with tempfile.TemporaryDirectory() as work:
            pair.append(run(work))
    pairs.append(pair)
    print("round %d: C subscriber %.0f/s, nightwatt %.0f/s, ratio %.2f" % (number + 1, *pair, pair[1] / pair[0]),
          flush=True)
print("median ratio %.2f" % statistics.median(b / a for a, b in pairs))
