#!/usr/bin/env python3
"""How a pool of processes follows a step of load: python3 prefork-step.py target/release/maitred

Sixty connections come at once and stay for four seconds, ten requests a second on each. Prints when there were as many
processes as connections, the most there were, and after the step when half and when nearly all of them had gone.
"""
import subprocess
import sys
import time

MAITRED = sys.argv[1]
ADDRESS = "tcp://127.0.0.1:7996"


def step():
    serve = [MAITRED, "serve", "--engine", "prefork", "--listen", f"echo={ADDRESS}", "--workers", "2"]
    daemon = subprocess.Popen(serve, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    while b"ready" not in daemon.stdout.readline():
        pass
    children = f"/proc/{daemon.pid}/task/{daemon.pid}/children"
    count = lambda: len(open(children).read().split())
    time.sleep(2)
    before, begin = count(), time.monotonic()
    flags = ["--connections", "60", "--rate", "600", "--warmup", "0", "--duration", "4s"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    load = subprocess.Popen([MAITRED, "load", ADDRESS, *flags], **quiet)
    grown_s, most = None, 0
    while load.poll() is None:
        most = max(most, count())
        if grown_s is None and most >= 60:
            grown_s = time.monotonic() - begin
        time.sleep(0.01)
    end, half_s, shrunk_s = time.monotonic(), None, None
    while shrunk_s is None and time.monotonic() < end + 20:
        now, passed_s = count(), time.monotonic() - end
        if half_s is None and now <= 30:
            half_s = passed_s
        if now <= 10:
            shrunk_s = passed_s
        time.sleep(0.01)
    time.sleep(3)
    after = count()
    daemon.terminate()
    daemon.wait()
    return before, grown_s, most, half_s, shrunk_s, after


for _ in range(3):
    print("before %d  60 after %.2f s  most %d  30 left after %.2f s  10 left after %.2f s  after %d" % step())
