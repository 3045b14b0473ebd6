"""A tenant moved as a whole: every kind, several nodes, older commands; by the nodes' ledger."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

import commands
from dsync import emulators

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.integration


class Tenant:
    """The example's project, and an emulator that holds its nodes."""

    def __init__(self, folder: Path, api: Any) -> None:
        self.folder, self.api = folder, api
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("DSYNC_", "LP_"))},
            "PYTHONPATH": str(ROOT / "src"),
            "HOME": str(folder.parent),
        }
        self.run("init", str(folder), "--example", "director", cwd=folder.parent)
        config = folder / "directorsync.yml"
        config.write_text(config.read_text().replace("http://127.0.0.1:8701", api.url))

    def run(
        self, *words: str, code: int = 0, cwd: Path | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command; its exit code must be this one."""
        done = commands.run(
            *words,
            cwd=cwd or self.folder,
            env={**self.environment, **environment},
            timeout=120,
        )
        assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
        return done

    def calls(self, since: int = 0) -> list[dict[str, Any]]:
        """The calls that the API saw, orders that were looked at aside."""
        return [call for call in self.api.ledger(since) if "/orders/" not in call["path"]]

    @property
    def seen(self) -> int:
        """The number of the last call."""
        return max((call["seq"] for call in self.api.ledger()), default=0)


@pytest.fixture
def tenant(tmp_path: Path) -> Iterator[Tenant]:
    """A tenant of the example, nothing applied."""
    with emulators.start("director") as api:
        yield Tenant(tmp_path / "siem", api)


def test_a_whole_tenant(tenant: Tenant) -> None:
    """All kinds on all nodes by two commands; the second apply writes nothing, the plan is empty.

    A plan lists each inventory of a node once, though several profiles look into it.
    """
    planned = json.loads(
        tenant.run("plan", "director", "--detailed-exitcode", "--format", "json", code=2).stdout
    )
    kinds = {tally["profile"] for tally in planned["tallies"] if tally["create"] or tally["update"]}
    assert len(kinds) >= 11, kinds
    assert len({tally["scope"] for tally in planned["tallies"]}) >= 3
    listed = Counter((call["method"], call["path"]) for call in tenant.calls())
    assert set(listed.values()) == {1}, [call for call, n in listed.items() if n > 1]

    tenant.run("apply", "director", "--yes")
    before = tenant.seen
    again = tenant.run("plan", "director", "--detailed-exitcode")
    assert "Nothing to do" in again.stdout
    tenant.run("apply", "director", "--yes")
    fetches = ("/fetch", "/refreshlist")
    written = [
        call for call in tenant.calls(before)
        if call["method"] != "GET" and not call["path"].endswith(fetches)
    ]  # fmt: skip
    assert written == []


def test_rules_wait_for_repositories_of_all_nodes(tenant: Tenant) -> None:
    """Alert rules name repositories of back ends: no rule is made before the last repository is.

    And what comes into being with a rule, its state, is no stranger to a plan that is old.
    """
    (tenant.folder / "profiles" / "alert_states.yml").write_text(
        "version: 1\nextends: director/alert_states\nresource: alert_rules\n"
    )
    tenant.run("plan", "repos", "alert_rules", "alert_states", "--out", "night.plan")
    saved = (tenant.folder / "night.plan").read_bytes()
    assert b'"state":"deactivate"' in saved
    tenant.run("apply", "night.plan", "--yes")
    made = [effect for effect in tenant.api.effects() if effect["kind"] == "create"]
    repos = [effect["seq"] for effect in made if effect["resource"] == "Repos"]
    rules = [effect["seq"] for effect in made if effect["resource"] == "AlertRules"]
    assert max(repos) < min(rules)
    again = tenant.run("plan", "repos", "alert_rules", "alert_states", "--detailed-exitcode")
    assert "Nothing to do" in again.stdout


ODD = {
    "in other words": {
        "message_slash": "with",
        "order_pending": "null",
        "compiled_normalizer": "csv",
        "enrichment_source": "spaces",
        "collector_addresses": "text",
        "distributed_collectors": "flat",
        "alert_rows": "nested",
        "shuffle_lists": True,
    },
    "with less": {
        "order_pending": "absent",
        "order_success": "status",
        "compiled_normalizer": "absent",
        "enrichment_source": "underscore_id",
        "alert_jinja": "ignored",
        "membership": "one_sided",
        "effect_time": "at_once",
        "extra_fields": False,
    },
}


@pytest.mark.parametrize("switches", ODD.values(), ids=list(ODD))
def test_nodes_that_speak_oddly(tmp_path: Path, switches: dict[str, Any]) -> None:
    """However a node writes its orders and records: all of it is applied, and seen as applied."""
    with emulators.start("director", switches=switches) as api:
        tenant = Tenant(tmp_path / "siem", api)
        tenant.run("apply", "director", "--yes")
        again = tenant.run("plan", "director", "--detailed-exitcode")
    assert "Nothing to do" in again.stdout


def test_every_trap_has_its_test() -> None:
    """The table of the API's traps has all sixty, and each names tests that exist."""
    page = ROOT / "docs" / "decisions" / "0012-director.md"
    rows = re.findall(r"^\| ([\d, ]+) \|(.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(int(n) for numbers, _ in rows for n in numbers.split(",")) == [*range(1, 61)]
    files = (ROOT / "tests").rglob("test_*.py")
    there = set(re.findall(r"^def (test_\w+)", "\n".join(f.read_text() for f in files), re.M))
    for numbers, told in rows:
        named = set(re.findall(r"`(test_\w+)`", told))
        assert named, numbers
        assert named <= there, numbers


def test_an_offline_plan_says_the_same(tenant: Tenant) -> None:
    """With inventories from a dump and with those of the nodes, rows get the same statuses."""
    live = json.loads(tenant.run("plan", "director", "--format", "json").stdout)
    tenant.run("dump", "director", "--out", "held")
    offline = json.loads(
        tenant.run("plan", "director", "--existing", "held", "--format", "json").stdout
    )
    assert offline["tallies"] == live["tallies"]
    assert offline["changes"] == live["changes"]


def test_a_dead_node_is_its_own_error(tenant: Tenant) -> None:
    """A node that cannot be read stops nobody else: its rows are errors, the others are written."""
    tenant.api.faults(
        [{"match": {"path": ".*c0ffee01/.*"}, "fault": "status", "status": 500}]
    )  # blue-be-1
    told = tenant.run("apply", "director/repos", "--yes", "--retries", "0", code=4).stdout
    assert "CREATED=8" in told
    assert "ERROR=8" in told
    assert "blue-be-1 could not be read" in told


@pytest.mark.parametrize("first", [True, False], ids=["flags first", "flags last"])
def test_the_older_commands(tenant: Tenant, first: bool, tmp_path: Path) -> None:
    """The older names, flags, variables and exit codes work without any configuration."""
    bare = tmp_path / "bare"
    bare.mkdir()
    environment = {
        "LP_DIRECTOR_URL": tenant.api.url,
        "LP_DIRECTOR_API_TOKEN": "demo",
        "LP_TENANTS_FILE": str(tenant.folder / "tenants.yml"),
        "LP_MONITOR_POLL_SEC": "0.05",
    }
    flags = ["--tenant", "blue", "--xlsx", str(tenant.folder / "data/tenant-blue.xlsx")]

    def command(name: str, *more: str, code: int = 0) -> str:
        words = [*flags, name, *more] if first else [name, *flags, *more]
        return tenant.run("director", *words, code=code, cwd=bare, **environment).stdout

    assert "+8 create" in command("import-repos", "--dry-run")
    assert tenant.api.writes() == 0
    assert "CREATED=16" in command("import-repos")
    assert "UNCHANGED=16" in command("import-repos")
    command("import-nothing", code=64)
    faults = str(tenant.folder / "data/tenant-blue-faults.xlsx")
    tenant.run(
        "director", "--tenant", "blue", "--xlsx", faults, "import-repos",
        code=3, cwd=bare, **environment,
    )  # fmt: skip
    tenant.run(
        "director", "--tenant", "red", "--xlsx", faults, "import-repos",
        code=2, cwd=bare, **environment,
    )  # fmt: skip
    tenant.run(
        "director", *flags, "import-repos",
        code=4, cwd=bare, **{**environment, "LP_DIRECTOR_API_TOKEN": "wrong"},
    )  # fmt: skip


def test_undo_of_devices_and_their_groups(tenant: Tenant) -> None:
    """Groups get their old words back before their new devices go: no member is missing."""
    others = [
        {"name": f"old-{n}", "ip": [f"192.0.2.{200 + n}"], "availability": "Minor",
         "confidentiality": "Minor", "integrity": "Minor"}
        for n in range(20)
    ]  # fmt: skip
    tenant.api.seed({"resource": "Devices", "objects": others})
    tenant.run("apply", "device_groups", "devices", "--yes", "--run-id", "day")
    approvals = ["--max-deletes", "100"]
    for node in ("blue-be-1", "blue-be-2"):
        approvals += ["--i-approve-deleting", "5-of-25", "--target", f"director/{node}"]
    told = tenant.run("undo", "day", "--apply", "--delete", "--yes", *approvals).stdout
    assert "UPDATED=4 | DELETED=12" in told
    again = json.loads(tenant.run("plan", "device_groups", "devices", "--format", "json").stdout)
    assert sum(tally["create"] + tally["update"] for tally in again["tallies"]) == 16


def test_the_same_without_prefetch(tenant: Tenant) -> None:
    """Each inventory of a node is listed once in a run, and prefetching changes no status."""
    first = json.loads(tenant.run("plan", "director", "--format", "json").stdout)
    gets = Counter(call["path"] for call in tenant.calls() if call["method"] == "GET")
    assert set(gets.values()) == {1}
    assert any(path.endswith("/DeviceGroups") for path in gets)
    second = json.loads(tenant.run("plan", "director", "--no-prefetch", "--format", "json").stdout)
    for part in ("tallies", "changes", "findings"):
        assert second[part] == first[part]


def test_a_token_that_dies_during_a_run(tenant: Tenant) -> None:
    """It is renewed at the first 401, once, and no row is lost by it."""
    config = tenant.folder / "directorsync.yml"
    text = config.read_text().replace(
        "token: demo\n", "token: demo\n      secret_key: demo-secret\n", 1
    )
    config.write_text(text)
    assert "demo-secret" in text

    def grow_old() -> None:
        while not tenant.api.writes():
            time.sleep(0.01)
        tenant.api.advance(9 * 3600)

    waiting = Thread(target=grow_old, daemon=True)
    waiting.start()
    told = tenant.run("apply", "director/repos", "--yes", "--node", "blue-be-1").stdout
    waiting.join()
    assert "CREATED=8" in told
    answers = [(call["path"].rpartition("/")[2], call["status"]) for call in tenant.api.ledger()]
    renewed = [name for name, _ in answers if name == "refreshToken"]
    assert len(renewed) == 1
    assert [status for _, status in answers].count(401) >= 1


def test_lists_are_refreshed_after_writes(tenant: Tenant) -> None:
    """A node shows changed lists only when it is told to: it is, and the next plan is empty."""
    tenant.run("apply", "static_lists", "dynamic_lists", "--yes")
    calls = [(call["method"], call["path"].rpartition("Lists")[2]) for call in tenant.calls()]
    assert calls.count(("POST", "/refreshlist")) >= 1
    last = max(n for n, call in enumerate(calls) if call[1].startswith(("/static", "/dynamic")))
    assert ("POST", "/refreshlist") in calls[last:]
    again = tenant.run("plan", "static_lists", "dynamic_lists", "--detailed-exitcode")
    assert "Nothing to do" in again.stdout


def test_the_report_of_owners(tenant: Tenant) -> None:
    """The report names who owns each alert rule on each search head, and writes nothing."""
    tenant.run("apply", "director", "--yes")
    before = tenant.api.writes()
    rows = json.loads(tenant.run("director", "--format", "json", "list-alert-users").stdout)
    assert rows
    assert {row["result"] for row in rows} == {"report"}
    assert all(row["owner"] for row in rows)
    assert tenant.api.writes() == before
