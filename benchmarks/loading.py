"""What a load costs beside a bare download of the same pages: `python benchmarks/loading.py`.

    --records N     of about 1.5 kB each (default 200000)
    --runs N        of each side, one after the other (default 3; the best of each counts)
    --latency S     how long the API takes for a page (default 0)
    --kinds A,B     warehouses (default ndjson,parquet; also treasure_data, its emulator)
    --emulator      from the Yotpo emulator, as it is without a limit; default: from a server that
                    costs next to nothing
    --old PYTHON    a Python with pytd: the way that loads were written before, into the emulator

Whole processes are measured, from their start to their end. The bare loop uses the same HTTP client
and throws the records away.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from dsync import emulators

HERE = Path(__file__).parent
SRC = HERE.parent / "src"


def measured(
    words: list[str], folder: Path, python: str = sys.executable
) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and peak MB of a process."""
    env = {**os.environ, "PYTHONPATH": str(SRC), "SECRET": "s"}
    began = time.perf_counter()
    child = subprocess.Popen(
        [python, *words], cwd=folder, env=env, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    out = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    wall_s = time.perf_counter() - began
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0, out
    return wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def project(folder: Path, url: str, kind: str, account: str = "") -> None:
    """A project that loads from `url` into a warehouse of this kind."""
    path = "out/wh.duckdb" if kind == "duckdb" else "out"
    yotpo = {"system": "yotpo", "base_url": url, "credentials": {"secret": "${env:SECRET}"}}
    warehouse: dict[str, object] = {"warehouse": kind, "path": path}
    if kind == "treasure_data":
        warehouse = {"warehouse": kind, "base_url": account, "credentials": {"key": "1/demo"}}
    connections = {"yotpo": {**yotpo, "limits": "none"}, "warehouse": warehouse}
    (folder / "directorsync.yml").write_text(json.dumps({"version": 1, "connections": connections}))


@contextlib.contextmanager
def served(chosen: argparse.Namespace) -> Iterator[str]:
    """The API that is loaded from; gives its base URL."""
    if chosen.emulator:
        switches = {
            "customers": chosen.records, "store_rate_per_s": 0, "tokens": ["bench"],
            "secret": "s", "latency_s": chosen.latency,
        }  # fmt: skip
        with emulators.start("yotpo", switches=switches) as api:
            yield f"{api.url}/core/v3/stores/demo-store"
        return
    server = subprocess.Popen(
        [sys.executable, str(HERE / "pages_server.py"), str(chosen.records), str(chosen.latency)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert server.stdout is not None
    try:
        yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
    finally:
        server.communicate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--kinds", default="ndjson,parquet")
    parser.add_argument("--emulator", action="store_true")
    parser.add_argument("--old", default="")
    chosen = parser.parse_args()
    servers = contextlib.ExitStack()
    url = servers.enter_context(served(chosen))
    folder = Path(tempfile.mkdtemp(prefix="dsync-load-"))
    kinds = [*chosen.kinds.split(","), *(["old"] if chosen.old else [])]
    best: dict[str, tuple[float, float, float]] = {}
    try:
        for _ in range(chosen.runs):
            for name in ("bare", *kinds):
                with contextlib.ExitStack() as stack:
                    account, python = "", sys.executable
                    if name in ("treasure_data", "old"):
                        switches = {"keys": ["1/demo"]}
                        account = stack.enter_context(
                            emulators.start("treasure_data", switches=switches)
                        ).url
                    if name == "bare":
                        words = [str(HERE / "peer_pages.py"), url, "bench"]
                    elif name == "old":
                        old = str(HERE / "peer_old_load.py")
                        words, python = [old, url, "bench", account], chosen.old
                    else:
                        project(folder, url, name, account)
                        words = ["-m", "dsync", "load", "yotpo/customers", "--yes", "-q"]
                    found = measured(words, folder, python)
                best[name] = min(best.get(name, found), found)
                shutil.rmtree(folder / "out", ignore_errors=True)
                shutil.rmtree(folder / ".dsync", ignore_errors=True)
    finally:
        servers.close()
        shutil.rmtree(folder)
    bare_s = best["bare"][0]
    print(f"{chosen.records:,} records, {chosen.latency * 1000:g} ms a page")
    for name, (wall_s, cpu_s, peak_mb) in best.items():
        print(
            f"{name:<10}{wall_s:8.2f} s {chosen.records / wall_s:12,.0f} records/s"
            f"{bare_s / wall_s:8.2f}x{1e6 * cpu_s / chosen.records:8.1f} us CPU/record"
            f"{peak_mb:8.0f} MB"
        )


if __name__ == "__main__":
    main()
