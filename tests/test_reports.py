"""Reports: what a plan would do and a run has done, for people, machines and pull requests."""

from __future__ import annotations

import io
import json
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dsync import reports
from dsync.errors import Place, StorageFault, UsageFault
from dsync.model import Plan, RowStatus
from dsync.reports import RowResult, RunResult, key_text, printable, summary, value_text
from dsync.reports import json as json_report
from dsync.reports.markdown import MAX_CHARS, code
from dsync.reports.text import difference
from plan_literals import change, finding, make_plan, reference

pytestmark = pytest.mark.unit

HOSTILE = (
    "\x1b[31mred\x1b[0m \u202eevil\u2066 <script>alert(1)</script> a|b `c` @octo #1\n\x9b2J\u200b"
)
NEVER = ("\x1b", "\u202e", "\u2066", "\x9b", "\u200b")

START = datetime(2026, 11, 2, 8, 0, tzinfo=UTC)
COUNTS: dict[RowStatus, int] = {"CREATED": 2, "UPDATED": 1, "UNCHANGED": 7, "SKIP": 1, "ERROR": 1}
RUN = RunResult(
    run_id="r1", plan_digest="d1", exit_code=4, counts=COUNTS, unknown=0, pending=0, calls=4,
    started=START, ended=START + timedelta(seconds=1.5), tool_version="3.0.0",
)  # fmt: skip
ROWS = [
    RowResult(status="CREATED", profile="pets", system="zoo", resource="pets", key=("ant",),
              action="create", row=2, id=7),
    RowResult(status="ERROR", profile="pets", system="zoo", resource="pets", key=("bee",),
              action="update", row=3, code="DS-HTTP-422", reason="no such colour",
              hint="correct the row"),
    RowResult(status="SKIP", profile="pets", system="zoo", resource="pets", key=(),
              row=4, place=Place(file="zoo.xlsx", sheet="Pets", row=4, cell="B4"),
              code="DS-CHECK-EMPTY", reason=HOSTILE),
]  # fmt: skip


def shown(plan: Plan, form: str = "text", **options: Any) -> str:
    stream = io.StringIO()
    reports.render_plan(plan, stream, format=form, **options)
    return stream.getvalue()


def told(run: RunResult = RUN, form: str = "text", **options: Any) -> str:
    stream = io.StringIO()
    reports.render_run(run, iter(ROWS), stream, format=form, **options)
    return stream.getvalue()


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return make_plan(
        tmp_path,
        [
            change("create", "rp_app", profile="routing", resource="RoutingPolicies",
                   payload={"policy_name": "rp_app", "active": True}),
            change("update", "pp_app", profile="processing", resource="ProcessingPolicy",
                   before={"tags": ["a", "b"], "routing": "64b0", "note": "old"},
                   after={"tags": ["b", "c"], "routing": reference("RoutingPolicies", "rp_app"),
                          "note": "new"},
                   fields=["note", "routing", "tags"], wave=1),
            change("delete", "gone", profile="processing", resource="ProcessingPolicy", wave=2),
            finding("error", "DS-CHECK-EMPTY", 12, profile="processing",
                    resource="ProcessingPolicy", key=["bad"], message="name is empty",
                    place={"file": "w.xlsx", "sheet": "PP", "row": 12, "cell": "C12"},
                    hint="fill the cell"),
            finding("warn", "DS-SOURCE-NOTE", None, profile="", resource="", message="a note"),
        ],
        unchanged=5,
    )  # fmt: skip


def lines_of(plan: Plan) -> list[Any]:
    return [json.loads(line) for line in plan.body.read_text().splitlines()]


# --- text


def test_plan_as_text(plan: Plan) -> None:
    """People see marks, keys, old -> new of each field, findings with their place, and counts."""
    plan = make_plan(plan.body.parent, lines_of(plan)[:4],
                     unchanged=5)  # fmt: skip
    assert shown(plan) == (
        "routing -> zoo.RoutingPolicies\n"
        "  + rp_app\n"
        '      policy_name: "rp_app"\n'
        "      active: true\n"
        "  +1 create  ~0 update  -0 delete  =5 unchanged  !0 skip  !0 error  !0 warn\n"
        "\n"
        "processing -> zoo.ProcessingPolicy\n"
        "  ~ pp_app\n"
        '      note: "old" -> "new"\n'
        '      routing: "64b0" -> (id of RoutingPolicies "rp_app")\n'
        '      tags: - "a"\n'
        '      tags: + "c"\n'
        "  - gone\n"
        "  ! error DS-CHECK-EMPTY bad: name is empty\n"
        "      at w.xlsx PP!C12\n"
        "      next: fill the cell\n"
        "  +0 create  ~1 update  -1 delete  =0 unchanged  !0 skip  !1 error  !0 warn\n"
        "\n"
        "Plan: +1 create  ~1 update  -1 delete  =5 unchanged  !0 skip  !1 error  !0 warn\n"
    )


def test_finding_of_no_profile(plan: Plan) -> None:
    """A finding that belongs to no profile's scope is shown by itself."""
    lines = lines_of(plan)
    tallied = make_plan(plan.body.parent, lines[:4])
    with tallied.body.open("a") as body:
        body.write(json.dumps(lines[4], separators=(",", ":")) + "\n")
    assert "findings about no single profile\n  ! warn DS-SOURCE-NOTE: a note\n" in shown(tallied)
    assert "a note" in shown(tallied, "markdown")


def test_create_shows_its_payload(tmp_path: Path) -> None:
    """A create shows what is sent, also where planning has not repeated it as `after`."""
    plan = make_plan(tmp_path, [change("create", "ant", payload={"legs": 6}, after=None)])
    assert "  + ant\n      legs: 6\n" in shown(plan)


def test_empty_plan_as_text(tmp_path: Path) -> None:
    """An empty plan says that there is nothing to do."""
    plan = make_plan(tmp_path, [finding("warn", "DS-A", 3)], unchanged=3)
    assert "Nothing to do: what is there is as wanted.\n" in shown(plan)
    assert shown(plan, "markdown").startswith("### dsync plan: nothing to do\n")


def test_big_plan_is_cut(tmp_path: Path) -> None:
    """Of a big plan the first changes of each section are shown, and how many more there are."""
    lines = [change("create", f"k{n:03}", profile=p) for p in ("one", "two") for n in range(120)]
    lines += [finding("skip", "DS-A", n, profile="two") for n in range(70)]
    plan = make_plan(tmp_path, lines)
    text = shown(plan)
    assert text.count("  + k") == 100
    assert text.count("  … 70 more changes (only the first 50 are shown)") == 2
    assert "  … 20 more findings" in text
    assert shown(plan, limit=3).count("  + k") == 6
    assert shown(plan, limit=None).count("  + k") == 240
    assert "… 70 more changes" in shown(plan, "markdown")


@pytest.mark.parametrize(
    ("before", "after", "lines"),
    [
        (1, None, ["1 -> null"]),
        ("1", 1, ['"1" -> 1']),
        (["a"], ["a", "b"], ['+ "b"']),
        (["a", "a"], ["a"], ['- "a"']),
        ([{"p": 1}], [{"p": 2}], ['- {"p":1}', '+ {"p":2}']),
        (["a", "b"], ["b", "a"], ['order ["a","b"] -> ["b","a"]']),
        (["a"], "a", ['["a"] -> "a"']),
    ],
)
def test_differences(before: Any, after: Any, lines: list[str]) -> None:
    """A field is shown as old -> new, a list by the items that come and go."""
    assert difference(before, after) == lines


def test_long_values_are_cut() -> None:
    """Long values are cut so that the place where they begin to differ is in sight."""
    (line,) = difference("x" * 500 + "old" + "y" * 500, "x" * 500 + "new" + "y" * 500)
    old, new = line.split(" -> ")
    assert "xxxold" in old
    assert "xxxnew" in new
    assert len(line) < 250
    assert difference("x" * 500, "x" * 501)
    assert len(difference([], ["x" * 500])[0]) < 120


def test_colour(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Colour is for terminals that want it, and takes nothing from the text."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    coloured, plain = Terminal(), Terminal()
    reports.render_plan(plan, coloured)
    assert "\x1b[32m  + rp_app" in coloured.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    reports.render_plan(plan, plain)
    assert plain.getvalue() == shown(plan)
    assert "\x1b" not in plain.getvalue()
    assert "\x1b" in shown(plan, color=True)


def test_summary_line() -> None:
    """The summary has the six statuses of the specification, and DELETED when there are any."""
    assert summary({"CREATED": 2}) == (
        "CREATED=2 | UPDATED=0 | UNCHANGED=0 | SKIP=0 | ERROR=0 | EXCEPTION=0"
    )
    assert summary({"DELETED": 3}) == (
        "CREATED=0 | UPDATED=0 | DELETED=3 | UNCHANGED=0 | SKIP=0 | ERROR=0 | EXCEPTION=0"
    )


def test_run_as_text() -> None:
    """People see the rows that are not as wanted, with reason and next step, then the counts."""
    text = told()
    assert text.startswith(
        "ERROR update pets bee\n    DS-HTTP-422 no such colour\n    next: correct the row\n"
        "SKIP pets row 4 at zoo.xlsx Pets!B4\n    DS-CHECK-EMPTY \\u001b[31mred"
    )
    assert "ant" not in text
    assert text.endswith("\nCREATED=2 | UPDATED=1 | UNCHANGED=7 | SKIP=1 | ERROR=1 | EXCEPTION=0\n")
    assert "… 1 more rows" in told(limit=1)


def test_run_that_stopped() -> None:
    """A run that stopped says why, what is unknown, and how to go on."""
    run = RunResult(run_id="r1", plan_digest="d", exit_code=5, counts={}, unknown=2, pending=3,
                    stopped="the token is refused")  # fmt: skip
    text = told(run)
    assert "stopped early: the token is refused\n" in text
    assert "2 calls with an unknown outcome: dsync reconcile r1\n" in text
    assert "3 changes not begun: dsync resume r1\n" in text
    assert run.duration_s == 0


# --- JSON


def test_plan_as_json(plan: Plan) -> None:
    """Machines get the whole plan as one document with a version, references spelled out."""
    document = json.loads(shown(plan, "json", limit=1))
    assert (document["format"], document["format_version"]) == ("dsync-plan-report", 1)
    assert document["summary"]["create"] == 1
    assert [item["key"] for item in document["changes"]] == [["rp_app"], ["pp_app"], ["gone"]]
    assert document["changes"][1]["after"]["routing"] == {
        "reference": {"resource": "RoutingPolicies", "key": ["rp_app"], "take": "id"}
    }
    assert document["findings"][0]["place"]["text"] == "w.xlsx PP!C12"
    assert document["tallies"][1]["error"] == 1


def test_empty_plan_as_json(tmp_path: Path) -> None:
    """A plan without changes is a document all the same."""
    document = json.loads(shown(make_plan(tmp_path, []), "json"))
    assert (document["changes"], document["findings"], document["tallies"]) == ([], [], [])


def test_run_as_json(tmp_path: Path) -> None:
    """report.json has counts, times, exit code and every row, and is its owner's alone."""
    path = json_report.save_run(tmp_path, RUN, iter(ROWS))
    assert path == tmp_path / "report.json"
    assert path.stat().st_mode & 0o077 == 0
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["started"] == "2026-11-02T08:00:00.000Z"
    assert (document["duration_s"], document["exit_code"], document["calls"]) == (1.5, 4, 4)
    assert document["summary"] == summary(COUNTS)
    first, second, third = document["rows"]
    assert (first["key"], first["status"], first["id"]) == (["ant"], "CREATED", 7)
    assert (second["code"], second["has_failed"]) == ("DS-HTTP-422", True)
    assert third["reason"] == HOSTILE
    assert list(tmp_path.iterdir()) == [path]


def test_report_that_cannot_be_written(tmp_path: Path) -> None:
    """A report that cannot be written says how to make it again."""
    with pytest.raises(StorageFault, match="dsync report r1"):
        json_report.save_run(tmp_path / "none", RUN, iter(ROWS))


def test_json_streams(tmp_path: Path) -> None:
    """A big plan is written as it is read: memory does not grow with it."""
    plan = make_plan(tmp_path, [change("create", f"k{n}") for n in range(20_000)])

    class Sink(io.StringIO):
        def write(self, text: str) -> int:
            return len(text)

    tracemalloc.start()
    try:
        reports.render_plan(plan, Sink(), format="json")
        reports.render_plan(plan, Sink())
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


# --- Markdown


def test_plan_as_markdown(plan: Plan) -> None:
    """A pull request gets the counts as a table, and the changes folded."""
    text = shown(plan, "markdown")
    assert text.startswith("### dsync plan: 1 to create, 1 to update, 1 to delete\n\n| profile |")
    assert "| <code>routing</code> |  | 1 | 0 | 0 | 5 | 0 | 0 | 0 |\n" in text
    assert "<details><summary><code>processing</code></summary>\n" in text
    assert '<code>note&#58; "old" -&#62; "new"</code><br>' in text
    assert "<code>w.xlsx PP!C12</code>" in text


def test_markdown_fits_a_comment(tmp_path: Path) -> None:
    """However big the plan, the comment stays below GitHub's limit and says what is left out."""
    lines = [change("create", f"k{n}", payload={"text": "x" * 60}) for n in range(2000)]
    text = shown(make_plan(tmp_path, lines), "markdown", limit=None)
    assert len(text) < MAX_CHARS + 500
    assert "more lines than a comment can hold" in text
    assert text.count("<details>") == text.count("</details>") == 1


def test_run_as_markdown() -> None:
    """A pull request gets counts and the rows to look at."""
    text = told(form="md")
    assert text.startswith("### dsync run <code>r1</code>: exit 4\n")
    assert "<code>CREATED=2 &#124; UPDATED=1" in text
    assert "<code>no such colour</code>" not in text
    assert "<code>DS-HTTP-422 no such colour</code>" in text
    assert "… 1 more rows" in told(form="md", limit=1)


# --- texts of strangers


@pytest.mark.parametrize("form", ["text", "json", "markdown"])
def test_hostile_texts(tmp_path: Path, form: str) -> None:
    """No text of a source or an API is obeyed: not by a terminal, a browser, GitHub or an eye."""
    lines = [
        change("create", HOSTILE, profile=HOSTILE, scope=HOSTILE, payload={HOSTILE: [HOSTILE]}),
        change("update", "x", before={HOSTILE: HOSTILE}, after={HOSTILE: {HOSTILE: None}},
               fields=[HOSTILE]),
        finding("skip", HOSTILE, 3, key=[HOSTILE], message=HOSTILE, hint=HOSTILE,
                place={"file": HOSTILE, "row": 3}),
    ]  # fmt: skip
    run = RunResult(run_id="r1", plan_digest="d", exit_code=5, counts={}, stopped=HOSTILE)
    for text in (shown(make_plan(tmp_path, lines), form), told(run, form)):
        assert not [mark for mark in NEVER if mark in text]
        if form != "text":
            assert "<script" not in text
        if form == "markdown":
            assert "a|b" not in text
            assert "`" not in text
            assert "@octo" not in text
    if form == "json":
        document = json.loads(shown(make_plan(tmp_path, lines), form))
        assert document["changes"][0]["after"] == {HOSTILE: [HOSTILE]}


def test_printable() -> None:
    """What cannot be seen is written as an escape; everything else stays as it is."""
    assert printable("Zoë 日本 🦊 — “x”") == "Zoë 日本 🦊 — “x”"
    assert printable("a\tb\r\n\x00\x7f\ufeff") == "a\\tb\\r\\n\\u0000\\u007f\\ufeff"
    assert printable("\U000e0041\ue000\ud800") == "\\U000e0041\\ue000\\ud800"
    assert code("a_b*c\n") == "<code>a&#95;b&#42;c&#92;n</code>"
    assert code("") == ""


def test_keys_and_values() -> None:
    """Keys and values are shown so that nothing in them can be misread."""
    assert key_text(("a", "b c", "", 'd"')) == 'a, "b c", "", "d\\""'
    assert key_text(()) == ""
    assert value_text(f"x-{reference('Repos', 'r 1')}") == '"x-(id of Repos \\"r 1\\")"'
    assert value_text(reference("Repos", "r 1")) == '(id of Repos "r 1")'
    assert value_text("\ue000broken\ue001") == "(unreadable reference broken)"
    assert value_text({"a": [None, True, 1.5]}) == '{"a":[null,true,1.5]}'


def test_formats() -> None:
    """Formats have the names of their modules; an unknown one names those that there are."""
    with pytest.raises(UsageFault, match="text, table, json, markdown, md"):
        reports.render_run(RUN, iter(()), io.StringIO(), format="html5")


def test_reading_stops_when_all_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes that are not shown are not even read."""
    plan = make_plan(tmp_path, [change("create", f"k{n}") for n in range(1000)])
    read = 0
    changes = Plan.changes

    def counted(self: Plan) -> Iterator[Any]:
        nonlocal read
        for item in changes(self):
            read += 1
            yield item

    monkeypatch.setattr(Plan, "changes", counted)
    shown(plan, limit=10)
    assert read == 10
