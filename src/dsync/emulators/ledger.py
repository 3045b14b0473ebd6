"""The ledger: every call that came in, and every effect it had, in order.

A ledger is the emulator's witness. It is appended to, never changed, except that a call's entry
gains its status and the moment when it is answered, and its effects when they happen, which for an
asynchronous job is later. Calls to `/_emulator/…` are not in it.

A call is in flight from its arrival until its answer has left or its connection is gone; a write
is open until then and, where it was only accepted, until its job has ended.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from .clock import Clock, iso
from .faults import Rule
from .messages import Request, encode
from .quotas import Breach

__all__ = ["Call", "Effect", "Ledger", "fingerprint"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """One object that came, changed or went."""

    kind: str
    """`create`, `update` or `delete`."""
    resource: str
    scope: str
    """Where it lives: `POOL/NODE`, the path of a parent, or ``."""
    id: str
    key: str
    at_s: float
    """When, in seconds since 1970 on the emulator's clock."""

    def to_json(self) -> dict[str, object]:
        return {
            "kind": self.kind,
            "resource": self.resource,
            "scope": self.scope,
            "id": self.id,
            "key": self.key,
            "at": iso(self.at_s),
        }


@dataclass(slots=True, kw_only=True, eq=False)
class Call:
    """One call: the request as it came, and what became of it."""

    seq: int
    at_s: float
    monotonic_s: float
    request: Request
    faults: tuple[Rule, ...] = ()
    """The rules of the emulator's own faults that hit this call."""
    template: str = "(unknown)"
    """The path with its variables named, e.g. `/api/{collection}/{id}`."""
    write: bool = False
    """It asked for a change, whether or not one came of it. Of a call that the API never saw, for
    a fault or a limit, its method decides."""
    status: int | None = None
    """The status that was sent; None when no answer began."""
    fault: str | None = None
    """The fault that was shown."""
    error: str | None = None
    """The emulator itself failed: a bug in it, not in the client."""
    kind: str = "read"
    """`read` or `write`: what it counts as in a quota."""
    scope: str = ""
    """What the API keeps apart: a node, a company; `` where there is but one."""
    overlaps: tuple[int, ...] = ()
    """The numbers of the calls of this scope that were in flight when this one came."""
    open_writes: int = 0
    """Writes of this scope that were open when this write came."""
    over_quota: tuple[Breach, ...] = ()
    """The quotas that this call was too many for."""
    answered_s: float | None = None
    """When its answer had left, or its connection was gone; on the clock of `monotonic_s`."""
    job_open: bool = False
    """It was accepted, and its job has not ended."""
    effects: list[Effect] = field(default_factory=list)
    _ledger: Ledger

    def effect(self, kind: str, *, resource: str, scope: str, id: str, key: str) -> None:  # noqa: A002
        """Notes that an object came, changed or went because of this call, now."""
        now = self._ledger.clock.wall_s()
        self._ledger.note(
            self, Effect(kind=kind, resource=resource, scope=scope, id=id, key=key, at_s=now)
        )

    def accepted(self) -> None:
        """This call started a job: it stays open until `job_open` is taken back."""
        self._ledger.accepted(self)

    def has_fault(self, name: str) -> Rule | None:
        """The rule of that name among `faults`."""
        return next((rule for rule in self.faults if rule.fault == name), None)

    def to_json(self) -> dict[str, object]:
        request = self.request
        return {
            "seq": self.seq,
            "at": iso(self.at_s),
            "monotonic_s": self.monotonic_s,
            "answered_s": self.answered_s,
            "scope": self.scope,
            "overlaps": list(self.overlaps),
            "open_writes": self.open_writes,
            "over_quota": [str(breach) for breach in self.over_quota],
            "method": request.method,
            "path": request.path,
            "query": {name: _veil(name, value) for name, value in request.query.items()},
            "template": self.template,
            "write": self.write,
            "kind": self.kind,
            "headers": {name: _veil_header(name, text) for name, text in request.headers.items()},
            "body": _body(request),
            "body_sha256": hashlib.sha256(request.body).hexdigest() if request.body else None,
            "connection": request.connection,
            "on_connection": request.on_connection,
            "status": self.status,
            "fault": self.fault,
            "error": self.error,
            "effects": [effect.to_json() for effect in self.effects],
        }


class Ledger:
    """All calls so far; with a file also there, one line of JSON for each call and each effect."""

    def __init__(self, clock: Clock, path: Path | None = None) -> None:
        self.clock = clock
        self._calls: list[Call] = []
        self._first = 1
        self._file: IO[bytes] | None = path.open("ab", buffering=0) if path else None
        self._flying: list[Call] = []
        self._all_flying = 0
        self._accepted: list[Call] = []

    def open(
        self, request: Request, faults: tuple[Rule, ...], *, scope: str = "", write: bool = False
    ) -> Call:
        """The entry of a call that just came in."""
        beside = tuple(call for call in self._flying if call.scope == scope)
        call = Call(
            seq=self._first + len(self._calls),
            at_s=self.clock.wall_s(),
            monotonic_s=self.clock.monotonic_s(),
            request=request,
            faults=faults,
            write=write,
            scope=scope,
            overlaps=tuple(one.seq for one in beside),
            _ledger=self,
        )
        if write:
            self._accepted = [one for one in self._accepted if one.job_open]
            waiting = [one for one in self._accepted if one.scope == scope and one not in beside]
            call.open_writes = sum(one.write for one in beside) + len(waiting)
        self._calls.append(call)
        self._flying.append(call)
        self._all_flying = max(self._all_flying, len(self._flying))
        return call

    def accepted(self, call: Call) -> None:
        """The call started a job: it stays open until `job_open` is taken back."""
        call.job_open = True
        self._accepted.append(call)

    def answered(self, call: Call) -> None:
        """The call's answer has left, or nobody waits for it."""
        call.answered_s = self.clock.monotonic_s()
        if call in self._flying:
            self._flying.remove(call)

    def note(self, call: Call, effect: Effect) -> None:
        """Adds an effect to a call's entry."""
        call.effects.append(effect)
        self._write({"effect": effect.to_json(), "seq": call.seq})

    def close(self, call: Call) -> None:
        """The call's entry is complete, but for effects still to come."""
        if self._file:
            self._write({"call": call.to_json()})

    def since(self, seq: int) -> Iterator[Call]:
        """The calls after number `seq`, in order of arrival."""
        yield from self._calls[max(0, seq - self._first + 1) :]

    def clear(self) -> None:
        """Forgets all calls; numbers go on, so that `since` keeps its meaning."""
        self._first += len(self._calls)
        self._calls.clear()
        self._flying.clear()
        self._accepted.clear()
        self._all_flying = 0

    def counts(self) -> dict[str, object]:
        """How many calls by template and by status, how many effects by kind; and how they met.

        `in_flight_max`: the most calls of one scope at once (`in_flight_by_scope`: of each;
        `in_flight_all`: of all scopes together), `open_writes_max` the most open writes of one
        scope. `over_quota`: calls over it in any way of counting, `over_quota_by` in each.
        `per_minute`: calls by the minute of the clock in UTC, and by kind.
        """
        by_scope: dict[str, int] = {}
        for call in self._calls:
            most = max(by_scope.get(call.scope, 0), len(call.overlaps) + 1)
            by_scope[call.scope] = most
        over = Counter(breach.counting for call in self._calls for breach in call.over_quota)
        calls = Counter(f"{call.request.method} {call.template}" for call in self._calls)
        status = Counter(str(call.status or "none") for call in self._calls)
        effects = Counter(effect.kind for call in self._calls for effect in call.effects)
        faults = Counter(call.fault for call in self._calls if call.fault)
        writes = sum(call.write for call in self._calls)
        minutes: dict[str, dict[str, int]] = {}
        for call in self._calls:
            minute = minutes.setdefault(iso(call.at_s)[:16], {"read": 0, "write": 0})
            minute[call.kind] += 1
        return {
            "total": len(self._calls),
            "writes": writes,
            "reads": len(self._calls) - writes,
            "calls": dict(sorted(calls.items())),
            "status": dict(sorted(status.items())),
            "effects": {kind: effects[kind] for kind in ("create", "update", "delete")},
            "faults": dict(sorted(faults.items())),
            "in_flight_max": max(by_scope.values(), default=0),
            "in_flight_by_scope": by_scope,
            "in_flight_all": self._all_flying,
            "open_writes_max": max(
                (call.open_writes + 1 for call in self._calls if call.write), default=0
            ),
            "over_quota": sum(bool(call.over_quota) for call in self._calls),
            "over_quota_by": {"fixed": over["fixed"], "sliding": over["sliding"]},
            "per_minute": minutes,
        }

    def _write(self, line: dict[str, object]) -> None:
        if self._file:
            self._file.write(encode(line) + b"\n")


def fingerprint(text: str) -> str:
    """How the ledger shows a secret: `sha256:` and 16 hex digits."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()[:16]


_SECRET = re.compile(r"password|secret|token|api[-_]?key|authorization|cookie", re.IGNORECASE)
_BODY_SHOWN = 20_000


def _veil_header(name: str, text: str) -> str:
    if not _SECRET.search(name):
        return text
    scheme, blank, secret = text.partition(" ")
    return f"{scheme} {fingerprint(secret)}" if blank else fingerprint(text)


def _veil(name: str, value: object) -> object:
    if isinstance(value, dict):
        return {key: _veil(key, item) for key, item in value.items()}
    if isinstance(value, list):
        return [_veil(name, item) for item in value]
    if isinstance(value, str) and value and _SECRET.search(name):
        return fingerprint(value)
    return value


def _body(request: Request) -> object:
    if not request.body:
        return None
    if "form-urlencoded" in request.headers.get("content-type", ""):
        return "form, " + fingerprint(request.body.decode("latin-1"))
    try:
        return _veil("", json.loads(request.body))
    except (ValueError, RecursionError):
        pass
    try:
        return request.body.decode()[:_BODY_SHOWN]
    except UnicodeDecodeError:
        return f"{len(request.body)} bytes"
