"""Measures plans and applies beside peers: `python benchmarks/run.py [--quick|--full]`.

Prints Markdown tables of ratios: a machine's seconds are its own, ratios travel. A case is a whole
process; the cases of a size run in turn, again and again, so that a slow minute of the machine hits
all of them; a ratio is the median of the ratios within a turn. Every answer is compared with what
the generator knows: a fast wrong plan is a failure. Exit code 1 when a case failed or was wrong.

Linux and macOS. This process stays small and does its checks in others, because a child's peak
memory is never counted as less than that of the process that started it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
PYTHON = sys.executable
SCRIPT = Path(PYTHON).with_name("dsync")
DSYNC = [str(SCRIPT)] if SCRIPT.exists() else [PYTHON, "-m", "dsync"]

# How dsync plans: adapt here and nowhere else. {data} is the folder of generate.py, {out} a new
# path for the plan. DSYNC_CHANGES reads the plan: one row a change, `action, key, fields`.
DSYNC_PLAN = [
    *DSYNC, "plan", "--project", str(HERE / "project"), "--profile", "bench",
    "--rows", "{data}/desired.csv", "--existing", "{data}/existing.ndjson",
    "--out", "{out}", "--max-rows", "1", "--quiet",
]  # fmt: skip
DSYNC_CHANGES = (
    "SELECT action, key[1] AS key, fields FROM read_ndjson('{file}', columns = "
    "{kind: 'VARCHAR', action: 'VARCHAR', key: 'VARCHAR[]', fields: 'VARCHAR[]'}) "
    "WHERE kind = 'change'"
)
LIMITED = ["--memory-limit", "512MB"]

# How dsync fetches everything that the emulator at {url} holds, one record a line.
DSYNC_FETCH = [
    *DSYNC, "dump", "--project", str(HERE / "project"), "--profile", "bench",
    "--base-url", "{url}", "--out", "{out}", "--quiet",
]  # fmt: skip
PAGE = 200
EMULATOR = [
    PYTHON, "-m", "dsync.emulators", "plain", "--until-stdin-closes", "--seed", "{seed}",
    "--switch", "paging=offset", "--switch", f"page_size={PAGE}", "--switch", "key=code",
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A command, and what its output is checked by: as a plan, or the number of its lines."""

    name: str
    command: Sequence[str]
    changes: str | None = None
    lines: int | None = None
    max_rows: int = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One run of one case: seconds of the clock and of all cores, megabytes at the peak."""

    wall_s: float
    cpu_s: float
    peak_mb: float


@dataclass(slots=True, kw_only=True)
class Series:
    """The runs of one case, and why it is not to be trusted, if so."""

    runs: list[Measure] = field(default_factory=list)
    fault: str | None = None


def plan(name: str, *options: str, max_rows: int = 10**9) -> Case:
    return Case(
        name=name,
        command=[*DSYNC_PLAN, *options],
        changes=DSYNC_CHANGES,
        max_rows=max_rows,
    )


def peer(name: str, script: str, max_rows: int = 10**9) -> Case:
    from_peer = "SELECT action, key, fields FROM read_ndjson('{file}', columns = {columns})"
    command = [PYTHON, str(HERE / script), "{data}", "{out}"]
    return Case(name=name, command=command, changes=from_peer, max_rows=max_rows)


SQL = peer("hand-written SQL", "peer_sql.py")
DIFFSYNC = peer("diffsync", "peer_diffsync.py", max_rows=100_000)
PLAN = plan("dsync plan")
BARE = Case(name="python -c pass", command=[PYTHON, "-c", "pass"])
HELP = Case(name="dsync --help", command=[*DSYNC, "--help"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="1e4 and 1e5 rows only")
    size.add_argument("--full", action="store_true", help="also 1e7 rows: 10 GB of disk, minutes")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--data", type=Path, default=HERE / "data")
    parser.add_argument("--only", help="only cases whose name holds this text")
    options = parser.parse_args()

    bench = Bench(options.data, repeats=options.repeats, only=options.only)
    sizes = [10_000, 100_000] if options.quick else [10_000, 100_000, 1_000_000]
    many = 4 * options.repeats
    bench.compare("Start-up", 0, [BARE, HELP], repeats=many)
    bench.compare("Plan of 100 rows", 100, [SQL, PLAN], repeats=many)
    for rows in sizes:
        bench.compare(f"Plan of {rows:,} rows", rows, [SQL, PLAN, DIFFSYNC])
    fetch(bench, 10_000 if options.quick else 100_000)
    beside(bench, "apply_cost.py", "--state", str(options.data), *["--quick"] * options.quick)
    beside(bench, "n2f.py", *["--quick"] * options.quick)
    if options.full:
        limited = plan("dsync plan, 512 MB", *LIMITED)
        bench.compare("Plan of 10,000,000 rows", 10_000_000, [PLAN, limited, SQL], repeats=1)
    return 1 if bench.faults else 0


def fetch(bench: Bench, rows: int) -> None:
    """Compares a fetch of the existing records with a bare loop over the same pages."""
    records = rows * 97 // 100
    title = f"Fetch of {records:,} records in pages of {PAGE}"
    with emulator(generated(bench.data, rows) / "existing.ndjson") as url:
        command = [PYTHON, str(HERE / "peer_download.py"), f"{url}/api/records", str(PAGE)]
        bare = Case(name="fetch: bare loop", command=[*command, "{out}", "data"], lines=records)
        dump = Case(name="fetch: dsync dump", command=filled(DSYNC_FETCH, url=url), lines=records)
        bench.compare(title, rows, [bare, dump])


def beside(bench: Bench, script: str, *options: str) -> None:
    """Runs a benchmark that prints and judges by itself: an apply's cost, an ERP's users."""
    name = script.removesuffix(".py")
    if bench.only and bench.only not in name:
        return
    command = [PYTHON, str(HERE / script), *options]
    if subprocess.run(command, check=False).returncode:
        bench.faults.append(name)


@contextlib.contextmanager
def emulator(records: Path) -> Iterator[str]:
    """The URL of a plain emulator in a process of its own, which holds `records`."""
    with tempfile.TemporaryDirectory(dir=records.parent) as folder:
        seed = Path(folder) / "seed.json"
        # Line by line: this process has to stay small.
        with seed.open("w") as file, records.open() as lines:
            file.write('{"collection": "records", "objects": [')
            for number, line in enumerate(lines):
                file.write("," * (number > 0) + line)
            file.write("]}")
        child = subprocess.Popen(
            filled(EMULATOR, seed=seed), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        # Leaving the block closes its stdin, and that ends it.
        with child:
            assert child.stdout
            yield child.stdout.readline().removeprefix("listening on ").strip()


class Bench:
    """The folder of generated data and of what the cases write, and what went wrong."""

    def __init__(self, data: Path, *, repeats: int, only: str | None) -> None:
        self.data = data
        self.only = only
        self.repeats = repeats
        self.faults: list[str] = []

    def compare(
        self, title: str, rows: int, cases: Sequence[Case], *, repeats: int | None = None
    ) -> None:
        """Runs the cases in turn and prints their table; ratios are to the first case."""
        cases = [case for case in cases if rows <= case.max_rows and (self.only or "") in case.name]
        if not cases:
            return
        repeats = repeats or self.repeats
        self.data.mkdir(parents=True, exist_ok=True)
        folder = generated(self.data, rows) if rows else self.data
        results = {case.name: Series() for case in cases}
        with tempfile.TemporaryDirectory(dir=self.data) as scratch:
            # The first turn warms the files and is not counted, unless it is the only one.
            for turn in range(repeats + (repeats > 1)):
                for case in cases:
                    series = results[case.name]
                    if series.fault:
                        continue
                    out = Path(scratch) / f"{turn}"
                    try:
                        measure = run(filled(case.command, data=folder, out=out))
                        if case.changes and turn == 0:
                            check(case.changes, out, folder / "expected.json")
                        if case.lines is not None:
                            check_lines(case.lines, out)
                    except Failed as failed:
                        series.fault = str(failed)
                        self.faults.append(f"{case.name}: {failed}")
                        continue
                    finally:
                        remove(out)
                    if turn or repeats == 1:
                        series.runs.append(measure)
        print(f"**{title}**, {repeats} turn{'s' * (repeats > 1)}\n\n{table(results)}", flush=True)


class Failed(Exception):
    """A case ended with an error, or with another answer than expected.json has."""


def generated(data: Path, rows: int) -> Path:
    """The folder with `rows` records, made now if it is not there."""
    folder = data / str(rows)
    if not (folder / "expected.json").exists():
        print(f"making {rows:,} records in {folder}", file=sys.stderr)
        command = [PYTHON, str(HERE / "generate.py"), str(rows), str(folder)]
        subprocess.run(command, check=True)
    return folder


def filled(command: Sequence[str], **values: object) -> list[str]:
    words = list(command)
    for name, value in values.items():
        words = [word.replace(f"{{{name}}}", str(value)) for word in words]
    return words


def run(command: Sequence[str]) -> Measure:
    """Runs a process to its end; its own children count as its own.

    Raises: Failed with the last line that it wrote to stderr.
    """
    with tempfile.TemporaryFile() as errors:
        begun = time.perf_counter()
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors
        )
        _, status, usage = os.wait4(child.pid, 0)
        wall_s = time.perf_counter() - begun
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            errors.seek(0)
            lines = errors.read().decode(errors="replace").strip().splitlines()
            raise Failed(f"exit code {child.returncode}: {lines[-1] if lines else 'no message'}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Measure(
        wall_s=wall_s,
        cpu_s=usage.ru_utime + usage.ru_stime,
        peak_mb=usage.ru_maxrss * unit / 1e6,
    )


def check(changes: str, out: Path, expected: Path) -> None:
    """Raises: Failed when the plan in `out` is not the expected one."""
    answer = subprocess.run(
        [PYTHON, str(HERE / "answer.py"), str(out), changes], capture_output=True, text=True
    )
    if answer.returncode:
        raise Failed(f"its answer cannot be read: {answer.stderr.strip().splitlines()[-1]}")
    found, wanted = json.loads(answer.stdout), json.loads(expected.read_text())
    wrong = [name for name in found if found[name] != wanted[name]]
    if wrong:
        differences = ", ".join(f"{name} {found[name]} not {wanted[name]}" for name in wrong)
        raise Failed(f"wrong answer: {differences}")


def check_lines(wanted: int, out: Path) -> None:
    """Raises: Failed when the file `out`, or the files below it, have not `wanted` lines."""
    found = 0
    for path in sorted(out.rglob("*.ndjson")) if out.is_dir() else [out]:
        with path.open("rb") as file:
            found += sum(1 for _ in file)
    if found != wanted:
        raise Failed(f"wrong answer: {found} records not {wanted}")


def remove(path: Path) -> None:
    if path.is_dir():
        subprocess.run(["rm", "-rf", str(path)], check=True)
    else:
        path.unlink(missing_ok=True)


def table(results: dict[str, Series]) -> str:
    """A Markdown table: medians, ranges, and ratios to the first case of the table."""
    first = next(iter(results.values()), None)
    lines = [
        "| case | wall s (min-max) | CPU s | peak MB | wall x | CPU x | memory x |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, series in results.items():
        if series.fault:
            lines.append(f"| {name} | {series.fault} | | | | | |")
            continue
        walls = sorted(run.wall_s for run in series.runs)
        cells = [
            f"{statistics.median(walls):.3g} ({walls[0]:.3g}-{walls[-1]:.3g})",
            f"{statistics.median(run.cpu_s for run in series.runs):.3g}",
            f"{statistics.median(run.peak_mb for run in series.runs):.0f}",
            ratio(first, series, lambda run: run.wall_s),
            ratio(first, series, lambda run: run.cpu_s),
            ratio(first, series, lambda run: run.peak_mb),
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def ratio(first: Series | None, series: Series, figure: Callable[[Measure], float]) -> str:
    """The median of the ratios within each turn: what slows a whole turn down cancels out."""
    if first is None or first.fault:
        return ""
    pairs = zip(first.runs, series.runs, strict=True)
    return f"{statistics.median(figure(b) / figure(a) for a, b in pairs):.2f}"


if __name__ == "__main__":
    sys.exit(main())
