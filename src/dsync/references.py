"""References: payload values that are known only after another record was created.

A reference names a record that the same plan creates, in the same connection and scope. Before a
wave begins, the ids that its changes rely on are learned: from the journal, where an answer has
told them, else from a listing of the resource.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from dsync.connectors import Connector
from dsync.course import Lane
from dsync.errors import DsyncError, Unauthorized
from dsync.journal import Journal, operation
from dsync.model import REF_CLOSE, REF_OPEN, Change, Scope
from dsync.reports import key_text
from dsync.system import System

Translate = Callable[[bytes], tuple[tuple[str, ...], Any, Mapping[str, Any]]]
"""A listed record, as a line of JSON -> its key, its id, its fields in the shape that is written"""

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 2.0
_REFERENCE = re.compile(f"{REF_OPEN}([^{REF_CLOSE}]*){REF_CLOSE}")


@dataclass(frozen=True, slots=True)
class Reference:
    """A field of a record that this plan creates, in the same connection and scope.

    Where `take` is empty no field is asked for: the record has to be there, that is all.
    """

    resource: str
    key: tuple[str, ...]
    take: str = ""

    def __str__(self) -> str:
        return f"{self.resource} {key_text(self.key)}"


@dataclass(frozen=True, slots=True)
class Missing:
    """Why a reference has no value. `failed`: its record was not created, and we know it."""

    why: str
    failed: bool


Known = dict[Reference, Any]
"""reference -> its value, or a `Missing`"""


def _reference(content: str) -> Reference:
    resource, key, take = msgspec.json.decode(content, type=tuple[str, tuple[str, ...], str])
    return Reference(resource, key, take)


def _references(value: Any) -> Iterator[Reference]:
    match value:
        case str():
            for match in _REFERENCE.finditer(value):
                yield _reference(match[1])
        case dict():
            for item in value.values():
                yield from _references(item)
        case list() | tuple():
            for item in value:
                yield from _references(item)


def relied_on(change: Change) -> list[Reference]:
    """What must have been created before this change can be sent."""
    needs = [Reference(resource, key) for resource, key in change.needs]
    return [*needs, *_references(change.id), *_references(change.payload)]


def filled(value: Any, known: Known) -> Any:
    """`value` with all references replaced; one that is the whole text keeps its value's type."""
    match value:
        case str() if REF_OPEN in value:
            if whole := _REFERENCE.fullmatch(value):
                return known[_reference(whole[1])]
            return _REFERENCE.sub(lambda match: _text(known[_reference(match[1])]), value)
        case dict():
            return {name: filled(item, known) for name, item in value.items()}
        case list() | tuple():
            return [filled(item, known) for item in value]
        case _:
            return value


def folded(key: tuple[str, ...], caseless: bool) -> tuple[str, ...]:
    return tuple(part.lower() for part in key) if caseless else key


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


# --- learning them ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Learner:
    """Finds the values of references in one lane."""

    lane: Lane
    scope: Scope
    journal: Journal
    connector: Connector
    system: System
    translate: Mapping[tuple[str, str], Translate]
    found: Callable[[str, Any], None]
    """hears of an id that was found for an operation"""
    pause: Callable[[float], Awaitable[bool]]
    """waits so many seconds; False when the run ends"""

    async def learn(self, changes: Iterator[Change]) -> Known:
        """A value, or the reason that there is none, for all that these changes rely on.

        Raises: Unauthorized.
        """
        known: Known = {}
        sought: set[Reference] = set()
        system = ""
        for change in changes:
            system = change.system
            # One that cannot be read is that change's own fault; `filled` says so.
            with contextlib.suppress(msgspec.DecodeError):
                for ref in relied_on(change):
                    if ref not in known and ref not in sought:
                        self._look(system, ref, known, sought)
        for resource in sorted({ref.resource for ref in sought}):
            wanted = {ref for ref in sought if ref.resource == resource}
            known |= await self._find(system, resource, wanted)
        return known

    def _look(self, system: str, ref: Reference, known: Known, sought: set[Reference]) -> None:
        maker = self.journal.state(self._maker(system, ref))
        if maker is None:
            known[ref] = Missing(f"depends on {ref}, which this run did not create", failed=True)
        elif maker.is_unknown or maker.is_open:
            known[ref] = Missing(f"depends on {ref}, whose outcome is unknown", failed=True)
        elif maker.state != "acked":
            known[ref] = Missing(f"depends on {ref}, which failed", failed=True)
        elif not ref.take:
            known[ref] = None
        elif maker.id is not None and self._is_id(ref):
            known[ref] = maker.id
        else:
            sought.add(ref)

    def _maker(self, system: str, ref: Reference) -> str:
        return operation(self.journal.run_id, system, ref.resource, self.lane[1], ref.key, "create")

    def _is_id(self, ref: Reference) -> bool:
        resource = self.system.resources.get(ref.resource)
        return ref.take == "id" or (resource is not None and ref.take == resource.id)

    async def _find(self, system: str, resource: str, wanted: set[Reference]) -> Known:
        """List the resource until the records are there or `settle_s` is over."""
        translate = self.translate.get((self.lane[0], resource))
        if translate is None:
            why = f"the answer did not tell its id, and {resource} cannot be listed"
            return {ref: Missing(f"depends on {ref}: {why}", failed=False) for ref in wanted}
        facts = self.system.resources.get(resource)
        loop = asyncio.get_running_loop()
        until = loop.time() + (facts.settle_s if facts is not None else 0)
        pause, why = _FIRST_PAUSE_S, "it is not in the listing"
        known: Known = {}
        while True:
            try:
                known |= await self._listed(resource, translate, wanted - known.keys())
            except Unauthorized:
                raise
            except DsyncError as error:
                why = error.message
            if wanted <= known.keys() or loop.time() >= until:
                break
            if not await self.pause(min(pause, max(0, until - loop.time()))):
                break
            pause = min(pause * 2, _LONGEST_PAUSE_S)
        for ref in wanted:
            if ref not in known:
                known[ref] = Missing(f"depends on {ref}, whose id is not known: {why}", False)
            elif self._is_id(ref) and not isinstance(known[ref], Missing):
                self.found(self._maker(system, ref), known[ref])
        return known

    async def _listed(self, resource: str, translate: Translate, wanted: set[Reference]) -> Known:
        facts = self.system.resources.get(resource)
        caseless = facts is not None and facts.caseless_key
        by_key: dict[tuple[str, ...], list[Reference]] = defaultdict(list)
        for ref in wanted:
            by_key[folded(ref.key, caseless)].append(ref)
        known: Known = {}
        await self.connector.refresh(resource, self.scope)
        async for page in self.connector.fetch(resource, self.scope):
            for line in page.ndjson.splitlines():
                key, record_id, record = translate(line)
                for ref in by_key.get(folded(key, caseless), ()):
                    value = record_id if self._is_id(ref) else record.get(ref.take)
                    if ref in known:
                        why = f"depends on {ref}, of which there are two"
                        known[ref] = Missing(why, failed=False)
                    elif value is not None:
                        known[ref] = value
        return known
