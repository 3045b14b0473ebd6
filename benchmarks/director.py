"""Measures a whole Director tenant: `python benchmarks/director.py [--quick]`.

Five nodes, each with 300 lists, 110 alert rules, 200 devices and their collectors. Ratios of one
run: the apply over independent nodes beside the same apply with one call at a time, both against
the emulator on loopback, whose answers take 20 ms. Exit code 1 when a goal or a count is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import xlsxwriter

from dsync import emulators

NODES = 5
POOL = "b0b0b0b0b0b0b0b0b0b0b0b0b0b00001"
LATENCY_S = 0.02
KINDS = ("device_groups", "devices", "syslog_collectors", "static_lists", "alert_rules")
ROLE = "all_in_one"

# What a plan imports: the start of any tool in Python.
IMPORTS = (
    "dsync.cli.group, dsync.cli.plan, dsync.api, dsync.planning, dsync.mapping, dsync.expressions, "
    "dsync.diff, dsync.connectors.rest, duckdb"
)

Rows = list[list[object]]


def node_id(number: int) -> str:
    """The id of a node."""
    return f"c0ffee00c0ffee00c0ffee00c0ffee{number:02d}"


def workbook(path: Path, lists: int, alerts: int, devices: int) -> None:
    """A tenant's workbook of this size."""
    groups: Rows = [[f"group{number}", f"Group {number}"] for number in range(20)]
    device: Rows = [
        [f"host-{n:04}", f"192.0.2.{n % 200 + 1} | host-{n:04}.example.test", "Major", "Minor",
         "Minimal", "UTC", f"group{n % 20}"]
        for n in range(devices)
    ]  # fmt: skip
    fetcher: Rows = [
        ["SyslogCollector", f"host-{n:04}", "SyslogParser", "utf_8", "None", "default"]
        for n in range(devices)
    ]
    own: Rows = [
        [f"LIST_{n:03}", "static_list", json.dumps([f"v{n}-{i}" for i in range(20)])]
        for n in range(lists)
    ]
    alert: Rows = [
        [f"Many events of kind {n:03}", "admin", "high", "max", "greaterthan", 5, 25,
         json.dumps(["203.0.113.1:5504/default"]), 30, 0, 0, 1800, f"label=Event kind={n}", True]
        for n in range(alerts)
    ]  # fmt: skip
    sheets: dict[str, tuple[list[str], Rows]] = {
        "DeviceGroups": (["name", "description"], groups),
        "Device": (
            ["name", "ip", "availability", "confidentiality", "integrity", "timezone",
             "device_groups"],
            device,
        ),
        "DeviceFetcher": (
            ["app", "device_name", "parser", "charset", "proxy_condition", "processpolicy"],
            fetcher,
        ),
        "UserDefinedList": (["name", "list_type", "lists"], own),
        "Alert": (
            ["name", "settings.user", "settings.risk", "settings.aggregate",
             "settings.condition.condition_option", "settings.condition.condition_value",
             "settings.livesearch_data.limit", "settings.repos",
             "settings.livesearch_data.timerange_minute", "settings.livesearch_data.timerange_hour",
             "settings.livesearch_data.timerange_day", "settings.time_range_seconds",
             "settings.extra_config.query", "settings.active"],
            alert,
        ),
    }  # fmt: skip
    with xlsxwriter.Workbook(str(path)) as book:
        for name, (headers, rows) in sheets.items():
            sheet = book.add_worksheet(name)
            for number, row in enumerate([headers, *rows]):
                sheet.write_row(number, 0, row)


def project(folder: Path, url: str, sizes: tuple[int, int, int]) -> None:
    """A project of one tenant with five nodes that hold every kind."""
    folder.mkdir(parents=True)
    workbook(folder / "tenant.xlsx", *sizes)
    nodes = "\n".join(
        f'        - {{name: "node-{n}", id: "{node_id(n)}", ip_private: "198.51.100.{10 + n}"}}'
        for n in range(1, NODES + 1)
    )
    elements = [*KINDS, "user_defined_lists"]
    targets = "\n".join(f"    {element}: [{ROLE}]" for element in elements)
    (folder / "tenants.yml").write_text(
        f'tenants:\n  blue:\n    pool_uuid: "{POOL}"\n    siems:\n      {ROLE}:\n{nodes}\n'
        f"defaults:\n  target:\n{targets}\n"
    )
    (folder / "directorsync.yml").write_text(
        "version: 1\nconnections:\n  director:\n    system: director\n"
        f"    base_url: {url}\n    credentials: {{token: demo}}\n    job_interval_s: 0.02\n"
        "    scopes: tenants.yml\ncontext: {tenant: blue}\ninputs: {xlsx_path: tenant.xlsx}\n"
    )


def run(folder: Path, *words: str) -> tuple[float, str]:
    """Seconds that a command took, and what it printed."""
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "dsync", *words],
        cwd=folder, env={**os.environ, "HOME": str(folder.parent)}, text=True,
        capture_output=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{words}: exit {done.returncode}\n{done.stdout[-2000:]}{done.stderr}")
    return time.perf_counter() - begun, done.stdout


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a fifth of each kind")
    quick = parser.parse_args().quick
    sizes = (60, 22, 40) if quick else (300, 110, 200)
    names = [f"director/{kind}" for kind in KINDS]
    nodes = [f"{POOL}/{node_id(n)}/node-{n}/198.51.100.{10 + n}" for n in range(1, NODES + 1)]
    applied: dict[str, float] = {}
    beyond_s: dict[str, float] = {}
    rows: list[tuple[str, str]] = []
    faults = []
    with tempfile.TemporaryDirectory() as temp:
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-c", f"import {IMPORTS}"], check=True)
        start_s = time.perf_counter() - begun
        for name, more in (("side by side", ()), ("one call at a time", ("--concurrency", "1"))):
            with emulators.start("director", switches={"nodes": nodes}) as api:
                folder = Path(temp) / name.replace(" ", "-") / "project"
                project(folder, api.url, sizes)
                planned_s, _ = run(folder, "plan", *names, "--format", "json")
                ledger = api.ledger()
                network_s = ledger[-1]["answered_s"] - ledger[0]["monotonic_s"]
                beyond_s[name] = planned_s - network_s - start_s
                calls = Counter(
                    (call["method"], call["path"])
                    for call in ledger if "/orders/" not in call["path"]
                )  # fmt: skip
                if twice := [call for call, count in calls.items() if count > 1]:
                    faults.append(f"listed more than once: {twice[:3]}")
                api.switches({"latency_s": LATENCY_S})
                applied[name], _ = run(
                    folder, "apply", *names, "--yes", "--max-creates", "9999", *more
                )
                api.switches({"latency_s": 0})
                before = api.writes()
                again_s, told = run(folder, "apply", *names, "--yes", "--format", "json")
                counts = json.loads(told)["counts"]
                if api.writes() != before or counts.get("ERROR") or counts.get("CREATED"):
                    faults.append(f"the second apply was not empty: {counts}")
                rows.append((f"plan of all nodes, {name}", f"{planned_s:.2f} s"))
                rows.append((f"of it beyond network and start, {name}", f"{beyond_s[name]:.2f} s"))
                rows.append((f"second plan and apply, {name}", f"{again_s:.2f} s"))
    ratio = applied["one call at a time"] / applied["side by side"]
    rows += [(f"apply, {name}", f"{seconds:.1f} s") for name, seconds in applied.items()]
    rows.append(("one call at a time / side by side (goal: 4 or more)", f"{ratio:.2f}"))
    print(f"\n| {NODES} nodes; lists, alert rules, devices of each: {sizes} | |\n|---|--:|")
    for what, figure in rows:
        print(f"| {what} | {figure} |")
    if ratio < 4 and not quick:
        faults.append("less than four times as fast")
    for fault in faults:
        print(f"MISSED: {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
