"""The examples run as their READMEs say, and the second apply writes nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from python_calamine import CalamineWorkbook

from dsync import emulators, logs
from dsync.cli import main
from dsync.emulators import Emulator

pytestmark = pytest.mark.integration

EXAMPLES = Path(__file__).parents[1] / "examples"
POOL = "b0b0b0b0b0b0b0b0b0b0b0b0b0b00001"
HEAD = "blue-sh-1"
BACKENDS = {
    "blue-be-1": f"{POOL}/c0ffee00c0ffee00c0ffee00c0ffee01",
    "blue-be-2": f"{POOL}/c0ffee00c0ffee00c0ffee00c0ffee02",
}
KINDS = {
    "Repos": 8, "RoutingPolicies": 5, "NormalizationPolicy": 5, "EnrichmentPolicy": 1,
    "ProcessingPolicy": 6, "DeviceGroups": 3, "Devices": 5, "SyslogCollectors": 5,
}  # fmt: skip
HEAD_KINDS = {"StaticLists": 2, "DynamicLists": 1, "AlertRules": 4, "AlertStates": 4}
WRITES = 2 * sum(KINDS.values()) + sum(HEAD_KINDS.values())


@dataclass
class Done:
    code: int
    out: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Project:
    """A project made from an example, and the emulator that its commands reach."""

    def __init__(self, emulator: Emulator, capsys: pytest.CaptureFixture[str]) -> None:
        self.emulator = emulator
        self._capsys = capsys

    def __call__(self, verb: str, *words: str) -> Done:
        self._capsys.readouterr()
        code = main([verb, "--base-url", self.emulator.url, *words])
        shown = self._capsys.readouterr()
        assert "Traceback" not in shown.err, shown.err
        return Done(code, shown.out)


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A folder of its own to be in, and no configuration from elsewhere."""
    for name in [name for name in os.environ if name.startswith(("DSYNC_", "LP_", "XDG_"))]:
        monkeypatch.delenv(name)
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    logs.close()


def _made(
    example: str, emulator: Emulator, home: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> Project:  # fmt: skip
    assert main(["init", "project", "--example", example]) == 0
    monkeypatch.chdir(home / "project")
    assert main(["validate"]) == 0
    return Project(emulator, capsys)


@pytest.fixture(scope="module")
def _director() -> Iterator[Emulator]:
    with emulators.start("director", switches={"order_polls": 0}) as emulator:
        yield emulator


@pytest.fixture
def director(
    _director: Emulator, home: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> Project:  # fmt: skip
    """The Director example, and nodes as the vendor delivers them."""
    _director.reset()
    return _made("director", _director, home, monkeypatch, capsys)


@pytest.fixture
def shop(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Project]:
    """The REST example, and an API without a record that gives two records a page."""
    switches = {"paging": "cursor", "max_page_size": 2}
    with emulators.start("plain", switches=switches) as emulator:
        yield _made("rest", emulator, home, monkeypatch, capsys)


def _node(emulator: Emulator, name: str) -> dict[str, list[dict[str, Any]]]:
    state = cast("dict[str, Any]", emulator.state())
    return cast("dict[str, list[dict[str, Any]]]", state["nodes"][BACKENDS[name]]["resources"])


def _by_name(records: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {record.get("policy_name") or record["name"]: record for record in records}


# --- Director -----------------------------------------------------------------------------------


def test_director_second_apply_writes_nothing(director: Project) -> None:
    """After a full apply the next plan is empty on every node, and an apply sends no write."""
    first = director("plan", "--detailed-exitcode", "--format", "json")
    assert first.code == 2
    counted = Counter((change["scope"], change["resource"]) for change in first.json["changes"])
    assert counted == {
        **{(node, kind): n for node in BACKENDS for kind, n in KINDS.items()},
        **{(HEAD, kind): n for kind, n in HEAD_KINDS.items()},
    }
    updates = [c["key"][0] for c in first.json["changes"] if c["action"] == "update"]
    assert sorted(set(updates)) == ["linux", "windows"]  # groups that each node has, undescribed
    assert first.json["findings"] == []

    assert director("apply", "--yes").code == 0
    assert director.emulator.writes() == WRITES
    assert director("plan", "--detailed-exitcode").code == 0
    writes = director.emulator.writes()
    assert director("apply", "--yes").code == 0
    assert director.emulator.writes() == writes


def test_director_records_arrive(director: Project) -> None:
    """Names are the cleaned ones, paths end in a slash, floats are days, rules keep their order."""
    assert director("apply", "--yes").code == 0
    for name in BACKENDS:
        node = _node(director.emulator, name)
        repos = _by_name(node["Repos"])
        assert repos["Repo_network"]["repopath"] == [
            {"path": "/opt/immune/storage/", "retention": 90},
            {"path": "/opt/immune/cold/", "retention": 275},
        ]
        days = {key: repo["repopath"][0]["retention"] for key, repo in repos.items()}
        assert days["Repo_system"] == days["Repo_database"] == 365
        assert days["Repo_audit"] == 3650
        routes = _by_name(node["RoutingPolicies"])
        assert routes["rp_system"]["catch_all"] == "Repo_system"
        assert routes["rp_system"]["routing_criteria"] == []
        assert [
            (rule["type"], rule["key"], rule["value"], rule["repo"])
            for rule in routes["rp_web"]["routing_criteria"]
        ] == [
            ("KeyPresentValueMatches", "status_code", "500", "Repo_audit"),
            ("KeyPresentValueMatches", "norm_id", "Mail", "Repo_mail"),
            ("KeyPresent", "user", "", "Repo_identity"),
        ]
        assert routes["rp_endpoint"]["routing_criteria"][0]["repo"] == "default"
        packages = {package["id"]: package["name"] for package in node["NormalizationPackage"]}
        norms = _by_name(node["NormalizationPolicy"])
        assert {packages[id_] for id_ in norms["np_web"]["normalization_packages"]} == {
            "LP_Harbor Web Server",
            "LP_Borealis Proxy",
        }
        assert norms["np_identity"]["compiled_normalizer"] == [
            "JSONCompiledNormalizer",
            "XMLCompiledNormalizer",
        ]


def test_director_references_on_each_node(director: Project) -> None:
    """A processing policy has the id of the routing policy that the same apply made on its node."""
    assert director("apply", "--yes").code == 0
    seen = set()
    for name in BACKENDS:
        node = _node(director.emulator, name)
        routes = {route["id"]: route["policy_name"] for route in node["RoutingPolicies"]}
        hosts = _by_name(node["EnrichmentPolicy"])["ep_hosts"]["id"]
        policies = _by_name(node["ProcessingPolicy"])
        found = {
            key: (routes[policy["routing_policy"]], policy["norm_policy"], policy["enrich_policy"])
            for key, policy in policies.items()
            if key.startswith("pp_")
        }
        assert found == {
            "pp_system": ("rp_system", "None", "None"),
            "pp_network": ("rp_network", "np_network", hosts),
            "pp_web": ("rp_web", "np_web", "None"),
            "pp_identity": ("rp_identity", "np_identity", "None"),
            "pp_endpoint": ("rp_endpoint", "np_endpoint", "None"),
            "pp_mail": ("rp_system", "np_mail", "None"),
        }
        seen |= {policy["routing_policy"] for key, policy in policies.items() if key in found}
    assert len(seen) == 2 * KINDS["RoutingPolicies"]


def test_director_update(director: Project) -> None:
    """What a node has otherwise than the workbook is one update, of that field on that node."""
    assert director("apply", "--yes").code == 0
    director.emulator.seed(
        {
            "resource": "Repos",
            "node": "blue-be-2",
            "objects": [
                {
                    "name": "Repo_mail",
                    "hiddenrepopath": [{"path": "/opt/immune/storage/", "retention": 30}],
                    "repoha": [{"ha_li": "198.51.100.7", "ha_day": 30}],
                }
            ],
        }
    )
    (change,) = director("plan", "--format", "json").json["changes"]
    assert (change["action"], change["scope"], change["key"]) == (
        "update",
        "blue-be-2",
        ["Repo_mail"],
    )
    assert change["fields"] == ["hiddenrepopath"]
    assert director("apply", "--yes").code == 0
    repo = _by_name(_node(director.emulator, "blue-be-2")["Repos"])["Repo_mail"]
    assert repo["repopath"] == [{"path": "/opt/immune/storage/", "retention": 180}]
    # The workbook says nothing of remote days, and an edit without them would clear them.
    assert repo["repoha"] == [{"ha_li": "198.51.100.7", "ha_day": 30}]
    assert director("plan", "--detailed-exitcode").code == 0


def test_director_rows_from_csv(director: Project) -> None:
    """A sheet given as CSV is planned by the same profile, and a dry run writes nothing."""
    words = ("--profile", "repos", "--rows", "repos.csv", "--token", "demo", "--dry-run")
    done = director("apply", *words, "--format", "json")
    assert done.code == 0
    assert {change["key"][0] for change in done.json["changes"]} == {
        "Repo_system",
        "Repo_network",
        "Repo_archive",
    }
    assert director.emulator.counts()["effects"] == {"create": 0, "update": 0, "delete": 0}


def test_director_other_tenant(director: Project) -> None:
    """The other tenant's records go to its only node."""
    done = director("plan", "repos", "--tenant", "green", "--format", "json")
    assert {change["scope"] for change in done.json["changes"]} == {"green-aio-1"}


FAULTS = {
    # (sheet, row, cell): (key, severity, code, what the message tells)
    ("Repo", 3, "C3"): ("Repo_network", "error", "DS-ROW-VALUE", "paths has 2, retentions has 1"),
    ("Repo", 4, "C4"): ("Repo_web", "skip", "DS-CHECK-MUST-EXIST-MANY", "/opt/immune/attic/"),
    ("Repo", 5, "D5"): ("Repo_mail", "error", "DS-ROW-VALUE", "not a whole number: [a year]"),
    ("Repo", 6, "D6"): ("Repo_database", "error", "DS-CHECK-MIN", "below 1"),
    ("Repo", 7, "B7"): (None, "error", "DS-CHECK-NON-EMPTY", "name is empty"),
    ("Repo", 8, "D8"): ("Repo_endpoint", "error", "DS-XLS-ERRCELL", "#N/A"),
    ("Repo", 9, "D9"): ("Repo_audit", "error", "DS-XLS-FORMULA", "never calculated"),
    ("Repo", 10, "B10"): ("Repo_twin", "error", "DS-KEY-DUP", "rows 10, 11"),
    ("Repo", 11, "B11"): ("Repo_twin", "error", "DS-KEY-DUP", "rows 10, 11"),
    ("Repo", 12, "C12"): ("Repo_vault", "error", "DS-CHECK-NON-EMPTY", "no storage path"),
    # Several rows make one policy: its findings are at the first of them, at a cell or at all.
    ("RoutingPolicy", 3, "E3"): ("rp_network", "error", "DS-CHECK-SQL", "different catch_all"),
    ("RoutingPolicy", 5, None): ("rp_web", "error", "DS-CHECK-SQL", "no rule_type, no key"),
    ("RoutingPolicy", 6, None): ("rp_identity", "error", "DS-CHECK-SQL", "rule has no value"),
    ("RoutingPolicy", 7, None): (
        "rp_endpoint", "skip", "DS-CHECK-MUST-EXIST-MANY",
        "a repo that the node does not have: Repo-gone",
    ),
    # Its repo is withheld by a fault of its own, so it will not be there either.
    ("RoutingPolicy", 8, "E8"): (
        "rp_mail", "skip", "DS-CHECK-MUST-EXIST", "the node has no repo Repo_mail",
    ),
    ("RoutingPolicy", 10, "I10"): ("rp_audit", "error", "DS-XLS-ERRCELL", "#N/A"),
    ("NormalizationPolicy", 3, "B3"): (
        "np_web", "skip", "DS-CHECK-MUST-EXIST-MANY", "LP_Unknown Thing",
    ),
    ("NormalizationPolicy", 4, "C4"): (
        "np_identity", "skip", "DS-CHECK-MUST-EXIST-MANY", "NoSuchCompiledNormalizer",
    ),
    ("NormalizationPolicy", 5, "B5"): ("np_endpoint", "skip", "DS-CHECK-SQL", "neither a package"),
    ("NormalizationPolicy", 6, "B6"): (
        "np_mail", "skip", "DS-CHECK-MUST-EXIST-MANY", "the case differs",
    ),
    ("ProcessingPolicy", 3, "G3"): (
        "pp_network", "skip", "DS-CHECK-NON-EMPTY", "Missing mandatory routing_policy",
    ),
    ("ProcessingPolicy", 4, "E4"): ("pp_web", "skip", "DS-CHECK-MUST-EXIST", "np_web"),
    ("ProcessingPolicy", 5, "F5"): ("pp_identity", "skip", "DS-CHECK-SQL", "EnrichmentPolicy"),
    ("ProcessingPolicy", 6, "G6"): (
        "pp_endpoint", "skip", "DS-CHECK-NON-EMPTY", "Missing mandatory routing_policy",
    ),
    ("ProcessingPolicy", 7, "F7"): ("pp_mail", "skip", "DS-CHECK-MUST-EXIST", "ep_threats"),
    ("EnrichmentPolicy", 3, "D3"): (
        "ep_threats", "skip", "DS-CHECK-MUST-EXIST-MANY", "no_such_feed",
    ),
    ("EnrichmentPolicy", 4, "D4"): ("ep_ruleless", "skip", "DS-CHECK-SQL", "has no rules"),
    ("EnrichmentPolicy", 5, "D5"): ("ep_free", "error", "DS-CHECK-SQL", "has no criteria"),
    ("EnrichmentPolicy", 6, "D6"): ("ep_sourceless", "error", "DS-CHECK-SQL", "names no source"),
    ("DeviceGroups", 2, "B2"): ("twin", "error", "DS-KEY-DUP", "rows 2, 3"),
    ("DeviceGroups", 3, "B3"): ("twin", "error", "DS-KEY-DUP", "rows 2, 3"),
    ("Device", 2, "H2"): ("fw-01", "warn", "DS-REF-MISSING", "no_such_group"),
    ("Device", 3, "C3"): ("web-01", "error", "DS-CHECK-NON-EMPTY", "the device has no address"),
    ("Device", 5, "D5"): ("dc-01", "error", "DS-CHECK-ONE-OF", "Huge"),
    ("DeviceFetcher", 3, "J3"): ("fw-01", "skip", "DS-CHECK-SQL", "that no relay has"),
    ("DeviceFetcher", 4, "B4"): ("web-01", "skip", "DS-CHECK-MUST-EXIST", "web-01"),
    ("DeviceFetcher", 5, "B5"): ("nowhere", "skip", "DS-CHECK-MUST-EXIST", "nowhere"),
    ("DeviceFetcher", 6, "B6"): (None, "skip", "DS-CHECK-NON-EMPTY", "more than one row"),
    ("UserDefinedList", 3, "F3"): ("TOOLS", "skip", "DS-CHECK-SQL", "vendor list"),
    ("UserDefinedList", 4, "G4"): ("SECRET_TOOLS", "skip", "DS-CHECK-SQL", "hidden list"),
    ("UserDefinedList", 5, "C5"): ("EMPTY", "skip", "DS-CHECK-SQL", "the list has no values"),
    ("UserDefinedList", 6, "C6"): ("NO_JSON", "error", "DS-ROW-VALUE", "not JSON: alice, bob"),
    ("UserDefinedList", 7, "A7"): ("-ODD-", "error", "DS-CHECK-MATCHES", "-ODD-"),
    ("UserDefinedList", 8, "B8"): ("TABLE", "error", "DS-CHECK-ONE-OF", "table"),
    ("UserDefinedList", 9, "D9"): ("OLD_IPS", "error", "DS-ROW-VALUE", "a day"),
    ("Alert", 3, "B3"): (None, "error", "DS-CHECK-NON-EMPTY", "duplicate name"),
    ("Alert", 4, "C4"): ("Of an unknown owner", "skip", "DS-CHECK-MUST-EXIST", "ghost"),
    ("Alert", 5, "AI5"): ("Two time units", "error", "DS-CHECK-SQL", "more than one unit"),
    ("Alert", 6, "I6"): ("Without a repo", "skip", "DS-CHECK-SQL", "has no repository"),
    ("Alert", 7, "I7"): ("Without a port", "error", "DS-CHECK-SQL", "without a port"),
    ("Alert", 8, "AI8"): ("Without a time", "error", "DS-CHECK-SQL", "no time range"),
    ("Alert", 9, "Y9"): ("Of the vendor", "skip", "DS-CHECK-SQL", "vendor rule"),
    ("Alert", 10, "E10"): ("Much too risky", "error", "DS-CHECK-ONE-OF", "extreme"),
    ("Alert", 11, "O11"): ("Assigned to nobody", "warn", "DS-REF-MISSING", "not found in Users"),
    ("Alert", 11, "M11"): ("Assigned to nobody", "warn", "DS-REF-MISSING", "T9999"),
}  # fmt: skip


def test_director_faults(director: Project) -> None:
    """Each planted fault is one finding at its cell, and what is good goes on."""
    words = ("--xlsx", "data/tenant-blue-faults.xlsx", "--node", "blue-be-1", "--node", HEAD)
    done = director("plan", *words, "--format", "json")
    assert done.code == 0
    found, stateless = {}, set()
    for finding in done.json["findings"]:
        place = finding["place"]
        if finding["profile"] == "alert_states":  # a rule that is not made has no state
            stateless.add(finding["key"][0])
            continue
        assert place["file"] == "data/tenant-blue-faults.xlsx"
        spot = (place["sheet"], place["row"], place["cell"])
        assert spot not in found, "two findings for one fault"
        expected = FAULTS.get(spot, (None, "", "", ""))
        key = finding["key"][0] if finding["key"] else None
        text = expected[3] if expected[3] in finding["message"] else finding["message"]
        found[spot] = (key, finding["severity"], finding["code"], text)
    assert found == FAULTS
    withheld = {
        key
        for (sheet, *_), (key, severity, *_) in FAULTS.items()
        if sheet == "Alert" and severity != "warn" and key and key != "Of the vendor"
    }
    assert stateless == withheld
    created = [change["key"][0] for change in done.json["changes"]]
    assert set(created) == {
        "Repo_system", "rp_system", "np_network", "pp_system", "fw-01", "relay-01", "ADMIN_USERS",
        "Many failed logins", "Assigned to nobody",
    }  # fmt: skip

    assert director("apply", *words, "--yes").code == 4
    assert len(director.emulator.effects()) == len(created)
    assert director("plan", *words, "--detailed-exitcode").code == 0


def test_director_workbooks_are_made(tmp_path: Path) -> None:
    """The workbooks hold what their script says."""
    script = EXAMPLES / "director" / "make_workbook.py"
    subprocess.run([sys.executable, script, tmp_path], check=True)
    for name in ("tenant-blue.xlsx", "tenant-blue-faults.xlsx"):
        there = CalamineWorkbook.from_path(EXAMPLES / "director" / "data" / name)
        made = CalamineWorkbook.from_path(tmp_path / name)
        assert there.sheet_names == made.sheet_names
        for sheet in made.sheet_names:
            rows = made.get_sheet_by_name(sheet).to_python()
            assert there.get_sheet_by_name(sheet).to_python() == rows


# --- a REST system of one's own -----------------------------------------------------------------


def _collection(shop: Project, name: str) -> dict[str, dict[str, Any]]:
    state = cast("dict[str, Any]", shop.emulator.state())
    return _by_name(state["collections"][name])


def test_shop_second_apply_writes_nothing(shop: Project) -> None:
    """Customers and their orders are made in one apply, and the next one has nothing to write."""
    first = shop("plan", "--detailed-exitcode", "--format", "json")
    assert first.code == 2
    (finding,) = first.json["findings"]
    assert (finding["key"], finding["severity"], finding["row"]) == (["SO-1007"], "skip", 12)

    assert shop("apply", "--yes").code == 0
    assert shop.emulator.writes() == 13
    assert shop("plan", "--detailed-exitcode").code == 0
    assert shop("apply", "--yes").code == 0
    assert shop.emulator.writes() == 13
    pages = [call for call in shop.emulator.ledger() if "cursor" in cast("Any", call["query"])]
    assert pages


def test_shop_records_arrive(shop: Project) -> None:
    """Values are typed, several rows make one order, and its customer is that one's number."""
    assert shop("apply", "--yes").code == 0
    customers, orders = _collection(shop, "customers"), _collection(shop, "orders")
    cedar = dict(customers["Cedar Clinic"])
    number = cedar.pop("id")
    assert isinstance(number, int)
    assert cedar == {
        "name": "Cedar Clinic",
        "label": "Cedar Clinic (NL)",
        "email": "desk@cedar.example.test",
        "active": True,
        "credit": 0,
        "since": "2021-01-01",
        "tags": ["health", "north"],
        "address": {"country": "NL"},
    }
    assert customers["Birch Bakery"]["address"] == {"country": "BE"}
    order = dict(orders["SO-1003"])
    order.pop("id")
    assert order == {
        "name": "SO-1003",
        "customer": number,
        "ordered": "2026-01-05",
        "status": "open",
        "quantity": 30,
        "lines": [
            {"sku": "GL-77", "quantity": 12},
            {"sku": "GL-78", "quantity": 12},
            {"sku": "GL-79", "quantity": 6},
        ],
    }


def test_shop_update_sends_what_differs(shop: Project) -> None:
    """A changed credit is one PATCH that holds this field only; the order of tags is no change."""
    assert shop("apply", "--yes").code == 0
    file = Path("data/customers.csv")
    text = file.read_text().replace("10000", "9000").replace("food;retail", "retail;food")
    file.write_text(text)
    assert shop("apply", "--yes").code == 0
    calls = shop.emulator.ledger()
    patches = [call["body"] for call in calls if call["method"] == "PATCH"]
    assert patches == [{"credit": 9000}]


def test_shop_prunes_when_told_to(shop: Project) -> None:
    """With the comment sign taken away, an order that is gone from the file is deleted."""
    assert shop("apply", "--yes").code == 0
    lines = Path("data/order_lines.csv").read_text().splitlines()
    kept = [line for line in lines if not line.startswith(("SO-1002", "SO-1007"))]
    Path("data/order_lines.csv").write_text("\n".join(kept) + "\n")
    assert shop("plan", "--detailed-exitcode").code == 0
    profile = Path("profiles/orders.yml")
    profile.write_text(
        profile.read_text().replace("# apply: {delete: true}", "apply: {delete: true}")
    )
    (change,) = shop("plan", "--format", "json").json["changes"]
    assert (change["action"], change["key"]) == ("delete", ["SO-1002"])
    assert shop("apply", "--yes").code == 8
    assert shop("apply", "--yes", "--allow-delete").code == 0
    assert "SO-1002" not in _collection(shop, "orders")


# --- an ERP and an expense service --------------------------------------------------------------

WANTED = {
    ("create", ("MTAwMDI=", "projects", "P0200")),
    ("create", ("MTAwMDI=", "MjAwMTE=", "1-AAA-001")),
    ("create", ("MTAwMDI=", "MjAwMTM=", "D0004")),
    ("create", ("new.boss@example.org",)),
    ("create", ("new.user@example.org",)),
    ("update", ("chg.user@example.org",)),
}


def test_n2f_second_apply_writes_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What N2F lacks are six writes, within a minute's quota; six bad rows of the ERP are told."""
    monkeypatch.setenv("N2F_CLIENT_ID", "demo-client")
    monkeypatch.setenv("N2F_CLIENT_SECRET", "demo-secret")
    seed = json.loads((EXAMPLES / "n2f" / "data" / "n2f.json").read_bytes())
    with emulators.start("n2f", seed=seed) as emulator:
        erp = _made("n2f", emulator, home, monkeypatch, capsys)
        there = ("--base-url", f"{emulator.url}/services/api/v2/", "n2f")
        first = erp("plan", *there, "--detailed-exitcode", "--format", "json")
        assert first.code == 2
        assert {(one["action"], tuple(one["key"])) for one in first.json["changes"]} == WANTED
        assert first.json["summary"]["unchanged"] == 109
        assert [one["severity"] for one in first.json["findings"]] == ["error"] * 6
        assert erp("apply", *there, "--yes").code == 4
        assert len(emulator.effects()) == len(WANTED)
        assert erp("plan", *there, "--detailed-exitcode").code == 0
        counts = emulator.counts()
        assert (counts["in_flight_max"], len(emulator.effects())) == (1, len(WANTED))
        unwanted = erp("plan", *there, "--delete", "--format", "json").json["changes"]
        assert [one["key"][-1] for one in unwanted] == ["gone.user@example.org", "OLD"]
