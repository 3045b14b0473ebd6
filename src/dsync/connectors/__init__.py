"""The contract of a connector: code that speaks a family of APIs.

A connector lists the records of a resource in a scope, and makes one change. It knows nothing of
plans and journals: `planning` and `applying` do.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from dsync.model import Change, Outcome, Scope


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where a listing goes on after a page: what a later process needs to go on there.

    `call` counts the listing's calls; `query` or `link` is the next page, and the rest is what the
    proof of completeness has added up so far.
    """

    call: int = 0
    query: Mapping[str, str] = field(default_factory=dict)
    link: str | None = None
    beyond: bool = False
    alone: bool = False
    pages: int = 0
    count: int = 0
    full: int = 0
    short: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Records as JSON lines (each line one JSON object and a newline), and how many they are.

    `total` is the number of all records that the API gave beside them, if it gives one.
    `after` is where the listing goes on (after its last page that is its end); None where it
    cannot be taken up again. `marks` name this page and its next one: met again, they are a loop.
    """

    ndjson: bytes
    count: int
    total: int | None = None
    after: Position | None = None
    marks: tuple[str, ...] = ()


class Halted(Exception):
    """The run ends: a call that was about to be made was not begun."""


class CallLog(Protocol):
    """What a connector tells of one change while it makes it, so that it is durable in time."""

    async def intent(self, body_sha256: str) -> str:
        """A call with this body is about to be made; durable on return.

        Gives the idempotency key of these bytes: the same in every attempt and every process.

        Raises: Halted when no call may begin any more; StorageFault.
        """
        ...

    def sent(self) -> None:
        """The first byte is about to leave. Raises: StorageFault."""
        ...

    async def again(self, outcome: Outcome, why: str) -> None:
        """The attempt ended so, and another one follows; `why` that cannot make it twice."""
        ...

    def accepted(self, job: str) -> None:
        """A job at this place does it; durable on return, before the first poll.

        Raises: StorageFault.
        """
        ...


class Connector(Protocol):
    """What planning and applying ask of an API."""

    def fetch(self, resource: str, scope: Scope) -> AsyncIterator[Page]:
        """All records of `resource` in this scope, as the API gives them, a page at a time.

        Ends only after the listing is proved complete; else raises: a partial listing would plan
        duplicates and deletes.

        Raises: Unavailable, ContractBreach, Unauthorized.
        """
        ...

    async def send(self, change: Change, scope: Scope, *, log: CallLog) -> Outcome:
        """Make one change (its references are already filled) and follow it to its verdict.

        Every attempt is told to `log` before its first byte leaves, and a job before its first
        poll. May be cancelled before an intent and while a job is polled. Never raises for what an
        API can do: the outcome says it.

        Raises: Unauthorized when no further call can succeed, Unavailable when the API asks for
        more patience than a run has; Halted; StorageFault.
        """
        ...

    async def follow(self, job: str, scope: Scope) -> Outcome:
        """Follow a job that was accepted earlier to its verdict; never sends a write."""
        ...

    async def refresh(self, resource: str, scope: Scope) -> None:
        """Ask the API to renew its own cache of this resource, where its system file says how."""
        ...

    async def close(self) -> None:
        """Give up all connections."""
        ...
