"""The ledger: every call that came in, and every effect it had, in order.

A ledger is the emulator's witness. It is appended to, never changed, except that a call's entry
gains its status when it is answered and its effects when they happen, which for an asynchronous
job is later. Calls to `/_emulator/…` are not in it.
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
    effects: list[Effect] = field(default_factory=list)
    _ledger: Ledger

    def effect(self, kind: str, *, resource: str, scope: str, id: str, key: str) -> None:  # noqa: A002
        """Notes that an object came, changed or went because of this call, now."""
        now = self._ledger.clock.wall_s()
        self._ledger.note(
            self, Effect(kind=kind, resource=resource, scope=scope, id=id, key=key, at_s=now)
        )

    def has_fault(self, name: str) -> Rule | None:
        """The rule of that name among `faults`."""
        return next((rule for rule in self.faults if rule.fault == name), None)

    def to_json(self) -> dict[str, object]:
        request = self.request
        return {
            "seq": self.seq,
            "at": iso(self.at_s),
            "monotonic_s": self.monotonic_s,
            "method": request.method,
            "path": request.path,
            "query": {name: _veil(name, value) for name, value in request.query.items()},
            "template": self.template,
            "write": self.write,
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

    def open(self, request: Request, faults: tuple[Rule, ...]) -> Call:
        """The entry of a call that just came in."""
        call = Call(
            seq=self._first + len(self._calls),
            at_s=self.clock.wall_s(),
            monotonic_s=self.clock.monotonic_s(),
            request=request,
            faults=faults,
            _ledger=self,
        )
        self._calls.append(call)
        return call

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

    def counts(self) -> dict[str, object]:
        """How many calls by template and by status, how many effects by kind."""
        calls = Counter(f"{call.request.method} {call.template}" for call in self._calls)
        status = Counter(str(call.status or "none") for call in self._calls)
        effects = Counter(effect.kind for call in self._calls for effect in call.effects)
        faults = Counter(call.fault for call in self._calls if call.fault)
        writes = sum(call.write for call in self._calls)
        return {
            "total": len(self._calls),
            "writes": writes,
            "reads": len(self._calls) - writes,
            "calls": dict(sorted(calls.items())),
            "status": dict(sorted(status.items())),
            "effects": {kind: effects[kind] for kind in ("create", "update", "delete")},
            "faults": dict(sorted(faults.items())),
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
