"""Which changes are made where and when, and what they rely on.

    lane = one connection and one scope: lanes run side by side, a lane's waves one after the other

The body of a plan is sorted by wave and scope, so a course is a few stretches of it, however many
changes there are.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import msgspec

from dsync.errors import Invalid, Stale
from dsync.model import REF_OPEN, Change, Plan
from dsync.reports import key_text

Lane = tuple[str, str]
"""connection, scope"""

_CHANGE = b'{"kind":"change"'
_MARKS = (REF_OPEN.encode(), b"\\ue000", b"\\uE000")


class _Head(msgspec.Struct):
    """So much of a change as says where it belongs."""

    action: str
    profile: str
    system: str
    resource: str
    key: tuple[str, ...]
    scope: str = ""
    wave: int = 0
    needs: tuple[msgspec.Raw, ...] = ()


_head = msgspec.json.Decoder(_Head)
_whole = msgspec.json.Decoder(Change)


@dataclass(slots=True)
class Stretch:
    """A piece of the plan's body with changes of one lane and wave; bytes, end not included."""

    start: int
    end: int


Course = dict[Lane, dict[int, list[Stretch]]]


def lay_out(plan: Plan) -> Course:
    """Where in the plan's body the changes of each lane and wave are.

    The body is sorted by wave and scope, so there are few stretches, however many changes.

    Raises: Stale when the body is not what the header says; Invalid when two changes are one.
    """
    course: Course = defaultdict(lambda: defaultdict(list))
    counts: Counter[tuple[str, ...]] = Counter()
    shared = _shared(plan)
    seen: set[bytes] = set()
    last: tuple[Lane, int] | None = None
    for start, end, line in _lines(plan, Stretch(0, plan.body.stat().st_size)):
        head = _head.decode(line)
        if head.profile not in plan.connections:
            raise _misfit(f"no connection is known for its profile {head.profile!r}")
        place = ((plan.connections[head.profile], head.scope), head.wave)
        stretches = course[place[0]][place[1]]
        if place == last:
            stretches[-1].end = end
        else:
            stretches.append(Stretch(start, end))
        last = place
        counts[head.profile, head.system, head.resource, head.scope, head.action] += 1
        if (head.system, head.resource, head.scope) in shared:
            _check_new(head, seen)
    for tally in plan.tallies:
        for action in ("create", "update", "delete"):
            counts[tally.profile, tally.system, tally.resource, tally.scope, action] -= getattr(
                tally, action
            )
    if any(counts.values()):
        raise _misfit("it does not hold the changes that its header counts")
    return course


def parts(plan: Plan, course: Course, waiting: Collection[str]) -> Iterator[Course]:
    """The course in pieces, each to be done in all lanes before the next: where the first wave of
    a profile in `waiting` begins, so does a piece."""
    begin: dict[str, int] = {}
    if waiting:
        for _, _, line in _lines(plan, Stretch(0, plan.body.stat().st_size)):
            head = _head.decode(line)
            if head.profile in waiting:
                begin[head.profile] = min(head.wave, begin.get(head.profile, head.wave))
    bounds = sorted({0, *begin.values()})
    for low, high in zip(bounds, [*bounds[1:], None], strict=True):
        piece = {
            lane: {w: s for w, s in waves.items() if w >= low and (high is None or w < high)}
            for lane, waves in course.items()
        }
        yield {lane: waves for lane, waves in piece.items() if waves}


def _shared(plan: Plan) -> set[tuple[str, str, str]]:
    """Resources in a scope that more than one profile writes to."""
    writers = Counter((t.system, t.resource, t.scope) for t in plan.tallies)
    return {place for place, number in writers.items() if number > 1}


def _check_new(head: _Head, seen: set[bytes]) -> None:
    identity = (head.system, head.resource, head.scope, head.key, head.action)
    digest = hashlib.blake2b(msgspec.json.encode(identity), digest_size=16).digest()
    if digest in seen:
        # The journal knows an operation by this identity: the second would pass for the first.
        raise Invalid(
            f"two profiles {head.action} {head.resource} {key_text(head.key)}",
            code="DS-PLAN-CLASH",
            hint="let only one profile hold this record, or apply them one after the other",
        )
    seen.add(digest)


def _misfit(why: str) -> Stale:
    return Stale(f"the plan does not fit itself: {why}", code="DS-PLAN-MISFIT", hint="plan again")


def _lines(plan: Plan, stretch: Stretch) -> Iterator[tuple[int, int, bytes]]:
    """The changes of a stretch as they are written: start, end, line."""
    with plan.body.open("rb") as body:
        at = body.seek(stretch.start)
        for line in body:
            if at >= stretch.end:
                return
            start, at = at, at + len(line)
            if line.startswith(_CHANGE):
                yield start, at, line


def changes(plan: Plan, stretches: list[Stretch]) -> Iterator[Change]:
    """The changes of these stretches, in order."""
    for stretch in stretches:
        for _, _, line in _lines(plan, stretch):
            yield _whole.decode(line)


def relying(plan: Plan, stretches: list[Stretch]) -> Iterator[Change]:
    """Those of them that rely on records which the same plan creates."""
    for stretch in stretches:
        for _, _, line in _lines(plan, stretch):
            if _head.decode(line).needs or any(mark in line for mark in _MARKS):
                yield _whole.decode(line)
