"""Run all that is marked `torture`, and print how many cases of each set ran, passed, were skipped.

    python tests/torture/run.py               all of it
    python tests/torture/run.py --quick       a tenth of each set
    python tests/torture/run.py --scale 0.5 -k power

Other words go to pytest. The exit code is pytest's.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
SCALE = "DSYNC_TORTURE_SCALE"


def main() -> int:
    """The whole of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of each set")
    parser.add_argument("--scale", type=float, default=1.0, help="this share of each set")
    known, rest = parser.parse_known_args()
    scale = 0.1 if known.quick else known.scale
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.xml"
        words = ["-m", "torture", "-q", "--tb=short", f"--junitxml={results}", *rest]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *words],
            cwd=ROOT,
            env={**os.environ, SCALE: str(scale)},
            check=False,
        )
        if results.exists():
            show(results)
    print(f"{time.monotonic() - began:.0f} s, scale {scale:g}, exit {done.returncode}")
    return done.returncode


def show(results: Path) -> None:
    """The table: a line for each test, a sum, and why what was skipped was.

    A test that plays many cases says how many by its property `cases`; the last value counts.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    skipped: Counter[str] = Counter()
    # Written by pytest a moment ago, so it may be trusted.
    for case in ElementTree.parse(results).iter("testcase"):  # noqa: S314
        name = f"{case.get('classname', '').removeprefix('tests.')}.{case.get('name', '')}"
        name = name.partition("[")[0]
        ended, cases = "passed", 1
        for child in case.iter():
            if child.tag in ("failure", "error"):
                ended = "failed"
            elif child.tag == "skipped":
                ended = "skipped"
                skipped[f"{name}: {child.get('message')}"] += 1
            elif child.tag == "property" and child.get("name") == "cases":
                cases = int(child.get("value", "1"))
        counts[name][ended] += cases
    width = max(map(len, counts), default=4)
    print(f"\n{'set':<{width}} {'cases':>7} {'passed':>7} {'failed':>7} {'skipped':>7}")
    for name, found in [*sorted(counts.items()), ("all", sum(counts.values(), Counter()))]:
        numbers = (found.total(), found["passed"], found["failed"], found["skipped"])
        print(f"{name:<{width}} " + " ".join(f"{number:>7}" for number in numbers))
    for why, number in sorted(skipped.items()):
        print(f"skipped {number}: {why}")


if __name__ == "__main__":
    sys.exit(main())
