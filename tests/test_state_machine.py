"""Any order of edits, plans, crashes and resumes keeps the promises of an apply.

A machine of rules over the API, disk and clock of `simulation`. Plans are built from what is wanted
and what is there, by this test and not by the kernel: a plan of the kernel costs a hundred times
what all the rest of a step does. The model is small: what is wanted, what the API holds, the
ledger of its effects, and the plan that was approved.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)  # fmt: skip

from dsync import outcomes
from dsync.applying import Rules
from dsync.errors import Locked, StorageFault
from dsync.journal import op_id
from dsync.model import Scope
from dsync.system import System
from simulation import oracle, plans
from simulation.clock import Clock, in_force
from simulation.disk import Kept
from simulation.run import Life, Machine, in_memory
from simulation.world import FAULTS, JOB_FAULTS, READ_FAULTS, Facts, World, op_of

pytestmark = pytest.mark.integration

PETS = ("pets", "")
KEYS = ("ant", "bee", "cat", "dog", "elk")
NOTES = ("old", "new", "newer")
EXAMPLES, STEPS = 200, 30
"""for each of two machines"""


class Runs(RuleBasedStateMachine):
    """One target, one run after the other, each resumed until nothing is left."""

    jobs = False

    def __init__(self) -> None:
        super().__init__()
        self._stack = contextlib.ExitStack()
        self.folder = Path(
            self._stack.enter_context(
                tempfile.TemporaryDirectory(dir=in_memory(), prefix="dsync-machine-")
            )
        )
        self.wanted: dict[str, dict[str, Any]] = {}
        self.machine: Machine | None = None
        self.is_done = True
        self.number = 0

    @initialize(
        seed=st.integers(0, 2**32), unique=st.booleans(), tells_id=st.booleans(),
        keyed=st.booleans(), settle_s=st.sampled_from((0.0, 1.0)),
    )  # fmt: skip
    def begin(self, seed: int, unique: bool, tells_id: bool, keyed: bool, settle_s: float) -> None:
        """An API with two records of which one is wanted otherwise."""
        self.rng = Random(seed)  # noqa: S311 - chance that can be had again
        facts = Facts(unique=unique, tells_id=tells_id, jobs=self.jobs, keyed=keyed,
                      in_flight_s=2.0, settle_s=settle_s)  # fmt: skip
        held = {
            number: {"id": number, "name": key, "note": "old", "size": number, "cage": None}
            for number, key in enumerate(KEYS[:2], 1)
        }
        self.world = World(rng=self.rng, clock=Clock(), facts=facts,
                           records={PETS: held, ("cages", ""): {}}, weather={})  # fmt: skip
        resource = {"key": ["name"], "settle_s": settle_s}
        self.system = System.model_validate(
            {
                "version": 1, "system": "zoo",
                "limits": {"concurrency": 2, "in_flight_s": facts.in_flight_s},
                "resources": dict.fromkeys(plans.RESOURCES, resource),
            }
        )  # fmt: skip
        self.wanted = {"ant": plans.row("ant", "new", 1)}

    # ---- the world moves -------------------------------------------------------------------

    @rule(key=st.sampled_from(KEYS), note=st.sampled_from(NOTES), size=st.integers(0, 2))
    def edit_the_source(self, key: str, note: str, size: int) -> None:
        """A row is added, or says something else."""
        self.wanted[key] = plans.row(key, note, size)

    @rule(key=st.sampled_from(KEYS))
    def drop_a_row(self, key: str) -> None:
        """A row is gone from the source."""
        self.wanted.pop(key, None)

    @rule(key=st.sampled_from(KEYS), note=st.sampled_from((*NOTES, None)))
    def edit_the_target(self, key: str, note: str | None) -> None:
        """Somebody else writes to a record; None: deletes it."""
        world = self.world
        world.catch_up()
        found = world.holders(PETS, key)
        if note is None and not found:
            return
        if not found:
            world.put(PETS, world.new_id(), plans.row(key, str(note), 7))
        elif note is None:
            world.put(PETS, found[0], None)
        else:
            world.put(PETS, found[0], world.records[PETS][found[0]] | {"note": note})
        world.touch(PETS, key)

    @rule(fault=st.sampled_from((*FAULTS, *JOB_FAULTS, *READ_FAULTS)),
          share=st.sampled_from((0.0, 0.3, 1.0)))  # fmt: skip
    def switch_a_fault(self, fault: str, share: float) -> None:
        """The API begins to misbehave, or stops."""
        self.world.weather = {**self.world.weather, fault: share}

    @rule()
    def calm_down(self) -> None:
        """All faults end."""
        self.world.weather = {}

    @rule(seconds=st.sampled_from((1.0, 90.0, 7200.0)), anew=st.booleans())
    def let_time_pass(self, seconds: float, anew: bool) -> None:
        """Hours go by; the machine may be started anew."""
        self.world.clock.pass_by(seconds)
        if anew:
            self.world.clock.start_anew()
        self.world.catch_up()

    # ---- runs ------------------------------------------------------------------------------

    @precondition(lambda self: self.is_done)
    @rule()
    def plan(self) -> None:
        """A plan is made of what is wanted and what is there, and approved."""
        self._leave()
        # A listing of just now may lag behind the run before, and the plan would be stale.
        self.world.clock.pass_by(self.world.facts.settle_s)
        self.world.catch_up()
        lines = plans.between(self.world.records[PETS], self.wanted, PETS)
        if not lines:
            return
        self.number += 1
        folder = self.folder / f"run-{self.number}"
        folder.mkdir()
        self.approved = dict(self.wanted)
        self.machine = Machine(
            rng=self.rng, clock=self.world.clock, world=self.world, system=self.system,
            plan=plans.written(folder, lines, [Scope()]), folder=folder,
            run_id=f"r{self.number}",
        )  # fmt: skip
        self.world.forget()
        self.initial = {p: {i: dict(r) for i, r in records.items()}
                        for p, records in self.world.records.items()}  # fmt: skip
        self.machine.begin()
        self.is_done = False
        self.is_first = True

    @precondition(lambda self: not self.is_done)
    @rule(looks=st.booleans())
    def apply(self, looks: bool) -> None:
        """The run is begun or taken up again; the process may have no means to read back."""
        self._live(Life(age_s=self._age_s(), rules=_RULES, looks=looks))

    @precondition(lambda self: not self.is_done)
    @rule(passage=st.integers(1, 25), power_cut=st.booleans())
    def crash(self, passage: int, power_cut: bool) -> None:
        """The process dies at a point, or the machine does."""
        self._live(Life(age_s=self._age_s(), rules=_RULES, killed_at=passage, power_cut=power_cut))

    @precondition(lambda self: not self.is_done)
    @rule(seconds=st.floats(0, 5))
    def stop(self, seconds: float) -> None:
        """Somebody presses Ctrl-C; no call begins after that."""
        self._live(Life(age_s=self._age_s(), rules=_RULES, stop_after_s=seconds))
        asked = self._machine().began_at + seconds
        late = [c for c in self.world.calls if c.life == self.world.life and c.at > asked + 1e-6]
        assert late == []

    @precondition(lambda self: not self.is_done)
    @rule(passage=st.integers(1, 10))
    def fill_the_disk(self, passage: int) -> None:
        """The disk is full; what was kept elsewhere is imported."""
        self._live(Life(age_s=self._age_s(), rules=_RULES, full_at=passage))

    @precondition(lambda self: not self.is_done and not self.is_first)
    @rule()
    def reconcile(self) -> None:
        """What is not clear is found out, and nothing is sent."""
        before = len(self.world.calls)
        self._live(Life(age_s=self._age_s(), rules=_RULES, settle_only=True))
        assert len(self.world.calls) == before

    @precondition(lambda self: self.machine is not None and self.number == 4)
    @rule()
    def second_process(self) -> None:
        """Another process wants the same run while this one has it; it waits 0.25 s."""
        with pytest.raises(Locked):
            Kept.open(self._machine().book.folder)

    @precondition(lambda self: self.is_done and self.machine is not None)
    @rule()
    def resume_a_finished_run(self) -> None:
        """It sends nothing, and ends with the same code."""
        machine, calls = self._machine(), len(self.world.calls)
        first = self._code()
        weather, self.world.weather = self.world.weather, {}
        ending = machine.live(Life(age_s=float("inf"), rules=_RULES))
        self.world.weather = weather
        machine.reopen()
        assert len(self.world.calls) == calls
        assert ending.result is not None
        assert ending.result.exit_code == first

    # ---- what always holds -----------------------------------------------------------------

    @invariant()
    def nothing_is_made_twice(self) -> None:
        """At most one effect of an operation, unless others were at its record."""
        if self.machine is not None:
            assert list(oracle.effects(self.world)) == []

    def teardown(self) -> None:
        try:
            if self.machine is not None and not self.is_done:
                self._finish()
        finally:
            self._leave()
            self._stack.close()

    # ---- inside ----------------------------------------------------------------------------

    def _live(self, life: Life) -> None:
        machine = self._machine()
        ending = machine.live(life)
        machine.reopen()
        self.is_first = False
        wrong = oracle.after_life(self.world, machine.book, ending.result)
        if isinstance(ending.error, StorageFault) and life.full_at is None:
            wrong.append(f"it raised {ending.error!r}")
        if machine.bring_back():
            wrong += oracle.after_life(self.world, machine.book, None)
        if not ending.was_killed:
            wrong += oracle.answers(self.world, machine.book)
        assert wrong == []
        if ending.result is not None and not machine.book.life().stop and machine.is_settled():
            self._check_end()

    def _finish(self) -> None:
        """In calm weather every run comes to its end, and by itself, but for what others did."""
        self.world.grow_calm()
        for number in range(8):
            if self.is_done:
                return
            if number > 3:
                self._machine().resolve()
            self._live(Life(age_s=float("inf"), rules=_RULES))
        assert self.is_done, oracle.at_end(self.world, self._machine().book, self.initial)

    def _check_end(self) -> None:
        self.is_done = True
        book = self._machine().book
        assert oracle.at_end(self.world, book, self.initial) == []
        if not self.world.touches and self._code() == 0 and not self.world.lies:
            assert plans.between(self.world.records[PETS], self.approved, PETS) == []
        known = {op_of(c): book.state(op_id(book.run_id, c)) for c in book.plan.changes()}
        touched = {touch.key for touch in self.world.touches}
        for (_, _, _, key), state in known.items():
            if key not in touched and state is not None and state.state == "acked":
                self._check_record(key, book)

    def _check_record(self, key: str, book: Kept) -> None:
        """A change that was made is what its plan said, not what the source says today."""
        (change,) = [c for c in book.plan.changes() if c.key == (key,)]
        if self.world.lies.get(op_of(change), set()) & {"half", "hollow"}:
            return
        found = [self.world.records[PETS][id_] for id_ in self.world.holders(PETS, key)]
        if change.action == "delete":
            assert found == []
        else:
            assert [{k: r[k] for k in plans.FIELDS} for r in found] == [dict(change.payload or {})]

    def _code(self) -> int:
        book = self._machine().book
        return outcomes.result(book.plan, book).exit_code

    def _machine(self) -> Machine:
        assert self.machine is not None
        return self.machine

    def _age_s(self) -> float:
        return 0.0 if self.is_first else float("inf")

    def _leave(self) -> None:
        if self.machine is not None:
            with in_force(self.world.clock, lambda _name: None):
                self.machine.close()
            self.machine = None


class RunsByJobs(Runs):
    """The same, where every change is done by a job."""

    jobs = True


_RULES = Rules(in_flight_s=2.0, drain_s=2.0)


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="dsync")


@pytest.mark.parametrize("kind", [Runs, RunsByJobs])
def test_any_order_of_events(kind: type[Runs]) -> None:
    """Whatever is edited, broken, killed and resumed: nothing is made twice, nothing is lost."""
    run_state_machine_as_test(
        kind,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
