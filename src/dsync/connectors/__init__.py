"""The contract of a connector: code that speaks a family of APIs.

A connector lists the records of a resource in a scope, and makes one change. It knows nothing of
plans and journals: `planning` and `applying` do.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Protocol

from dsync.model import Change, Outcome, Scope


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Records as JSON lines (each line one JSON object and a newline), and how many they are.

    `total` is the number of all records that the API gave beside them, if it gives one.
    """

    ndjson: bytes
    count: int
    total: int | None = None


class Connector(Protocol):
    """What planning and applying ask of an API."""

    def fetch(self, resource: str, scope: Scope) -> AsyncIterator[Page]:
        """All records of `resource` in this scope, as the API gives them, a page at a time.

        Ends only after the listing is proved complete; else raises: a partial listing would plan
        duplicates and deletes.

        Raises: Unavailable, ContractBreach, Unauthorized.
        """
        ...

    async def send(self, change: Change, scope: Scope, *, job: Callable[[str], None]) -> Outcome:
        """Make one change (its references are already filled) and follow it to its verdict.

        `job` is called with the place of an asynchronous job before the first poll, so that the
        caller can make it durable. Never raises for what an API can do: the outcome says it.
        Raises Unauthorized when no further call can succeed.
        """
        ...

    async def refresh(self, resource: str, scope: Scope) -> None:
        """Ask the API to renew its own cache of this resource, where its system file says how."""
        ...

    async def close(self) -> None:
        """Give up all connections."""
        ...
