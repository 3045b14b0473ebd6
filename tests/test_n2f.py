"""The ERP's users and values into the expense service, as its users do it: by the command line."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import commands
from dsync import emulators
from n2f_project import unlimited
from postgres_server import Postgres, postgres

__all__ = ["postgres"]

pytestmark = pytest.mark.integration

EXAMPLE = Path(__file__).parents[1] / "examples" / "n2f"
API = "/services/api/v2"
# The limits of the client hold by the real clock: a rate of its own keeps these tests short.
NIGHT = {"quota": {}, "clock_start": "2031-05-05T22:00:00+02:00"}


class Project:
    """A copy of the example, with the emulator that it writes to."""

    def __init__(self, folder: Path, emulator: emulators.Emulator) -> None:
        self.folder, self.emulator = folder, emulator

    def run(self, *words: str, code: int | None = 0) -> str:
        done = commands.run(
            *words,
            cwd=self.folder,
            env={
                **os.environ, "HOME": str(self.folder.parent), "PGPASSWORD": "",
                "N2F_CLIENT_ID": "demo-client", "N2F_CLIENT_SECRET": "demo-secret",
            },
        )  # fmt: skip
        if code is not None:
            assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def plan(self, *words: str) -> dict[str, Any]:
        text = self.run("plan", "n2f", "--format", "json", "--quiet", *words)
        found: dict[str, Any] = json.loads(text[text.index("{") : text.rindex("}") + 1])
        return found

    def calls(self, since: int = 0) -> list[tuple[str, str, int]]:
        return [
            (call["method"], call["path"].removeprefix(API), call["status"])
            for call in self.emulator.ledger(since=since)
        ]


def project(tmp_path: Path, emulator: emulators.Emulator, *sample: str) -> Project:
    folder = tmp_path / "project"
    shutil.copytree(EXAMPLE, folder)
    words = [sys.executable, "make_sample.py", *(sample or ("--scenario",))]
    subprocess.run(words, cwd=folder, check=True, capture_output=True)
    config = (folder / "directorsync.yml").read_text()
    config = re.sub(r"http://127\.0\.0\.1:\d+[^\s]*", f"{emulator.url}{API}/", config)
    (folder / "directorsync.yml").write_text(config)
    unlimited(folder)
    return Project(folder, emulator)


@pytest.fixture
def n2f() -> Iterator[emulators.Emulator]:
    with emulators.start("n2f", switches={**NIGHT, "seed": "reference"}) as emulator:
        yield emulator


def test_the_reference_scenario(tmp_path: Path, n2f: emulators.Emulator) -> None:
    """Each row of the reference scenario comes to what it should, in exactly these calls."""
    n2f.switches({"in_use": ["OLD"]})
    _scenario(project(tmp_path, n2f))


def test_the_reference_scenario_from_postgresql(
    tmp_path: Path, n2f: emulators.Emulator, postgres: Postgres
) -> None:
    """The same from PostgreSQL: the T-SQL files are translated on the fly."""
    n2f.switches({"in_use": ["OLD"]})
    erp = project(tmp_path, n2f)
    sample = f"postgresql://{postgres.user}@/{postgres.name}?host={postgres.socket}"
    words = [sys.executable, "make_sample.py", "--scenario", "--to", sample]
    subprocess.run(words, cwd=erp.folder, check=True, capture_output=True)
    config = (erp.folder / "directorsync.yml").read_text()
    there = f"{postgres.address}\n    schema: dbo\n    credentials: {{user: {postgres.user}}}"
    config = config.replace("sqlite:///data/agresso.db", there)
    (erp.folder / "directorsync.yml").write_text(config)
    _scenario(erp)


def _scenario(erp: Project) -> None:
    planned = erp.plan("--delete")
    assert planned["summary"]["create"] == 7
    assert planned["summary"]["update"] == 2
    assert planned["summary"]["delete"] == 2
    assert planned["summary"]["unchanged"] == 4
    named = [change for change in planned["changes"] if change["action"] == "update"]
    assert [(change["key"], sorted(change["fields"])) for change in named] == [
        (["chg.user@example.org"], ["firstname"]),
        (["loop.a@example.org"], ["managerMail"]),
    ]
    reads = erp.calls()
    assert len(reads) == len(set(reads))
    begun = len(erp.emulator.ledger())
    approved = ("--i-approve-deleting", "1-of-1", "--target", "n2f")
    told = erp.run("apply", "n2f", "--delete", "--yes", *approved, code=4)
    assert "Company not found: ZZZ" in told
    assert "Company not found: ENT9" in told
    assert "Value in use" in told
    writes = [call for call in erp.calls(since=begun) if call[0] != "GET"]
    assert writes == [
        ("POST", "/auth", 200),
        ("POST", "/companies/MTAwMDI%3D/axes/projects", 201),
        ("POST", "/companies/MTAwMDE%3D/axes/projects", 201),
        ("POST", "/companies/MTAwMDI%3D/axes/MjAwMTE%3D", 201),
        ("POST", "/users", 201),
        ("POST", "/users", 200),
        ("POST", "/users", 201),
        ("POST", "/users", 201),
        ("POST", "/users", 201),
        ("POST", "/users", 200),
        ("DELETE", "/users/gone.user%40example.org", 204),
        ("DELETE", "/companies/MTAwMDE%3D/axes/MjAwMDI%3D/OLD", 409),
    ]
    mails = [
        call["body"]["mail"] for call in erp.emulator.ledger(since=begun)
        if call["method"] == "POST" and call["path"].endswith("/users")
    ]  # fmt: skip
    assert mails == [
        "new.boss@example.org", "chg.user@example.org", "loop.a@example.org",
        "new.user@example.org", "loop.b@example.org", "loop.a@example.org",
    ]  # fmt: skip
    state = erp.emulator.state()
    assert state["creation_mails"]["total"] == 4
    managers = {user["mail"]: user.get("managerMail") for user in state["users"]}
    assert managers["loop.a@example.org"] == "loop.b@example.org"
    assert managers["loop.b@example.org"] == "loop.a@example.org"
    assert managers["new.user@example.org"] == "new.boss@example.org"
    again = erp.plan()
    assert (again["summary"]["create"], again["summary"]["update"]) == (0, 0)
    assert erp.emulator.counts()["in_flight_max"] == 1
    begun = len(erp.emulator.ledger())
    erp.run("apply", "n2f", "--yes", code=4)
    assert {call[0] for call in erp.calls(since=begun)} == {"POST", "GET"}
    assert [call for call in erp.calls(since=begun) if call[0] == "POST"] == [
        ("POST", "/auth", 200)
    ]


@pytest.mark.parametrize(
    "switches",
    [
        {"names_order": "shuffled"}, {"names_order": "extra"}, {"names_order": "reversed"},
        {"date_style": "no_z"}, {"date_style": "date"}, {"null_style": "absent"},
        {"null_style": "null"}, {"null_style": "empty"}, {"label_culture": "nl"},
        {"label_culture": "fr"}, {"empty_data": "absent"}, {"extra_fields": True},
        {"validity_digits": 0}, {"user_uuid": True},
    ],
    ids=lambda one: "-".join(f"{key}={value}" for key, value in one.items()),
)  # fmt: skip
def test_another_form_is_no_change(tmp_path: Path, switches: dict[str, Any]) -> None:
    """However the service shows names, dates, blanks and labels, a second plan is empty."""
    with emulators.start("n2f", switches={**NIGHT, "seed": "empty", **switches}) as emulator:
        erp = project(tmp_path, emulator, "--users", "12", "--projects", "20")
        erp.run("apply", "n2f", "--yes", code=None)
        before = emulator.writes()
        again = erp.plan()["summary"]
        assert (again["create"], again["update"]) == (0, 0), again
        assert again["unchanged"] > 20
        assert emulator.writes() - before <= 1


def test_what_is_never_shown_is_compared_with_what_was_sent(
    tmp_path: Path, n2f: emulators.Emulator
) -> None:
    """A write-only field is sent once, again when it changes, and not at every run."""
    erp = project(tmp_path, n2f)
    (erp.folder / "profiles").mkdir()
    (erp.folder / "profiles" / "logins.yml").write_text(
        "version: 1\nextends: n2f/users\nresource: logins\n"
        "mapping: {sso: {col: Champs_Liaison_SSO, transform: [norm_str]}}\n"
        'payload: {ssoLogin: "${sso}"}\n'
    )
    with_logins = ("plan", "logins", "--format", "json", "--quiet")

    def planned() -> dict[str, list[str]]:
        text = erp.run(*with_logins)
        found = json.loads(text[text.index("{") : text.rindex("}") + 1])["changes"]
        return {one["key"][0]: one["fields"] for one in found if one["action"] == "update"}

    # Of users that were there before nothing is known, so only what else differs is updated.
    assert planned() == {
        "chg.user@example.org": ["firstname"], "loop.a@example.org": ["managerMail"]
    }  # fmt: skip
    erp.run("apply", "logins", "--yes", code=4)
    assert planned() == {}
    with sqlite3.connect(erp.folder / "data" / "agresso.db") as db:
        ((table,),) = db.execute(
            "SELECT name FROM sqlite_master "
            "WHERE type = 'table' AND sql LIKE '%Champs_Liaison_SSO%'"
        ).fetchall()
        db.execute(
            f"UPDATE {table} SET Champs_Liaison_SSO = 'new-login' "
            "WHERE lower(AdresseEmail) IN ('new.boss@example.org', 'same.user@example.org')"
        )
    assert planned() == {"new.boss@example.org": ["ssoLogin"]}
    before = n2f.writes()
    erp.run("apply", "logins", "--yes", code=4)
    assert n2f.writes() - before == 1
    assert planned() == {}
    secrets = (erp.folder / ".dsync").rglob("registry.db")
    assert not any(b"new-login" in file.read_bytes() for file in secrets)


@pytest.mark.parametrize("how", ["report", "create_and_keep", "create_then_delete"])
def test_a_mail_that_changes(tmp_path: Path, n2f: emulators.Emulator, how: str) -> None:
    """A new mail is a rename: told, or made as the profile says; the old account is never lost."""
    erp = project(tmp_path, n2f)
    (erp.folder / "profiles").mkdir()
    (erp.folder / "profiles" / "people.yml").write_text(
        f"version: 1\nextends: n2f/users\nresource: people\napply: {{rename: {how}}}\n"
    )
    with sqlite3.connect(erp.folder / "data" / "agresso.db") as db:
        ((table,),) = db.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND sql LIKE '%Nouveau_Email%'"
        ).fetchall()
        db.execute(
            f"UPDATE {table} SET Nouveau_Email = 'Changed.Name@example.org' "
            "WHERE lower(AdresseEmail) = 'same.user@example.org'"
        )
    told = erp.run("plan", "people", "--delete", "--max-rows", "0")
    assert ("DS-KEY-RENAMED" in told) == (how == "report")
    erp.run("apply", "people", "--delete", "--yes", code=4)
    mails = {user["mail"] for user in n2f.state()["users"]}
    assert ("changed.name@example.org" in mails) == (how != "report")
    assert ("same.user@example.org" in mails) == (how != "create_then_delete")
    if how == "create_then_delete":
        calls = [c for c in erp.calls() if c[0] == "DELETE" or c[1].endswith("/users")]
        assert ("DELETE", "/users/same.user%40example.org", 204) in calls


def test_leavers_first(tmp_path: Path, n2f: emulators.Emulator) -> None:
    """With `deletes: first` accounts go before anything else is written."""
    erp = project(tmp_path, n2f)
    (erp.folder / "profiles").mkdir()
    (erp.folder / "profiles" / "people.yml").write_text(
        "version: 1\nextends: n2f/users\nresource: people\napply: {deletes: first}\n"
    )
    erp.run("apply", "people", "--delete", "--yes", code=4)
    writes = [c[0] for c in erp.calls() if c[0] != "GET" and c[1] != "/auth"]
    assert writes == ["DELETE", *["POST"] * 6]


def test_personal_fields_are_masked(tmp_path: Path, n2f: emulators.Emulator) -> None:
    """The number of an employee is sent, and shown nowhere: no plan, report or log has it."""
    erp = project(tmp_path, n2f)
    number = "00000000104"
    for form in ("table", "json", "md"):
        told = erp.run("plan", "n2f/users", "--format", form)
        assert "firstname" in told
        assert number not in told
    assert number not in erp.run("apply", "n2f/users", "--yes", code=4)
    run = next((erp.folder / ".dsync" / "runs").iterdir())
    assert number not in (run / "report.json").read_text()
    for log in (erp.folder / "logs").rglob("*.log"):
        assert number not in log.read_text()
    sent = [c["body"].get("employeeNumber") for c in n2f.ledger() if c["path"].endswith("/users")
            and c["method"] == "POST"]  # fmt: skip
    assert number in sent
