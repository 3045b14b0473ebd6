"""What an apply of a plan will ask of each API: how many calls, until when, and what it risks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from dsync.model import Outlook, Plan, Tally
from dsync.quota import Kind, ends_at, parse_rate
from dsync.system import System


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """One connection: its system, and the rate that it declares instead of the system's."""

    name: str
    system: System
    rate: str | None = None


def outlooks(plan: Plan, apis: Mapping[str, Api], now: datetime) -> tuple[Outlook, ...]:
    """One for each connection that the plan writes to, as if it were applied now.

    `apis` are by profile. Counted are the writes, and one look at each job that a write starts;
    listings, retries and reading back come on top, so the end is the earliest one.
    """
    by_name = {apis[tally.profile].name: apis[tally.profile] for tally in plan.tallies}
    found = []
    for name, api in by_name.items():
        tallies = [tally for tally in plan.tallies if apis[tally.profile].name == name]
        writes = sum(tally.create + tally.update + tally.delete for tally in tallies)
        if writes:
            found.append(_outlook(api, tallies, writes, now))
    return tuple(found)


def _outlook(api: Api, tallies: Sequence[Tally], writes: int, now: datetime) -> Outlook:
    limits = api.system.limits
    calls: dict[Kind, int] = {"write": writes}
    if api.system.jobs is not None:
        calls["read"] = writes
    ends = None
    rate = api.rate or limits.rate
    if limits.quotas or rate:
        zone = ZoneInfo(limits.time_zone)
        ends = ends_at(limits, calls, now, rate=parse_rate(rate) if rate else None)
        ends = ends.astimezone(zone)
    doubtful = {tally.resource for tally in tallies if tally.create and _may_repeat(api, tally)}
    return Outlook(
        connection=api.name,
        reads=calls.get("read", 0),
        writes=writes,
        begins=now.astimezone(ends.tzinfo) if ends else now,
        ends=ends,
        time_zone=limits.time_zone if ends else "",
        at_least_once=tuple(sorted(doubtful)),
    )


def _may_repeat(api: Api, tally: Tally) -> bool:
    """Whether nothing in the API itself keeps a create that comes twice from having two effects."""
    resource = api.system.resources.get(tally.resource)
    if resource is None or resource.create is None:
        return False
    if resource.write == "upsert" or resource.unique_by_server:
        return False
    return resource.create.idempotency is None
