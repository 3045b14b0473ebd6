"""The judge of a simulation: what must hold after each life of a run, and at its end.

It reads the journal's events with its own SQL, and believes the ledger of the API.
"""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import groupby, pairwise
from typing import Any

from dsync import outcomes
from dsync.journal import Journal, Operation, op_id
from dsync.model import Change, Plan
from dsync.references import Missing, filled, relied_on
from dsync.reports import RunResult

from .world import Effect, Op, World, op_of

Event = tuple[Any, ...]
"""seq, kind, op, attempt, state, code, data"""


_STATES = {"intent": "intent", "sent": "sent", "job": "accepted", "skipped": "skipped"}


def events(book: Journal) -> list[Event]:
    """All events of a journal, by operation."""
    db: sqlite3.Connection = book._db  # another connection would be refused, and rightly
    return db.execute(
        "SELECT seq, kind, op, attempt, state, code, data FROM events WHERE op IS NOT NULL "
        "ORDER BY op, seq"
    ).fetchall()


def transitions(book: Journal) -> Iterator[str]:
    """Each step that an operation took, as `state -> state`, by what the events say."""
    for _, of_one in groupby(events(book), key=lambda event: event[2]):
        state = "ready"
        for _, kind, _, _, told, code, data in of_one:
            after: str = told or _STATES.get(kind) or state
            why = ""
            if kind == "resolve":
                why = " (read back)" if (data or "").startswith("{") else " (retried)"
                why = " (by hand)" if code == "DS-RESOLVED" else why
            elif kind == "found":
                why = " (id found)"
            yield f"{state} -> {after}{why}"
            state = after


def after_life(world: World, book: Journal, told: RunResult | None) -> list[str]:
    """What is wrong with the journal as a process left it. `told` is what it said itself."""
    wrong = [f"breach: {text}" for text in book.breaches()]
    if damage := book.damage():
        wrong.append(f"damage: {damage}")
    wrong += world.wrong
    world.wrong.clear()
    wrong += _sends(world, book)
    run = outcomes.result(book.plan, book)
    states: dict[str, str] = {op: known.state for op, known in book.states()}
    wrong += [f"exit code: {text}" for text in _code(book.plan, book, run, states)]
    if told is not None:
        for name in ("exit_code", "unknown", "pending", "open_jobs", "counts", "calls"):
            if getattr(told, name) != getattr(run, name):
                wrong.append(f"it said {name} {getattr(told, name)}, and the journal says "
                             f"{getattr(run, name)}")  # fmt: skip
    return wrong


def _sends(world: World, book: Journal) -> Iterator[str]:
    """Every call has its intent, attempts are dense, and no unknown call is followed by another
    without a record of why."""
    intents = set()
    for op, of_one in groupby(events(book), key=lambda event: event[2]):
        state, attempt = "", 0
        for seq, kind, _, number, told, _, data in of_one:
            if '"found":"many"' in (data or "") and told != "duplicate":
                yield f"event {seq}: two records were found, and it is {told}"
            if kind == "intent":
                intents.add((op, number))
                if state in ("unknown", "sent", "accepted"):
                    yield f"event {seq}: sent again while it was {state}"
                if number != attempt + 1:
                    yield f"event {seq}: attempt {number} after {attempt}"
                attempt = number
            state = told or (state if kind == "found" else kind)
    for call in world.calls:
        if (call.op_id, call.attempt) not in intents:
            yield f"a call of {call.op}, attempt {call.attempt}, is not in the journal"


def answers(world: World, book: Journal) -> list[str]:
    """What a process was told is in the journal when it has ended by itself."""
    kept = {(op, attempt, state) for _, kind, op, attempt, state, _, _ in events(book)
            if kind == "outcome"}  # fmt: skip
    return [
        f"an answer is not in the journal: {op[:12]}, attempt {attempt}, {state}"
        for (op, attempt), state in world.answers.items()
        if state != "not_sent" and (op, attempt, state) not in kept
    ]


def _code(plan: Plan, book: Journal, run: RunResult, states: dict[str, str]) -> Iterator[str]:
    """The exit code, once more and by other words: what it must mean."""
    kinds = Counter(states.get(op_id(book.run_id, change), "none") for change in plan.changes())
    stop = book.life().stop
    code = run.exit_code
    unclear = kinds["unknown"] + kinds["sent"] + kinds["intent"] + kinds["conflict"]
    unclear += kinds["duplicate"]
    bad = kinds["rejected"] + kinds["stale"] + kinds["not_sent"] + kinds["skipped"]
    if unclear and code != 5:
        yield f"{unclear} are unclear, and it is {code}"
    if code == 0 and (set(kinds) != {"acked"} or stop):
        yield f"it is 0, and {dict(kinds)} {stop}"
    if code == 5 and not unclear and stop != "unclear":
        yield "it is 5, and nothing is unclear"
    left = kinds["none"] + kinds["accepted"] + kinds["not_sent"] + kinds["skipped"]
    if code == 3 and not (left or stop):
        yield f"it is 3, and nothing is left: {dict(kinds)}"
    if code == 4 and not bad and stop != "failures":
        yield f"it is 4, and nothing failed: {dict(kinds)}"
    wanted = {"unauthorized": 9, "stale": 7, "unavailable": 10}.get(str(stop))
    if wanted and code not in (5, wanted):
        yield f"it stopped as {stop}, and it is {code}"


# --- at the end ---------------------------------------------------------------------------------


def at_end(world: World, book: Journal, initial: dict[Any, dict[int, dict[str, Any]]]) -> list[str]:
    """What is wrong when all is done: the journal, the ledger and the records agree."""
    wrong = list(effects(world))
    known = dict(book.states())
    makers = _makers(book)
    touched = {(touch.resource, touch.scope, touch.key) for touch in world.touches}
    planned = set()
    for change in book.plan.changes():
        op = op_of(change)
        planned.add((change.resource, change.scope, change.key[0]))
        state = known.get(op_id(book.run_id, change))
        clean = op[1:] not in touched and not _relies_on_touched(change, touched)
        wrong += [
            f"{' '.join(op)}: {text}" for text in _settled(world, change, state, makers, clean)
        ]
    for place, records in world.records.items():
        for id_, record in initial[place].items():
            name = (*place, record["name"])
            if name not in touched and name not in planned and records.get(id_) != record:
                wrong.append(f"{name} is not of the plan, and was changed")
    return wrong


def effects(world: World) -> Iterator[str]:
    """At most one effect of an operation, unless somebody else was at its record in between."""
    by_op: dict[Op, list[Effect]] = defaultdict(list)
    for effect in world.ledger:
        by_op[effect.op].append(effect)
    for op, found in by_op.items():
        for one, other in pairwise(found):
            between = [
                touch for touch in world.touches
                if (touch.resource, touch.scope, touch.key) == op[1:]
                and one.at <= touch.at <= other.at
            ]  # fmt: skip
            if not between:
                yield f"{' '.join(op)} was done twice, at {one.at:.3f} and at {other.at:.3f}"


def _settled(
    world: World, change: Change, known: Operation | None, makers: dict[Any, Any], clean: bool
) -> Iterator[str]:
    op = op_of(change)
    lies = world.lies.get(op, set())
    done = [effect for effect in world.ledger if effect.op == op]
    if known is None or not (known.is_settled or known.state == "skipped"):
        if clean:
            yield f"it is not settled: {known}"
        return
    match known.state:
        case "acked":
            if clean and not done and not ("hollow" in lies and change.action != "create"):
                yield "it is said to be done, and nothing was done"
            if clean and done and not lies & {"half"}:
                yield from _as_wanted(world, change, known, makers, done[-1].id)
        case "conflict":
            if clean and not lies & {"half"}:
                yield f"it is a conflict, and nobody else was here: {known.message}"
        case "duplicate":
            if clean:
                yield "two records have its key, and nobody else was here"
        case "skipped":
            if not any(makers.get(_maker(change, ref)) != "acked" for ref in relied_on(change)):
                yield f"it is left out, and all that it relies on is there: {known.message}"
            if clean and done:
                yield "it is left out, and was done"
        case state:
            if clean and done and "half" not in lies:
                yield f"it is {state} ({known.code} {known.message}), and was done"
            if clean and not lies & {"refused", "moved", "hollow"}:
                yield f"it is {state} ({known.code} {known.message}), and nobody refused it"


def _as_wanted(
    world: World, change: Change, known: Operation, makers: dict[Any, Any], id_: int
) -> Iterator[str]:
    records = world.records[change.resource, change.scope]
    if change.action == "delete":
        if change.id in records:
            yield "it is said to be deleted, and is there"
        return
    if len(world.holders((change.resource, change.scope), change.key[0])) != 1:
        yield "there is not just one record with its key"
        return
    if change.action == "create" and known.id not in (None, id_):
        yield f"its id is {id_}, and the journal says {known.id}"
    values = {
        ref: _field(world, change, ref.resource, ref.key[0], ref.take) for ref in relied_on(change)
    }
    if any(isinstance(value, Missing) for value in values.values()):
        return
    wanted = filled(dict(change.payload or {}), values)
    if (record := records.get(id_)) is None or record != {**wanted, "id": id_}:
        yield f"it is {record}, and should be {wanted}"


def _field(world: World, change: Change, resource: str, key: str, take: str) -> Any:
    place = (resource, change.scope)
    found = [world.records[place][id_] for id_ in world.holders(place, key)]
    return found[0].get(take) if len(found) == 1 else Missing("gone", failed=True)


def _makers(book: Journal) -> dict[Any, str]:
    known = dict(book.states())
    return {
        op_of(change): known[op].state
        for change in book.plan.changes()
        if (op := op_id(book.run_id, change)) in known
    }


def _maker(change: Change, ref: Any) -> Op:
    return "create", ref.resource, change.scope, ref.key[0]


def _relies_on_touched(change: Change, touched: set[tuple[str, str, str]]) -> bool:
    return any((r.resource, change.scope, r.key[0]) in touched for r in relied_on(change))
