#!/usr/bin/env python3
"""Figures of the management interface: reads beside a full intake, a year's charts, idle memory.

usage: benches/api.py [BINARY]     (default target/release/nightwatt; needs mosquitto and its clients)
"""
import http.client
import json
import pathlib
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time

BINARY = sys.argv[1] if len(sys.argv) > 1 else "target/release/nightwatt"
DEVICES, DAYS, RATE, SECONDS = 10, 365, 10_000, 20
READS = ["/health/ready", "/metrics", "/api/status", "/api/devices", "/api/devices/t01/readings", "/api/forecast",
         "/api/accuracy?days=1", "/api/events", "/api/quarantine", "/api/ml/status", "/api/ml/runs", "/api/ml/models"]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def station(folder, broker, port):
    (folder / "n.toml").write_text(
        f'[mqtt]\nurl = "mqtt://127.0.0.1:{broker}"\n[store]\npath = "n.db"\nkeep_days = 0\nreserve_mb = 1\n'
        f'[training]\nenabled = false\n[http]\nsocket = "n.sock"\nlisten = "127.0.0.1:{port}"\n')
    daemon = subprocess.Popen([BINARY, "run", "-c", folder / "n.toml"], stderr=open(folder / "log", "a"))
    for _ in range(1200):
        try:
            if get(port, "/api/status")[0] == 200:
                return daemon
        except OSError:
            time.sleep(0.05)
    sys.exit((folder / "log").read_text())


def stop(daemon):
    daemon.terminate()
    daemon.wait()


def get(port, path):
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    began = time.perf_counter()
    c.request("GET", path)
    answer = c.getresponse()
    body = answer.read()
    return answer.status, (time.perf_counter() - began) * 1000, body


def rss_mib(pid):
    for line in open(f"/proc/{pid}/status"):
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024


def fill(db):
    """A year of one-minute readings, the hours the nights have rolled up, a week of settled forecasts."""
    conn = sqlite3.connect(db)
    now = int(time.time() * 1000) // 60_000 * 60_000
    first = now - DAYS * 86_400_000
    conn.executescript(f"""
        PRAGMA synchronous = OFF;
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {DEVICES})
        INSERT INTO device SELECT i, printf('t%02d', i), 0 FROM n;
        WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {DAYS * 1440 - 1})
        INSERT INTO reading (ts_ms, device_no, received_ms, time_source, clock_trusted, lux, voltage, current, power)
        SELECT {first} + i * 60000, device_no, {first} + i * 60000, 0, 1, i % 7000, 18.3, 1.1,
               max(0, 300 * sin((i % 1440 - 360) * 3.14159 / 720)) FROM n, device;
        INSERT INTO reading_hour SELECT ts_ms - ts_ms % 3600000, device_no, count(*), 0, NULL, avg(lux), avg(voltage),
               avg(current), avg(power), NULL, NULL, NULL, min(power), max(power)
        FROM reading WHERE ts_ms < {now - now % 86_400_000} GROUP BY 1, 2;
        WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 7 * 1440 - 1)
        INSERT INTO forecast (target_ms, device_no, horizon_min, issued_ms, source, power_w, smart_w, naive_w, actual_w,
               settled) SELECT {now} - i * 60000, device_no, 15, {now} - (i + 15) * 60000, 'model', 100, 90, 80, 95, 1
        FROM n, device;""")
    conn.commit()
    conn.close()


def publish(broker, until):
    """RATE messages a second of ten devices, each with a time of its own; how many there were."""
    pubs = [subprocess.Popen(["mosquitto_pub", "-p", str(broker), "-q", "1", "-l", "-t", f"solar/t{i + 1:02d}/telemetry"],
                             stdin=subprocess.PIPE) for i in range(DEVICES)]
    began, sent, base = time.time(), 0, int(time.time() * 1000) - 86_400_000
    while time.time() < until:
        due = int((time.time() - began) * RATE) // DEVICES
        for pub in pubs:
            lines = "".join(f'{{"ts":{base + i},"power":20.5,"lux":500}}\n' for i in range(sent, due))
            pub.stdin.write(lines.encode())
            pub.stdin.flush()
        sent = due
        time.sleep(0.01)
    for pub in pubs:
        pub.stdin.close()
        pub.wait()
    return sent * DEVICES


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        broker, port = free_port(), free_port()
        (folder / "m.conf").write_text(f"listener {broker} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n")
        mosquitto = subprocess.Popen(["mosquitto", "-c", folder / "m.conf"], stderr=subprocess.DEVNULL)
        daemon = station(folder, broker, port)
        time.sleep(3)
        print(f"idle resident with HTTP on: {rss_mib(daemon.pid):.1f} MiB")
        stop(daemon)
        fill(folder / "n.db")
        daemon = station(folder, broker, port)
        charts = {
            "a device, a year by days": f"/api/devices/t01/readings?step=1d&from={ago(364)}",
            "a device, a year by 6 h": f"/api/devices/t01/readings?step=6h&from={ago(364)}",
            "a device, 24 h by 5 min": "/api/devices/t01/readings?step=5m",
        }
        for what, path in charts.items():
            took = [get(port, path) for _ in range(5)]
            points = len(json.loads(took[0][2])["points"])
            print(f"{what}: {points} points, {statistics.median(t for _, t, _ in took):.0f} ms")
        began = time.perf_counter()
        for i in range(DEVICES):
            assert get(port, f"/api/devices/t{i + 1:02d}/readings?step=1d&from={ago(364)}")[0] == 200
        print(f"ten devices, a year by days, one after the other: {(time.perf_counter() - began) * 1000:.0f} ms")
        for under in (False, True):
            sent = []
            until = time.time() + SECONDS
            before = json.loads(get(port, "/api/status")[2])["daemon"]["committed"]
            flow = None
            if under:
                source = [sys.executable, __file__, "--publish", str(broker), str(until)]
                flow = subprocess.Popen(source, stdout=subprocess.PIPE, text=True)
                time.sleep(1)
            times = {path: [] for path in READS}
            while time.time() < until:
                for path in READS:
                    status, took, _ = get(port, path)
                    assert status in (200, 503), (path, status)
                    times[path].append(took)
            rate = (json.loads(get(port, "/api/status")[2])["daemon"]["committed"] - before) / SECONDS
            if under:
                sent.append(int(flow.communicate()[0]))
            every = sorted(t for ts in times.values() for t in ts)
            print(f"reads {'beside the intake' if under else 'of an idle station'}: {len(every)}, median "
                  f"{statistics.median(every):.1f} ms, p99 {every[int(len(every) * 0.99)]:.1f} ms; "
                  f"sent {sent[0] // SECONDS if sent else 0}/s, committed {rate:.0f}/s")
            for path, ts in times.items():
                ts.sort()
                print(f"    {path:32} median {statistics.median(ts):6.1f} ms  p99 {ts[int(len(ts) * 0.99)]:6.1f} ms")
        stop(daemon)
        mosquitto.terminate()


def ago(days):
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - days * 86_400))


if sys.argv[1:2] == ["--publish"]:
    print(publish(int(sys.argv[2]), float(sys.argv[3])))
else:
    main()
