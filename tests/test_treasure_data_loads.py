"""`dsync load` from the Yotpo emulator into the Treasure Data emulator, as a user runs it."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import commands
from dsync import emulators
from treasure_data_literals import rows_of

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parent.parent
PROFILE: dict[str, Any] = {
    "version": 1,
    "resource": "customers",
    "source": {"api": {"connection": "yotpo", "resource": "customers"}},
    "load": {
        "into": {"connection": "warehouse", "database": "cdp", "table": "yotpo_customers"},
        "mode": "replace",
        "identity": ["external_id", {"path": "email", "caseless": True}, "phone_number"],
    },
}


class Nightly:
    """A project with one load, a store and an account."""

    def __init__(self, folder: Path, yotpo: Any, warehouse: Any) -> None:
        self.folder, self.yotpo, self.warehouse = folder, yotpo, warehouse
        self.write(PROFILE)
        self.configure(base_url=warehouse.url)

    def configure(self, **warehouse: Any) -> None:
        """Write the configuration; `warehouse` says where the account is."""
        store = f"{self.yotpo.url}/core/v3/stores/demo-store"
        connections = {
            "yotpo": {
                "system": "yotpo", "base_url": store, "rate": "1000/s", "burst": 1000,
                "credentials": {"secret": "${env:YOTPO_CLIENT_SECRET}"},
            },
            "warehouse": {
                "warehouse": "treasure_data", "credentials": {"key": "${env:TD_API_KEY}"},
                **warehouse,
            },
        }  # fmt: skip
        text = json.dumps({"version": 1, "connections": connections})
        (self.folder / "directorsync.yml").write_text(text)

    def write(self, profile: dict[str, Any], **load: Any) -> None:
        """Write the profile."""
        folder = self.folder / "profiles"
        folder.mkdir(exist_ok=True)
        changed = {**profile, "load": {**profile["load"], **load}}
        (folder / "nightly.yml").write_text(json.dumps(changed))

    def start(self, *words: str, key: str = "1/demo") -> subprocess.Popen[str]:
        """Start a command."""
        return subprocess.Popen(
            [sys.executable, "-m", "dsync", *words],
            cwd=self.folder,
            env=self._environment(key),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str, code: int = 0, key: str = "1/demo") -> str:
        """Run a command; its exit code must be this one. Gives all that it said."""
        done = commands.run(*words, cwd=self.folder, env=self._environment(key))
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done.stdout + done.stderr

    def _environment(self, key: str) -> dict[str, str]:
        known = {k: v for k, v in os.environ.items() if not k.startswith("DSYNC_")}
        secrets = {"YOTPO_CLIENT_SECRET": "demo-secret", "TD_API_KEY": key}
        return {**known, **secrets, "PYTHONPATH": str(ROOT / "src")}

    def load(self, *words: str, code: int = 0, key: str = "1/demo") -> str:
        """Run the load `night`."""
        return self.run("load", "nightly", "--run-id", "night", "--yes", *words, code=code, key=key)

    @property
    def count(self) -> int:
        """How many rows the table has."""
        return int(rows_of(self.warehouse)["count"])


@pytest.fixture(scope="module")
def apis() -> Iterator[tuple[Any, Any]]:
    plain = {"store_rate_per_s": 0, "shared_email_every": 0}
    accounts = {
        "databases": ["cdp"], "perform_polls": 1, "commit_polls": 1,
        "keys": ["1/demo"], "write_only_keys": ["1/write-only"],
    }  # fmt: skip
    with (
        emulators.start("yotpo", switches=plain) as yotpo,
        emulators.start("treasure_data", switches=accounts) as warehouse,
    ):
        yield yotpo, warehouse


@pytest.fixture
def nightly(apis: tuple[Any, Any], tmp_path: Path) -> Nightly:
    yotpo, warehouse = apis
    for api in apis:
        api.faults([])
        api.reset()
    yotpo.switches({"customers": 250, "big_records": None, "big_bytes": None, "no_results": None})
    warehouse.seed({"rows": {"cdp.yotpo_customers": [{"json_response": "{}", "time": 1}]}})
    return Nightly(tmp_path, yotpo, warehouse)


@pytest.mark.parametrize("customers", [0, 1, 99, 100, 101])
@pytest.mark.parametrize("mode", ["replace", "append"])
def test_as_many_rows_as_customers(nightly: Nightly, customers: int, mode: str) -> None:
    """No customers, one, a full page and its neighbours: exactly as many rows (A1, A2)."""
    nightly.yotpo.switches({"customers": customers})
    nightly.load("--mode", mode)
    held = rows_of(nightly.warehouse)
    assert held["count"] == held["distinct"] == customers + (mode == "append")
    assert nightly.warehouse.state()["sessions"] == {}


def test_texts_arrive_byte_for_byte(nightly: Nightly) -> None:
    """Odd names and a record of 200 KB come out of the table as the API gave them (A19)."""
    nightly.yotpo.switches({"customers": 60, "big_records": [7], "big_bytes": 200_000})
    nightly.load()
    rows = rows_of(nightly.warehouse)["rows"]
    texts = [row["json_response"] for row in rows]
    assert max(map(len, texts)) > 200_000
    assert all(text.isascii() for text in texts)
    names = "".join(str(json.loads(text)["first_name"]) for text in texts)
    assert not names.isascii()


def test_records_in_error_stop_it(nightly: Nightly) -> None:
    """Records in error: not exit 0, a file with them, and the table as it was (A12)."""
    nightly.warehouse.faults([
        {"match": {"path": "perform"}, "fault": "error_records", "count": 3}
    ])  # fmt: skip
    said = nightly.load(code=10)
    assert "3 of 250" in said
    assert len(next(nightly.folder.rglob("rejected.ndjson")).read_text().splitlines()) == 3
    assert nightly.count == 1


def test_a_failed_job_is_performed_again(nightly: Nightly) -> None:
    """A job that failed ends the run; resume performs again, and uploads nothing twice (A13)."""
    nightly.warehouse.faults([{"match": {"path": "perform", "nth": 1}, "fault": "perform_failed"}])
    said = nightly.load(code=10)
    assert "DS-TD-PERFORM" in said
    assert nightly.count == 1
    seen = nightly.warehouse.ledger()[-1]["seq"]
    nightly.run("resume", "night")
    assert nightly.count == 250
    again = [c["path"] for c in nightly.warehouse.ledger(seen)]
    assert not [path for path in again if "upload_part" in path]


@pytest.mark.parametrize("route", ["upload_part", "commit", "swap"])
def test_lost_answers(nightly: Nightly, route: str) -> None:
    """A part, a commit and a swap whose answer gets lost are there once (A9, A10)."""
    nightly.warehouse.faults([
        {"match": {"path": route, "nth": 1}, "fault": "reset", "when": "after"}
    ])  # fmt: skip
    nightly.load()
    assert nightly.count == rows_of(nightly.warehouse)["identities"] == 250


def test_keys(nightly: Nightly) -> None:
    """Wrong keys and what a key may not do are told before a page is read (A20)."""
    said = nightly.load(code=8, key="1/write-only")
    assert "DS-TD-WRITE-ONLY" in said
    said = nightly.run(
        "load", "nightly", "--run-id", "other", "--yes", code=9, key="1/0123abcd0123"
    )
    assert "DS-TD-KEY" in said
    assert "0123abcd" not in said
    assert not [call for call in nightly.yotpo.ledger() if "/customers" in call["path"]]
    assert nightly.count == 1
    nightly.run("load", "nightly", "--mode", "append", "--run-id", "third", "--yes",
                key="1/write-only")  # fmt: skip
    assert nightly.count == 251


def test_a_region_that_is_none(nightly: Nightly) -> None:
    """A region that does not exist is told with those that do, and nothing is begun."""
    nightly.configure(region="mars")
    said = nightly.load(code=1)
    assert "DS-TD-REGION" in said
    assert "eu01" in said


@pytest.mark.parametrize("mode", ["replace", "append"])
def test_killed_and_resumed(nightly: Nightly, mode: str) -> None:
    """A load that is killed again and again ends with each customer once (A11)."""
    nightly.yotpo.switches({"customers": 350})
    nightly.warehouse.switches({"latency_s": 0.03})
    chance = random.Random(mode)  # noqa: S311 - the same instants each time
    nightly.write(PROFILE, mode=mode)
    for _ in range(5):
        child = nightly.start("load", "nightly", "--run-id", "night", "--yes")
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.communicate(timeout=0.3 + chance.random())
        child.send_signal(signal.SIGKILL)
        child.communicate()
    nightly.warehouse.switches({"latency_s": None})
    nightly.load()
    held = rows_of(nightly.warehouse)
    assert held["count"] == 350 + (mode == "append")
    assert held["identities"] == 350
    assert list(nightly.warehouse.state()["databases"]["cdp"]) == ["yotpo_customers"]
    assert nightly.warehouse.state()["sessions"] == {}


def test_nothing_shows_the_key(nightly: Nightly) -> None:
    """The key stands in no file that a load leaves, and in nothing that it says."""
    key = "1/00112233445566778899aabbccddeeff00112233"
    nightly.warehouse.switches({"keys": ["1/demo", key]})
    try:
        nightly.warehouse.faults([
            {"match": {"path": "commit", "nth": 1}, "fault": "status", "when": "before",
             "status": 422, "body": {"message": f"no such key {key}"}}
        ])  # fmt: skip
        said = nightly.load(code=10, key=key)
    finally:
        nightly.warehouse.switches({"keys": ["1/demo"]})
    assert "422" in said
    assert key not in said
    left = [p for p in nightly.folder.rglob("*") if p.is_file()]
    assert any(path.suffix == ".log" for path in left)
    assert not [path for path in left if key[2:].encode() in path.read_bytes()]


def test_time_is_the_moment_of_the_load(nightly: Nightly) -> None:
    """`time` is in seconds since 1970 (A18: every zone is in the compatibility tests)."""
    began = int(time.time())
    nightly.load()
    assert all(began <= row["time"] <= time.time() for row in rows_of(nightly.warehouse)["rows"])
