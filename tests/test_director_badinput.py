"""Bad input of the Director: what an engineer is told, by which code, and at which cell.

Each case is a workbook with one thing wrong beside rows that are good; the node is the emulator's.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import xlsxwriter

import commands
from dsync import api, emulators
from dsync.emulators import Emulator
from dsync.errors import DsyncError

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.integration

Cell = str | int | None
Sheets = Mapping[str, tuple[Sequence[str], Sequence[Sequence[Cell]]]]

TENANTS = """\
tenants:
  blue:
    pool_uuid: "b0b0b0b0b0b0b0b0b0b0b0b0b0b00001"
    siems:
      search_heads:
        - {name: "blue-sh-1", id: "c0ffee00c0ffee00c0ffee00c0ffee09", ip_private: "198.51.100.13"}
      backends:
        - {name: "blue-be-1", id: "c0ffee00c0ffee00c0ffee00c0ffee01", ip_private: "198.51.100.11"}
        - {name: "blue-be-2", id: "c0ffee00c0ffee00c0ffee00c0ffee02", ip_private: "198.51.100.12"}
defaults:
  target:
    repos: [backends]
    routing_policies: [backends]
    normalization_policies: [all_in_one]
    enrichment_policies: [backends]
    processing_policies: [backends]
    device_groups: [backends]
    devices: [backends]
    syslog_collectors: [backends]
    user_defined_lists: [search_heads]
"""
CONFIG = """\
version: 1
connections:
  director:
    system: director
    base_url: {url}
    credentials: {{token: demo}}
    job_interval_s: 0.02
    scopes: tenants.yml
context: {{tenant: blue}}
inputs: {{xlsx_path: input.xlsx}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One thing that is said: of which row it speaks, and where the engineer looks."""

    profile: str
    severity: str
    code: str
    cell: str | None
    """sheet!cell"""
    message: str
    key: str = ""
    hint: str = ""


@pytest.fixture(scope="module")
def director() -> Iterator[Emulator]:
    """Nodes that are only looked at."""
    with emulators.start("director") as emulator:
        yield emulator


def project(folder: Path, url: str, sheets: Sheets) -> Path:
    """A project folder with the workbook."""
    folder.mkdir(exist_ok=True)
    (folder / "tenants.yml").write_text(TENANTS, encoding="utf-8")
    (folder / "directorsync.yml").write_text(CONFIG.format(url=url), encoding="utf-8")
    with xlsxwriter.Workbook(str(folder / "input.xlsx")) as book:
        for name, (header, rows) in sheets.items():
            sheet = book.add_worksheet(name)
            for number, row in enumerate((header, *rows)):
                sheet.write_row(number, 0, row)
    return folder


def told(folder: Path, *profiles: str, node: str = "") -> list[Told]:
    """All findings of a plan on one node."""
    ask = api.Ask(
        names=tuple(f"director/{name}" for name in profiles), nodes=(node,) if node else ()
    )
    with api.plan(api.open_project(folder), ask) as plan:
        return [
            Told(
                profile=one.profile.removeprefix("director/"),
                severity=one.severity,
                code=one.code,
                cell=f"{one.place.sheet}!{one.place.cell or one.place.row}" if one.place else None,
                message=one.message,
                key="/".join(one.key),
                hint=one.hint or "",
            )
            for one in plan.findings()
        ]


# --- workbooks ------------------------------------------------------------------------------------

HOT = "/opt/immune/storage"
REPO = ("original_repo_name", "cleaned_repo_name", "storage_paths", "retention_days")
RP = ("policy_id", "cleaned_policy_name", "catch_all", "rule_type", "key", "value", "repo", "drop")
NP = ("policy_name", "normalization_packages", "compiled_normalizer")
EP = ("policy_id", "policy_name", "spec_index", "source", "description")
EP_RULES = ("policy_name", "spec_index", "source", "category", "source_key", "prefix", "operation",
            "type", "event_key")  # fmt: skip
EP_CRITERIA = ("policy_name", "spec_index", "source", "type", "key", "value")
PP = ("policy_id", "cleaned_policy_name", "norm_policy", "enrich_policy", "routing_policy_id")
GROUPS = ("name", "description")
DEVICE = ("name", "ip", "availability", "confidentiality", "integrity", "timezone", "device_groups")
FETCHER = ("app", "device_name", "parser", "charset", "proxy_condition", "processpolicy",
           "proxy_ip", "hostname")  # fmt: skip
LIST = ("name", "list_type", "lists", "age_limit", "vid", "hidden")

ROUTE = ("64b0aa01", "rp_good", "default", None, None, None, None, None)
RISKS = ("Minor", "Minor", "Minor")


def _device(name: str, ip: str | None, *more: Cell) -> tuple[Cell, ...]:
    return (name, ip, *RISKS, *more)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A workbook with one thing wrong, and all that is said of it."""

    profiles: tuple[str, ...]
    sheets: Sheets
    told: tuple[Told, ...]
    node: str = "blue-be-1"


def _policy(number: int, route: str, enrich: str) -> tuple[Cell, ...]:
    return (f"64b0dd0{number}", f"pp_{number}", "None", enrich, route)


_SPEC = ("64b0ee01", "ep_good", 0, "host_owners", None)
_RULE = ("host_owners", "simple", "owner", False, "Equals", "string", "user")
_CRITERION = ("host_owners", "KeyPresents", "user", None)


def _direct(device: str, policy: str) -> tuple[Cell, ...]:
    return ("SyslogCollector", device, "SyslogParser", "utf_8", "None", policy, None, None)


def _relay(device: str) -> tuple[Cell, ...]:
    return ("SyslogCollector", device, "SyslogParser", "utf_8", "use_as_proxy", None, None, None)


def _behind(device: str, proxy: str) -> tuple[Cell, ...]:
    host = f"{device}.example.test"
    return ("SyslogCollector", device, None, None, "uses_proxy", "default", proxy, host)


def _route(name: str, catch_all: str, *rule: Cell) -> tuple[Cell, ...]:
    return (f"of {name}", name, catch_all, *(rule or (None,) * 5))


def _stray(cell: str, what: str, key: str = "") -> Told:
    return Told(
        profile="enrichment_policies",
        severity="error",
        code="DS-ROW-STRAY",
        cell=cell,
        key=key,
        message=f"belongs to no row of EnrichmentPolicy: {what}",
        hint="correct the row, or give EnrichmentPolicy the row that it belongs to",
    )


def _mask(profile: str, cell: str, key: str, field: str) -> Told:
    return Told(
        profile=profile,
        severity="error",
        code="DS-CHECK-NOT-MASKED",
        cell=cell,
        key=key,
        message=f"{field}: a mask stands in the place of the value",
    )


def _list(profile: str, cell: str, key: str, why: str) -> Told:
    return Told(
        profile=profile, severity="skip", code="DS-CHECK-SQL", cell=cell, key=key, message=why
    )


CASES: dict[str, Case] = {
    "source ids that dangle": Case(
        profiles=("routing_policies", "enrichment_policies", "processing_policies"),
        sheets={
            "RoutingPolicy": (RP, (ROUTE,)),
            "EnrichmentPolicy": (EP, (_SPEC,)),
            "EnrichmentRules": (EP_RULES, (("ep_good", 0, *_RULE),)),
            "EnrichmentCriteria": (EP_CRITERIA, (("ep_good", 0, *_CRITERION),)),
            "ProcessingPolicy": (
                PP,
                (
                    _policy(1, "64b0aa01", "64b0ee01"),
                    _policy(2, "64b0aa99", "None"),
                    _policy(3, "64b0aa01", "64b0ee99"),
                    _policy(4, "", "None"),
                ),
            ),
        },
        told=(
            Told(
                profile="processing_policies",
                severity="skip",
                code="DS-CHECK-NON-EMPTY",
                cell="ProcessingPolicy!E3",
                key="pp_2",
                message="Missing mandatory routing_policy: its id is empty or not in sheet "
                "RoutingPolicy: 64b0aa99",
            ),
            Told(
                profile="processing_policies",
                severity="skip",
                code="DS-CHECK-SQL",
                cell="ProcessingPolicy!D4",
                key="pp_3",
                message="the enrichment policy's id is not in sheet EnrichmentPolicy: 64b0ee99",
            ),
            Told(
                profile="processing_policies",
                severity="skip",
                code="DS-CHECK-NON-EMPTY",
                cell="ProcessingPolicy!E5",
                key="pp_4",
                message="Missing mandatory routing_policy: its id is empty or not in sheet "
                "RoutingPolicy: (empty)",
            ),
        ),
    ),
    "a collector's policy that dangles": Case(
        profiles=("devices", "syslog_collectors"),
        sheets={
            "Device": (DEVICE, (_device("fw-1", "192.0.2.1"),)),
            "ProcessingPolicy": (PP, (_policy(1, "64b0aa01", "None"),)),
            "DeviceFetcher": (FETCHER, (_direct("fw-1", "64b0dd99"),)),
        },
        told=(
            Told(
                profile="syslog_collectors",
                severity="skip",
                code="DS-CHECK-MUST-EXIST",
                cell="DeviceFetcher!F2",
                key="fw-1",
                message="the node has no processing policy 64b0dd99, and the sheet "
                "ProcessingPolicy no such id",
            ),
        ),
    ),
    "aligned lists of two lengths": Case(
        profiles=("repos",),
        sheets={
            "Repo": (
                REPO,
                (
                    ("Repo-blue-a", "Repo_a", HOT, "30"),
                    ("Repo-blue-b", "Repo_b", f"{HOT} | /opt/immune/cold", "30"),
                ),
            )
        },
        told=(
            Told(
                profile="repos",
                severity="error",
                code="DS-ROW-VALUE",
                cell="Repo!C3",
                key="Repo_b",
                message="hiddenrepopath: unequal lists: paths has 2, retentions has 1",
                hint="correct the cell in column storage_paths",
            ),
        ),
    ),
    "a path that the node does not have": Case(
        profiles=("repos",),
        sheets={
            "Repo": (
                REPO,
                (("Repo-blue-a", "Repo_a", f"{HOT} | /opt/immune/attic", "30 | 60"),),
            )
        },
        told=(
            Told(
                profile="repos",
                severity="skip",
                code="DS-CHECK-MUST-EXIST-MANY",
                cell="Repo!C2",
                key="Repo_a",
                message="the node has no such storage path: /opt/immune/attic/",
            ),
        ),
    ),
    "one policy with two catch_all": Case(
        profiles=("routing_policies",),
        sheets={
            "RoutingPolicy": (
                RP,
                (ROUTE, _route("rp_two", "default"), _route("rp_two", "_logpoint")),
            )
        },
        told=(
            Told(
                profile="routing_policies",
                severity="error",
                code="DS-CHECK-SQL",
                cell="RoutingPolicy!C3",
                key="rp_two",
                message="the rows of this policy have different catch_all",
            ),
        ),
    ),
    "rules that are not whole": Case(
        profiles=("routing_policies",),
        sheets={
            "RoutingPolicy": (
                RP,
                (
                    _route("rp_one", "default", "KeyPresent", "user", "", "default", "store"),
                    _route("rp_one", "default", "KeyPresent", "", "", "default", "store"),
                    _route("rp_two", "default", "KeyPresentValueMatches", "user", "", "", "store"),
                    _route("rp_gone", "Repo-gone"),
                    _route("rp_lost", "default", "KeyPresent", "user", "", "Repo-lost", "store"),
                ),
            )
        },
        told=(
            Told(
                profile="routing_policies",
                severity="error",
                code="DS-CHECK-SQL",
                cell="RoutingPolicy!2",
                key="rp_one",
                message="a rule has no rule_type, no key or no drop; rows: 3",
            ),
            Told(
                profile="routing_policies",
                severity="error",
                code="DS-CHECK-SQL",
                cell="RoutingPolicy!4",
                key="rp_two",
                message="a KeyPresentValueMatches rule has no value; rows: 4",
            ),
            Told(
                profile="routing_policies",
                severity="skip",
                code="DS-CHECK-MUST-EXIST",
                cell="RoutingPolicy!C5",
                key="rp_gone",
                message="the node has no repo Repo-gone, which is the catch_all",
            ),
            Told(
                profile="routing_policies",
                severity="skip",
                code="DS-CHECK-MUST-EXIST-MANY",
                cell="RoutingPolicy!6",
                key="rp_lost",
                message="rules name a repo that the node does not have: Repo-lost",
            ),
        ),
    ),
    "rules and criteria of no specification": Case(
        profiles=("enrichment_policies",),
        sheets={
            "EnrichmentPolicy": (
                EP,
                (_SPEC, ("64b0ee02", "ep_two", 0, "host_owners", None)),
            ),
            "EnrichmentRules": (
                EP_RULES,
                (
                    ("ep_good", 0, *_RULE),
                    ("ep_two", 0, *_RULE),
                    ("ep_two", 2, *_RULE),
                    ("ep_gone", 0, *_RULE),
                ),
            ),
            "EnrichmentCriteria": (
                EP_CRITERIA,
                (
                    ("ep_good", 0, *_CRITERION),
                    ("ep_two", 0, *_CRITERION),
                    ("ep_two", None, *_CRITERION),
                ),
            ),
        },
        told=(
            _stray("EnrichmentCriteria!B4", "policy_name ep_two and spec_index (blank)", "ep_two"),
            _stray("EnrichmentRules!B4", "policy_name ep_two and spec_index 2", "ep_two"),
            _stray("EnrichmentRules!A5", "policy_name ep_gone and spec_index 0"),
        ),
    ),
    "devices": Case(
        profiles=("device_groups", "devices"),
        sheets={
            "DeviceGroups": (GROUPS, (("firewalls", None),)),
            "Device": (
                DEVICE,
                (
                    _device("fw-1", "192.0.2.1", None, "firewalls"),
                    _device("fw-2", None),
                    _device("fw-3", "192.0.2.3", None, "firewalls | nowhere"),
                    ("fw-4", "192.0.2.4", "Huge", "Minor", "Minor"),
                ),
            ),
        },
        told=(
            Told(
                profile="devices",
                severity="error",
                code="DS-CHECK-NON-EMPTY",
                cell="Device!B3",
                key="fw-2",
                message="the device has no address",
            ),
            Told(
                profile="devices",
                severity="warn",
                code="DS-REF-MISSING",
                cell="Device!G4",
                key="fw-3",
                message="devicegroup: not found in DeviceGroups: nowhere",
                hint="create it in DeviceGroups first, or correct the name",
            ),
            Told(
                profile="devices",
                severity="error",
                code="DS-CHECK-ONE-OF",
                cell="Device!C5",
                key="fw-4",
                message="availability is not one of Minimal, Minor, Major, Critical: Huge",
            ),
        ),
    ),
    "masks in the place of values": Case(
        profiles=("devices", "syslog_collectors"),
        sheets={
            "Device": (
                DEVICE,
                (
                    _device("fw-1", "192.0.2.1"),
                    _device("fw-2", "192.0.2.2 | ****"),
                    _device("fw-3", "192.0.2.3", "***REDACTED***"),
                    _device("fw-4", "192.0.2.4"),
                ),
            ),
            "DeviceFetcher": (
                FETCHER,
                (_relay("fw-1"), (*_behind("fw-4", "****")[:-1], "********")),
            ),
        },
        told=(
            _mask("devices", "Device!B3", "fw-2", "ip"),
            _mask("devices", "Device!F4", "fw-3", "timezone"),
            _mask("syslog_collectors", "DeviceFetcher!H3", "fw-4", "hostname"),
            _mask("syslog_collectors", "DeviceFetcher!G3", "fw-4", "proxy_ip"),
            Told(
                profile="syslog_collectors",
                severity="skip",
                code="DS-CHECK-SQL",
                cell="DeviceFetcher!G3",
                key="fw-4",
                message="proxy_ip has an address that no relay has (a device whose collector is "
                "use_as_proxy): ****",
            ),
        ),
    ),
    "a proxy address that no relay has": Case(
        profiles=("devices", "syslog_collectors"),
        sheets={
            "Device": (
                DEVICE,
                (
                    _device("relay", "192.0.2.10 | 192.0.2.20"),
                    _device("app-1", "192.0.2.11"),
                    _device("app-2", "192.0.2.12"),
                ),
            ),
            "DeviceFetcher": (
                FETCHER,
                (
                    _relay("relay"),
                    _behind("app-1", "192.0.2.20"),
                    _behind("app-2", "192.0.2.99"),
                    _direct("nowhere", "default"),
                ),
            ),
        },
        told=(
            Told(
                profile="syslog_collectors",
                severity="skip",
                code="DS-CHECK-SQL",
                cell="DeviceFetcher!G4",
                key="app-2",
                message="proxy_ip has an address that no relay has (a device whose collector is "
                "use_as_proxy): 192.0.2.99",
            ),
            Told(
                profile="syslog_collectors",
                severity="skip",
                code="DS-CHECK-MUST-EXIST",
                cell="DeviceFetcher!B5",
                key="nowhere",
                message="the node has no device nowhere",
            ),
        ),
    ),
    "the vendor's lists": Case(
        node="blue-sh-1",
        profiles=("static_lists", "dynamic_lists"),
        sheets={
            "UserDefinedList": (
                LIST,
                (
                    ("GOOD", "static_list", '["a"]', None, None, None),
                    ("ACME", "static_list", '["a"]', None, "LP_1", None),
                    ("HIDDEN", "static_list", '["a"]', None, None, "true"),
                    ("ODD", "table", '["a"]', None, None, None),
                    ("ACME_IPS", "dynamic_list", None, 3600, "LP_2", None),
                ),
            )
        },
        told=(
            _list("static_lists", "UserDefinedList!E3", "ACME", "vendor list"),
            _list("static_lists", "UserDefinedList!F4", "HIDDEN", "hidden list"),
            Told(
                profile="static_lists",
                severity="error",
                code="DS-CHECK-ONE-OF",
                cell="UserDefinedList!B5",
                key="ODD",
                message="list_type is not one of static_list, dynamic_list: table",
            ),
            _list("dynamic_lists", "UserDefinedList!E6", "ACME_IPS", "vendor list"),
        ),
    ),
}


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith(("DSYNC_", "LP_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.parametrize("case", CASES)
def test_bad_input(case: str, tmp_path: Path, director: Emulator) -> None:
    """What is wrong is told in words, with its code and its cell; nothing is said of good rows."""
    wrong = CASES[case]
    folder = project(tmp_path / "project", director.url, wrong.sheets)
    assert told(folder, *wrong.profiles, node=wrong.node) == list(wrong.told)


def test_a_stray_rule_withholds_its_policy(tmp_path: Path, director: Emulator) -> None:
    """A policy is not written without a rule that names a specification which it does not have."""
    sheets = CASES["rules and criteria of no specification"].sheets
    folder = project(tmp_path / "project", director.url, sheets)
    ask = api.Ask(names=("director/enrichment_policies",), nodes=("blue-be-1",))
    with api.plan(api.open_project(folder), ask) as plan:
        assert [change.key for change in plan.changes()] == [("ep_good",)]
        (tally,) = plan.tallies
    assert (tally.create, tally.error) == (1, 1)


def test_a_relay_that_only_the_node_knows(tmp_path: Path) -> None:
    """A device of the node that the sheet Device lacks, and that becomes a relay, is one."""
    device = {
        "name": "relay", "ip": ["192.0.2.10", "192.0.2.20"], "availability": "Minor",
        "confidentiality": "Minor", "integrity": "Minor",
    }  # fmt: skip
    sheets: Sheets = {
        "Device": (DEVICE, (_device("app-1", "192.0.2.11"),)),
        "DeviceFetcher": (FETCHER, (_relay("relay"), _behind("app-1", "192.0.2.20"))),
    }
    with emulators.start("director", seed={"resource": "Devices", "objects": [device]}) as emulator:
        folder = project(tmp_path / "project", emulator.url, sheets)
        assert told(folder, "devices", "syslog_collectors", node="blue-be-1") == []


# --- what the project is asked for ----------------------------------------------------------------


def fault(folder: Path, profile: str, **asked: Any) -> DsyncError:
    """What refuses a plan."""
    ask = api.Ask(names=(f"director/{profile}",), **asked)
    with pytest.raises(DsyncError) as caught, api.plan(api.open_project(folder), ask):
        pass
    return caught.value


GOOD: Sheets = {"Repo": (REPO, (("Repo-blue-a", "Repo_a", HOT, "30"),)), "NormalizationPolicy": (
    NP, (("np_a", "LP_Acme Firewall", None),))}  # fmt: skip


def test_an_unknown_tenant(tmp_path: Path, director: Emulator) -> None:
    """A tenant that the tenants file does not have is refused, with those that it has."""
    told_ = fault(project(tmp_path / "project", director.url, GOOD), "repos", tenant="bleu")
    assert (told_.code, told_.exit_code) == ("DS-TENANT-UNKNOWN", 1)
    assert "bleu" in told_.message
    assert "blue" in (told_.hint or "")
    assert str(told_.where).endswith("tenants.yml:1:1"), told_.where


def test_an_unknown_node(tmp_path: Path, director: Emulator) -> None:
    """A node that the tenant does not have is refused, with the nearest name."""
    told_ = fault(project(tmp_path / "project", director.url, GOOD), "repos", nodes=("blue-be-3",))
    assert told_.code == "DS-SCOPE-NODE"
    assert "blue-be-3" in told_.message
    assert "blue-be-" in (told_.hint or "")


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A command in the project."""
    return commands.run(
        *words,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        timeout=60,
    )


def test_a_role_without_nodes(tmp_path: Path, director: Emulator) -> None:
    """Rows that no machine of the tenant would get are told, not passed over in silence."""
    folder = project(tmp_path / "project", director.url, GOOD)
    assert told(folder, "normalization_policies") == [
        Told(
            profile="normalization_policies",
            severity="warn",
            code="DS-SCOPE-NONE",
            cell="NormalizationPolicy!None",
            message="no node of the tenant gets normalization_policies: its 1 rows go nowhere",
            hint="defaults.target in the tenants file names the roles that get it, and `siems` "
            "the nodes of each role",
        )
    ]
    assert told(folder, "normalization_policies", node="blue-be-1") == []


def test_a_node_that_cannot_be_read(tmp_path: Path) -> None:
    """Its rows are errors that name it and say why; those of the other node are written."""
    with emulators.start("director") as emulator:
        emulator.faults([{"match": {"path": ".*c0ffee01/Repos"}, "fault": "status", "status": 500}])
        folder = project(tmp_path / "project", emulator.url, GOOD)
        done = run(folder, "apply", "director/repos", "--yes", "--retries", "0", "--format", "json")
        assert done.returncode == 4, done.stdout + done.stderr
        made, lost = json.loads(done.stdout)["rows"]
    assert (made["status"], made["scope"]) == ("CREATED", "blue-be-2")
    assert (lost["status"], lost["scope"], lost["code"]) == ("ERROR", "blue-be-1", "DS-HTTP-5XX")
    assert lost["reason"].startswith(
        "blue-be-1 could not be read, so none of its 1 rows is planned: "
        "GET configapi/{pool_uuid}/{node_id}/Repos: 500"
    )
    assert lost["hint"] == "try again later"


def test_an_order_that_fails_for_one_row(tmp_path: Path) -> None:
    """The row is an error with the node's own words, its cell's row, and the rest is written."""
    names = ("Repo_a", "Repo_b", "Repo_c")
    sheets: Sheets = {"Repo": (REPO, tuple((f"Repo-blue-{n}", n, HOT, "30") for n in names))}
    with emulators.start("director") as emulator:
        emulator.faults(
            [
                {
                    "match": {"method": "POST", "path": ".*c0ffee01/Repos", "nth": 2},
                    "fault": "order_fail",
                    "message": "No space left on the device",
                }
            ]
        )
        folder = project(tmp_path / "project", emulator.url, sheets)
        done = run(
            folder, "apply", "director/repos", "--node", "blue-be-1", "--yes", "--format", "json"
        )
        assert done.returncode == 4, done.stdout + done.stderr
    made, lost, behind = json.loads(done.stdout)["rows"]
    assert [made["status"], behind["status"]] == ["CREATED", "CREATED"]
    told_ = [lost[name] for name in ("status", "key", "row", "code", "reason", "hint")]
    assert told_ == [
        "ERROR",
        ["Repo_b"],
        3,
        "DS-JOB-FAILED",
        "No space left on the device",
        "correct the row or the target, then plan again",
    ]
