"""The judge of a case: what the API's ledger, the journal, the report and the exit code say.

    judge(world, "first", done)                 after the run has ended: all of O1-O8
    judge(world, "first", done, ended=False)    after a kill or a stop: what must hold even then

    O1  at most one effect for each record that is to change, and for no other
    O2  the API holds what the source says; before the end: each record as before or as wanted
    O3  rows add up: each row of the source, and each record to delete, has one status
    O4  `dsync runs verify` finds nothing wrong
    O5  the exit code is what the journal adds up to
    O6  report, journal and ledger tell the same: who is said to be made is there, each write has
        an intent with its very bytes, before it
    O7  the secret is nowhere: not in a file of the project, nor in what was printed
    O8  no call was over the API's quota

The journal is read here by SQL, and added up by a few lines of its own: a witness beside
`dsync.outcomes`, which is what is tried.
"""

from __future__ import annotations

import base64
import json
import shutil
import sqlite3
import tempfile
import urllib.parse
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from .world import KILLED, SECRET, Done, World

Json = dict[str, Any]

_STATUS = {"create": "CREATED", "update": "UPDATED", "delete": "DELETED"}


def judge(
    world: World,
    run: str,
    done: Done | None = None,
    *,
    ended: bool = True,
    code: int | None = 0,
    resends: bool = False,
) -> None:
    """Raises AssertionError with all that is wrong. See `breaches` for the arguments."""
    if wrong := breaches(world, run, done, ended=ended, code=code, resends=resends):
        told = "".join(f"\n--- {' '.join(one.words)} -> {one.code}\n{one.told}"
                       for one in world.dones[-4:])  # fmt: skip
        raise AssertionError("\n".join(wrong) + told)


def breaches(
    world: World,
    run: str,
    done: Done | None = None,
    *,
    ended: bool = True,
    code: int | None = 0,
    resends: bool = False,
) -> list[str]:
    """What is wrong, a sentence each; empty when all is right.

    `done` is the process to judge. `ended`: the run has come to its end, with this exit `code`
    (None: any). `resends`: a PUT or a DELETE, which is absolute, may have its effect twice, as
    where an API answers 502 after it has done it.
    """
    found: list[str] = []
    found += at_most_once(world, resends=resends)
    found += secret_nowhere(world)
    found += quota_kept(world)
    book = read_journal(world, run)
    if book is None:
        if ended:
            found.append(f"there is no journal of {run}")
        elif world.writes():
            found.append(f"{len(world.writes())} writes without a journal")
        return found
    found += intents_first(world, book)
    found += state_as_told(world, book, ended=ended and code == 0)
    if done is not None and done.code != KILLED:
        found += [f"{' '.join(done.words)} has shown a traceback"] * ("Traceback" in done.told)
        found += report_adds_up(world, run, book, done)
        if ended and code is not None and done.code != code:
            found.append(f"exit {done.code}, not {code}")
    if ended:
        found += verified(world, run)
    return found


# ---- the journal -------------------------------------------------------------------------------


@dataclass(slots=True)
class Book:
    """What a journal says: its events in order, and the plan's changes by operation."""

    events: list[Json]
    changes: dict[str, Json] = field(default_factory=dict)
    tallies: list[Json] = field(default_factory=list)

    def states(self) -> dict[str, str]:
        """Operation -> its state: the last word of its events."""
        now: dict[str, str] = {}
        for event in self.events:
            if event["op"] is None or event["kind"] == "found":
                continue
            kinds = {"intent": "intent", "sent": "sent", "job": "accepted", "skipped": "skipped"}
            now[event["op"]] = kinds.get(event["kind"]) or event["state"]
        return now

    def lives(self) -> int:
        """How many processes have worked on it."""
        return sum(event["kind"] == "start" for event in self.events)

    def stop(self) -> str | None:
        """Why the last process stopped before its end, if it said so."""
        last = max((e["seq"] for e in self.events if e["kind"] == "start"), default=0)
        stops = [e["code"] for e in self.events if e["kind"] == "stop" and e["seq"] > last]
        return stops[0] if stops else None


def read_journal(world: World, run: str) -> Book | None:
    """The journal of a run, out of a copy so that it stays as it was left; None without one."""
    from dsync.journal import op_id
    from dsync.planfile import load_plan

    folder = world.run_folder(run)
    if not (folder / "journal.db").exists():
        return None
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name)
        for file in folder.glob("journal.db*"):
            shutil.copyfile(file, copy / file.name)
        with closing(sqlite3.connect(copy / "journal.db")) as db:
            db.row_factory = sqlite3.Row
            if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'events'").fetchone():
                return None
            events = [dict(row) for row in db.execute("SELECT * FROM events ORDER BY seq")]
    book = Book(events)
    plan = load_plan(folder / "plan.ndjson")
    for change in plan.changes():
        book.changes[op_id(run, change)] = {"action": change.action, "name": change.key[0]}
    for tally in plan.tallies:
        names = ("rows", "create", "update", "delete", "unchanged", "skip", "error")
        book.tallies.append({name: getattr(tally, name) for name in names})
    return book


def exit_code(book: Book) -> int:
    """What a journal adds up to: 5 unclear, then why it stopped, 3 unfinished, 4 refused, 0."""
    states = Counter(book.states().get(op, "pending") for op in book.changes)
    if any(states[name] for name in ("unknown", "intent", "sent", "conflict", "duplicate")):
        return 5
    stops = {"unauthorized": 9, "stale": 7, "unavailable": 10, "failures": 4, "unclear": 5}
    if stop := book.stop():
        return stops.get(stop, 3)
    codes = {e["op"]: e["code"] for e in book.events if e["kind"] in ("outcome", "resolve")}
    bare = sum(state == "not_sent" and not codes.get(op) for op, state in book.states().items())
    if states["pending"] or states["accepted"] or bare:
        return 3
    refused = states["rejected"] + states["stale"] + states["not_sent"]
    return 4 if refused or any(tally["error"] for tally in book.tallies) else 0


# ---- O1 ----------------------------------------------------------------------------------------


def planned(world: World) -> dict[str, str]:
    """Name -> what has to be done to its record, by what was held at first and what is wanted."""
    before, after = world.held_at_first, world.wanted
    todo = {name: "create" for name in after if name not in before}
    todo |= {name: "update" for name in after if name in before and before[name] != after[name]}
    return todo | {name: "delete" for name in before if name not in after}


def at_most_once(world: World, *, resends: bool = False) -> Iterator[str]:
    """O1."""
    todo = planned(world)
    effects = Counter((effect["kind"], effect["key"]) for effect in world.api.effects())
    for (kind, name), number in effects.items():
        if todo.get(str(name)) != kind:
            yield f"O1: {name} was to be {todo.get(str(name), 'left alone')}, and had a {kind}"
        elif number > 1 and (kind == "create" or not resends):
            yield f"O1: {kind} {name} had {number} effects"


# ---- O2 ----------------------------------------------------------------------------------------


def state_as_told(world: World, book: Book, *, ended: bool) -> Iterator[str]:
    """O2, and of O6: who is said to be done is done, who is said not to be is as before."""
    held = world.held()
    numbers = Counter(name for name, _ in held)
    yield from (f"O2: {n} records are called {name}" for name, n in numbers.items() if n > 1)
    now = dict(held)
    if ended and now != world.wanted:
        odd = {n for n, q in {*now.items()} ^ {*world.wanted.items()}}
        yield f"O2: the API does not hold what is wanted: {sorted(odd)[:5]}"
    for name in {*now} | {*world.wanted} | {*world.held_at_first}:
        old, new = world.held_at_first.get(name), world.wanted.get(name)
        if now.get(name) not in (old, new):
            yield f"O2: {name} is {now.get(name)}, which is neither {old} nor {new}"
    for op, state in book.states().items():
        if op not in book.changes:
            yield f"O6: operation {op[:12]} is of no change of the plan"
            continue
        name = book.changes[op]["name"]
        is_done = now.get(name) == world.wanted.get(name)
        if state == "acked" and not is_done:
            yield f"O6: {name} is acked, and the API has {now.get(name)}"
        if state in ("rejected", "stale", "skipped") and is_done:
            yield f"O6: {name} is {state}, and the API has it as wanted"


# ---- O3, O5, O6 --------------------------------------------------------------------------------


def report_adds_up(world: World, run: str, book: Book, done: Done) -> Iterator[str]:
    """O3, O5, O6: of a process that came to a report of its own."""
    path = world.run_folder(run) / "report.json"
    if not path.exists():
        yield f"O6: exit {done.code} and no report"
        return
    report = json.loads(path.read_bytes())
    rows = sum(tally["rows"] + tally["delete"] for tally in book.tallies)
    if sum(report["counts"].values()) != rows:
        yield f"O3: {rows} rows, and the report counts {report['counts']}"
    if sum(tally["rows"] for tally in book.tallies) != len(world.wanted):
        yield f"O3: the source has {len(world.wanted)} rows, and the plan {book.tallies}"
    listed = Counter(row["status"] for row in report["rows"])
    for status, number in report["counts"].items():
        if status not in ("UNCHANGED",) and listed[status] != number:
            yield f"O3: {number} rows are {status}, and {listed[status]} are listed"
    names = Counter((row["key"][0], row["action"]) for row in report["rows"] if row["action"])
    if len(names) != len(book.changes) or any(number > 1 for number in names.values()):
        yield f"O3: {len(book.changes)} changes, and the report lists {len(names)} of them"
    if not done.code == report["exit_code"] == exit_code(book):
        yield f"O5: exit {done.code}, the report says {report['exit_code']}, the journal "\
              f"{exit_code(book)}"  # fmt: skip
    states = book.states()
    told = {(row["key"][0], row["action"]): row for row in report["rows"] if row["action"]}
    for op, change in book.changes.items():
        row = told.get((change["name"], change["action"]), {"status": "nothing"})
        is_acked = states.get(op) == "acked"
        if is_acked != (row["status"] == _STATUS[change["action"]]):
            yield f"O6: {change['name']} is {states.get(op)}, and the report says {row['status']}"
    intents = sum(event["kind"] == "intent" for event in book.events)
    if report["calls"] != intents:
        yield f"O6: {intents} intents, and the report says {report['calls']} calls"


def intents_first(world: World, book: Book) -> Iterator[str]:
    """O6: no write without an intent; where a body was sent, one with its very bytes."""
    intents: dict[str, list[float]] = defaultdict(list)
    for event in book.events:
        if event["kind"] == "intent":
            intents[event["data"] or ""].append(event["at"] / 1e6)
    writes = world.writes()
    if len(writes) > sum(map(len, intents.values())):
        yield f"O6: {len(writes)} writes, and {sum(map(len, intents.values()))} intents"
    for call in writes:
        body = call["body_sha256"]
        if not body:
            continue
        at = datetime.fromisoformat(str(call["at"]).replace("Z", "+00:00")).timestamp()
        known = intents.get(body, [])
        if not any(moment <= at + 0.005 for moment in known):
            yield f"O6: call {call['seq']} has a body that no intent before it names"


# ---- O4, O7, O8 --------------------------------------------------------------------------------


def verified(world: World, run: str) -> Iterator[str]:
    """O4."""
    done = world.dsync("runs", "verify", run)
    if done.code != 0:
        yield f"O4: runs verify ends with {done.code}: {done.told}"


def forms(secret: str) -> set[bytes]:
    """A secret as it may hide: as it is, in URLs, base64 at each offset, hex, reversed."""
    raw = secret.encode()
    shapes = {raw, urllib.parse.quote(secret, safe="").encode(), raw.hex().encode(), raw[::-1]}
    for offset in range(3):
        inner = base64.b64encode(b"\0" * offset + raw)[4 if offset else 0 : -4]
        shapes |= {inner, inner.replace(b"+", b"-").replace(b"/", b"_")}
    return shapes | {secret.encode("utf-16-le")}


_FORMS = forms(SECRET)


def secret_nowhere(world: World) -> Iterator[str]:
    """O7."""
    folders = {world.folder, world.state}
    files = {file for folder in folders for file in folder.rglob("*") if file.is_file()}
    for file in sorted(files):
        content = file.read_bytes()
        if any(form in content for form in _FORMS):
            yield f"O7: the secret is in {file.name}"
    for done in world.dones:
        if any(form in done.told.encode() for form in _FORMS):
            yield f"O7: dsync {' '.join(done.words)} has printed the secret"


def quota_kept(world: World) -> Iterator[str]:
    """O8."""
    if number := world.api.counts()["over_quota"]:
        yield f"O8: {number} calls were over the quota"


def nothing_left(world: World) -> Iterator[str]:
    """The next plan is empty, and a second apply of the same makes no write."""
    done = world.dsync("plan", "--detailed-exitcode")
    if done.code != 0:
        yield f"the next plan is not empty: exit {done.code}: {done.told}"
