#!/usr/bin/env python3
"""What a request of `work` with no demand costs beside one of `echo` with as many bytes, on the same engine.

Both services are listeners of one daemon on one processor; the load runs on another. Slices of a second take turns, in an
order that a seed shuffles, and the first of each pair is now the one, now the other. Printed, and written as JSON with
`--json FILE`: the processor time of the daemon by the requests, for each slice, and the ratio of each pair with its
interval (Hodges and Lehmann, 95 %, by the order statistics of the means of pairs).

    python3 work-against-echo.py target/release/maitred --json work-against-echo.json
"""

import argparse
import json
import math
import random
import re
import statistics
import subprocess

PAYLOAD = 64
HEAD = 24


def start(binary, engine):
    command = ["taskset", "-c", "0", binary, "serve", "--engine", engine, "--workers", "1"]
    command += ["--listen", "echo=tcp://127.0.0.1:0", "--listen", "work=tcp://127.0.0.1:0"]
    daemon = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    addresses = {}
    for line in daemon.stdout:
        listening = re.match(r"listening (\w+) tcp://(\S+)", line)
        if listening:
            addresses[listening[1]] = listening[2]
        if line.strip() == "ready":
            return daemon, addresses
    raise SystemExit("the daemon does not start")


def slice_of(binary, daemon, addresses, service, shape):
    size = PAYLOAD if service == "work" else PAYLOAD + HEAD
    command = ["taskset", "-c", "1", binary, "load", f"{service}=tcp://{addresses[service]}", "--size", str(size)]
    command += ["--duration", "1s", "--warmup", "200ms", "--pid", str(daemon.pid), "--json", *shape]
    if service == "work":
        command += ["--demand", "fixed:0ns"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: {done.stderr}")
    report = json.loads(done.stdout)
    return report["server"]["cpu_ns_per_request"], report["achieved_per_s"]


def interval(ratios):
    logs = [math.log(ratio) for ratio in ratios]
    means = sorted((a + b) / 2 for i, a in enumerate(logs) for b in logs[i:])
    n = len(logs)
    spread = 1.96 * math.sqrt(n * (n + 1) * (2 * n + 1) / 24)
    cut = max(0, int(n * (n + 1) / 4 - spread))
    return [round(math.exp(value), 4) for value in (statistics.median(means), means[cut], means[-1 - cut])]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--engines", default="pool,event-loop")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    shuffle = random.Random(1)
    shapes = {"64 connections, 1 in flight": ["--connections", "64"], "16 in flight": ["--connections", "64", "--depth", "16"]}
    rows = []
    for engine in arguments.engines.split(","):
        daemon, addresses = start(arguments.binary, engine)
        try:
            for name, shape in shapes.items():
                pairs = []
                for _ in range(arguments.rounds):
                    order = ["echo", "work", "echo again"]
                    shuffle.shuffle(order)
                    of = {what: slice_of(arguments.binary, daemon, addresses, what.split()[0], shape) for what in order}
                    pairs.append(of)
                ratio = interval([of["work"][0] / of["echo"][0] for of in pairs])
                again = interval([of["echo again"][0] / of["echo"][0] for of in pairs])
                median = {what: statistics.median(of[what][0] for of in pairs) for what in ("echo", "work")}
                print(f"{engine:<12}{name:<30}echo {median['echo']:7.0f} ns  work {median['work']:7.0f} ns  "
                      f"ratio {ratio}  A/A {again}", flush=True)
                rows.append({"engine": engine, "load": name, "ratio": ratio, "again": again, "slices": pairs})
        finally:
            daemon.terminate()
            daemon.wait()
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"payload_bytes": PAYLOAD, "rows": rows}, file, indent=1)
            file.write("\n")


main()
