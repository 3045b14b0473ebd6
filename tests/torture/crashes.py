"""Crashes by name: at which point of which run, how it is played, and what comes after."""

from __future__ import annotations

import itertools
import json
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dsync.emulators import Emulator
from dsync.failpoints import POINTS

from . import oracle
from .starter import COUNTING
from .world import PERSONALITIES, Done, Starter, World

Position = Literal["first", "middle", "last"]

RUN = "run"
EACH = 2
"""creates, updates and deletes in the plan of a case"""
WIDTHS = (1, 4)
"""calls at once"""

_EACH_CALL = ("intent.before", "intent.after", "sent.before", "sent.after", "answer.after",
              "outcome.before", "outcome.after")  # fmt: skip
_JOBS = ("job.before", "job.after")
_EACH_WAIT = ("quota.before", "quota.after")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One crash: `point` at its first, middle or last passage; `width` calls at once."""

    kind: str
    point: str
    position: Position = "first"
    width: int = 1

    def __str__(self) -> str:
        return f"{self.kind}-{self.point}-{self.position}-{self.width}"


def cases(kind: str, width: int) -> Iterator[Case]:
    """All of one personality: each point at each of its passages that is another one."""
    has_jobs = PERSONALITIES[kind].has_jobs
    many = _EACH_CALL + _EACH_WAIT + (_JOBS if has_jobs else ())
    positions: tuple[Position, ...] = ("first", "middle", "last")
    for point in POINTS:
        if point in (*_JOBS, "poll.before") and not has_jobs:
            continue
        ends = positions if point in many else positions[:1]
        if point == "wave.end" or (point.startswith("resolve") and kind == "director"):
            ends = ("first", "last")
        for position in ends:
            yield Case(kind=kind, point=point, position=position, width=width)


def all_cases() -> list[Case]:
    """Set A."""
    return [case for kind in PERSONALITIES for width in WIDTHS for case in cases(kind, width)]


# ---- playing one -------------------------------------------------------------------------------


def passage(case: Case, most: int) -> int:
    """Which passage of its point is meant, when there are `most`."""
    return {"first": 1, "middle": (most + 1) // 2, "last": most}[case.position]


def play(folder: Path, api: Emulator, starter: Starter, case: Case) -> World:
    """The crash, and nothing after it; judged. Raises: AssertionError, also without a crash."""
    before: tuple[str, ...] = ()
    if case.point == "poll.before":
        before = ("job.after:1",)
    elif case.point.startswith("resolve") and case.kind != "director":
        before = ("sent.after:1",)
    most = 1
    if not before and case.point != "stop.after":
        most = passages(folder / "whole", api, starter, case.kind, case.width)[case.point]
    # One less where events happen to share a commit; then an earlier passage is the last one.
    for number in range(passage(case, most), 0, -1):
        world = World(folder / f"at-{number}", api, case.kind, starter)
        world.mixed_plan(EACH)
        if case.point == "stop.after":
            path = "Repos$" if world.kind.emulator == "director" else "items$"
            rule = {"match": {"method": "POST", "path": path}, "fault": "status", "status": 401}
            api.faults([rule])
        done = crash(world, (*before, f"{case.point}:{number}"), width=case.width)
        if done.killed:
            api.faults([])
            oracle.judge(world, RUN, done, ended=False)
            return world
    raise AssertionError(f"{case} was not killed: exit {done.code}\n{done.told}")


_known: dict[tuple[str, int], Mapping[str, int]] = {}


def passages(
    folder: Path, api: Emulator, starter: Starter, kind: str, width: int
) -> Mapping[str, int]:
    """How often a run that nothing happens to passes each point; tried once."""
    if (kind, width) not in _known:
        world = World(folder, api, kind, starter)
        world.mixed_plan(EACH)
        file = folder.with_name("passages.json")
        words = ("--concurrency", str(width))
        done = world.apply(RUN, *words, env={COUNTING: str(file)})
        oracle.judge(world, RUN, done)
        _known[kind, width] = json.loads(file.read_text())
    return _known[kind, width]


def crash(world: World, points: tuple[str, ...], *, width: int = 1) -> Done:
    """A run that is killed at the first of these points, resumed, killed at the second, ….

    Gives how the last of its processes ended. Raises: AssertionError where an earlier one lived.
    """
    words = ("--concurrency", str(width))
    done = world.apply(RUN, *words, failpoint=points[0])
    for last, point in itertools.pairwise(points):
        assert done.killed, f"{last} was not passed: exit {done.code}\n{done.told}"
        oracle.judge(world, RUN, done, ended=False)
        done = world.finish(RUN, failpoint=point)
    return done


def survive(world: World, *, twice: bool = True) -> None:
    """What comes after a crash: resume, all that the oracle asks, and a plan that is empty.

    Until it is resumed, a run with calls of which nobody knows is in the way of every plan; with
    `twice` it is resumed once more, which has to change nothing. Raises: AssertionError.
    """
    book = oracle.read_journal(world, RUN)
    if book is not None and {"sent", "unknown", "accepted"} & {*book.states().values()}:
        refused = world.dsync("plan")
        assert refused.code == 5, f"a plan beside what is unclear: {refused.code}: {refused.told}"
        assert f"dsync reconcile {RUN}" in refused.err
    done = world.finish(RUN)
    oracle.judge(world, RUN, done)
    before = len(world.writes())
    if twice:
        oracle.judge(world, RUN, world.resume(RUN))
    if left := list(oracle.nothing_left(world)):
        raise AssertionError("\n".join(left))
    assert len(world.writes()) == before
    world.remove()


# ---- more than one kill ------------------------------------------------------------------------

_IN_RESUME = (
    "lock.taken", "registry.before", "registry.after", "resolve.before", "resolve.after",
    "intent.before", "intent.after", "sent.before", "sent.after", "answer.after", "outcome.before",
    "outcome.after", "wave.end", "end.after", "report.before", "report.after", "job.before",
    "job.after", "poll.before", "quota.before", "quota.after",
)  # fmt: skip


def play_many(
    folder: Path, api: Emulator, starter: Starter, case: Case, seed: Any, kills: int
) -> World:
    """The crash, and further ones at random points of the resumes, `kills` in all; judged.

    Raises: AssertionError.
    """
    chance = random.Random(f"{case} {seed}")  # noqa: S311
    for number in range(50):
        world = play(folder / str(number), api, starter, case)
        for _ in range(kills - 1):
            point = f"{chance.choice(_IN_RESUME)}:{chance.choice((1, 1, 2, 3))}"
            done = world.finish(RUN, failpoint=point)
            oracle.judge(world, RUN, done, ended=not done.killed)
            if not done.killed:
                break  # not passed so often: the run has ended
        else:
            return world
    raise AssertionError(f"{case} was not killed {kills} times in 50 tries")


# ---- a long apply on a bad day -----------------------------------------------------------------


def bad_day(world: World, *, rows: int, seed: int, kills: int = 3) -> None:
    """`rows` creates while 5 % of all calls go wrong, killed at so many random instants.

    Each kill is followed by a resume. A row whose two calls have both had no effect is an error,
    and its hint is one more resume: that is done too. Raises: AssertionError.
    """
    chance = random.Random(seed)  # noqa: S311
    world.want({f"item-{number:05}": number for number in range(rows)})
    world.api.faults([{"mixed": 0.05, "seed": seed}])
    running = world.start(*world.apply_words(RUN))
    for made in sorted(chance.sample(range(1, rows * 9 // 10), kills)):
        deadline = time.monotonic() + 120
        while _made(world) < made and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 0.05))
        running.kill()
        assert world.ended(running).killed
        oracle.judge(world, RUN, ended=False, resends=True)
        running = world.start("resume", RUN)
    done = world.ended(running, 180)
    for _ in range(5):
        oracle.judge(world, RUN, done, ended=False)
        if done.code == 0:
            break
        assert f"dsync resume {RUN}" in done.told, done.told
        done = world.resume(RUN, timeout_s=180)
    world.api.faults([])
    oracle.judge(world, RUN, done)
    effects = world.api.effects()
    assert len(effects) == rows
    assert {effect["kind"] for effect in effects} == {"create"}
    assert list(oracle.nothing_left(world)) == []


def _made(world: World) -> int:
    effects: Any = world.api.counts()["effects"]
    return int(effects["create"])
