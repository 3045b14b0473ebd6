"""Guards by table: below, at and above each limit; each approval exact, too low, or too late."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsync import findings, safety
from dsync.errors import Refused, UsageFault
from dsync.model import History, Measures, Plan, Proof, Thresholds, Verdict, Wipe
from dsync.safety import Approvals
from plan_literals import change, make_plan

pytestmark = pytest.mark.unit

ALLOWED = Approvals(allow_delete=True)
NEVER = "never"
"""nothing approves this"""


def measures(**given: Any) -> Measures:
    """Numbers that no guard minds, but for those given; a proof of what exists is added."""
    existing = given.get("existing", given.get("managed", 0))
    base: dict[str, Any] = {
        "profile": "items", "resource": "items", "target": "shop", "rows": 100,
        "existing": existing, "managed": existing, "pruning": True,
        "proof": Proof(kind="listing", pages=1, records=existing),
    }  # fmt: skip
    return Measures(**(base | given))


def states(
    *numbers: Measures, approvals: Approvals = ALLOWED, history: Any = None
) -> dict[str, str]:
    """Guard -> its strongest state over all of the plan."""
    found: dict[str, str] = {}
    order = ("passed", "approved", "refused")
    for verdict in safety.judge(numbers, approvals=approvals, history=history):
        was = found.get(verdict.guard, "passed")
        found[verdict.guard] = max(was, verdict.state, key=order.index)
    return found


def of(guard: str, *numbers: Measures, **words: Any) -> str:
    return states(*numbers, **words)[guard]


# --- G1: deletes at all ---------------------------------------------------------------------------


@pytest.mark.parametrize("existing", [1, 9, 10, 11, 1000])
@pytest.mark.parametrize("deletes", [0, 1])
@pytest.mark.parametrize("allowed", [False, True])
def test_g1(existing: int, deletes: int, allowed: bool) -> None:
    """Deletes need the user's own word, whatever their number."""
    numbers = measures(existing=existing, deletes=deletes)
    expected = "refused" if deletes and not allowed else "passed"
    assert of("G1", numbers, approvals=Approvals(allow_delete=allowed)) == expected


# --- G2: delete count -----------------------------------------------------------------------------


def _usual_deletes(managed: int) -> int:
    """The document's formula, written down a second time in whole numbers."""
    return min(500, max(3, managed * 5 // 100))


@pytest.mark.parametrize("managed", [9, 10, 11, 59, 60, 79, 80, 1000, 9999, 10_000, 10_001, 50_000])
@pytest.mark.parametrize("beside", [-1, 0, 1])
def test_g2(managed: int, beside: int) -> None:
    """5 % of the managed records, at least 3, at most 500, need no approval; one more does."""
    deletes = _usual_deletes(managed) + beside
    expected = "refused" if beside > 0 else "passed"
    assert of("G2", measures(managed=managed, deletes=deletes)) == expected


@pytest.mark.parametrize(
    ("given_", "expected"),
    [(None, "refused"), (0, "refused"), (50, "refused"), (59, "refused"), (60, "approved"),
     (61, "approved"), (1000, "approved")],
)  # fmt: skip
def test_g2_approved(given_: int | None, expected: str) -> None:
    """The number must be that of the plan, or higher."""
    approvals = replace(ALLOWED, max_deletes=given_)
    assert of("G2", measures(managed=1000, deletes=60), approvals=approvals) == expected


@pytest.mark.parametrize("limit", [0, 1, 7, 600])
@pytest.mark.parametrize("beside", [-1, 0, 1])
def test_g2_of_the_profile(limit: int, beside: int) -> None:
    """A profile states another number, lower or higher."""
    deletes = limit + beside
    if deletes < 0:
        return
    numbers = measures(managed=9000, deletes=deletes, thresholds=Thresholds(max_delete_count=limit))
    assert of("G2", numbers) == ("refused" if beside > 0 else "passed")


@pytest.mark.parametrize(("each", "expected"), [(249, "passed"), (250, "passed"), (251, "refused")])
def test_g2_scopes_add_up(each: int, expected: str) -> None:
    """Many scopes cannot delete together what one may not: 500 of a plan."""
    two = [measures(scope=s, managed=9000, deletes=each) for s in ("n1", "n2")]
    assert of("G2", *two) == expected
    for number, approved in ((2 * each - 1, expected), (2 * each, "approved")):
        approvals = replace(ALLOWED, max_deletes=number)
        assert of("G2", *two, approvals=approvals) == (
            approved if expected == "refused" else "passed"
        )


# --- G3: delete share -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("managed", "deletes", "expected"),
    [
        (1, 0, "passed"), (1, 1, "refused"),
        (2, 1, "passed"), (2, 2, "refused"),
        (9, 1, "passed"), (9, 2, "passed"), (9, 8, "passed"), (9, 9, "refused"),
        (10, 1, "passed"), (10, 2, "refused"), (10, 3, "refused"), (10, 10, "refused"),
        (11, 2, "passed"), (11, 3, "refused"), (11, 11, "refused"),
        (1000, 199, "passed"), (1000, 200, "refused"), (1000, 201, "refused"),
        (1000, 1000, "refused"), (100_000, 19_999, "passed"), (100_000, 20_000, "refused"),
    ],
)  # fmt: skip
def test_g3(managed: int, deletes: int, expected: str) -> None:
    """A fifth of ten or more managed records, or all of a kind, is refused."""
    assert of("G3", measures(managed=managed, deletes=deletes)) == expected


TYPED = [
    ({(30, 100)}, {"shop"}, "approved"),
    ({(30, 100), (5, 6)}, {"shop", "other"}, "approved"),
    ({(29, 100)}, {"shop"}, "refused"),  # too low
    ({(31, 100)}, {"shop"}, "refused"),  # exact, not at most
    ({(30, 99)}, {"shop"}, "refused"),  # stale: one more record by now
    ({(30, 101)}, {"shop"}, "refused"),
    ({(100, 30)}, {"shop"}, "refused"),
    ({(30, 100)}, {"other"}, "refused"),  # another target
    ({(30, 100)}, {"shop/n1"}, "refused"),
    ({(30, 100)}, {"Shop"}, "refused"),
    ({(30, 100)}, {"*"}, "refused"),  # no wildcard
    ({(30, 100)}, {""}, "refused"),
    ({(30, 100)}, set(), "refused"),
    (set(), {"shop"}, "refused"),
]


@pytest.mark.parametrize(("deleting", "targets", "expected"), TYPED)
def test_g3_approved(deleting: set[tuple[int, int]], targets: set[str], expected: str) -> None:
    """Both numbers and the target are typed as they are; that approves the count as well."""
    approvals = replace(ALLOWED, deleting=frozenset(deleting), targets=frozenset(targets))
    found = states(measures(managed=100, deletes=30), approvals=approvals)
    assert (found["G3"], found["G2"]) == (expected, expected)


def test_g3_is_not_a_number_of_deletes() -> None:
    """`--max-deletes` alone does not approve a great part."""
    approvals = replace(ALLOWED, max_deletes=10_000)
    assert of("G3", measures(managed=100, deletes=30), approvals=approvals) == "refused"


@pytest.mark.parametrize(("share", "deletes", "expected"), [
    (0.5, 49, "passed"), (0.5, 50, "refused"), (0.0, 1, "refused"), (1.0, 99, "passed"),
    (1.0, 100, "refused"), (0.3, 29, "passed"), (0.3, 30, "refused"),
])  # fmt: skip
def test_g3_of_the_profile(share: float, deletes: int, expected: str) -> None:
    """A profile states another share; all of a kind is refused whatever it states."""
    numbers = measures(managed=100, deletes=deletes, thresholds=Thresholds(max_delete_share=share))
    assert of("G3", numbers) == expected


def test_g3_each_scope_by_itself() -> None:
    """What is typed for one scope does not approve another."""
    two = [
        measures(scope=s, target=f"shop/{s}", managed=100, deletes=d)
        for s, d in (("n1", 30), ("n2", 40))
    ]
    approvals = replace(ALLOWED, deleting=frozenset({(30, 100)}), targets=frozenset({"shop/n1"}))
    verdicts = safety.judge(two, approvals=approvals)
    told = {v.scope: v.state for v in verdicts if v.guard == "G3"}
    assert told == {"n1": "approved", "n2": "refused"}


# --- G4: empty source -----------------------------------------------------------------------------


@pytest.mark.parametrize("existing", [0, 1, 9, 10, 11, 1000])
@pytest.mark.parametrize("pruning", [False, True])
@pytest.mark.parametrize("real", [False, True])
def test_g4_empty(existing: int, pruning: bool, real: bool) -> None:
    """No rows where records exist is refused while deletes are on."""
    numbers = measures(rows=0, existing=existing, pruning=pruning)
    minds = existing and pruning
    expected = ("approved" if real else "refused") if minds else "passed"
    assert of("G4", numbers, approvals=replace(ALLOWED, empty_source=real)) == expected


@pytest.mark.parametrize("rows", [1, 9, 10, 1000])
def test_g4_not_empty(rows: int) -> None:
    """One row is no empty source."""
    assert of("G4", measures(rows=rows, existing=1000)) == "passed"


def test_g4_needs_g3_as_well() -> None:
    """That the source is really empty does not yet approve to delete everything."""
    numbers = measures(rows=0, managed=5, deletes=5)
    real = replace(ALLOWED, empty_source=True)
    assert states(numbers, approvals=real)["G3"] == "refused"
    typed = replace(real, deleting=frozenset({(5, 5)}), targets=frozenset({"shop"}))
    safety.refuse(safety.judge([numbers], approvals=typed))


# --- G5: shrunken source --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "rows", "expected"),
    [
        (None, 1, "passed"), (0, 1, "passed"), (19, 1, "passed"),
        (20, 13, "refused"), (20, 14, "passed"), (20, 15, "passed"),
        (21, 14, "refused"), (21, 15, "passed"),
        (1000, 699, "refused"), (1000, 700, "passed"), (1000, 701, "passed"),
        (1000, 0, "refused"), (1000, 2000, "passed"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("deletes", [0, 1])
def test_g5(before: int | None, rows: int, expected: str, deletes: int) -> None:
    """With less than 70 % of the rows of last time (20 or more) nothing is deleted."""
    numbers = measures(rows=rows, managed=1000, deletes=deletes)
    history = {("items", ""): History(rows=before)}
    assert of("G5", numbers, history=history) == (expected if deletes else "passed")


@pytest.mark.parametrize(("shrank", "expected"), [
    (set(), "refused"), ({600}, "approved"), ({599}, "refused"), ({601}, "refused"),
    ({1000}, "refused"), ({5, 600}, "approved"),
])  # fmt: skip
def test_g5_approved(shrank: set[int], expected: str) -> None:
    """The number of rows is stated as it is."""
    numbers = measures(rows=600, managed=1000, deletes=1)
    approvals = replace(ALLOWED, source_rows=frozenset(shrank))
    history = {("items", ""): History(rows=1000)}
    assert of("G5", numbers, approvals=approvals, history=history) == expected


def test_g5_is_of_this_profile() -> None:
    """What another profile or scope had last time does not matter."""
    history = {("others", ""): History(rows=1000), ("items", "n2"): History(rows=1000)}
    assert of("G5", measures(rows=1, managed=1000, deletes=1), history=history) == "passed"


# --- G6: reads that are not proved complete -------------------------------------------------------


def _listing(records: int, total: int | None = None) -> Proof:
    return Proof(kind="listing", pages=3, records=records, total=total)


@pytest.mark.parametrize(
    ("proof", "works", "deletes", "creates"),
    [
        (_listing(100), True, "passed", "passed"),
        (_listing(100, 100), True, "passed", "passed"),
        (_listing(100, 101), False, "refused", "refused"),
        (_listing(100, 99), False, "refused", "refused"),
        (_listing(99), False, "refused", "refused"),
        (_listing(101), False, "refused", "refused"),
        (_listing(0), False, "refused", "refused"),
        (Proof(kind="dump"), True, "refused", "passed"),
        (Proof(), True, "refused", "passed"),
    ],
)
def test_g6(proof: Proof, works: bool, deletes: str, creates: str) -> None:
    """Without a proved list nothing is deleted or created; a dump proves nothing of deletes."""
    base = measures(existing=100, proof=proof)
    assert of("G6", base) == "passed"
    assert of("G6", replace(base, updates=1)) == "passed"
    assert of("G6", replace(base, deletes=1)) == deletes
    assert of("G6", replace(base, creates=1)) == creates
    everything = Approvals(
        allow_delete=True, max_deletes=10**6, max_creates=10**6, empty_source=True
    )
    assert of("G6", replace(base, creates=1), approvals=everything) == creates
    assert works or of("G6", replace(base, deletes=1), approvals=everything) == "refused"


@pytest.mark.parametrize("unread", [0, 1, 1000])
def test_g6_unread_rows(unread: int) -> None:
    """While a row has no readable key, nothing may be deleted, whatever is approved."""
    numbers = measures(existing=100, deletes=1, unread=unread)
    assert of("G6", numbers) == ("refused" if unread else "passed")


# --- G7: updates ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("existing", "updates", "expected"),
    [
        (0, 0, "passed"), (1, 1, "passed"), (9, 9, "passed"),
        (10, 0, "passed"), (10, 2, "passed"), (10, 3, "passed"), (10, 4, "refused"),
        (11, 3, "passed"), (11, 4, "refused"),
        (1000, 299, "passed"), (1000, 300, "passed"), (1000, 301, "refused"),
        (1000, 1000, "refused"),
    ],
)  # fmt: skip
def test_g7(existing: int, updates: int, expected: str) -> None:
    """More than 30 % of ten or more existing records are not updated unasked."""
    assert of("G7", measures(existing=existing, updates=updates)) == expected


@pytest.mark.parametrize(("given_", "expected"), [
    (None, "refused"), (0, "refused"), (399, "refused"), (400, "approved"), (401, "approved"),
])  # fmt: skip
def test_g7_approved(given_: int | None, expected: str) -> None:
    """The number must be that of the plan, or higher."""
    approvals = replace(ALLOWED, max_updates=given_)
    assert of("G7", measures(existing=1000, updates=400), approvals=approvals) == expected


@pytest.mark.parametrize(("share", "least", "updates", "expected"), [
    (0.1, 10, 10, "passed"), (0.1, 10, 11, "refused"), (1.0, 10, 100, "passed"),
    (0.3, 101, 100, "passed"), (0.0, 10, 1, "refused"),
])  # fmt: skip
def test_g7_of_the_profile(share: float, least: int, updates: int, expected: str) -> None:
    """A profile states another share, and from how many records up it holds."""
    limits = Thresholds(max_update_share=share, min_existing=least)
    assert of("G7", measures(existing=100, updates=updates, thresholds=limits)) == expected


# --- G8: column wipe ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("existing", "rows", "expected"),
    [
        (9, 9, "passed"), (10, 1, "passed"), (10, 2, "passed"), (10, 3, "refused"),
        (11, 2, "passed"), (11, 3, "refused"), (1000, 199, "passed"), (1000, 200, "passed"),
        (1000, 201, "refused"), (1000, 1000, "refused"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["empty", "same"])
def test_g8(existing: int, rows: int, expected: str, kind: str) -> None:
    """One field does not become empty, or the same, in more than a fifth of the records."""
    wipes = (Wipe(field="qty", **{kind: rows}), Wipe(field="name", same=1))
    numbers = measures(existing=existing, updates=rows, wipes=wipes)
    assert of("G8", numbers) == expected
    (verdict,) = (v for v in safety.judge([numbers]) if v.guard == "G8")
    assert ("`qty`" in verdict.message) == (expected == "refused")
    assert "`name`" not in verdict.message


@pytest.mark.parametrize(("columns", "expected"), [
    (set(), "refused"), ({"qty"}, "refused"), ({"tags"}, "refused"), ({"qty", "tags"}, "approved"),
    ({"QTY", "tags"}, "refused"), ({"*"}, "refused"), ({"qty", "tags", "more"}, "approved"),
])  # fmt: skip
def test_g8_approved(columns: set[str], expected: str) -> None:
    """Each field is approved by its name; the flags name those that are left."""
    wipes = (Wipe(field="qty", empty=50), Wipe(field="tags", same=60))
    numbers = measures(existing=100, updates=60, wipes=wipes)
    approvals = replace(ALLOWED, columns=frozenset(columns))
    (verdict,) = (v for v in safety.judge([numbers], approvals=approvals) if v.guard == "G8")
    assert verdict.state == expected
    if expected == "refused":
        missing = {"qty", "tags"} - columns
        assert verdict.flag.split() == [
            word for field in sorted(missing) for word in ("--approve-column", field)
        ]


# --- G9: creates ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("existing", "creates", "expected"),
    [
        (0, 0, "passed"), (0, 1, "passed"), (0, 999, "passed"), (0, 1000, "passed"),
        (0, 1001, "refused"), (1, 1000, "passed"), (9, 1001, "refused"), (10, 1000, "passed"),
        (11, 1001, "refused"), (500, 1000, "passed"), (500, 1001, "refused"),
        (501, 1002, "passed"), (501, 1003, "refused"), (1000, 1999, "passed"),
        (1000, 2000, "passed"), (1000, 2001, "refused"),
    ],
)  # fmt: skip
def test_g9(existing: int, creates: int, expected: str) -> None:
    """A thousand creates, or twice what exists, need no approval."""
    assert of("G9", measures(existing=existing, creates=creates)) == expected


@pytest.mark.parametrize(
    ("existing", "creates", "now", "was", "expected"),
    [
        (10, 5, "9", "09", "passed"), (10, 6, "9", "09", "refused"), (10, 6, "09", "09", "passed"),
        (9, 100, "9", "09", "passed"), (11, 5, "9", "09", "passed"), (11, 6, "9", "09", "refused"),
        (1000, 500, "a@a.a", "A9", "passed"), (1000, 501, "a@a.a", "A9", "refused"),
        (1000, 501, "", "A9", "passed"), (1000, 501, "A9", "", "passed"),
    ],
)  # fmt: skip
def test_g9_key_format(existing: int, creates: int, now: str, was: str, expected: str) -> None:
    """When keys look different, half of what exists is the limit."""
    numbers = measures(existing=existing, creates=creates, key_format=now, existing_key_format=was)
    assert of("G9", numbers) == expected


@pytest.mark.parametrize(("given_", "expected"), [
    (None, "refused"), (0, "refused"), (4999, "refused"), (5000, "approved"), (9000, "approved"),
])  # fmt: skip
def test_g9_approved(given_: int | None, expected: str) -> None:
    """The number must be that of the plan, or higher."""
    approvals = replace(ALLOWED, max_creates=given_)
    assert of("G9", measures(existing=0, creates=5000), approvals=approvals) == expected


@pytest.mark.parametrize(("limit", "creates", "expected"), [
    (0, 0, "passed"), (0, 1, "refused"), (5000, 5000, "passed"), (5000, 5001, "refused"),
    (10, 11, "refused"),
])  # fmt: skip
def test_g9_of_the_profile(limit: int, creates: int, expected: str) -> None:
    """A profile states another number, lower or higher."""
    limits = Thresholds(max_create_count=limit)
    assert of("G9", measures(existing=10**6, creates=creates, thresholds=limits)) == expected


# --- G11, G12 -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("managed", "deletes", "expected"), [
    (0, 0, "passed"), (0, 1, "refused"), (9, 9, "passed"), (9, 10, "refused"), (10, 11, "refused"),
])  # fmt: skip
def test_g11(managed: int, deletes: int, expected: str) -> None:
    """More deletes than managed records cannot be right, whatever is approved."""
    numbers = measures(existing=1000, managed=managed, deletes=deletes)
    approvals = replace(ALLOWED, max_deletes=10**6)
    assert of("G11", numbers, approvals=approvals) == expected


@pytest.mark.parametrize(
    ("of_", "twins", "expected"),
    [
        (9, 9, "passed"), (10, 10, "passed"), (11, 10, "passed"), (11, 11, "refused"),
        (1000, 0, "passed"), (1000, 9, "passed"), (1000, 10, "passed"), (1000, 11, "refused"),
        (2000, 20, "passed"), (2000, 21, "refused"), (10_000, 100, "passed"),
        (10_000, 101, "refused"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("side", ["source", "target"])
def test_g12(of_: int, twins: int, expected: str, side: str) -> None:
    """More than 1 % (and ten) of a side that share their key stop everything."""
    more = {"rows": of_, "twin_rows": twins} if side == "source" else {"twin_records": twins}
    numbers = measures(existing=of_, **more)
    assert of("G12", numbers) == "passed"
    for work in ({"creates": 1}, {"updates": 1}, {"deletes": 1}):
        assert of("G12", replace(numbers, **work)) == expected  # type: ignore[arg-type]


# --- G17: deletes of the last 24 hours ------------------------------------------------------------


@pytest.mark.parametrize(
    ("recent", "deletes", "g2", "g3"),
    [
        (0, 50, "passed", "passed"), (1, 50, "refused", "passed"), (49, 1, "passed", "passed"),
        (50, 1, "refused", "passed"), (50, 0, "passed", "passed"), (1000, 0, "passed", "passed"),
        (150, 49, "refused", "passed"), (151, 50, "refused", "refused"),
        (1000, 1, "refused", "refused"),
    ],
)  # fmt: skip
def test_g17(recent: int, deletes: int, g2: str, g3: str) -> None:
    """Deletes of the last day count as if this plan made them; without any now, they do not."""
    numbers = measures(managed=1000 - recent if recent < 1000 else 1000, deletes=deletes)
    history = {("items", ""): History(deletes=recent)}
    found = states(numbers, history=history)
    assert (found["G2"], found["G3"]) == (g2, g3)


@pytest.mark.parametrize(("approvals", "expected"), [
    (replace(ALLOWED, max_deletes=10), "refused"),
    (replace(ALLOWED, max_deletes=209), "refused"),
    (replace(ALLOWED, max_deletes=210), "approved"),
])  # fmt: skip
def test_g17_approval(approvals: Approvals, expected: str) -> None:
    """The number to approve counts the day: the same flag every hour does not add up."""
    numbers = measures(managed=9000, deletes=10)
    history = {("items", ""): History(deletes=500)}
    assert of("G2", numbers, approvals=approvals, history=history) == "refused"
    history = {("items", ""): History(deletes=200)}
    limits = Thresholds(max_delete_count=100)
    assert of("G2", replace(numbers, thresholds=limits), approvals=approvals,
              history=history) == expected  # fmt: skip


def test_g17_counts_a_target_once() -> None:
    """What was deleted on a target is counted once, however many profiles delete there now."""
    two = [measures(profile=p, managed=9000, deletes=10) for p in ("items", "groups")]
    history = {(p, ""): History(deletes=490) for p in ("items", "groups")}
    verdicts = safety.judge(two, approvals=ALLOWED, history=history)
    flags = {v.flag for v in verdicts if v.guard == "G2"}
    assert flags == {"--max-deletes 510"}


# --- refusing -------------------------------------------------------------------------------------


def test_all_at_once() -> None:
    """All refusals are told at once, with every flag; exit 8."""
    numbers = measures(existing=100, deletes=30, updates=40)
    with pytest.raises(Refused) as caught:
        safety.refuse(safety.judge([numbers]))
    fault = caught.value
    assert (fault.exit_code, fault.code) == (8, "DS-SAFE-G1")
    assert all(f"({guard})" in fault.message for guard in ("G1", "G2", "G3", "G7"))
    for flag in ("--allow-delete", "--max-deletes 30", "--i-approve-deleting 30-of-100",
                 "--target shop", "--max-updates 40"):  # fmt: skip
        assert flag in str(fault.hint)
    assert "--no-delete" not in str(fault.hint)


def test_hint_leaves_deletes_out() -> None:
    """Where only deletes are refused, the way without them is told."""
    with pytest.raises(Refused) as caught:
        safety.refuse(safety.judge([measures(existing=100, deletes=1)]))
    assert "--no-delete" in str(caught.value.hint)


def test_flags_of_the_hint_suffice() -> None:
    """Whoever adds exactly what the refusal names is let through."""
    numbers = measures(rows=0, existing=100, deletes=100, wipes=(Wipe(field="qty", empty=50),),
                       updates=50, creates=1001)  # fmt: skip
    approvals = Approvals(
        allow_delete=True, max_deletes=100, deleting=frozenset({(100, 100)}),
        targets=frozenset({"shop"}), empty_source=True, max_updates=50, max_creates=1001,
        columns=frozenset({"qty"}),
    )  # fmt: skip
    safety.refuse(safety.judge([numbers], approvals=approvals))


def test_a_guard_that_throws(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guard that throws is a refusal that nothing overrules."""

    def broken(_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setitem(safety.GUARDS, "DS-SAFE-G7", broken)
    everything = Approvals(allow_delete=True, max_updates=10**9)
    with pytest.raises(Refused, match="ZeroDivisionError") as caught:
        safety.refuse(safety.judge([measures()], approvals=everything))
    assert caught.value.code == "DS-SAFE-G7"


@pytest.mark.parametrize("text", [
    "", "3", "3-of", "of-3", "*-of-*", "3-of-*", "all", "3 of 9", "-3-of-9", "3-of-9 ", "3.0-of-9",
    "3-of-9-of-9", "0x3-of-9",
])  # fmt: skip
def test_typed_wrong(text: str) -> None:
    """Only two numbers approve a great part; there is no wildcard."""
    with pytest.raises(UsageFault, match="DS-CLI-APPROVAL"):
        safety.parse_deleting(text)


@given(
    existing=st.integers(0, 2000), deletes=st.integers(0, 2000), recent=st.integers(0, 2000),
    rows=st.integers(0, 2000), max_deletes=st.none() | st.integers(0, 3000),
)  # fmt: skip
def test_no_delete_beyond_approval(
    existing: int, deletes: int, recent: int, rows: int, max_deletes: int | None
) -> None:
    """Whatever is let through is within the usual limits, or within the number that was stated."""
    deletes = min(deletes, existing)
    numbers = measures(existing=existing, rows=rows, deletes=deletes)
    verdicts = safety.judge(
        [numbers],
        approvals=replace(ALLOWED, max_deletes=max_deletes),
        history={("items", ""): History(deletes=recent)},
    )
    if any(v.state == "refused" for v in verdicts) or not deletes:
        return
    assert rows
    assert deletes < existing
    whole, day = existing + recent, deletes + recent
    assert day <= max(_usual_deletes(whole), max_deletes or 0)
    assert whole < 10 or day * 5 < whole


# --- a plan that is about to be applied -----------------------------------------------------------


def _plan(folder: Path, **numbers: Any) -> Plan:
    lines = [change("create", "a"), change("update", "b"), change("delete", "c", wave=1)]
    own = {"existing": 100, "creates": 1, "updates": 1, "deletes": 1} | numbers
    guards = (measures(**own, profile="pets", resource="pets", target="zoo"),)
    return replace(make_plan(folder, lines), guards=guards)


def test_approve(tmp_path: Path) -> None:
    """An approved plan holds the verdicts of now, for its journal and its report."""
    plan = safety.approve(_plan(tmp_path), approvals=ALLOWED)
    assert {v.state for v in plan.verdicts} == {"passed"}
    assert len(plan.verdicts) == len(safety.GUARDS)


@pytest.mark.parametrize("numbers", [
    {"deletes": 0}, {"deletes": 2}, {"creates": 0}, {"creates": 5}, {"updates": 0}, {"updates": 2},
])  # fmt: skip
def test_measures_of_another_plan(tmp_path: Path, numbers: dict[str, int]) -> None:
    """A plan whose changes are not those that were measured is refused."""
    with pytest.raises(Refused, match="DS-SAFE-COUNTS"):
        safety.approve(_plan(tmp_path, **numbers), approvals=ALLOWED)


def test_plan_without_measures(tmp_path: Path) -> None:
    """Changes that were never measured are refused."""
    with pytest.raises(Refused, match="DS-SAFE-COUNTS"):
        safety.approve(replace(_plan(tmp_path), guards=()), approvals=ALLOWED)


def test_a_verdict_of_the_file_counts_for_nothing(tmp_path: Path) -> None:
    """What a saved plan says of its guards is not believed: they judge again."""
    said = (Verdict(guard="G1", state="approved", profile="pets"),)
    with pytest.raises(Refused, match="DS-SAFE-G1"):
        safety.approve(replace(_plan(tmp_path), verdicts=said))


def test_measures_are_data() -> None:
    """Measures and verdicts survive a plan file as they are."""
    numbers = measures(existing=10, wipes=(Wipe(field="a", empty=1),), scope="n1")
    assert msgspec.json.decode(msgspec.json.encode(numbers), type=Measures) == numbers


# --- measuring ------------------------------------------------------------------------------------


def _table(changes: list[tuple[str, str, dict[str, Any] | None]]) -> duckdb.DuckDBPyConnection:
    con = duckdb.connect()
    con.execute(findings.TABLE)
    con.execute(
        "CREATE TABLE changes_1 (action VARCHAR, key VARCHAR[], fields VARCHAR[], after JSON)"
    )
    for action, key, after in changes:
        con.execute(
            "INSERT INTO changes_1 VALUES (?, [?], ?, ?)",
            [action, key, sorted(after or {}), json.dumps(after or {})],
        )
    return con


def _measured(
    con: duckdb.DuckDBPyConnection, listing: Path | None = None, **numbers: Any
) -> Measures:
    return safety.measure(
        con, measures(**numbers), section=1, changes="changes_1", listing=listing, key=["name"]
    )


@pytest.mark.parametrize(("values", "empty", "same"), [
    ([None, "", [], {}], 4, 1),
    ([None, None, None, "x"], 3, 3),
    ([1, 1, 1, 2], 0, 3),
    (["a", "b", "c", "d"], 0, 1),
    ([False, False, False, False], 0, 4),
    ([0, "0", None, "null"], 1, 1),
])  # fmt: skip
def test_wipes(values: list[Any], empty: int, same: int) -> None:
    """How often a field becomes empty, and how often one and the same value, are counted."""
    con = _table([("update", str(n), {'a "field"': v}) for n, v in enumerate(values)])
    found = _measured(con, existing=10, updates=len(values))
    assert found.wipes == (Wipe(field='a "field"', empty=empty, same=same),)


def test_wipes_only_where_they_matter() -> None:
    """A few updates are not looked at."""
    con = _table([("update", "a", {"qty": None})])
    assert _measured(con, existing=10, updates=1).wipes == ()


@pytest.mark.parametrize(
    ("keys", "mask"),
    [
        (["AB-0012", "X-07"], "A-09"), (["12", "7"], "9"), (["0012", "012"], "09"),
        (["a.b@example.test"], "a.a@a.a"), (["Anna", "Bert"], "Aa"), (["ÄÖ", "É"], "A"),
        (["名前"], "a"), (["x", "1", "A", "x-1"], ""), (["10", "100", "2000"], "9"),
        (["0", "1", "2"], "9"), (["1.001", "2.020"], "9.09"), (["ZZ9", "Z1"], "A9"), ([""], ""),
        (["a"] * 8 + ["1", "2"], "a"), (["a"] * 7 + ["1", "2", "3"], ""),
    ],
)  # fmt: skip
def test_key_formats(tmp_path: Path, keys: list[str], mask: str) -> None:
    """Runs of one kind become one sign; leading zeros, which workbooks lose, have their own."""
    con = _table([("create", key, {}) for key in keys])
    listing = tmp_path / "held.ndjson"
    listing.write_text("".join(json.dumps({"name": key, "id": 1}) + "\n" for key in keys))
    found = _measured(con, listing, existing=1, creates=max(2, len(keys)))
    assert (found.key_format, found.existing_key_format) == (mask, mask)


def test_key_formats_only_where_they_matter(tmp_path: Path) -> None:
    """A few creates are not looked at."""
    con = _table([("create", "a", {})])
    assert _measured(con, tmp_path / "none", existing=2, creates=1).key_format == ""


def test_twin_rows() -> None:
    """Rows that share their key are counted from their findings."""
    con = _table([])
    for section, code in ((1, "DS-KEY-DUP"), (1, "DS-KEY-DUP"), (2, "DS-KEY-DUP"), (1, "DS-X")):
        con.execute(
            f"INSERT INTO findings SELECT {section}, 'error', '{code}', '', NULL, 7, NULL, NULL, ''"
        )
    assert _measured(con).twin_rows == 2
