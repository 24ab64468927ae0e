"""What learning costs, in one table from one run: started by learner.sh, which see.

usage: learner.py NIGHTWATT FIT_BENCH DATA_DIR ML_BENCH_DIR [--devices 1,10] [--repeats 3] [--nights]
"""
import argparse, gzip, json, os, resource, shutil, sqlite3, subprocess, sys, tempfile, threading, time

a = argparse.ArgumentParser()
for name in ("nightwatt", "fit_bench", "data", "ml_bench"):
    a.add_argument(name)
a.add_argument("--devices", default="1,10")
a.add_argument("--repeats", type=int, default=3)
a.add_argument("--nights", action="store_true", help="only the nights")
o = a.parse_args()
os.environ.update(OMP_NUM_THREADS="1", PV_DATA=o.data)
sys.path.insert(0, o.ml_bench)
import numpy as np, pandas as pd
from common import build, seed_cols, split

TREES, LEAVES, DAYS, START_MS = 200, 31, 190, 1_614_556_800_000
DAY_MS = 86_400_000


def row(what, figure, limit=""):
    print(f"{what:<62} {figure:>16} {limit}", flush=True)


def scale_device(seed):
    """The synthetic device of scale.py in the ML bench, 180 days of minutes, 14 columns of its 15."""
    src = open(os.path.join(o.ml_bench, "scale.py")).read()
    scope = {"np": np, "pd": pd}
    exec(src[src.index("def device"):src.index("A, y = [], []")], scope)
    x, y = scope["device"](seed)
    return x[:, [c for c in range(x.shape[1]) if c != 2]], y


def real_rows():
    x, m = build("upm", 15, ["upm-1-47596"], None, extra=False)
    train = split(m)
    columns = [c for c in seed_cols(x)][:12]
    x = x[columns].to_numpy(np.float32)[train]
    return np.where(np.isnan(x), np.nanmedian(x, axis=0), x).astype(np.float32), m.y.values[train].astype(np.float32)


def lightgbm_fit(x, y):
    import lightgbm
    x = x.astype(np.float64)
    start = time.process_time()
    lightgbm.LGBMRegressor(n_jobs=1, objective="l1", n_estimators=TREES, learning_rate=0.06, num_leaves=LEAVES, min_child_samples=40,
                           subsample=0.8, subsample_freq=1, colsample_bytree=0.8, verbose=-1).fit(x, y)
    return time.process_time() - start


def our_fit(folder, x, y):
    path = os.path.join(folder, "rows.bin")
    with open(path, "wb") as f:
        np.array(x.shape, "<u4").tofile(f); x.astype("<f4").tofile(f); y.astype("<f4").tofile(f)
    out = subprocess.run([o.fit_bench, path, str(TREES), str(LEAVES), "1"], check=True, capture_output=True)
    return json.loads(out.stdout)


def fits(folder, name, x, y):
    """In turns, so that whatever else the machine does falls on both."""
    theirs, ours = [], []
    for _ in range(o.repeats):
        theirs.append(lightgbm_fit(x, y)); ours.append(our_fit(folder, x, y))
    cpu = min(fit["cpu_s"] for fit in ours)
    row(f"fit {name}: LightGBM, CPU s", f"{min(theirs):.2f}")
    row(f"fit {name}: nightwatt, CPU s", f"{cpu:.2f}")
    row(f"fit {name}: nightwatt / LightGBM", f"{cpu / min(theirs):.2f}", "<= 0.7")
    row(f"fit {name}: memory above the data, MB", f"{min(fit['above_data_mb'] for fit in ours):.0f}", "<= 40")


def forest(x, y):
    from sklearn.ensemble import RandomForestRegressor
    start = time.process_time()
    RandomForestRegressor(n_estimators=10, max_depth=15, n_jobs=1, random_state=42).fit(x, y)
    return 10 * (time.process_time() - start)


def database(folder, devices):
    """A database of the program's own making, with DAYS days of minutes of each device."""
    db = os.path.join(folder, "n.db")
    config = os.path.join(folder, "n.toml")
    with open(config, "w") as f:
        f.write(f'[mqtt]\nurl = "mqtt://127.0.0.1:1"\n[store]\npath = "{db}"\n[http]\nsocket = "{folder}/n.sock"\n')
    daemon = subprocess.Popen([o.nightwatt, "run", "-c", config], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not os.path.exists(f"{folder}/n.sock"):
        assert time.monotonic() < deadline and daemon.poll() is None, "the program made no database"
        time.sleep(0.05)
    daemon.terminate(); daemon.wait()
    store = sqlite3.connect(db)
    for d in range(devices):
        store.execute("INSERT INTO device VALUES (?, ?, 0)", (d + 1, f"d{d:02}"))
        # Two half years of the generator, the second for the days after the first 180.
        x = np.concatenate([scale_device(100 * d)[0], scale_device(100 * d + 1)[0]])[: DAYS * 1440]
        minute = START_MS + 60_000 * np.arange(len(x))
        c = dict(servo=2, temp=3, hum=4, lux=5, volt=6, amp=7, power=8, fan=9)
        power = np.clip(x[:, c["power"]], 0, None)
        columns = [x[:, c[k]] for k in ("servo", "lux", "volt", "amp")] + [power] + [x[:, c[k]] for k in ("temp", "hum", "fan")]
        rows = zip(minute.tolist(), *(v.astype(float).tolist() for v in columns))
        store.executemany(f"INSERT INTO reading VALUES (?, {d + 1}, 0, 0, 1, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
    store.commit(); store.close()
    return db


def night(db, day, mode="incremental", rebuild=False):
    """A night at two o'clock after so many days, by the trainer itself: CPU s, peak MiB, report."""
    to = START_MS + day * DAY_MS + 2 * 3_600_000
    since = to - 180 * DAY_MS
    job = dict(db=db, rebuild=rebuild, to=to, late_since=to - 31 * DAY_MS, live=None, new_since=to - DAY_MS,
               max_memory_mb=4096, device=None, keep_cache=True,
               nights=[dict(horizon_min=15, step_min=None, site=dict(latitude_deg=40.45, longitude_deg=-3.73), zone="UTC", features="core",
                          holdback_days=7, min_train_days=7, promote=dict(metric="mae", min_improvement_percent=0.0), mode=mode,
                          full_every_days=30, forget_before=since, seed=1)])
    job["from"] = since
    child = subprocess.Popen([o.nightwatt, "trainer"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.stdin.write(json.dumps(job).encode()); child.stdin.close()
    heard = []
    listener = threading.Thread(target=lambda: heard.append(child.stdout.read()))
    listener.start()
    # Not ru_maxrss: that begins with the memory of whoever forked, which is this script.
    peak_kib = 0
    while listener.is_alive():
        try:
            status = open(f"/proc/{child.pid}/status").read()
            peak_kib = max(peak_kib, int(status.split("VmHWM:")[1].split()[0]))
        except (OSError, IndexError):
            pass  # it has ended
        listener.join(0.02)
    answer = json.loads(heard[0])
    assert "learned" in answer, answer
    report = answer["learned"]["report"]["horizons"][0]
    _, _, used = os.wait4(child.pid, 0)
    child.returncode = 0
    return used.ru_utime + used.ru_stime, peak_kib / 1024, report


def nights(folder, devices, forest_s):
    db = database(folder, devices)
    name = f"{devices} device{'s' if devices > 1 else ''}, 180 days of minutes"
    first, peak_first, full = night(db, 181, rebuild=True)
    again, peak_again, by_cache = night(db, 182, mode="full")
    cpu, peak, incremental = night(db, 183)
    assert [r["mode"] for r in (full, by_cache, incremental)] == ["full", "full", "incremental"], "not the nights asked for"
    row(f"{name}: full night from the readings, CPU s", f"{first:.2f}")
    row(f"{name}: full night from the cache, CPU s", f"{again:.2f}")
    row(f"{name}: incremental night, CPU s", f"{cpu:.2f}")
    row(f"{name}: incremental / full from the readings", f"{cpu / first:.2f}", "<= 0.2")
    row(f"{name}: peak resident of the trainer, MiB", f"{max(peak_first, peak_again, peak):.0f}", "<= 96" if devices == 1 else "<= 400" if devices == 10 else "")
    row(f"{name}: model, MB", f"{len(incremental['model']) / 2e6:.2f}", "<= 2")
    if devices == 1 and forest_s:
        row("incremental night / reference forest", f"1/{forest_s / cpu:.0f}", "<= 1/100")


folder = tempfile.mkdtemp(prefix="nightwatt-learner-")
try:
    forest_s = None
    if not o.nights:
        x, y = real_rows()
        fits(folder, f"{len(y)} x {x.shape[1]}, UPM", x, y)
        x, y = scale_device(0)
        fits(folder, f"{len(y)} x {x.shape[1]}, synthetic", x, y)
        forest_s = forest(x, y)
        row("reference forest, 100 trees (10 timed), CPU s", f"{forest_s:.0f}")
    for devices in map(int, o.devices.split(",")):
        sub = os.path.join(folder, str(devices)); os.mkdir(sub)
        nights(sub, devices, forest_s)
        shutil.rmtree(sub)
    if o.nights:
        sys.exit()
    out = subprocess.run([o.nightwatt, "backtest", os.path.join(o.data, "upm_madrid_5min.csv.gz"), "--site=40.45,-3.73,Europe/Madrid", "--json"], check=True, capture_output=True)
    live = next(r for r in json.loads(out.stdout)["results"] if r["name"] == "live")
    row("UPM, six devices: one forecast, us", f"{live['predict_row_us']:.1f}", "<= 20")
    row("UPM, six devices: model, MB", f"{live['model_bytes'] / 1e6:.2f}", "<= 2")
finally:
    shutil.rmtree(folder)
