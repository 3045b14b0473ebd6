"""The Director's cookbook does what it says: each of its profiles is planned, applied, planned.

The commands of the cookbook are run by `test_docs.py`, word for word.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import commands
import test_director_badinput as workbooks
from dsync import emulators
from dsync.emulators import Emulator

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "director.md"
BLOCKS = re.findall(
    r"<!-- test: profile -->\n```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL
)
pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def director() -> Iterator[Emulator]:
    with emulators.start("director") as emulator:
        yield emulator


class Kitchen:
    """A project with one profile of the cookbook, and a workbook for it."""

    def __init__(self, folder: Path, api: Emulator, text: str, sheets: workbooks.Sheets) -> None:
        self.folder, self.api = folder, api
        workbooks.project(folder, api.url, sheets)
        tenants = folder / "tenants.yml"
        more = "    alert_rules: [search_heads]\n    log_collection_policies: [backends]\n"
        tenants.write_text(tenants.read_text(encoding="utf-8") + more, encoding="utf-8")
        (self.name,) = re.findall(r"^resource: (\w+)", text, re.MULTILINE)
        (folder / "profiles").mkdir()
        (folder / "profiles" / f"{self.name}.yml").write_text(text, encoding="utf-8")

    def run(self, *words: str, code: int = 0) -> str:
        """What a command prints; its exit code must be this one."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("DSYNC_", "LP_"))}
        done = commands.run(
            *words,
            cwd=self.folder,
            env={**kept, "PYTHONPATH": str(ROOT / "src"), "HOME": str(self.folder)},
            timeout=60,
        )
        assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    def cook(self) -> dict[str, Any]:
        """Validate, plan, apply, plan again; what was planned first."""
        self.run("validate", "--strict")
        planned: dict[str, Any] = json.loads(
            self.run("plan", self.name, "--detailed-exitcode", "--format", "json", code=2)
        )
        self.run("apply", self.name, "--yes")
        assert "Nothing to do" in self.run("plan", self.name, "--detailed-exitcode")
        return planned


def _block(resource: str, having: str) -> str:
    (text,) = [one for one in BLOCKS if f"resource: {resource}\n" in one and having in one]
    return str(text)


ALERT = ("name", "owner", "settings.risk", "settings.aggregate",
         "settings.condition.condition_option", "settings.condition.condition_value",
         "settings.livesearch_data.limit", "settings.repos",
         "settings.livesearch_data.timerange_minute")  # fmt: skip


def _rule(name: str, owner: str | None) -> tuple[workbooks.Cell, ...]:
    repos = '["192.0.2.1:5504/default", "192.0.2.1:5504/_logpoint", "192.0.2.1:5504"]'
    return (name, owner, "high", "max", "greaterthan", 0, 25, repos, 10)


def test_all_of_the_cookbook() -> None:
    """Each profile of the page has a test here."""
    tested = Path(__file__).read_text(encoding="utf-8").count("_block(") - 1
    assert len(BLOCKS) == tested - 1


def test_a_default_owner(tmp_path: Path, director: Emulator) -> None:
    """Alert rules without an owner get one."""
    sheets: workbooks.Sheets = {"Alert": (ALERT, (_rule("Ownerless", None),))}
    text = _block("alert_rules", "owner_name").replace("siem", "admin")
    planned = Kitchen(tmp_path / "it", director, text, sheets).cook()
    assert [change["key"] for change in planned["changes"]] == [["Ownerless"]]


def test_other_ports(tmp_path: Path) -> None:
    """Repositories are named with the port of the tenant's machines."""
    sheets: workbooks.Sheets = {"Alert": (ALERT, (_rule("Elsewhere", "admin"),))}
    # The emulator's machines listen on the usual port only.
    with emulators.start("director", switches={"check_unknown_reference": "off"}) as elsewhere:
        kitchen = Kitchen(tmp_path / "it", elsewhere, _block("alert_rules", "5514"), sheets)
        (change,) = kitchen.cook()["changes"]
    assert change["after"]["repos"] == [
        "127.0.0.1:5514/_logpoint",
        "127.0.0.1:5514/default",
        "198.51.100.11:5514",
        "198.51.100.12:5514",
    ]


def test_devices_of_unknown_groups(tmp_path: Path, director: Emulator) -> None:
    """They are skipped, instead of going on without the group."""
    device = ("192.0.2.1", "Minor", "Minor", "Minor", None)
    sheets: workbooks.Sheets = {
        "Device": (
            workbooks.DEVICE,
            (("fw-1", *device, "windows"), ("fw-2", *device, "windows | nowhere")),
        )
    }
    kitchen = Kitchen(tmp_path / "it", director, _block("devices", "on_missing"), sheets)
    planned = kitchen.cook()
    assert {change["key"][0] for change in planned["changes"]} == {"fw-1"}
    assert {finding["severity"] for finding in planned["findings"]} == {"skip"}


def test_specifications_of_one_source(tmp_path: Path, director: Emulator) -> None:
    """They are united: rules and criteria once each."""
    rule = ("simple", "owner", False, "Equals", "string", "user")
    sheets: workbooks.Sheets = {
        "EnrichmentPolicy": (
            workbooks.EP,
            tuple(("64b0ee01", "ep", n, source, None)
                  for n, source in enumerate(("host_owners", "threat_feed", "host_owners"))),
        ),
        "EnrichmentRules": (workbooks.EP_RULES, tuple(("ep", n, "", *rule) for n in range(3))),
        "EnrichmentCriteria": (
            workbooks.EP_CRITERIA,
            tuple(("ep", n, "", "KeyPresents", key, None) for n, key in enumerate(("a", "b", "c"))),
        ),
    }  # fmt: skip
    text = _block("enrichment_policies", "list_distinct")
    planned = Kitchen(tmp_path / "it", director, text, sheets).cook()
    written = planned["changes"][0]["after"]["specifications"]
    assert [(one["source"], len(one["criteria"]), len(one["rules"])) for one in written] == [
        ("host_owners", 2, 1),
        ("threat_feed", 1, 1),
    ]


def test_paths_to_come(tmp_path: Path, director: Emulator) -> None:
    """A repo whose path is not there yet is planned, with a warning."""
    sheets: workbooks.Sheets = {
        "Repo": (workbooks.REPO, (("Repo-blue-a", "Repo_a", "/opt/immune/attic", "30"),))
    }
    kitchen = Kitchen(tmp_path / "it", director, _block("repos", "known_paths"), sheets)
    planned = json.loads(kitchen.run("plan", "repos", "--format", "json"))
    assert {change["key"][0] for change in planned["changes"]} == {"Repo_a"}
    assert {finding["message"] for finding in planned["findings"]} == {
        "the node has no such path yet: /opt/immune/attic/"
    }


def test_an_eleventh_kind(tmp_path: Path, director: Emulator) -> None:
    """A kind that no shipped profile has is one YAML file and a line of tenants.yml."""
    sheets: workbooks.Sheets = {
        "LogCollection": (("name", "description"), (("lcp_dmz", "Senders in the DMZ"),))
    }
    text = _block("log_collection_policies", "LogCollection")
    planned = Kitchen(tmp_path / "it", director, text, sheets).cook()
    assert {change["scope"] for change in planned["changes"]} == {"blue-be-1", "blue-be-2"}
