"""Bad input of the ERP and a service that misbehaves: what is told, what goes on, what is called.

Each case is a database with one thing wrong beside rows that are good, or one fault of the service
amid calls that work; the ledger of the emulator is the judge.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import duckdb
import pytest

from dsync import emulators
from dsync.emulators import Emulator
from dsync.errors import DsyncError
from dsync.safety import Approvals
from n2f_project import SWITCHES, Done, Erp, Row, fresh, sample, user, value

pytestmark = pytest.mark.integration

ANNA, BEA, CARL = "anna@example.test", "bea@example.test", "carl@example.test"
PEOPLE = [user(ANNA, 1), user(BEA, 2), user(CARL, 3)]
PROJECTS = [value("PROJECT", "ENT1", f"P{n}", f"Project {n}") for n in range(2)]
PLATES = [value("PLAQUE", "ENT1", "1-AAA-001", "Van"), value("PLAQUE", "ENT2", "2-AAA-002", "Van")]
SQL = "sql/get-agresso-n2f-users.prod.sql"
VALUES_SQL = "sql/get-agresso-n2f-customaxes.prod.sql"
ENT1_PROJECTS = "/companies/MTAwMDE%3D/axes/projects"


@pytest.fixture(scope="module")
def service() -> Iterator[Emulator]:
    with emulators.start("n2f", switches=SWITCHES) as emulator:
        yield emulator


@pytest.fixture
def erp(tmp_path: Path, service: Emulator) -> Erp:
    fresh(service, {})
    return Erp(tmp_path / "project", service)


def on_users(fault: str, method: str = "POST", **more: Any) -> list[Mapping[str, Any]]:
    """A rule for the calls on users; `nth` and `times` choose among them."""
    match = {"method": method, "path": r"/users(\?|$)"}
    match |= {word: more.pop(word) for word in ("nth", "times") if word in more}
    return [{"match": match, "fault": fault, **more}]


def refused(ask: Callable[[], object]) -> DsyncError:
    """The error that ends a command. A user sees no traceback, but a code and what to do next."""
    with pytest.raises(DsyncError) as caught:
        ask()
    assert caught.value.hint
    return caught.value


def posted(done: Done) -> list[str]:
    """The mails that were sent, in order."""
    return [body["mail"] for body in done.bodies()]


# --- the source -----------------------------------------------------------------------------------


@pytest.mark.parametrize("delete", [True, False], ids=["deletes", "no-deletes"])
def test_empty_source(erp: Erp, delete: bool) -> None:
    """An empty source never deletes: a guard refuses it, and without deletes it is an error."""
    erp.seed(PEOPLE, PROJECTS)
    before, begun = erp.api.state(), erp.api.writes()
    erp.rows()
    if delete:
        fault = refused(lambda: erp.apply(delete=True))
        assert (fault.code, fault.exit_code) == ("DS-SAFE-G4", 8)
        assert "has no rows, and deletes are on: everything would go" in fault.message
        assert "--empty-source-is-real" in str(fault.hint)
    else:
        done = erp.apply()
        assert done.run.exit_code == 4
        assert {(f.profile, f.severity, f.code) for f in done.findings} == {
            ("n2f/users", "error", "DS-SRC-EMPTY"), ("n2f/projects", "error", "DS-SRC-EMPTY"),
        }  # fmt: skip
        assert done.findings[0].message.startswith("the source has no rows, and 2 records exist")
        assert done.writes == []
    assert erp.api.state() == before
    assert erp.api.writes() - begun <= 1


def test_empty_source_and_empty_service(erp: Erp) -> None:
    """A first load may begin with nothing on both sides."""
    done = erp.apply()
    assert (done.run.exit_code, done.findings, done.writes) == (0, [], [])


def test_source_that_shrank(erp: Erp) -> None:
    """A source that lost most of its rows deletes nothing; each number has a flag of its own."""
    many = [user(f"u{n:02}@example.test", n) for n in range(24)]
    erp.seed(many)
    erp.rows(many[:4])
    begun = erp.api.writes()
    fault = refused(lambda: erp.apply("users", delete=True))
    assert (fault.code, fault.exit_code) == ("DS-SAFE-G3", 8)
    assert "the source has 4 rows where the last applied run had 24" in fault.message
    assert "--i-approve-deleting 20-of-24" in str(fault.hint)
    assert erp.api.writes() - begun <= 1
    assert erp.apply("users").run.counts["UNCHANGED"] == 4


def _without_view(erp: Erp) -> None:
    with contextlib.closing(sqlite3.connect(erp.folder / "erp.db")) as con, con:
        con.execute("DROP VIEW v_N2F_User")


def _without_column(erp: Erp) -> None:
    _without_view(erp)
    with contextlib.closing(sqlite3.connect(erp.folder / "erp.db")) as con, con:
        names = [name for name, _ in sample().USER_COLUMNS if name != "Fonction"]
        con.execute(f"CREATE VIEW v_N2F_User AS SELECT {', '.join(names)} FROM agr_n2f_user")


def _without_file(erp: Erp) -> None:
    (erp.folder / "erp.db").unlink()


def _with_garbage(erp: Erp) -> None:
    (erp.folder / "erp.db").write_bytes(b"not a database at all" * 200)


def _down(erp: Erp) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    erp.configure(f"postgresql://127.0.0.1:{port}/erp", "    credentials: {user: reader}\n")


@pytest.mark.parametrize(
    ("spoil", "code", "exit_code", "text", "where"),
    [
        (_without_view, "DS-DB-OBJECT", 1, "no such table: v_N2F_User", SQL),
        (_without_column, "DS-DB-OBJECT", 1, "no such column: Fonction", SQL),
        (_without_file, "DS-DB-FILE", 1, "is not there: erp.db", "directorsync.yml:7:3"),
        (_with_garbage, "DS-DB-FILE", 1, "is no SQLite database", "directorsync.yml:7:3"),
        (_down, "DS-DB-DOWN", 10, "cannot be reached", "directorsync.yml:7:3"),
    ],
    ids=["view", "column", "file", "garbage", "down"],
)
def test_database(
    erp: Erp, spoil: Callable[[Erp], None], code: str, exit_code: int, text: str, where: str
) -> None:
    """A database that cannot answer is told before the service is asked for anything."""
    erp.rows(PEOPLE, PROJECTS)
    spoil(erp)
    fault = refused(lambda: erp.apply(delete=True))
    assert (fault.code, fault.exit_code) == (code, exit_code)
    assert text in fault.message
    assert where in str(fault.where)
    assert erp.calls() == []


def test_database_that_never_answers(erp: Erp) -> None:
    """A server that takes the connection and says nothing is down; it is no wrong password."""
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        more = "    credentials: {user: reader}\n    timeout_s: 1\n"
        erp.configure(f"postgresql://127.0.0.1:{mute.getsockname()[1]}/erp", more)
        fault = refused(lambda: erp.apply("users"))
    assert (fault.code, fault.exit_code) == ("DS-DB-DOWN", 10)
    assert erp.calls() == []


def test_database_that_is_locked(erp: Erp) -> None:
    """A file that another program writes for too long is told in time."""
    erp.rows(PEOPLE)
    erp.configure("sqlite:///erp.db", "    timeout_s: 0.3\n")
    with contextlib.closing(sqlite3.connect(erp.folder / "erp.db", isolation_level=None)) as con:
        con.execute("BEGIN EXCLUSIVE")
        fault = refused(lambda: erp.apply("users"))
    assert (fault.code, fault.exit_code) == ("DS-DB-DOWN", 10)
    assert "locked" in fault.message
    assert erp.calls() == []


# --- rows of users --------------------------------------------------------------------------------

Told = tuple[str, str, str, str]
"""status, code, a part of the reason, the column"""


@pytest.mark.parametrize(
    ("bad", "key", "told"),
    [
        (user("ANNA@Example.test ", 9), ANNA,
         ("ERROR", "DS-KEY-DUP", "rows 1, 4 have the same key: anna@", "")),
        (user("x@example.test", 9, Entreprise=None), "x@example.test",
         ("ERROR", "DS-CHECK-NON-EMPTY", "the user has no company", "Entreprise")),
        (user("x@example.test", 9, Entreprise=" NaN "), "x@example.test",
         ("ERROR", "DS-CHECK-NON-EMPTY", "the user has no company", "Entreprise")),
        (user("x@example.test", 9, Entreprise="ZZZ"), "x@example.test",
         ("ERROR", "DS-CHECK-MUST-EXIST", "Company not found: ZZZ", "Entreprise")),
        (user("x@example.test", 9, Role="Chef"), "x@example.test",
         ("ERROR", "DS-REF-MISSING", "role: not found in roles: Chef", "Role")),
        (user("x@example.test", 9, Profil="Large"), "x@example.test",
         ("ERROR", "DS-REF-MISSING", "profile: not found in userprofiles: Large", "Profil")),
        (user("x@example.test", 9, langue="fra"), "x@example.test",
         ("ERROR", "DS-CHECK-MATCHES", "culture does not match [a-z]{2}: fra", "langue")),
        (user("x@example.test", 9, Devise="EU"), "x@example.test",
         ("ERROR", "DS-CHECK-MATCHES", "currency_iso_code does not match", "Devise")),
        (user("nobody", 9), "nobody",
         ("ERROR", "DS-CHECK-MATCHES", "this is no mail address: nobody", "")),
        (user("None", 9), "row 4",
         ("ERROR", "DS-KEY-EMPTY", "the row has no key: mail is empty", "")),
        (user(None, 9), "row 4",
         ("ERROR", "DS-KEY-EMPTY", "the row has no key: mail is empty", "")),
    ],
    ids=["twin", "no-company", "nan-company", "company", "role", "profile", "culture", "currency",
         "no-mail", "none-mail", "null-mail"],
)  # fmt: skip
def test_bad_row_of_users(erp: Erp, bad: Row, key: str, told: Told) -> None:
    """One bad row is an error at its column, nothing is sent for it, and the others go on."""
    erp.rows([*PEOPLE, bad])
    done = erp.apply("users")
    row = done.rows[(key,)]
    assert (row.status, row.code) == told[:2]
    assert told[2] in row.reason
    assert str(row.place) == f"{SQL} row 4" + (f", column {told[3]}" if told[3] else "")
    assert posted(done) == [ANNA, BEA, CARL]
    assert done.bodies()[0]["firstname"] == "First1"
    assert done.run.exit_code == 4
    assert done.run.counts == {"CREATED": 3, "ERROR": 1, "UNCHANGED": 0, "SKIP": 0}


def test_blanks_of_all_kinds(erp: Erp) -> None:
    """NaN, None, nan and blanks are one nothing: never a text, and for a flag a no."""
    erp.rows([
        user(ANNA, 1, Matricule="nan", Fonction="None", Structure=" NaN ",
             Compte_Auxiliaire_Agresso="  ", Appro_Veh_Adm=float("nan"), Manager="none",
             Droit_Relever_Plafond=None, Moyen_Paiement_Prof="oui", Role="", Profil="nan"),
    ])  # fmt: skip
    done = erp.apply("users")
    (body,) = done.bodies()
    for name in ("employeeNumber", "jobTitle", "accountingAuxiliaryAccount"):
        assert body[name] is None
    for name in ("personnalCarHaveToBeApproved", "canRaiseLimits", "gotProPayment"):
        assert body[name] is False
    assert (body["structure"], body["managerMail"]) == ("L3", "")
    assert not body.keys() & {"role", "profile"}
    assert (done.run.exit_code, done.findings) == (0, [])
    assert erp.planned("users") == ([], [])


def test_numbers_that_are_none(erp: Erp) -> None:
    """A NaN of a typed column is nothing; an infinite number is an error of its row."""
    account, number = "Compte_Auxiliaire_Agresso", "Matricule"
    columns = ", ".join(
        f'"{name}" {"DOUBLE" if name in (account, number) else "VARCHAR"}'
        for name, _ in sample().USER_COLUMNS
    )
    rows = [
        user(ANNA, 1, **{account: float("nan"), number: None}),
        user(BEA, 2, **{account: 1.5, number: float("inf")}),
    ]
    with duckdb.connect(str(erp.folder / "erp.duckdb")) as con:
        con.execute(f"CREATE TABLE v_N2F_User ({columns})")
        con.executemany(f"INSERT INTO v_N2F_User VALUES ({', '.join('?' * len(rows[0]))})", rows)
    erp.configure("duckdb:///erp.duckdb")
    done = erp.apply("users")
    (body,) = done.bodies()
    assert (body["mail"], body["accountingAuxiliaryAccount"], body["employeeNumber"]) == (
        ANNA, None, None,
    )  # fmt: skip
    assert done.rows[(BEA,)].code == "DS-DB-VALUE"
    assert "Matricule is not a finite number" in done.rows[(BEA,)].reason
    assert "in the database" in done.rows[(BEA,)].hint


# --- managers -------------------------------------------------------------------------------------


def test_manager_circles(erp: Erp) -> None:
    """Each circle is broken once: its first member is created without and updated at the end."""
    erp.rows([
        user("self@example.test", 9, Manager="Self@example.test"),
        user(ANNA, 1, Manager=BEA), user(BEA, 2, Manager=CARL), user(CARL, 3, Manager=ANNA),
        user("below@example.test", 4, Manager=ANNA),
    ])  # fmt: skip
    done = erp.apply("users")
    assert done.run.exit_code == 0
    assert [(f.severity, f.code, f.key) for f in done.findings] == [
        ("warn", "DS-REF-CIRCLE", ("self@example.test",)), ("warn", "DS-REF-CIRCLE", (ANNA,)),
    ]  # fmt: skip
    assert [status for _, _, status in done.writes] == [201] * 5 + [200] * 2
    managers = {one["mail"]: one["managerMail"] for one in _users(erp)}
    assert managers == {
        "self@example.test": "self@example.test", ANNA: BEA, BEA: CARL, CARL: ANNA,
        "below@example.test": ANNA,
    }  # fmt: skip
    assert erp.planned("users")[0] == []


def _users(erp: Erp) -> list[dict[str, Any]]:
    found: Any = erp.api.state()["users"]
    return list(found)


def test_manager_unknown(erp: Erp) -> None:
    """A manager whom nobody knows is left blank, with a warning at the cell."""
    erp.rows([user(ANNA, 1, Manager="ghost@example.test"), user(BEA, 2)])
    done = erp.apply("users")
    (told,) = done.findings
    assert (told.severity, told.code, told.key) == ("warn", "DS-REF-MISSING", (ANNA,))
    assert "not found in users: ghost@example.test" in told.message
    assert str(told.place) == f"{SQL} row 1, column Manager"
    assert [body["managerMail"] for body in done.bodies()] == ["", ""]
    assert done.run.exit_code == 0
    assert erp.planned("users")[0] == []


def test_manager_whose_row_is_bad(erp: Erp) -> None:
    """A manager who is an error is not created; who reports to them is, without one, and told."""
    erp.rows([user(ANNA, 1, Entreprise="ZZZ"), user(BEA, 2, Manager=ANNA)])
    done = erp.apply("users")
    assert posted(done) == [BEA]
    assert done.bodies()[0]["managerMail"] == ""
    assert [(f.severity, f.key) for f in done.findings] == [("error", (ANNA,)), ("warn", (BEA,))]
    assert done.run.exit_code == 4


@pytest.mark.parametrize(
    ("status", "text", "code"),
    [(400, "Invalid field: jobTitle", "DS-REJECTED"), (409, "User limit reached", "DS-CONFLICT")],
)
def test_manager_whose_creation_fails(erp: Erp, status: int, text: str, code: str) -> None:
    """Who relies on a manager that failed is told as blocked, down the chain, and never sent."""
    erp.api.faults(on_users("status", nth=1, status=status, body={"error": text}))
    erp.rows([
        user("boss@example.test", 9), user("lead@example.test", 8, Manager="boss@example.test"),
        user("clerk@example.test", 7, Manager="lead@example.test"), *PEOPLE,
    ])  # fmt: skip
    done = erp.apply("users")
    boss, lead, clerk = (done.rows[(f"{name}@example.test",)] for name in ("boss", "lead", "clerk"))
    assert (boss.status, boss.code, boss.reason, boss.http_status) == ("ERROR", code, text, status)
    assert (lead.status, lead.code) == ("SKIP", "DS-APPLY-DEPENDS")
    assert lead.reason == "depends on users boss@example.test, which failed"
    assert clerk.reason == "depends on users lead@example.test, which failed"
    assert posted(done) == ["boss@example.test", ANNA, BEA, CARL]
    assert done.run.exit_code == 4
    again = erp.apply("users")
    assert again.run.exit_code == 0
    assert posted(again) == ["boss@example.test", "lead@example.test", "clerk@example.test"]


def test_managers_without_creates(erp: Erp) -> None:
    """Nobody is created where creates are off, not even a manager that somebody needs."""
    erp.seed([user(ANNA, 1)])
    erp.rows([user(ANNA, 1, Manager=BEA, Fonction="BUYER"), user(BEA, 2)])
    done = erp.apply("users", create=False)
    assert done.writes == [("POST", "/users", 200)]
    assert done.bodies()[0]["managerMail"] == ""
    row = done.rows[(BEA,)]
    assert (row.status, row.code) == ("SKIP", "DS-ACTION-OFF")
    assert [one["mail"] for one in _users(erp)] == [ANNA]


# --- rows of values -------------------------------------------------------------------------------


DATES: list[tuple[str | None, str | None, bool]] = [
    ("1900-01-01 00:00:00", "1900-01-01", False), ("1899-12-31", "1899-12-31", False),
    ("1753-01-01 00:00:00", "1753-01-01", False), ("2099-12-31 00:00:00", None, False),
    ("31/12/2099", None, False), ("31/12/2099 00:00:00", None, False),
    ("0001-01-01", None, False), ("9999-12-31 23:59:59.997", None, False),
    ("2025-03-04", "2025-03-04", False), ("04/03/2025", "2025-03-04", False),
    ("04/03/2025 23:59", "2025-03-04", False),
    ("2025-03-04T00:30:00+02:00", "2025-03-04", False),
    ("2025-03-04 23:59:59.997", "2025-03-04", False), ("2025-02-30", None, True),
    ("13/13/2025", None, True), ("soon", None, True), ("nan", None, False), ("", None, False),
    ("  ", None, False), (None, None, False),
]  # fmt: skip
"""As the ERP has it, the day that is sent, and whether a warning is due."""


@pytest.mark.parametrize(("text", "day", "warned"), DATES)
def test_dates(dated: Dated, text: str | None, day: str | None, warned: bool) -> None:
    """A date keeps its day, whatever its form; what is none is told, and sent as none."""
    state, told = dated
    sent = state[text]
    assert sent == (day, day)
    said = [message for message in told if message.endswith(f": {text}")]
    assert len(said) == (2 if warned else 0)


Dated = tuple[dict[str | None, tuple[str | None, str | None]], list[str]]


@pytest.fixture(scope="module")
def dated(tmp_path_factory: pytest.TempPathFactory, service: Emulator) -> Dated:
    """What became of each text as both dates of a value, and what was said."""
    texts = [text for text, _, _ in DATES]
    fresh(service, {})
    erp = Erp(tmp_path_factory.mktemp("dates") / "project", service)
    erp.rows((), [
        value("PROJECT", "ENT1", f"P{n:02}", f"text {n}", since=text, until=text)
        for n, text in enumerate(texts)
    ], dates="NVARCHAR(30)")  # fmt: skip
    done = erp.apply("projects")
    assert {f.code for f in done.findings} == {"DS-CHECK-SQL"}
    assert {f.severity for f in done.findings} == {"warn"}
    assert erp.planned("projects")[0] == []
    found: Any = service.state()["values"]
    days = {v["code"]: (v["validityDateFrom"], v["validityDateTo"]) for v in found}
    return {text: days[f"P{n:02}"] for n, text in enumerate(texts)}, [
        finding.message for finding in done.findings
    ]


def test_text_in_a_column_of_dates(erp: Erp) -> None:
    """What is no date in a column that has dates is an error at its cell; the others go on."""
    good = "2030-01-01 00:00:00"
    erp.rows((), [
        value("PROJECT", "ENT1", "P0", "x", since=good),
        value("PROJECT", "ENT1", "P1", "x", since="soon"),
    ])  # fmt: skip
    done = erp.apply("projects")
    (failed,) = (row for row in done.rows.values() if row.has_failed)
    assert (failed.code, failed.key[-1]) == ("DS-DB-VALUE", "P1")
    assert "date_from is not a date with a time: soon" in failed.reason
    assert str(failed.place) == f"{VALUES_SQL} row 2, column date_from"
    assert done.writes == [("POST", ENT1_PROJECTS, 201)]


@pytest.mark.parametrize(
    ("bad", "code", "reason"),
    [
        (value("PROJECT", "ENT9", "P9", "x"), "DS-CHECK-MUST-EXIST", "Company not found: ENT9"),
        (value("PROJECT", None, "P9", "x"), "DS-CHECK-NON-EMPTY", "the value has no company"),
        (value("PROJECT", "ENT1", " nan ", "x"), "DS-CHECK-NON-EMPTY", "the value has no code"),
        (value("PROJECT", "ENT1", "P9", "NaN"), "DS-CHECK-NON-EMPTY", "the value has no desc"),
        (value("PROJECT", "ENT1 ", "P1", "x"), "DS-KEY-DUP", "have the same key"),
    ],
    ids=["company", "no-company", "no-code", "no-text", "twin"],
)
def test_bad_row_of_values(erp: Erp, bad: Row, code: str, reason: str) -> None:
    """One bad value is an error at its row, nothing is sent for it, and the others go on."""
    erp.rows((), [*PROJECTS, bad])
    done = erp.apply("projects")
    (row,) = (row for row in done.rows.values() if row.has_failed)
    assert (row.status, row.code) == ("ERROR", code)
    assert reason in row.reason
    assert str(row.place).startswith(f"{VALUES_SQL} row 3")
    assert done.writes == [("POST", ENT1_PROJECTS, 201)] * 2
    assert done.run.exit_code == 4


def test_types_that_nobody_reads(erp: Erp) -> None:
    """Rows of an unknown type are nobody's, and change nothing; case and blanks make no type."""
    others = [value("ACTIVITY", "ENT1", "A", "x"), value("", "ENT1", "B", "x")]
    erp.rows((), [*others, value(" project ", "ENT1", "P7", "x")])
    done = erp.apply()
    assert done.writes == [("POST", ENT1_PROJECTS, 201)]
    assert (done.run.exit_code, done.findings) == (0, [])


@pytest.mark.parametrize("companies", [("ENT1",), ("ENT1", "ENT2")], ids=["one", "all"])
def test_axis_that_is_missing(erp: Erp, companies: tuple[str, ...]) -> None:
    """Values of a company without the axis are errors; other companies and profiles go on."""
    gone = [{"company": one, "axis": "Plaque"} for one in companies]
    erp.api.seed({"remove": {"axes": gone}})
    erp.rows(PEOPLE, PROJECTS + PLATES)
    done = erp.apply("projects", "plates", "users")
    failed = [row for row in done.rows.values() if row.has_failed]
    assert [(row.code, row.reason) for row in failed] == [
        ("DS-CHECK-MUST-EXIST", f"Axis not found: company {one} has no axis Plaque")
        for one in companies
    ]
    plates = [path for _, path, _ in done.writes if "projects" not in path and path != "/users"]
    other = ["/companies/MTAwMDI%3D/axes/MjAwMTE%3D"]
    assert plates == ([] if "ENT2" in companies else other)
    assert (done.run.counts["CREATED"], done.run.exit_code) == (5 + len(plates), 4)


# --- the service ----------------------------------------------------------------------------------


def test_token_that_ends_amid_the_run(erp: Erp) -> None:
    """A 401 is answered with one new token, and the call is made once more."""
    erp.api.faults(on_users("status", nth=2, status=401, body={"error": "Unauthorized"}))
    erp.rows(PEOPLE)
    done = erp.apply("users")
    assert [status for _, _, status in done.writes] == [201, 401, 201, 201]
    assert posted(done) == [ANNA, BEA, BEA, CARL]
    assert sum(call["path"].endswith("/auth") for call in done.calls) == 2
    assert done.run.exit_code == 0


def test_tokens_that_are_never_good(erp: Erp) -> None:
    """A second 401 ends the run as what it is; what was not begun says so."""
    erp.api.faults(on_users("status", status=401, body={"error": "Unauthorized"}))
    erp.rows(PEOPLE)
    done = erp.apply("users")
    assert [status for _, _, status in done.writes] == [401, 401]
    assert (done.run.exit_code, done.rows[(ANNA,)].code) == (9, "DS-AUTH-REFUSED")
    assert done.rows[(BEA,)].code == "DS-APPLY-NOT-STARTED"
    assert "dsync resume" in done.rows[(BEA,)].hint


def test_credentials_that_are_wrong(erp: Erp) -> None:
    """Wrong credentials are told at once, and tried once."""
    erp.api.switches({"clients": ["another:secret"]})
    erp.rows(PEOPLE)
    fault = refused(lambda: erp.apply())
    assert (fault.code, fault.exit_code) == ("DS-AUTH-REFUSED", 9)
    assert len(erp.calls()) == 1
    assert "demo-secret" not in str(fault)


def test_too_many_requests(erp: Erp) -> None:
    """A 429 is waited for as long as it says, and the same call is made again."""
    erp.api.faults(on_users("too_many", nth=2, retry_after=7))
    erp.rows(PEOPLE)
    done = erp.apply("users")
    assert [status for _, _, status in done.writes] == [201, 429, 201, 201]
    assert posted(done) == [ANNA, BEA, BEA, CARL]
    at = [call["monotonic_s"] for call in done.calls if call["path"].endswith("/users")]
    assert at[-2] - at[-3] == pytest.approx(7, abs=0.5)
    assert done.run.exit_code == 0


@pytest.mark.parametrize(
    ("fault", "sends"),
    [
        ({"fault": "status", "status": 503, "nth": [2, 3]}, [201, 503, 503, 201, 201]),
        ({"fault": "reset", "when": "before", "nth": 2}, [201, None, 201, 201]),
        ({"fault": "reset", "when": "after", "nth": 2}, [201, None, 200, 201]),
        ({"fault": "html", "when": "after", "nth": 2}, [201, 200, 201]),
        ({"fault": "truncated_json", "when": "after", "nth": 2}, [201, 201, 201]),
        ({"fault": "empty", "when": "after", "nth": 2}, [201, 201, 201]),
    ],
    ids=["503-twice", "cut-before", "cut-after", "html", "truncated", "empty"],
)
def test_write_with_an_unclear_answer(
    erp: Erp, fault: dict[str, Any], sends: list[int | None]
) -> None:
    """A lost or odd answer to a write is settled; each user is created once, one mail each."""
    erp.api.faults(on_users(**fault))
    erp.rows(PEOPLE)
    done = erp.apply("users")
    assert [status for _, _, status in done.writes] == sends
    assert (done.run.exit_code, done.run.counts["CREATED"]) == (0, 3)
    mails: Any = erp.api.state()["creation_mails"]
    assert mails["to"] == [ANNA, BEA, CARL]


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ({"fault": "html"}, "DS-HTTP-HTML"),
        ({"fault": "truncated_json"}, "DS-HTTP-JSON"),
        ({"fault": "status", "status": 500}, "DS-HTTP-5XX"),
        ({"fault": "status", "status": 404}, "DS-HTTP-STATUS"),
        ({"fault": "body", "body": {"data": []}}, "DS-TGT-SHAPE"),
        ({"fault": "reset"}, "DS-HTTP-LOST"),
    ],
    ids=["html", "truncated", "500", "404", "shape", "cut"],
)
def test_listing_that_cannot_be_read(erp: Erp, fault: dict[str, Any], code: str) -> None:
    """What cannot be listed is not changed: no create, no delete; the other profiles go on."""
    erp.seed(PEOPLE[:2], PROJECTS[:1])
    erp.api.faults(on_users(method="GET", **fault))
    erp.rows(PEOPLE[1:], PROJECTS)
    done = erp.apply("projects", "users", delete=True)
    assert done.writes == [("POST", ENT1_PROJECTS, 201)]
    (told,) = done.findings
    assert (told.profile, told.severity, told.code) == ("n2f/users", "error", code)
    assert "could not be read, so none of its 2 rows is planned: GET users" in told.message
    assert done.run.exit_code == 4
    assert len(_users(erp)) == 2
    alone = refused(lambda: erp.apply("users", delete=True))
    assert (alone.code, alone.exit_code) == (code, 10)


def test_axis_that_cannot_be_read(erp: Erp) -> None:
    """One axis of one company that fails leaves the profile of that axis out, and no other."""
    erp.rows(PEOPLE, PROJECTS + PLATES)
    match = {"method": "GET", "path": "/axes/MjAwMDE"}
    erp.api.faults([{"match": match, "fault": "status", "status": 500}])
    done = erp.apply()
    assert [(f.profile, f.code) for f in done.findings] == [("n2f/plates", "DS-HTTP-5XX")]
    assert done.run.counts == {"CREATED": 5, "ERROR": 2, "UNCHANGED": 0, "SKIP": 0}
    assert done.run.exit_code == 4


@pytest.mark.parametrize("word", ["in_use", "linked", "is_default"])
def test_value_that_must_stay(erp: Erp, word: str) -> None:
    """A delete that the service refuses is an error in its words; the other deletes go on."""
    erp.seed(PEOPLE, PLATES)
    erp.api.switches({word: ["1-AAA-001"]})
    erp.rows(PEOPLE[:2], PLATES[1:])
    approved = Approvals(deleting=frozenset({(1, 2), (1, 3)}), targets=frozenset({"n2f"}))
    done = erp.apply("plates", "users", delete=True, approvals=approved)
    assert done.writes == [
        ("DELETE", "/users/carl%40example.test", 204),
        ("DELETE", "/companies/MTAwMDE%3D/axes/MjAwMDE%3D/1-AAA-001", 409),
    ]
    (failed,) = (row for row in done.rows.values() if row.has_failed)
    text = {"in_use": "Value in use", "linked": "Value is linked", "is_default": "Value is a def"}
    assert failed.reason.startswith(text[word])
    assert (failed.code, failed.http_status, done.run.exit_code) == ("DS-CONFLICT", 409, 4)


@pytest.mark.parametrize(
    ("switches", "pages"),
    [({}, 3), ({"paging": "short"}, 3), ({"page_max": 100}, 5), ({"users": 400}, 3),
     ({"users": 199}, 2), ({"users": 201}, 2), ({"users": 187}, 1), ({"users": 0}, 1)],
    ids=["401", "short", "clamped", "400", "199", "201", "187", "0"],
)  # fmt: skip
def test_listing_is_whole(erp: Erp, switches: dict[str, Any], pages: int) -> None:
    """All users are read however long the pages are; a page that may be cut is not the last."""
    fresh(erp.api, {"users": 401, **switches})
    erp.rows([user("new@example.test", 1)])
    with erp.plan("users") as plan:
        (tally,) = plan.tallies
    assert tally.existing == {"users": 401, **switches}["users"]
    asked = [call for call in erp.calls() if call["path"].endswith("/users")]
    assert len(asked) == pages
    assert len({str(call["query"]) for call in asked}) == pages


@pytest.mark.parametrize(
    ("switches", "code"),
    [
        ({"paging": "repeats"}, "DS-PAGE-LOOP"),
        ({"twins": ["user.00002@example.test"]}, "DS-PAGE-DUP"),
    ],
    ids=["repeats", "twins"],
)  # fmt: skip
def test_listing_in_doubt(erp: Erp, switches: dict[str, Any], code: str) -> None:
    """A page that repeats, or a user who is there twice, makes no plan; nothing is deleted."""
    fresh(erp.api, {"users": 401, **switches})
    erp.rows(PEOPLE)
    fault = refused(lambda: erp.apply("users", delete=True))
    assert (fault.code, fault.exit_code) == (code, 10)
    assert [call for call in erp.calls() if call["write"] and "auth" not in call["path"]] == []


def test_seats_that_are_taken(erp: Erp) -> None:
    """Where no seat is left each new user is an error; changes of those who have one go on."""
    erp.seed(PEOPLE[:2])
    erp.api.switches({"seat_limit": 2})
    erp.rows([user(ANNA, 7), *PEOPLE[1:]])
    done = erp.apply("users")
    assert sorted(done.writes) == [("POST", "/users", 200), ("POST", "/users", 409)]
    assert (done.rows[(CARL,)].code, done.rows[(CARL,)].reason) == (
        "DS-CONFLICT", "User limit reached",
    )  # fmt: skip
    assert done.rows[(ANNA,)].status == "UPDATED"
    assert done.run.exit_code == 4


def test_never_two_calls_at_once(erp: Erp) -> None:
    """A service that refuses a call beside another has nothing to refuse."""
    erp.api.switches({"refuse_concurrent": True})
    erp.rows(PEOPLE, PROJECTS + PLATES)
    assert erp.apply().run.exit_code == 0
    counts: Any = erp.api.counts()
    assert (counts["in_flight_max"], counts["status"].get("409")) == (1, None)


def test_call_that_another_stood_beside(erp: Erp) -> None:
    """When somebody else's call is in the way, that row is an error, and the next plan has it."""
    refusal = {"error": "Concurrent call"}
    erp.api.faults(on_users("status", nth=2, status=409, body=refusal))
    erp.rows(PEOPLE)
    done = erp.apply("users")
    assert (done.rows[(BEA,)].status, done.rows[(BEA,)].reason) == ("ERROR", "Concurrent call")
    assert (done.run.counts["CREATED"], done.run.exit_code) == (2, 4)
    assert posted(erp.apply("users")) == [BEA]


# --- the command line -----------------------------------------------------------------------------


def test_what_a_user_sees(erp: Erp) -> None:
    """The command line says code, text and place of each bad row, and exits as the run does."""
    erp.rows([*PEOPLE, user("lost@example.test", 9, Entreprise="ZZZ")])
    words = [sys.executable, "-m", "dsync", "apply", "n2f/users", "--yes"]
    done = subprocess.run(
        words, cwd=erp.folder, env={**os.environ, "HOME": str(erp.folder)}, text=True,
        capture_output=True, check=False,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 4, said
    assert "DS-CHECK-MUST-EXIST" in said
    assert "Company not found: ZZZ" in said
    assert "row 4" in said
    assert "Traceback" not in said
    assert "demo-secret" not in said
