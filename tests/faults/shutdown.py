#!/usr/bin/env python3
"""What the simulated power cut does to an fsync that is under way: as root, `shutdown.py [CUTS]`.

Appends records to a file on an ext4 of its own, an fsync after each, and shuts the file system down as the power-cut
tests do (FS_IOC_SHUTDOWN, NOLOGFLUSH) without stopping the writer. Now and then the fsync under way returns success for
a record that is gone after the remount: the aborted journal counts its transaction as over. A machine without power
runs nothing that could hear of that success, which is why the tests stop the daemon before they cut.
"""
import fcntl
import os
import random
import struct
import subprocess
import sys
import tempfile
import threading
import time

RECORD = 12_288
CUT = 0x8004587D  # FS_IOC_SHUTDOWN


def record(n):
    return struct.pack("Q", n) * (RECORD // 8)


def run(*command):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def unmounted(mount):
    for _ in range(200):
        if subprocess.run(["umount", mount], stderr=subprocess.DEVNULL).returncode == 0:
            return
        time.sleep(0.05)
    sys.exit(f"{mount} cannot be unmounted")


def cut_once(folder):
    """How many records fsync has confirmed, and how many of them are there afterwards."""
    image, mount = f"{folder}/image", f"{folder}/mnt"
    with open(image, "wb") as file:
        file.truncate(96 << 20)
    run("mkfs.ext4", "-q", "-F", image)
    run("mount", "-o", "loop", image, mount)
    confirmed = 0

    def write():
        nonlocal confirmed
        fd = os.open(f"{mount}/file", os.O_CREAT | os.O_RDWR)
        try:
            while True:
                os.pwrite(fd, record(confirmed), confirmed * RECORD)
                os.fsync(fd)
                confirmed += 1
        except OSError:
            os.close(fd)

    writer = threading.Thread(target=write)
    writer.start()
    time.sleep(0.05 + random.random() * 0.2)
    fd = os.open(mount, os.O_RDONLY)
    fcntl.ioctl(fd, CUT, struct.pack("I", 2))
    os.close(fd)
    writer.join()
    unmounted(mount)
    # A copy: the kernel may hold on to the file system that was shut down.
    run("cp", image, f"{image}.copy")
    os.rename(f"{image}.copy", image)
    run("mount", "-o", "loop", image, mount)
    there = 0
    if os.path.exists(f"{mount}/file"):
        with open(f"{mount}/file", "rb") as file:
            while there < confirmed and file.read(RECORD) == record(there):
                there += 1
    unmounted(mount)
    return confirmed, there


def main():
    cuts, lying = int(sys.argv[1]) if len(sys.argv) > 1 else 100, 0
    with tempfile.TemporaryDirectory() as folder:
        os.mkdir(f"{folder}/mnt")
        for number in range(cuts):
            confirmed, there = cut_once(folder)
            if there < confirmed:
                lying += 1
                print(f"cut {number}: fsync has confirmed {confirmed} records, {there} are there", flush=True)
    print(f"{lying} of {cuts} cuts: the fsync under way confirmed what is gone")


main()
