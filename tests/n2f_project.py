"""A project of the ERP's rows and the expense service's emulator, for tests: rows by the test."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import sqlite3
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import dsync
from dsync import api, emulators
from dsync.model import Change, Finding, Plan
from dsync.reports import RowResult, RunResult
from shared_time import SharedTime, lived_by

API = "/services/api/v2"
EXAMPLE = Path(__file__).parents[1] / "examples" / "n2f"
# The client's limits hold by the real clock: without quotas, and with one time for both sides of
# the wire, nothing waits.
NOON = "2031-05-05T12:00:00+02:00"
SWITCHES: dict[str, Any] = {"quota": {}, "seed": "empty"}

Row = tuple[Any, ...]


def sample() -> ModuleType:
    """The example's maker of rows."""
    spec = importlib.util.spec_from_file_location("make_sample", EXAMPLE / "make_sample.py")
    assert spec is not None
    assert spec.loader is not None
    if "make_sample" not in sys.modules:
        sys.modules["make_sample"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["make_sample"])
    return sys.modules["make_sample"]


def user(mail: str | None, number: int = 1, **other: Any) -> Row:
    """A row of v_N2F_User; `other` by the names of its columns."""
    row: Row = sample()._user(mail, f"First{number}", f"Last{number}", number, **other)
    return row


def value(typ: str, client: str | None, code: str | None, text: str | None, **other: Any) -> Row:
    """A row of v_N2F_Analytics; `since` and `until` are its dates."""
    row: Row = sample()._value(typ, client, code, text, **other)
    return row


def unlimited(folder: Path) -> None:
    """A system file of the project's own without the quotas, which hold by the real clock."""
    shipped = Path(str(dsync.__file__)).parent / "systems" / "n2f.yml"
    text = re.sub(r"  quotas:\n(    - .*\n)+", "", shipped.read_text())
    (folder / "systems").mkdir(exist_ok=True)
    (folder / "systems" / "n2f.yml").write_text(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """An apply: what it has come to, its rows that are not as they were wanted, and its calls."""

    run: RunResult
    rows: dict[tuple[str, ...], RowResult]
    findings: list[Finding]
    calls: list[dict[str, Any]]

    @property
    def writes(self) -> list[tuple[str, str, int]]:
        """Method, path below the API and status; logins are left out."""
        return [
            (call["method"], call["path"].removeprefix(API), call["status"])
            for call in self.calls
            if call["method"] != "GET" and not call["path"].endswith("/auth")
        ]

    def bodies(self) -> list[dict[str, Any]]:
        """What was sent to `users`, in order."""
        return [
            call["body"] for call in self.calls
            if call["method"] == "POST" and call["path"].endswith("/users")
        ]  # fmt: skip


class Erp:
    """A project over a database of these rows."""

    def __init__(self, folder: Path, emulator: emulators.Emulator, *, quotas: bool = False) -> None:
        self.folder, self.api = folder, emulator
        folder.mkdir(parents=True)
        (folder / "sql").symlink_to(EXAMPLE / "sql")
        self.configure("sqlite:///erp.db")
        if not quotas:
            unlimited(folder)
        self.rows()

    def configure(self, database: str, more: str = "") -> None:
        """The configuration, with the ERP at this address."""
        (self.folder / "directorsync.yml").write_text(
            "version: 1\nconnections:\n  n2f:\n    system: n2f\n"
            f"    base_url: {self.api.url}{API}/\n"
            "    credentials: {client_id: demo-client, client_secret: demo-secret}\n"
            f"  agresso:\n    database: {database}\n{more}"
        )

    def rows(
        self, users: Iterable[Row] = (), values: Iterable[Row] = (), *, dates: str = "DATETIME"
    ) -> None:
        """Write the ERP's database anew; `dates` is the type of the columns of dates."""
        path = self.folder / "erp.db"
        path.unlink(missing_ok=True)
        with contextlib.closing(sqlite3.connect(path)) as con, con:
            for (table, view, columns), found in zip(
                sample()._TABLES, (users, values), strict=True
            ):
                types = sample()._columns(columns).replace("DATETIME", dates)
                con.execute(f"CREATE TABLE {table} ({types})")
                con.execute(f"CREATE VIEW {view} AS SELECT * FROM {table}")
                marks = ", ".join("?" * len(columns))
                con.executemany(f"INSERT INTO {table} VALUES ({marks})", list(found))

    def seed(self, users: Iterable[Row] = (), values: Iterable[Row] = ()) -> None:
        """Bring the service to what these rows say, as an apply would."""
        self.rows(users, values)
        assert self.apply().run.exit_code == 0

    @contextlib.contextmanager
    def plan(self, *names: str, **ask: Any) -> Iterator[Plan]:
        """The plan of some profiles of `n2f/`, or of all."""
        project = api.open_project(self.folder)
        with (
            lived_by(SharedTime(self.api, NOON)),
            api.plan(project, self.ask(*names, **ask)) as found,
        ):
            yield found

    def planned(self, *names: str, **ask: Any) -> tuple[list[Change], list[Finding]]:
        """The changes and the findings of a plan."""
        with self.plan(*names, **ask) as found:
            return list(found.changes()), list(found.findings())

    def apply(self, *names: str, **ask: Any) -> Done:
        """Plan and apply. Raises: what api.apply does."""
        begun = self.seen()
        project = api.open_project(self.folder)
        with lived_by(SharedTime(self.api, NOON)):
            run_id = api.apply(project, self.ask(*names, **ask))
        assert run_id is not None
        with api.report(project, run_id) as (run, rows):
            found = {row.key or (f"row {row.row}",): row for row in rows}
        return Done(
            run=run, rows=found, findings=list(api.show(project, run_id).findings()),
            calls=self.calls(begun),
        )  # fmt: skip

    def seen(self) -> int:
        """The number of the last call."""
        calls = self.calls()
        return int(calls[-1]["seq"]) if calls else 0

    def calls(self, since: int = 0) -> list[dict[str, Any]]:
        """The ledger."""
        return [dict(call) for call in self.api.ledger(since=since)]

    @staticmethod
    def ask(*names: str, **ask: Any) -> api.Ask:
        """What is asked: all of n2f, or these."""
        return api.Ask(names=tuple(f"n2f/{name}" for name in names) or ("n2f",), **ask)


def fresh(emulator: emulators.Emulator, switches: Mapping[str, Any]) -> None:
    """The emulator as it was at first, with these switches instead of any others."""
    defaults = dict.fromkeys(emulator.switches())
    emulator.faults([])
    emulator.switches({**defaults, **SWITCHES, **switches})
    emulator.reset()
