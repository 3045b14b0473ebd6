"""What N2F's users were promised, row by row: the tables of `docs/decisions/0013-n2f.md`.

Users read `docs/n2f.md`: its profiles are tried here, too.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest

import n2f_project
import test_n2f
from dsync import api, emulators
from dsync.cli import main
from dsync.errors import DsyncError
from dsync.safety import Approvals
from n2f_project import Erp, user, value

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "n2f.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"<!-- test: profile -->\n```yaml\n(.*?)```", PAGE, re.DOTALL)
INVENTORIES = ("companies", "roles", "userprofiles", "axes")


@pytest.fixture(scope="module")
def _service() -> Iterator[emulators.Emulator]:
    with emulators.start("n2f", switches=n2f_project.SWITCHES) as emulator:
        yield emulator


@pytest.fixture
def erp(_service: emulators.Emulator, tmp_path: Path) -> Erp:
    """A project over an empty ERP, and the service without users and values."""
    n2f_project.fresh(_service, {})
    return Erp(tmp_path / "erp", _service)


def _block(having: str) -> str:
    (text,) = [one for one in BLOCKS if having in one]
    return str(text)


def _put(erp: Erp, name: str, text: str) -> None:
    path = erp.folder / "profiles" / f"{name}.yml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _state(erp: Erp) -> dict[str, Any]:
    return cast("dict[str, Any]", erp.api.state())


def _gets(erp: Erp, since: int = 0) -> Counter[str]:
    """How often each path was read; pages of one listing count once."""
    found = [call for call in erp.calls(since) if call["method"] == "GET"]
    return Counter(
        call["path"].removeprefix(n2f_project.API + "/").split("?")[0]
        for call in found
        if call["query"].get("start", "0") in ("0", ["0"])
    )


# --- what docs/n2f.md tells ----------------------------------------------------------------------


def test_every_trap_and_promise_has_its_test() -> None:
    """The tables have all traps and promises, and each row names tests that exist or says open."""
    page = (ROOT / "docs" / "decisions" / "0013-n2f.md").read_text(encoding="utf-8")
    numbered = re.findall(r"^\| ([\d, ]+) \|(.*)$", page, re.MULTILINE)
    assert sorted(int(n) for numbers, _ in numbered for n in numbers.split(",")) == [*range(1, 43)]
    promised = re.findall(r"^\| ([A-Z][^|]+) \|(.*)$", page, re.MULTILINE)
    assert len(promised) == 18 + 21
    files = (ROOT / "tests").rglob("test_*.py")
    there = set(re.findall(r"^def (test_\w+)", "\n".join(f.read_text() for f in files), re.M))
    for what, told in [*numbered, *promised]:
        named = set(re.findall(r"`(test_\w+)`", told))
        assert named or "open:" in told, what
        assert named <= there, (what, named - there)


def test_departments_by_one_file(erp: Erp) -> None:
    """A scope is added by one file: it is listed, planned and applied like those that ship."""
    _put(erp, "mine/departments", _block("resource: departments\n"))
    erp.rows(values=[value("DEPARTMENT", "ENT1", "D1", "Roads")])
    project, ask = api.open_project(erp.folder), api.Ask(names=("mine",))
    assert "mine/departments" in {one.name for one in api.list_profiles(project, api.Ask())}
    with api.plan(project, ask) as plan:
        ((change),) = plan.changes()
    assert change.key == ("MTAwMDE=", "MjAwMTM=", "D1") or change.key[2] == "D1"
    api.apply(project, ask)
    (made,) = _state(erp)["values"]
    assert (made["company"], made["code"]) == ("ENT1", "D1")
    with api.plan(project, ask) as plan:
        assert plan.is_empty


def test_a_scope_of_ones_own(erp: Erp) -> None:
    """A file in `profiles/n2f/` is one of the scopes of `n2f`, for rows that no profile had."""
    _put(erp, "n2f/cost_centres", _block("resource: cost_centres\n"))
    names = {"fr": "Centre de coût"}
    axis = [{"culture": culture, "value": text} for culture, text in names.items()]
    erp.api.seed({"axes": [{"company": "ENT2", "names": axis}]})
    erp.rows(values=[value("CC", "ENT1", "C1", "One"), value("cc ", "ENT2", "C2", "Two"),
                     value("PROJECT", "ENT2", "P1", "A project")])  # fmt: skip
    done = erp.apply()
    assert [(row.status, row.reason) for row in done.rows.values() if row.status == "ERROR"] == [
        ("ERROR", "company ENT1 has no axis Centre de coût")
    ]
    assert [made["code"] for made in _state(erp)["values"]] == ["P1", "C2"]


def test_a_profile_for_the_sandbox(erp: Erp) -> None:
    """The sandbox has its own connection, and people who log in with a password there."""
    _put(erp, "sandbox/users", _block("value: Integrated"))
    text = (erp.folder / "directorsync.yml").read_text()
    (erp.folder / "directorsync.yml").write_text(text.replace("  n2f:\n", "  n2f_sandbox:\n"))
    erp.rows([user("a@example.org")])
    api.apply(api.open_project(erp.folder), api.Ask(names=("sandbox",)))
    assert [one["authMode"] for one in _state(erp)["users"]] == ["Integrated"]


def test_a_development_query_deletes_nothing(erp: Erp) -> None:
    """Rows that are a part of what there is: with deletes on nothing is written at all."""
    erp.seed([user("a@example.org"), user("b@example.org", 2)])
    _put(erp, "n2f/users", _block("get-agresso-n2f-users.dev.sql"))
    erp.rows([user("a@example.org")])
    with erp.plan("users") as plan:
        assert plan.is_empty
    before = len(erp.api.effects())
    with pytest.raises(DsyncError) as refused:
        erp.apply("users", delete=True)
    assert refused.value.code == "DS-SAFE-COMPLETE"
    assert len(erp.api.effects()) == before


def test_active_values_only(erp: Erp) -> None:
    """A profile that asks for status N leaves closed projects out."""
    _put(erp, "n2f/projects", _block("status"))
    erp.rows(
        values=[
            value("PROJECT", "ENT1", "P1", "On"),
            value("PROJECT", "ENT1", "P2", "Off", status="C"),
        ]
    )
    changes, _ = erp.planned("projects")
    assert [change.key[2] for change in changes] == ["P1"]


def test_an_unknown_manager_withholds(erp: Erp) -> None:
    """Where a profile says so, who names an unknown manager is an error; others go on."""
    _put(erp, "n2f/users", _block("on_missing: error"))
    erp.rows([user("a@example.org"), user("b@example.org", 2, Manager="who@example.org"),
              user("c@example.org", 3, Manager="a@example.org")])  # fmt: skip
    done = erp.apply("users")
    assert done.rows["b@example.org",].status == "ERROR"
    assert [body["mail"] for body in done.bodies()] == ["a@example.org", "c@example.org"]


def test_all_of_the_page() -> None:
    """Each profile of the page has a test here."""
    assert len(BLOCKS) == Path(__file__).read_text(encoding="utf-8").count("_block(") - 2 - 1


def test_a_new_project_says_what_is_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The steps that `dsync init` prints work as they stand: the plan of the example's rows."""
    assert main(["init", str(tmp_path / "erp"), "--example", "n2f"]) == 0
    steps = [line.strip() for line in capsys.readouterr().out.partition("next:")[2].splitlines()]
    (export,) = [step for step in steps if step.startswith("export ")]
    for word in export.split()[1:]:
        monkeypatch.setenv(*word.partition("=")[::2])
    (emulate,) = [step for step in steps if step.startswith("dsync emulate n2f ")]
    (named,) = re.findall(r"--seed (\S+)", emulate)
    seed = json.loads((tmp_path / "erp" / named).read_bytes())
    with emulators.start("n2f", seed=seed) as emulator:
        there = ["--project", str(tmp_path / "erp"), "--base-url"]
        there.append(f"{emulator.url}{n2f_project.API}/")
        assert "dsync plan n2f" in steps
        assert main(["plan", "n2f", *there]) == 0
    assert "+5 create  ~1 update" in capsys.readouterr().out


# --- promises of section 6.2 ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "told"),
    [("cache: {max_mb: much}\n", "max_mb"), ("    timeout_s: never\n", "timeout_s")],
)
def test_a_wrong_configuration_calls_nobody(erp: Erp, more: str, told: str) -> None:
    """A wrong value is named with its place, and nothing is called."""
    erp.configure("sqlite:///erp.db", more)
    with pytest.raises((DsyncError, ExceptionGroup)) as refused:
        erp.apply()
    text = str(refused.value) + repr(getattr(refused.value, "exceptions", ""))
    assert told in text
    assert erp.calls() == []


def test_scopes_are_chosen_and_ordered(erp: Erp) -> None:
    """`--scope` takes one of them; all of them go in one fixed order, users last."""
    rows = [value("PROJECT", "ENT1", "P1", "P"), value("PLAQUE", "ENT1", "1-A", "V"),
            value("SUBPOST", "ENT1", "S1", "S"),
            value("DEPARTMENT", "ENT1", "D1", "D")]  # fmt: skip
    erp.rows([user("a@example.org")], rows)
    changes, _ = erp.planned(kinds=("users", "plates"))
    assert [change.resource for change in changes] == ["plates", "users"]
    written = [
        change["path"].rpartition("/")[2]
        for change in erp.apply().calls
        if change["method"] == "POST"
    ]
    assert written[-6:-5] == ["auth"]
    state = _state(erp)
    assert [one["code"] for one in sorted(state["values"], key=lambda one: one["uuid"])] == [
        "P1", "1-A", "S1", "D1"
    ]  # fmt: skip
    assert written[-1] == "users"


def test_a_profile_that_is_none(erp: Erp) -> None:
    """A broken file stops the scopes that were asked for, with its place, before any call."""
    _put(erp, "n2f/broken", "version: 1\nresource: broken\n")
    with pytest.raises((DsyncError, ExceptionGroup)) as refused:
        erp.apply()
    assert "broken.yml" in str(refused.value) + repr(getattr(refused.value, "exceptions", ""))
    assert erp.calls() == []
    erp.rows([user("a@example.org")])
    assert erp.apply("users").run.exit_code == 0


def test_two_kinds_of_one_name(erp: Erp) -> None:
    """Two profiles cannot mean different axes by one name."""
    text = _block("resource: departments\n")
    _put(erp, "n2f/sites", text.replace("labels: [Département, Departement]", "labels: [Site]"))
    with pytest.raises((DsyncError, ExceptionGroup)) as refused:
        erp.apply()
    told = str(refused.value) + repr(getattr(refused.value, "exceptions", ""))
    assert "DS-PROF-WITH" in told or "another resource `departments`" in told
    assert erp.calls() == []


def test_one_scope_that_fails(erp: Erp) -> None:
    """A listing that fails stops its own scope; the others are written, and the run has failed."""
    rows = [value("PROJECT", "ENT1", "P1", "P"), value("SUBPOST", "ENT1", "S1", "S")]
    erp.rows([user("a@example.org")], rows)
    erp.api.faults([{"match": {"method": "GET", "path": ".*/axes/projects.*"}, "fault": "status",
                     "status": 500}])  # fmt: skip
    done = erp.apply()
    assert done.run.exit_code == 4
    assert [made["code"] for made in _state(erp)["values"]] == ["S1"]
    assert [made["mail"] for made in _state(erp)["users"]] == ["a@example.org"]
    failed = [row for row in done.rows.values() if row.status in ("ERROR", "EXCEPTION")]
    assert {row.profile for row in failed} == {"n2f/projects"}


def test_a_refused_row_tells_its_call(erp: Erp) -> None:
    """A refused row has its status and what the API said, once; the others are written."""
    erp.api.switches({"seat_limit": 1})
    erp.rows([user("a@example.org"), user("b@example.org", 2)])
    done = erp.apply("users")
    row = done.rows["b@example.org",]
    assert (row.status, row.http_status, row.attempts) == ("ERROR", 409, 1)
    assert "User limit reached" in row.reason
    assert done.run.exit_code == 4
    assert "demo-secret" not in json.dumps([str(one) for one in done.rows.values()])


def test_the_second_run_asks_for_no_inventory(erp: Erp) -> None:
    """Companies, roles and profiles are read once; a pattern makes them be asked for again."""
    erp.rows([user("a@example.org")])
    assert [_gets_of(erp, name) for name in INVENTORIES[:3]] == [0, 0, 0]
    erp.apply("users")
    assert [_gets_of(erp, name) for name in INVENTORIES[:3]] == [1, 1, 1]
    erp.apply("users")
    assert [_gets_of(erp, name) for name in INVENTORIES[:3]] == [1, 1, 1]
    erp.apply("users", invalidate_cache=("roles",))
    assert [_gets_of(erp, name) for name in INVENTORIES[:3]] == [1, 2, 1]
    erp.apply("users", clear_cache=True)
    assert [_gets_of(erp, name) for name in INVENTORIES[:3]] == [2, 3, 2]


def _gets_of(erp: Erp, name: str) -> int:
    return _gets(erp)[name]


def test_a_run_reads_and_logs_in_once(erp: Erp) -> None:
    """One login; each listing once for all scopes; no call beside another; one POST for a key."""
    rows = [
        value(typ, "ENT1", code, "x") for typ in ("PROJECT", "PLAQUE", "SUBPOST") for code in "AB"
    ]
    erp.rows([user("a@example.org"), user("b@example.org", 2, Manager="a@example.org")], rows)
    done = erp.apply()
    assert done.run.exit_code == 0
    assert max(_gets(erp).values()) == 1
    logins = [call for call in done.calls if call["path"].endswith("/auth")]
    assert len(logins) == 1
    sent = Counter((path, str(body)) for path, body in (
        (call["path"], call["body"]) for call in done.calls if call["method"] == "POST"
    ))  # fmt: skip
    assert max(sent.values()) == 1
    assert erp.api.counts()["in_flight_max"] == 1


def test_figures_are_the_emulators(erp: Erp) -> None:
    """The metrics of a run count what the API has counted; records are rows; the CSV agrees."""
    erp.seed([user("a@example.org"), user("b@example.org", 2)])
    begun = erp.calls()[-1]["seq"]
    erp.rows([user("a@example.org", Prenom="Other"), user("c@example.org", 3), user("", 4)])
    project = api.open_project(erp.folder)
    approved = Approvals(deleting=frozenset({(1, 2)}), targets=frozenset({"n2f"}))
    run_id = api.apply(project, erp.ask("users", delete=True, approvals=approved))
    assert run_id is not None
    figures = json.loads(_report(project, run_id, "metrics", erp.folder))
    calls = erp.calls(begun)
    assert figures["summary"]["performance"]["total_api_calls"] == len(calls)
    assert figures["summary"]["operations_by_action"]["sync"]["total_records"] == 3
    by_action = figures["summary"]["operations_by_action"]
    lines = _report(project, run_id, "csv", erp.folder).splitlines()[1:]
    for action in ("create", "update", "delete"):
        assert by_action[action]["count"] == sum(f",{action}," in line for line in lines)
        assert by_action[action]["count"] == 1


def _report(project: api.Project, run_id: str, form: str, folder: Path) -> str:
    path, _ = api.save_report(project, run_id, form=form, out=folder / f"report.{form}")
    return path.read_text(encoding="utf-8")


def test_503_twice_then_success(erp: Erp) -> None:
    """What is safe to repeat is repeated with a growing pause, and told; a 400 never is."""
    erp.rows([user("a@example.org"), user("b@example.org", 2, Devise="EUR")])
    erp.api.faults([{"match": {"method": "POST", "path": ".*/users", "times": 2},
                     "fault": "status", "status": 503}])  # fmt: skip
    done = erp.apply("users")
    assert done.run.exit_code == 0
    assert sorted(row.attempts for row in done.rows.values()) == [1, 3]
    assert len(erp.api.effects()) == 2


def test_a_cut_post_is_safe_to_repeat(erp: Erp) -> None:
    """A connection that is cut after the effect costs a call, never a second account."""
    erp.rows([user("a@example.org")])
    erp.api.faults([{"match": {"method": "POST", "path": ".*/users", "times": 1},
                     "fault": "reset", "when": "after"}])  # fmt: skip
    done = erp.apply("users")
    assert done.run.exit_code == 0
    assert _state(erp)["creation_mails"]["total"] == 1


@pytest.mark.parametrize("total", [0, 199, 200, 201, 400])
def test_pages_are_read_whole(erp: Erp, total: int) -> None:
    """However many there are, all are read, and a page is never asked for twice."""
    erp.api.switches({"projects": total})
    erp.api.reset()
    erp.rows(values=[value("PROJECT", "ENT1", "new", "New")])
    with erp.plan("projects", delete=True) as plan:
        (tally,) = plan.tallies
    assert (tally.existing, tally.delete) == (total, total)
    pages = [(call["path"], str(call["query"])) for call in erp.calls() if call["method"] == "GET"]
    assert len(pages) == len(set(pages))


@pytest.mark.parametrize("duplicates", ["first", "withhold"])
def test_a_key_twice_is_one_record(erp: Erp, duplicates: str) -> None:
    """A key that is there twice in the ERP, and once in N2F, stands in nobody's way."""
    base = "version: 1\nextends: n2f/users\nresource: users\n"
    _put(erp, "n2f/users", f"{base}identity: {{duplicates: {duplicates}}}\n")
    erp.seed([user("a@example.org")])
    erp.rows([user("a@example.org"), user("A@example.org ", 2), user("b@example.org", 3)])
    done = erp.apply("users")
    assert done.run.exit_code == 4
    firsts = {one["mail"]: one["firstname"] for one in _state(erp)["users"]}
    assert firsts == {"a@example.org": "First1", "b@example.org": "First3"}
    with erp.plan("users", delete=True) as plan:
        (tally,) = plan.tallies
    assert (tally.existing, tally.delete, tally.error) == (2, 0, 1 if duplicates == "first" else 2)


def test_older_names_of_inventories(tmp_path: Path) -> None:
    """`--invalidate-cache get_roles` makes roles be asked for again, and nothing else."""
    with emulators.start("n2f", switches={**test_n2f.NIGHT, "seed": "reference"}) as emulator:
        project = test_n2f.project(tmp_path, emulator)
        project.plan("--scope", "users")
        begun = len(emulator.ledger())
        project.plan("--scope", "users", "--invalidate-cache", "get_roles")
        read = [path.split("?")[0] for method, path, _ in project.calls(begun) if method == "GET"]
    assert "/roles" in read
    assert "/userprofiles" not in read


# --- promises of section 6.3 ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "wrong"),
    [("AdresseEmail", "no address"), ("AdresseEmail", "two@at@example"), ("langue", "french"),
     ("Devise", "E"), ("Entreprise", None)],
)  # fmt: skip
def test_bad_values_are_never_sent(erp: Erp, column: str, wrong: str | None) -> None:
    """A bad mail, language, currency or company is an error of its row before any call."""
    bad = user("bad@example.org", 2)
    names = [name for name, _ in n2f_project.sample().USER_COLUMNS]
    changed = tuple(
        wrong if name == column else cell for name, cell in zip(names, bad, strict=True)
    )
    erp.rows([user("a@example.org"), changed])
    done = erp.apply("users")
    assert [body["mail"] for body in done.bodies()] == ["a@example.org"]
    assert done.run.exit_code == 4


def test_nothing_is_written_to_the_erp(erp: Erp) -> None:
    """The database is the same, byte for byte, after an apply."""
    erp.rows([user("a@example.org")])
    before = (erp.folder / "erp.db").read_bytes()
    erp.apply()
    assert (erp.folder / "erp.db").read_bytes() == before
    with closing(sqlite3.connect(erp.folder / "erp.db")) as con:
        assert con.execute("select count(*) from v_N2F_User").fetchone() == (1,)


# --- traps that no other test shows --------------------------------------------------------------


def test_strict_slashes(erp: Erp) -> None:
    """Base address and path are joined with one slash, whether the address ends with one or not."""
    erp.api.switches({"strict_slashes": True})
    erp.rows([user("a@example.org")])
    assert erp.apply().run.exit_code == 0
    text = (erp.folder / "directorsync.yml").read_text()
    (erp.folder / "directorsync.yml").write_text(text.replace("/v2/\n", "/v2\n"))
    with erp.plan() as plan:
        assert plan.is_empty


def test_odd_codes_are_deleted_where_they_are(erp: Erp) -> None:
    """A code with a stroke, a hash, a blank or an accent is one segment of its own path."""
    codes = ("A/B 1", "P#2", "P+3", "É?4")
    erp.seed(values=[value("PROJECT", "ENT2", code, "x") for code in (*codes, "stays")])
    erp.rows(values=[value("PROJECT", "ENT2", "stays", "x")])
    approved = Approvals(deleting=frozenset({(4, 5)}), targets=frozenset({"n2f"}))
    done = erp.apply("projects", delete=True, approvals=approved)
    assert done.run.exit_code == 0
    assert [one["code"] for one in _state(erp)["values"]] == ["stays"]
    assert ("DELETE", "/companies/MTAwMDI%3D/axes/projects/A%2FB%201", 204) in done.writes


def test_two_codes_of_one_name(erp: Erp) -> None:
    """Two values may have the same description; each is matched by its code."""
    erp.seed(values=[value("PROJECT", "ENT1", code, "Same") for code in "AB"])
    erp.rows(values=[value("PROJECT", "ENT1", "B", "Same"), value("PROJECT", "ENT1", "C", "Same")])
    changes, _ = erp.planned("projects")
    assert [(change.action, change.key[2]) for change in changes] == [("create", "C")]
