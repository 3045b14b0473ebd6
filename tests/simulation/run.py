"""One seed, one history: a plan, an API with its faults, and processes that die and resume.

PYTHONPATH=src:tests python -m simulation.run 4711      plays one seed, and tells all of it
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from dsync import applying, outcomes
from dsync.applying import Rules
from dsync.errors import ContractBreach, DsyncError, StorageFault
from dsync.journal import Record, op_id
from dsync.model import Event, Outcome, Plan
from dsync.reports import RunResult
from dsync.system import System

from . import comparing, disk, oracle, plans
from .clock import Clock, Killed, in_force, run
from .disk import Kept
from .world import FAULTS, JOB_FAULTS, READ_FAULTS, Client, Facts, World, op_of, stand

LIVES = 14
"""A run that has not ended after so many processes, half of them in calm weather, never will."""


class Wrong(AssertionError):
    """A promise was broken; the message has the seed, and how to play it again."""


RULES = Rules()


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """What one process does, and what happens to it."""

    age_s: float = 0.0
    settle_only: bool = False
    looks: bool = True
    """it can read back"""
    concurrency: int | None = None
    rules: Rules = RULES
    stop_after_s: float | None = None
    deadline_after_s: float | None = None
    killed_at: int | None = None
    """it dies at this passage of a point"""
    killed_after_s: float | None = None
    power_cut: bool = False
    full_at: int | None = None
    """the disk is full from this passage of a point on"""


@dataclass(slots=True)
class Ending:
    """How a process ended."""

    result: RunResult | None = None
    error: BaseException | None = None
    was_killed: bool = False


@dataclass(slots=True)
class Machine:
    """Where processes live: clock, disk, and the run that they work on."""

    rng: Random
    clock: Clock
    world: World
    plan: Plan
    system: System
    folder: Path
    seen: Counter[str] = field(default_factory=Counter)
    is_real: bool = False
    """records are read back by the engine's own comparison, not by the test's"""
    book: Kept = field(init=False)
    run_id: str = "r1"
    began_at: float = 0.0
    processes: int = 0
    _copies: int = 0
    _passed: int = 0
    _life: Life = Life()

    def begin(self) -> None:
        """The run folder is made."""
        self.folder.mkdir(exist_ok=True)
        self.book = _create(self._place(), self.plan, self.run_id)
        self.world.journal = self.book

    def live(self, life: Life) -> Ending:
        """One process, from its start to its end or its death. Gives how it ended."""
        self._life, self._passed = life, 0
        self.processes += 1
        compares = life.looks and life.age_s > life.rules.fresh_s
        self.world.begin_life(self.processes, compares=compares)
        self.world.crash = self.point
        self.began_at = self.clock.now
        heads: list[Event] = []
        ending = Ending()
        with in_force(self.clock, self.point), _temporary(self.folder):
            try:
                ending.result = run(self.clock, self._apply(life, heads), self._died)
            except Killed:
                ending.was_killed = True
            except DsyncError as error:
                ending.error = error
            self.book.close()
        self._count(ending, life)
        if any(event.total is not None and event.done > event.total for event in heads):
            self.world.wrong.append("progress went past its end")
        return ending

    def close(self) -> None:
        self.book.close()

    # ---- inside ----------------------------------------------------------------------------

    async def _apply(self, life: Life, heard: list[Event]) -> RunResult:
        loop = asyncio.get_running_loop()
        stop, deadline = asyncio.Event(), asyncio.Event()
        if life.stop_after_s is not None:
            loop.call_later(life.stop_after_s, stop.set)
        if life.deadline_after_s is not None:
            loop.call_later(life.deadline_after_s, deadline.set)
        if life.killed_after_s is not None:
            loop.call_later(life.killed_after_s, self._kill, "somewhere")
        client = Client(self.world)
        looks = comparing.reader(client, self.folder / "now") if self.is_real else client
        return await applying.apply(
            self.book.plan,
            self.book,
            connectors={"zoo": client},
            systems={"zoo": self.system},
            read_back=looks if life.looks else None,
            translate={("zoo", name): _translate for name in plans.RESOURCES},
            targets={},
            concurrency=life.concurrency,
            rules=life.rules,
            age_s=life.age_s,
            settle_only=life.settle_only,
            on_event=heard.append,
            stop=stop,
            deadline=deadline,
        )

    def point(self, name: str) -> None:
        """A point is passed: die here, or find the disk full, if it was drawn so."""
        self._passed += 1
        if self._passed == self._life.full_at:
            self.world.note(f"the disk is full at {name}")
            self.book.fill_up()
        if self._passed == self._life.killed_at:
            self._kill(name)

    def _kill(self, name: str) -> None:
        raise Killed(name)

    def _died(self, name: str) -> None:
        """At this instant: what the disk has is what the next process finds."""
        self.world.note(f"{'power cut' if self._life.power_cut else 'killed'} at {name}")
        self.world.client_died()
        self.seen[f"killed at {name}"] += 1
        self._copies += 1
        if self._life.power_cut:
            disk.cut_off(self.book, self._place(), rng=self.rng)
            self.clock.start_anew()
        else:
            torn = name in _BEHIND_A_COMMIT and self.rng.random() < 0.3
            self.seen["killed in the midst of a commit"] += torn
            disk.killed(self.book, self._place(), torn=torn, rng=self.rng)
        # The world goes on without it; what is unwound from here on has no effect on anything.
        self._life = Life()
        self.world.crash = lambda _name: None

    def reopen(self) -> None:
        """What a new process does first."""
        with in_force(self.clock, lambda _name: None):
            self.book = _open(self._place())
        self.world.journal = self.book

    def bring_back(self) -> bool:
        """Import what was kept when the journal could not be written; False when there is none."""
        file = self.folder / f"dsync-emergency-{self.run_id}.jsonl"
        if not file.exists():
            return False
        with in_force(self.clock, lambda _name: None):
            self.book.bring_back(file)
        file.unlink()
        return True

    def resolve(self) -> None:
        """A human looks at what is not clear, and says how it is."""
        with in_force(self.clock, lambda _name: None):
            for change in self.book.plan.changes():
                op = op_id(self.run_id, change)
                known = self.book.state(op)
                left = known is not None and known.is_unknown and self.world.is_calm
                if known is None or not (left or known.state in ("conflict", "duplicate")):
                    continue
                place = (change.resource, change.scope)
                now = stand(change, [*self.world.records[place].values()])
                done = "absent" if change.action == "delete" else "after"
                outcome = Outcome(
                    state="acked" if now.state == done else "not_sent", id=now.id,
                    code="DS-RESOLVED", message="resolved by hand: looked",
                )  # fmt: skip
                told = msgspec.json.encode({"by": "somebody"}).decode()
                self.book.append(Record.resolve(op, known.attempt, outcome, told))
                self.world.note(f"resolved by hand: {op_of(change)} is {outcome.state}")
                self.world.touch(place, change.key[0])

    def is_settled(self) -> bool:
        """True when nothing is left to do that a further process could do."""
        known = dict(self.book.states())
        states = [known.get(op_id(self.run_id, change)) for change in self.book.plan.changes()]
        return all(
            state is not None
            and (
                state.is_settled
                or state.state == "skipped"
                # The record that it relies on is not there any more, or is there twice.
                or (state.code == "DS-APPLY-NO-ID" and self.world.touches)
            )
            for state in states
        )

    def _place(self) -> Path:
        return self.folder / f"run-{self._copies}"

    def _count(self, ending: Ending, life: Life) -> None:
        if ending.was_killed:
            self.seen["end: power cut" if life.power_cut else "end: killed"] += 1
        elif ending.error is not None:
            self.seen[f"end: raised {type(ending.error).__name__}"] += 1
        elif ending.result is not None:
            self.seen[f"exit code {ending.result.exit_code}"] += 1


_BEHIND_A_COMMIT = ("intent.after", "outcome.after", "resolve.after", "sent.after", "job.after")


def _create(folder: Path, plan: Plan, run_id: str) -> Kept:
    book = Kept.create(folder, plan, run_id=run_id)
    assert isinstance(book, Kept)
    return book


def _open(folder: Path) -> Kept:
    book = Kept.open(folder)
    assert isinstance(book, Kept)
    return book


def _translate(line: bytes) -> tuple[tuple[str, ...], Any, Mapping[str, Any]]:
    record = msgspec.json.decode(line)
    return (record["name"],), record["id"], record


@contextlib.contextmanager
def _temporary(folder: Path) -> Iterator[None]:
    """What is written beside the run folder in an emergency comes here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(folder))
        yield


# --- drawn histories ----------------------------------------------------------------------------


def play(seed: int, *, is_real: bool = False, told: list[str] | None = None) -> Counter[str]:
    """The history of this seed; gives what was seen in it. `told` gets the story.

    Raises: Wrong.
    """
    with tempfile.TemporaryDirectory(dir=in_memory(), prefix="dsync-sim-") as name:
        machine, initial = _machine(seed, Path(name), is_real)
        try:
            _history(machine, initial)
        except Wrong as wrong:
            again = f"PYTHONPATH=src:tests python -m simulation.run {seed}{' real' * is_real}"
            raise Wrong(f"{wrong}\n\nplay it again:\n  {again}") from wrong
        finally:
            machine.close()
            if told is not None:
                told += machine.world.told
        return machine.seen + machine.world.seen


def in_memory() -> str | None:
    """A folder without a disk below it, where there is one."""
    memory = "/dev/shm"  # noqa: S108 - the files go into a folder of our own in it
    return memory if os.path.isdir(memory) and os.access(memory, os.W_OK) else None


def _machine(seed: int, folder: Path, is_real: bool) -> tuple[Machine, Any]:
    rng = Random(seed)  # noqa: S311 - chance that can be had again
    clock = Clock()
    facts = Facts(
        unique=rng.random() < 0.5, tells_id=rng.random() < 0.6, jobs=rng.random() < 0.4,
        keyed=rng.random() < 0.3, in_flight_s=rng.choice((2.0, 4.0, 10.0, 30.0)),
        settle_s=rng.choice((0.0, 0.5, 2.0, 5.0)),
    )  # fmt: skip
    held, lines, scopes = plans.drawn(rng)
    faults = (*FAULTS, *JOB_FAULTS, *READ_FAULTS)
    enabled = [name for name in faults if rng.random() < 0.25]
    strength = rng.choice((0.0, 0.05, 0.1, 0.25, 0.25))
    world = World(
        rng=rng, clock=clock, facts=facts, records=held,
        weather=dict.fromkeys(enabled, strength),
    )  # fmt: skip
    initial = {place: {i: dict(r) for i, r in records.items()} for place, records in held.items()}
    system = _system(facts, rng.random() < 0.5, rng.choice((1, 2, 4)))
    machine = Machine(
        rng=rng, clock=clock, world=world, plan=plans.written(folder, lines, scopes),
        system=system, folder=folder, is_real=is_real,
    )  # fmt: skip
    _strangers(machine, lines)
    return machine, initial


def _system(facts: Facts, sequential: bool, concurrency: int) -> System:
    resource = {"key": ["name"], "settle_s": facts.settle_s}
    limits = {"sequential": sequential, "concurrency": concurrency,
              "in_flight_s": facts.in_flight_s}  # fmt: skip
    return System.model_validate(
        {
            "version": 1,
            "system": "zoo",
            "limits": limits,
            "resources": dict.fromkeys(plans.RESOURCES, resource),
        }
    )


def _strangers(machine: Machine, lines: list[Any]) -> None:
    """Others who write to the same records, in some histories."""
    world, rng = machine.world, machine.rng
    if rng.random() < 0.55:
        return
    for _ in range(rng.choice((1, 3, 6))):
        line = rng.choice(lines)
        place, key = (line["resource"], line["scope"]), line["key"][0]
        when = machine.clock.now + rng.choice((0.0, rng.random() * 5, rng.random() * 200))
        kind = rng.choice(("create", "create", "alter", "finish", "delete"))
        world.at(when, _stranger(world, line, place, key, kind))


def _stranger(world: World, line: Any, place: Any, key: str, kind: str) -> Callable[[], None]:
    def act() -> None:
        if world.is_calm:
            return
        found = world.holders(place, key)
        payload = {k: v for k, v in (line.get("payload") or {}).items() if k != "cage"}
        match kind:
            case "create" if not (found and world.facts.unique):
                world.put(place, world.new_id(), {"name": key, "note": "theirs", "cage": None})
            case "alter" if found:
                world.put(place, found[0], world.records[place][found[0]] | {"note": "theirs"})
            case "finish" if found and payload:
                world.put(place, found[0], world.records[place][found[0]] | payload)
            case "delete" if found:
                world.put(place, found[0], None)
            case _:
                return
        world.touch(place, key)

    return act


def _history(machine: Machine, initial: Any) -> None:
    rng, world = machine.rng, machine.world
    machine.begin()
    lives = rng.choice((1, 1, 2, 3, 4, 6))
    old_since = 0.0 if rng.random() < 0.6 else 3600.0
    for number in range(LIVES):
        if number == lives:
            world.grow_calm()
        life = _life(machine, number, old_since, is_calm=number >= lives)
        writes = len(world.calls)
        ending = machine.live(life)
        machine.reopen()
        machine.seen.update({f"stop: {stop}": 1 for stop in [machine.book.life().stop] if stop})
        wrong = oracle.after_life(world, machine.book, ending.result)
        wrong += _life_rules(machine, life, ending, writes)
        may_wait = not (world.facts.jobs or world.is_calm)
        if not (may_wait and rng.random() < 0.2):
            if machine.bring_back():
                machine.seen["imported what was kept"] += 1
                wrong += oracle.after_life(world, machine.book, None)
            if not ending.was_killed:
                wrong += oracle.answers(world, machine.book)
        if wrong:
            raise Wrong("\n".join(wrong))
        if number >= lives and _is_done(machine, ending):
            break
        if rng.random() < 0.3 or number > lives + 2:
            machine.resolve()
        machine.clock.pass_by(rng.choice((0.0, 1.0, 60.0, 3600.0, 3 * 86400.0)))
        if rng.random() < 0.2:
            machine.clock.start_anew()
            machine.seen["the machine was started anew"] += 1
            machine.close()
            machine.reopen()
    else:
        raise Wrong(f"not done after {LIVES} processes: {_states(machine)}")
    wrong = oracle.at_end(world, machine.book, initial)
    wrong += _second_resume(machine)
    if wrong:
        raise Wrong("\n".join(wrong))
    machine.seen.update(oracle.transitions(machine.book))


def _life(machine: Machine, number: int, old_s: float, *, is_calm: bool) -> Life:
    """The next process. The first has a young plan or an old one; a later one always an old one."""
    rng = machine.rng
    age_s = old_s if number == 0 else float("inf")
    rules = Rules(
        failures=rng.choice((1, 2, 50)), stale=rng.choice((1, 50)), conflicts=rng.choice((0, 5)),
        unclear_in_a_row=rng.choice((2, 5)), drain_s=rng.choice((1.0, 30.0)),
        in_flight_s=machine.world.facts.in_flight_s,
    )  # fmt: skip
    if is_calm:
        return Life(age_s=age_s)
    fate = rng.choice(
        ("none", "point", "point", "point", "time", "stop", "deadline", "full", "settle", "blind")
    )
    if fate == "settle" and number == 0:
        fate = "point"
    passages = rng.choice((3, 12, 40, 100))
    return Life(
        age_s=age_s,
        rules=rules,
        concurrency=rng.choice((None, 1, 2)),
        settle_only=fate == "settle",
        looks=fate != "blind",
        stop_after_s=rng.random() * rng.choice((1, 10)) if fate == "stop" else None,
        deadline_after_s=rng.random() * rng.choice((1, 10)) if fate == "deadline" else None,
        killed_at=rng.randint(1, passages) if fate == "point" else None,
        killed_after_s=rng.random() * rng.choice((1, 10, 100)) if fate == "time" else None,
        power_cut=rng.random() < 0.3,
        full_at=rng.randint(1, passages) if fate == "full" else None,
    )


def _life_rules(machine: Machine, life: Life, ending: Ending, writes: int) -> list[str]:
    """What a process must keep to, whatever else becomes of it."""
    wrong = []
    world, calls = machine.world, machine.world.calls[writes:]
    if life.settle_only and calls:
        wrong.append("it was only to find out, and has sent something")
    for after_s in (life.stop_after_s, life.deadline_after_s):
        if after_s is None:
            continue
        asked = machine.began_at + after_s
        wrong += [f"a call began after the stop: {c}" for c in calls if c.at > asked + 1e-6]
        if machine.clock.now > asked + life.rules.drain_s + 10:
            wrong.append(f"it went on for {machine.clock.now - asked:.1f} s after the stop")
    limits = machine.system.limits
    most = min(limits.concurrency, life.concurrency or limits.concurrency)
    for name, number in world.most_in_flight.items():
        if number > (1 if limits.sequential and name != "all lanes" else most):
            wrong.append(f"{number} calls in flight in {name!r}")
    if ending.error is not None and not isinstance(ending.error, StorageFault | ContractBreach):
        wrong.append(f"it raised {ending.error!r}")
    if isinstance(ending.error, StorageFault) and life.full_at is None:
        wrong.append(f"it raised {ending.error!r}, and the disk was not full")
    return wrong


def _second_resume(machine: Machine) -> list[str]:
    """A finished run that is taken up again sends nothing, and ends with the same code."""
    writes = len(machine.world.calls)
    first = outcomes.result(machine.book.plan, machine.book)
    ending = machine.live(Life(age_s=float("inf")))
    machine.reopen()
    wrong = []
    if len(machine.world.calls) != writes:
        wrong.append("a finished run was taken up again, and sent something")
    if ending.result is None or ending.result.exit_code != first.exit_code:
        wrong.append(f"a finished run ended with {first.exit_code}, and then with {ending}")
    return wrong


def _is_done(machine: Machine, ending: Ending) -> bool:
    return ending.result is not None and not machine.book.life().stop and machine.is_settled()


def _states(machine: Machine) -> dict[str, str]:
    known = dict(machine.book.states())
    return {
        " ".join(op_of(change)): str(known.get(op_id(machine.run_id, change)))
        for change in machine.book.plan.changes()
    }


def main(words: list[str]) -> int:
    """Play one seed, and tell its story. `real`: with the engine's own comparison."""
    told: list[str] = []
    try:
        seen = play(int(words[0]), is_real="real" in words, told=told)
    except Wrong as wrong:
        print("\n".join(told), wrong, sep="\n\n")
        return 1
    print("\n".join(told))
    print(dict(sorted(seen.items())))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
