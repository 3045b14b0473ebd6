"""The older connector's names do what they did: the same environment, rows and columns."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
import urllib.request
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tdclient

from dsync import emulators
from treasure_data_literals import rows_of

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parent.parent
COMPAT = ROOT / "examples/yotpo/compat"


class World:
    """A store, an account, and the environment that a workflow gives the older connector."""

    def __init__(self, folder: Path, yotpo: Any, warehouse: Any) -> None:
        self.folder, self.yotpo, self.warehouse = folder, yotpo, warehouse
        self.variables = {
            "YOTPO_CLIENT_SECRET": "demo-secret",
            "YOTPO_STORE_ID": "demo-store",
            "TD_API_KEY": "1/demo",
            "TD_DATABASE": "cdp",
            "YOTPO_BASE_URL": f"{yotpo.url}/core/v3",
            "TD_API_SERVER": f"{warehouse.url}/",
        }

    def run(self, *words: str, without: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        """Run a command where the package is found as it was before."""
        known = {
            k: v for k, v in os.environ.items() if not k.startswith(("DSYNC_", "TD_", "YOTPO"))
        }
        variables = {k: v for k, v in {**self.variables, **more}.items() if k != without}
        return subprocess.run(
            [sys.executable, *words],
            cwd=self.folder,
            env={**known, **variables, "PYTHONPATH": f"{COMPAT}:{ROOT / 'src'}"},
            capture_output=True,
            text=True,
            timeout=60,
        )

    def records(self, table: str = "yotpo_customers") -> list[str]:
        """The customers of a table, each as its JSON with sorted keys."""
        return sorted(
            json.dumps(json.loads(row["json_response"]), sort_keys=True)
            for row in rows_of(self.warehouse, table)["rows"]
        )


@pytest.fixture(scope="module")
def apis() -> Iterator[tuple[Any, Any]]:
    with (
        emulators.start("yotpo", switches={"customers": 120, "store_rate_per_s": 0}) as yotpo,
        emulators.start(
            "treasure_data",
            switches={"databases": ["cdp"], "perform_polls": 0, "commit_polls": 0},
        ) as warehouse,
    ):
        yield yotpo, warehouse


@pytest.fixture
def world(apis: tuple[Any, Any], tmp_path: Path) -> World:
    for api in apis:
        api.faults([])
        api.reset()
    return World(tmp_path, *apis)


@pytest.fixture
def old(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module `yotpo.main`, imported as the older one was."""
    for name, value in world.variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("YOTPO_LOAD_DIR", str(world.folder / "yotpo-load"))
    monkeypatch.syspath_prepend(str(COMPAT))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        module = importlib.import_module("yotpo.main")
    assert [one for one in said if one.category is DeprecationWarning]
    monkeypatch.setattr(module, "RETRY_DELAY_SEC", 0)
    monkeypatch.setattr(module, "REQUESTS_PER_SECOND", 1000)
    yield module
    for name in ("yotpo.main", "yotpo"):
        sys.modules.pop(name, None)


def before(world: World) -> None:
    """What the older connector did on clean input: page by page into the table `before`."""
    url = f"{world.yotpo.url}/core/v3/stores/demo-store"
    body = json.dumps({"secret": "demo-secret"}).encode()
    asked = urllib.request.Request(
        f"{url}/access_tokens", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(asked) as answer:
        token = json.load(answer)["access_token"]
    rows, more = [], "include_custom_properties=true&expand=loyalty"
    page = f"limit=100&{more}"
    while page:
        asked = urllib.request.Request(f"{url}/customers?{page}", headers={"X-Yotpo-Token": token})
        with urllib.request.urlopen(asked) as answer:
            found = json.load(answer)
        rows += found["customers"]
        cursor = (found.get("pagination") or {}).get("next_page_info")
        page = f"page_info={cursor}&{more}" if cursor else ""
    now = int(time.time())
    table = [{"json_response": json.dumps(row, separators=(",", ":")), "time": now} for row in rows]
    world.warehouse.seed({"rows": {"cdp.before": table}})


def test_the_same_rows(world: World) -> None:
    """`python -m yotpo.main` brings the rows of the older connector, letter for letter (A17).

    Wherever the machine is: `time` is the moment of the load (A18).
    """
    before(world)
    expected = rows_of(world.warehouse, "before")["rows"]
    for zone in ("America/New_York", "Pacific/Auckland"):
        world.warehouse.reset()
        began = int(time.time())
        done = world.run("-m", "yotpo.main", TZ=zone)
        assert done.returncode == 0, done.stderr
        rows = rows_of(world.warehouse)["rows"]
        assert sorted(r["json_response"] for r in rows) == sorted(
            r["json_response"] for r in expected
        )
        assert {frozenset(row) for row in rows} == {frozenset(("json_response", "time"))}
        assert all(began <= row["time"] <= time.time() for row in rows)
        assert "INFO - Loaded 120 customers" in done.stderr
        assert "DeprecationWarning" in done.stderr
    client = tdclient.Client(apikey="1/demo", endpoint=world.warehouse.url)
    assert [t.schema for t in client.tables("cdp")] == [[["json_response", "string"]]]


@pytest.mark.parametrize("missing", ["YOTPO_CLIENT_SECRET", "YOTPO_STORE_ID", "TD_API_KEY"])
def test_a_variable_is_missing(world: World, missing: str) -> None:
    """Importing the module is enough to learn which variables it needs."""
    done = world.run("-c", "import yotpo.main", without=missing)
    assert done.returncode == 1
    said = done.stderr.splitlines()[-1]
    assert said.startswith("ValueError")
    assert all(name in said for name in ("YOTPO_CLIENT_SECRET", "YOTPO_STORE_ID", "TD_API_KEY"))


def test_a_failed_page_fails_the_load(world: World) -> None:
    """What used to be a success with missing rows is exit 1 and an untouched table."""
    world.yotpo.faults([{"match": {"path": "page_info"}, "fault": "status", "status": 404,
                         "when": "before"}])  # fmt: skip
    done = world.run("-m", "yotpo.main")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "demo-secret" not in done.stderr
    state = world.warehouse.state()["databases"]["cdp"]
    assert all(table["count"] == 0 for table in state.values())


def test_its_functions(world: World, old: ModuleType) -> None:
    """Token, page and batch: the functions of the older module give what they gave."""
    token = old.get_access_token()
    assert isinstance(token, str)
    url = f"{world.yotpo.url}/core/v3/stores/demo-store/customers?limit=100"
    page = old.fetch_page_with_retry(url, {"X-Yotpo-Token": token})
    assert len(page["customers"]) == 100
    assert old.fetch_page_with_retry(url, {"X-Yotpo-Token": "wrong"}) is None
    assert old.upload_batch_to_td(page["customers"], 1) is True
    assert old.upload_batch_to_td(page["customers"][:3], 2) is True
    assert rows_of(world.warehouse)["count"] == 103
    assert world.records()[0].startswith("{")


def test_pages_that_fail_for_a_while(world: World, old: ModuleType) -> None:
    """A page is asked for four times; HTML is no page, and no results are an empty one."""
    url = f"{world.yotpo.url}/core/v3/stores/demo-store/customers"
    headers = {"X-Yotpo-Token": old.get_access_token()}
    world.yotpo.faults([
        {"match": {"path": "/customers", "nth": 1}, "fault": "html", "when": "before"},
        {"match": {"path": "/customers", "nth": 2}, "fault": "status", "when": "before",
         "status": 502},
        {"match": {"path": "/customers", "nth": 3}, "fault": "reset", "when": "before"},
    ])  # fmt: skip
    assert len(old.fetch_page_with_retry(url, headers)["customers"]) == 100
    world.yotpo.faults([{"match": {"path": "/customers"}, "fault": "html", "when": "before"}])
    assert old.fetch_page_with_retry(url, headers) is None
    world.yotpo.faults([])
    world.yotpo.switches({"no_results": "400"})
    try:
        nobody = f"{url}?email=nobody@example.test"
        assert old.fetch_page_with_retry(nobody, headers) == {"customers": []}
    finally:
        world.yotpo.switches({"no_results": None})


def test_the_project_that_stays(world: World) -> None:
    """What the first call leaves is a project without secrets that `dsync load` understands."""
    assert world.run("-m", "yotpo.main").returncode == 0
    folder = world.folder / "yotpo-load"
    text = "".join(p.read_text() for p in folder.rglob("*.yml"))
    assert "demo-secret" not in text
    assert "1/demo" not in text
    world.folder = folder
    words = ("load", "loyalty_profiles", "--run-id", "night", "--mode", "replace", "--yes")
    for _ in range(2):
        done = world.run("-m", "dsync", *words)
        assert done.returncode == 0, done.stderr
        assert rows_of(world.warehouse)["count"] == 120


def test_the_workflow(world: World) -> None:
    """The Digdag task is `dsync load`: its exit code fails the task, its run id goes on."""
    text = (COMPAT / "yotpo_load.dig").read_text()
    assert "py>: yotpo.workflow.load" in text
    for name in ("YOTPO_CLIENT_SECRET", "YOTPO_STORE_ID", "TD_API_KEY"):
        assert f"{name}: ${{secret:" in text
    assert world.run("-m", "yotpo.main").returncode == 0
    world.folder = world.folder / "yotpo-load"
    task = "import yotpo.workflow as w; w.load('loyalty_profiles', 'loyalty-20260101')"
    assert world.run("-c", task).returncode == 0
    assert rows_of(world.warehouse)["count"] == 240
    assert world.run("-c", task).returncode == 0
    assert rows_of(world.warehouse)["count"] == 240
    failed = world.run("-c", task.replace("20260101", "20260102"), TD_API_KEY="1/other")
    assert failed.returncode == 1
    assert "exit code 9" in failed.stderr
