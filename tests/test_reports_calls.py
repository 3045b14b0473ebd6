"""What users get of a run's calls: the CSV, the metrics, the summary, beside an API's own count."""

from __future__ import annotations

import csv
import io
import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import commands
import dsync
from dsync import emulators
from dsync.calls import MOST_BYTES, Call, LeftOut, Recorder, read
from dsync.reports import RowResult, RunResult, kept, render_run
from dsync.reports.traffic import busiest

SRC = Path(dsync.__file__).resolve().parent.parent
TOKEN = "s3cr3t-t0ken-0f-th3-sh0p"
COLUMNS = [
    "api_success", "api_message", "api_status_code", "api_duration_ms", "api_timestamp",
    "api_error_details", "api_action_type", "api_object_type", "api_object_id", "api_scope",
]  # fmt: skip
SYSTEM = """
version: 1
system: shop
base_path: api
paging: {kind: offset, offset: offset, limit: limit, size: 25, total: total}
limits: {in_flight_s: 0.2}
resources:
  items:
    key: [name]
    settle_s: 0
    list: {path: items, records: data}
    create: {method: POST, path: items, retry: true}
    update: {method: PUT, path: "items/{id}", retry: true}
    delete: {path: "items/{id}"}
"""
PROFILE = """
version: 1
resource: items
target: {system: shop, resource: items}
source: {csv: {path: items.csv}}
mapping:
  name: {col: name, transform: [norm_str]}
  qty: {col: qty, transform: [to_int]}
identity: {natural_key: [name]}
payload: {name: "${name}", qty: "${qty}"}
prechecks:
  - {type: non_empty, field: qty, severity: error}
apply: {delete: true}
"""


class Shop:
    """A project, and the API that it writes to."""

    def __init__(self, folder: Path, api: Any) -> None:
        self.folder, self.api = folder, api
        for name, text in (("profiles/items.yml", PROFILE), ("systems/shop.yml", SYSTEM)):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        self.config()

    def config(self, more: str = "") -> None:
        """The configuration, and what else it says."""
        (self.folder / "directorsync.yml").write_text(
            "version: 1\nconnections:\n  shop:\n    system: shop\n"
            f"    base_url: '{self.api.url}'\n"
            f"    headers: {{X-Shop: '${{env:SHOP_TOKEN}}'}}\n{more}"
        )

    def rows(self, **items: object) -> None:
        """What is wanted."""
        with (self.folder / "items.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("name", "qty"), *items.items()])

    def run(self, *words: str, code: int = 0, **environment: str) -> str:
        """Run the command; gives what it printed on stdout."""
        environment = {"PYTHONPATH": str(SRC), "HOME": str(self.folder), **environment}
        done = commands.run(
            *words,
            cwd=self.folder, env={**os.environ, "SHOP_TOKEN": TOKEN, **environment}, timeout=60,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def apply(self, run_id: str, *words: str, code: int = 0, **environment: str) -> str:
        """Apply without a question."""
        words = ("--yes", "--delete", "--max-deletes", "9", "--run-id", run_id, *words)
        return self.run("apply", *words, code=code, **environment)

    def lines(self, run_id: str, code: int = 0) -> list[dict[str, str]]:
        """The CSV of calls."""
        text = self.run("report", run_id, "--format", "csv", code=code)
        return list(csv.DictReader(io.StringIO(text, newline="")))

    def metrics(self, run_id: str, code: int = 0) -> Any:
        """The metrics."""
        return json.loads(self.run("report", run_id, "--format", "metrics", code=code))


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """A project, and an API that holds three items."""
    with emulators.start("plain", switches={"paging": "offset"}) as api:
        held = [{"name": name, "qty": 1} for name in ("kept", "changed", "gone")]
        api.seed({"collection": "items", "objects": held})
        yield Shop(tmp_path / "project", api)


def test_every_call_is_counted(shop: Shop) -> None:
    """The metrics have as many calls as the API has seen, reads and retries too, and the counts
    by action are those of the CSV."""
    shop.rows(kept=1, changed=2, new=3, more=4, bad="")
    shop.api.faults(
        [{"match": {"method": "POST", "times": 2}, "fault": "status", "status": 503,
          "when": "before"}]
    )  # fmt: skip
    told = shop.apply("r1", code=4)
    lines, metrics = shop.lines("r1", code=4), shop.metrics("r1", code=4)
    assert list(lines[0]) == COLUMNS
    actions = Counter(line["api_action_type"] for line in lines if line["api_action_type"])
    assert actions == {"create": 2, "update": 1, "delete": 1}
    by_action = metrics["summary"]["operations_by_action"]
    assert {name: by_action[name]["count"] for name in actions} == actions
    assert {name: by_action[name]["success_count"] for name in actions} == actions
    assert metrics["summary"]["performance"]["total_api_calls"] == shop.api.counts()["total"]
    assert sum(one["api_calls"] for one in metrics["operations"]) == shop.api.counts()["total"]
    assert by_action["create"]["total_api_calls"] == 4
    assert metrics["summary"]["summary"]["total_records_processed"] == 5
    assert metrics["summary"]["operations_by_scope"] == {
        "items": {"total": 5, "success": 4, "errors": 1}
    }
    retries = metrics["retry_statistics"]["items.create"]
    assert retries["total_attempts"] == 4
    assert retries["retries"] == 2
    assert retries["retry_reasons"] == {"status 503": 2}
    assert len(retries["delays_used"]) == 2
    assert retries["total_delay_seconds"] > 0
    assert metrics["summary"]["memory"]["peak_usage_mb"] > 10
    assert {one["scope"] for one in metrics["memory_history"]} == {"", "items"}
    assert metrics["summary"]["memory"]["memory_samples"] == len(metrics["memory_history"]) > 1
    assert "retries: 2 (status 503: 2)" in told
    (line,) = (line for line in told.splitlines() if line.startswith("items "))
    assert line.split()[:5] == ["items", "6", "5", "1", "0"]


def test_lines_of_what_was_done(shop: Shop) -> None:
    """A line tells success, status, time and duration; unchanged rows have none."""
    shop.rows(kept=1, changed=2, new=3)
    shop.apply("r1")
    lines = {line["api_object_id"]: line for line in shop.lines("r1")}
    assert set(lines) == {"changed", "new", "gone"}
    assert {line["api_success"] for line in lines.values()} == {"True"}
    assert lines["new"]["api_message"] == "Upsert successful: 201"
    assert lines["new"]["api_status_code"] == "201"
    assert lines["gone"]["api_message"].startswith("Delete successful: 2")
    assert {line["api_scope"] for line in lines.values()} == {"items"}
    assert {line["api_object_type"] for line in lines.values()} == {"item"}
    assert all(float(line["api_duration_ms"]) > 0 for line in lines.values())
    assert lines["new"]["api_timestamp"][:4] == time.strftime("%Y")


def test_refused(shop: Shop) -> None:
    """A row that the API refuses has its status and the body, without our secrets and cut."""
    shop.rows(kept=1, changed=1, gone=1, new=3)
    body = {"message": f"no: X-Shop {TOKEN} " + "x" * 5000}
    shop.api.faults([{"match": {"method": "POST"}, "fault": "status", "status": 422, "body": body}])
    shop.apply("r1", code=4)
    (line,) = shop.lines("r1", code=4)
    assert line["api_success"] == "False"
    assert line["api_message"] == "Upsert failed: 422"
    assert line["api_status_code"] == "422"
    assert line["api_error_details"].startswith('{"message"')
    assert "no: X-Shop ***" in line["api_error_details"]
    assert len(line["api_error_details"]) <= 2000
    metrics = shop.metrics("r1", code=4)
    assert metrics["retry_statistics"]["items.create"]["total_attempts"] == 1
    assert metrics["error_history"][0]["status_code"] == 422
    assert list(metrics["summary"]["error_summary"].values()) == [1]
    folder = shop.folder / ".dsync" / "runs" / "r1"
    for path in folder.iterdir():
        assert TOKEN.encode() not in path.read_bytes(), path.name
    assert TOKEN not in json.dumps(metrics)


def test_formulas(shop: Shop) -> None:
    """A text that a spreadsheet would take for a formula begins with an apostrophe."""
    names = ["=1+1", "+49", "-2", "@cmd", 'plain "quoted", text', "gone", "kept", "changed"]
    shop.rows(**dict.fromkeys(names, 1))
    shop.apply("r1")
    found = {line["api_object_id"] for line in shop.lines("r1")}
    assert found == {"'=1+1", "'+49", "'-2", "'@cmd", 'plain "quoted", text'}


def test_resumed(shop: Shop) -> None:
    """The CSV of a run that was killed and resumed has every record once."""
    names = ["kept", *(f"item-{number:02}" for number in range(20))]
    shop.rows(**dict.fromkeys(names, 1))
    words = ("--i-approve-deleting", "2-of-3", "--target", "shop")
    shop.apply("r1", *words, code=-9, DSYNC_FAILPOINT="outcome.after:4")
    shop.run("resume", "r1")
    lines = shop.lines("r1")
    assert Counter(line["api_object_id"] for line in lines) == Counter(
        [*names[1:], "changed", "gone"]
    )
    assert {line["api_success"] for line in lines} == {"True"}
    assert len(list(read(shop.folder / ".dsync" / "runs" / "r1"))) > 20


def test_kept(shop: Shop) -> None:
    """Each apply leaves its reports in the folder, also one that failed, and old ones go."""
    shop.config("reports: {formats: [csv, metrics], dir: out, keep_days: 3}\n")
    folder = shop.folder / "out"
    folder.mkdir()
    old, foreign = folder / "api_logs_20200101_000000.log.csv", folder / "mine.csv"
    for path in (old, foreign):
        path.write_text("")
        os.utime(path, (0, 0))
    shop.rows(kept=1, changed=1, gone=1, new=3)
    shop.api.faults([{"match": {"method": "POST"}, "fault": "status", "status": 422}])
    shop.apply("r1", code=4)
    logs, metrics = sorted(folder.glob("api_logs_*")), sorted(folder.glob("metrics_*"))
    assert len(logs) == len(metrics) == 1
    assert not old.exists()
    assert foreign.exists()
    assert json.loads(metrics[0].read_text())["metadata"]["exit_code"] == 4
    assert "Upsert failed: 422" in logs[0].read_text()
    for path in (*logs, *metrics, *(shop.folder / ".dsync" / "runs" / "r1").iterdir()):
        assert path.stat().st_mode & 0o077 == 0, path.name
    # A run that is taken up again replaces its own file.
    shop.api.faults([])
    shop.run("resume", "r1", code=4)
    assert sorted(folder.glob("api_logs_*")) == logs


def test_kept_nowhere(shop: Shop) -> None:
    """A folder that cannot be written costs the reports, never the run."""
    (shop.folder / "out").write_text("no folder")
    shop.config("reports: {formats: [csv], dir: out}\n")
    shop.rows(kept=1, changed=1, gone=1, new=3)
    shop.apply("r1")


def test_out(shop: Shop) -> None:
    """`--out` writes a file, or into a folder under the known name."""
    shop.rows(kept=1, changed=1, gone=1, new=3)
    shop.apply("r1")
    (shop.folder / "there").mkdir()
    shop.run("report", "r1", "--format", "csv", "--out", "there")
    shop.run("report", "r1", "--format", "csv", "--out", "calls.csv")
    shop.run("report", "r1", "--format", "json", "--out", "there")
    (one,) = (shop.folder / "there").glob("api_logs_*.log.csv")
    assert one.read_bytes() == (shop.folder / "calls.csv").read_bytes()
    assert json.loads((shop.folder / "there" / "r1.json").read_text())["run_id"] == "r1"


def test_memory_limit(shop: Shop) -> None:
    """A limit that a large source does not fit in is told in words, and nothing was sent."""
    shop.rows(**{f"item-{number:06}-{'x' * 40}": number for number in range(60_000)})
    done = commands.run(
        "apply", "--yes", "--memory-limit", "4MB",
        cwd=shop.folder, timeout=60,
        env={**os.environ, "SHOP_TOKEN": TOKEN, "PYTHONPATH": str(SRC), "HOME": str(shop.folder)},
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "DS-MEMORY" in done.stderr
    assert "--memory-limit" in done.stderr
    assert shop.api.writes() == 0


def test_file_that_ends(tmp_path: Path) -> None:
    """A file of calls that is full or cannot be written ends; what was left out is counted."""
    call = Call(at=1.0, action="list", method="GET", path="items")
    record = Recorder(tmp_path / "calls.ndjson")
    record(call)
    record._size = MOST_BYTES
    record(call)
    record(call)
    record.close()
    assert list(read(tmp_path)) == [call, call, LeftOut(calls=1)]
    nowhere = Recorder(tmp_path / "missing" / "calls.ndjson")
    nowhere(call)
    nowhere.close()
    assert nowhere.left_out == 1


def test_half_a_line(tmp_path: Path) -> None:
    """What a killed process left unfinished is passed over, and the next line stands alone."""
    call = Call(at=1.0, action="list", method="GET", path="items")
    (tmp_path / "calls.ndjson").write_bytes(b'{"type":"call","at":1.0,"act')
    record = Recorder(tmp_path / "calls.ndjson")
    record(call)
    record.close()
    assert list(read(tmp_path)) == [call]


def test_busiest_minute() -> None:
    """Calls exactly a minute apart are not of one minute."""
    assert busiest([0.0, 10.0, 59.9, 60.0, 61.0]) == 4
    assert busiest([]) == 0


def test_two_runs_of_one_second(tmp_path: Path) -> None:
    """Two runs that began in the same second have two files."""
    runs = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        runs.append(
            RunResult(run_id=name, plan_digest="", exit_code=0, counts={}, folder=tmp_path / name)
        )
    stamp = time.strftime("%Y")
    paths = {kept.save(tmp_path / "out", "csv", run, []) for run in runs}
    assert len(paths) == 2
    assert all(path.name.startswith(f"api_logs_{stamp}") for path in paths)


def test_journal_alone() -> None:
    """Without a list of calls the CSV has what the journal knows."""
    stream = io.StringIO()
    row = RowResult(
        status="ERROR", profile="n2f/projects", system="n2f", resource="axis_values",
        key=("ENT1", "PROJECT", "P0100"), action="delete", http_status=409, attempts=1,
        code="DS-CONFLICT", reason="in use",
    )  # fmt: skip
    run = RunResult(run_id="r", plan_digest="", exit_code=4, counts={})
    render_run(run, [row], stream, format="csv")
    assert stream.getvalue().splitlines()[1] == (
        "False,Delete failed: 409,409,0.00,,DS-CONFLICT in use,delete,axe,P0100,projects"
    )
