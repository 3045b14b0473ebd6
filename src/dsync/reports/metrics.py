"""A run in numbers: one JSON document of metrics, by scope and action, all of them counted.

`metadata`, `summary` (totals, performance, memory, by scope, by action, errors, calls by scope),
`operations` (one a scope and action), `memory_history`, `error_history`, `api_call_history`,
`retry_statistics`. An *operation* in a total is a record that was attempted: a line of the CSV.
`sync` is the action of reading: its `records_processed` are the rows of the source. Durations in
seconds, memory in MB (2^20 bytes), `timestamp` in seconds since 1970. `limit` is not heeded.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TextIO

import msgspec

from dsync.model import Plan
from dsync.reports import LIMIT, RowResult, RunResult, printable, scope_of
from dsync.reports.csv import render_plan as _refuse_plan
from dsync.reports.traffic import WRITES, Group, Traffic, is_attempted, is_done, traffic

_MOST_ERRORS = 1000
_ACTIONS = ("sync", *WRITES)


@dataclass(slots=True)
class _Count:
    """The records of one scope and action."""

    done: int = 0
    failed: int = 0
    error: str = ""


@dataclass(slots=True)
class _Counted:
    """All records that were attempted."""

    by: dict[tuple[str, str], _Count] = field(default_factory=lambda: defaultdict(_Count))
    errors: Counter[str] = field(default_factory=Counter)
    history: list[dict[str, Any]] = field(default_factory=list)
    """the first 1,000 errors"""

    @property
    def done(self) -> int:
        return sum(count.done for count in self.by.values())

    @property
    def failed(self) -> int:
        return sum(count.failed for count in self.by.values())


def render_plan(
    plan: Plan, stream: TextIO, *, limit: int | None = LIMIT, color: bool | None = None
) -> None:
    """Raises: UsageFault, always: a plan has made no calls."""
    _refuse_plan(plan, stream)


def render_run(
    run: RunResult,
    rows: Iterable[RowResult],
    stream: TextIO,
    *,
    limit: int | None = LIMIT,
    color: bool | None = None,
) -> None:
    """Write the document, indented."""
    traffic_ = traffic(run)
    counted = _count(rows)
    operations = list(_operations(run, traffic_, counted))
    now = time.time()
    document = {
        "metadata": {
            "format": "dsync-metrics",
            "format_version": 1,
            "run_id": run.run_id,
            "exit_code": run.exit_code,
            "export_timestamp": round(now, 3),
            "export_date": f"{datetime.fromtimestamp(now).astimezone():%Y-%m-%d %H:%M:%S}",
            "total_operations": counted.done + counted.failed,
        },
        "summary": _summary(run, traffic_, counted, operations),
        "operations": operations,
        "memory_history": [
            {"timestamp": at, "usage_mb": mb, "scope": scope} for at, mb, scope in traffic_.memory
        ],
        "error_history": counted.history,
        "api_call_history": [
            {
                "timestamp": operation["start_time"],
                "scope": operation["scope"],
                "action": operation["action"],
                "api_calls": operation["api_calls"],
                "duration_seconds": operation["duration_seconds"],
            }
            for operation in operations
            if operation["api_calls"]
        ],
        "retry_statistics": {
            "total": _retries(traffic_.total()),
            **{
                f"{scope}.{action}": _retries(group)
                for (scope, action), group in sorted(traffic_.groups.items())
            },
        },
    }
    text = msgspec.json.format(msgspec.json.encode(document), indent=2).decode()
    stream.write(f"{text}\n")


def _count(rows: Iterable[RowResult]) -> _Counted:
    found = _Counted()
    for row in rows:
        if not is_attempted(row):
            continue
        scope, action = scope_of(row.profile), row.action or "sync"
        count = found.by[scope, action]
        if is_done(row):
            count.done += 1
            continue
        count.failed += 1
        message = printable(" ".join(filter(None, (row.code, row.reason))))
        count.error = count.error or message
        found.errors[message if len(found.errors) < _MOST_ERRORS else "other"] += 1
        if len(found.history) < _MOST_ERRORS:
            found.history.append(
                {
                    "timestamp": row.ended.timestamp() if row.ended else 0.0,
                    "scope": scope,
                    "action": action,
                    "error_message": message,
                    "duration_seconds": _seconds(row),
                    "key": list(map(printable, row.key)),
                    "status_code": row.http_status,
                    "attempts": row.attempts,
                }
            )
    return found


def _seconds(row: RowResult) -> float:
    if row.began is None or row.ended is None:
        return 0.0
    return round((row.ended - row.began).total_seconds(), 4)


def _operations(run: RunResult, traffic_: Traffic, counted: _Counted) -> Iterator[dict[str, Any]]:
    """One a scope and action: what was read, then creates, updates, deletes."""
    rows: Counter[str] = Counter()
    for tally in run.tallies:
        rows[scope_of(tally.profile)] += tally.rows
    peaks = traffic_.peaks()
    spots = dict.fromkeys((scope, "sync") for scope in rows)
    spots |= dict.fromkeys(sorted({*traffic_.groups, *counted.by}, key=_order))
    has_cache = True
    for scope, action in spots:
        group = traffic_.groups.get((scope, action), Group())
        count = counted.by.get((scope, action), _Count())
        records = rows[scope] if action == "sync" else count.done + count.failed
        span = group.span_s
        yield {
            "scope": scope,
            "action": action,
            "start_time": round(group.began, 3),
            "end_time": round(group.ended, 3),
            "duration_seconds": round(span, 3),
            "success": not count.failed,
            "error_message": count.error,
            "records_processed": records,
            "records_per_second": round(records / span, 3) if span else 0.0,
            "memory_usage_mb": peaks.get(scope, traffic_.peak_mb),
            "api_calls": group.calls,
            # Which profile a cached inventory was for is not known: the first one has them all.
            "cache_hits": run.cache.hits if has_cache else 0,
            "cache_misses": run.cache.misses if has_cache else 0,
        }
        has_cache = False


def _order(spot: tuple[str, str]) -> tuple[str, int]:
    return spot[0], _ACTIONS.index(spot[1])


def _summary(
    run: RunResult, traffic_: Traffic, counted: _Counted, operations: list[dict[str, Any]]
) -> dict[str, Any]:
    whole = traffic_.total()
    total = counted.done + counted.failed
    records = sum(tally.rows for tally in run.tallies)
    duration = max(run.duration_s, whole.span_s)
    # Times of operations, as far as they have made calls.
    spans = [one["duration_seconds"] for one in operations if one["api_calls"]] or [0.0]
    looks = run.cache.hits + run.cache.misses
    samples = [mb for _, mb, _ in traffic_.memory]
    scopes = dict.fromkeys(scope_of(tally.profile) for tally in run.tallies)
    scopes |= dict.fromkeys(scope for scope, _ in counted.by)
    return {
        "summary": {
            "total_duration_seconds": round(duration, 3),
            "total_operations": total,
            "successful_operations": counted.done,
            "failed_operations": counted.failed,
            "success_rate": round(counted.done / total, 4) if total else 1.0,
            "total_records_processed": records,
            "average_records_per_second": round(records / duration, 3) if duration else 0.0,
        },
        "performance": {
            "average_duration_seconds": round(sum(spans) / len(spans), 3),
            "max_duration_seconds": max(spans),
            "min_duration_seconds": min(spans),
            "total_api_calls": traffic_.calls,
            "cache_hit_rate": round(run.cache.hits / looks, 4) if looks else 0.0,
            "total_cache_hits": run.cache.hits,
            "total_cache_misses": run.cache.misses,
            "total_quota_wait_seconds": round(whole.waited_s, 3),
        },
        "memory": {
            "peak_usage_mb": traffic_.peak_mb,
            "average_usage_mb": round(sum(samples) / len(samples), 1) if samples else 0.0,
            "memory_samples": len(samples),
        },
        "operations_by_scope": {scope: _of_scope(counted, scope) for scope in scopes},
        "operations_by_action": {
            action: _of_action(run, traffic_, counted, action) for action in _ACTIONS
        },
        "error_summary": dict(counted.errors),
        "api_call_summary": {
            scope: {
                "total_calls": group.calls,
                "total_duration": round(group.duration_s, 3),
                "average_duration_per_call": round(group.duration_s / max(1, group.calls), 4),
            }
            for scope in sorted({name for name, _ in traffic_.groups})
            for group in (traffic_.of_scope(scope),)
        },
    }


def _of_scope(counted: _Counted, scope: str) -> dict[str, int]:
    counts = [count for (name, _), count in counted.by.items() if name == scope]
    done, failed = sum(c.done for c in counts), sum(c.failed for c in counts)
    return {"total": done + failed, "success": done, "errors": failed}


def _of_action(run: RunResult, traffic_: Traffic, counted: _Counted, action: str) -> dict[str, Any]:
    counts = [count for (_, name), count in counted.by.items() if name == action]
    groups = [group for (_, name), group in traffic_.groups.items() if name == action]
    done, failed = sum(c.done for c in counts), sum(c.failed for c in counts)
    number, records, duration = done + failed, done + failed, sum(g.duration_s for g in groups)
    if action == "sync":
        # One for each profile and scope that was compared; rows that were withheld are its errors.
        number = len(run.tallies)
        records = sum(tally.rows for tally in run.tallies)
        done = number - len({scope for (scope, name), c in counted.by.items()
                             if name == "sync" and c.failed})  # fmt: skip
    return {
        "count": number,
        "total_duration": round(duration, 3),
        "success_count": done,
        "total_records": records,
        "total_api_calls": sum(group.calls for group in groups),
        "average_duration": round(duration / number, 4) if number else 0.0,
        "success_rate": round(done / number, 4) if number else 1.0,
    }


def _retries(group: Group) -> dict[str, Any]:
    return {
        "total_attempts": group.calls,
        "successful_attempts": group.successes,
        "failed_attempts": max(0, group.calls - group.successes),
        "success_rate": round(group.successes / group.calls, 4) if group.calls else 1.0,
        "retries": group.retries,
        "total_delay_seconds": round(group.delay_s, 3),
        "average_delay": round(group.delay_s / group.retries, 3) if group.retries else 0.0,
        "last_error": printable(group.last_error),
        "last_error_type": group.last_error_type,
        "retry_reasons": dict(group.reasons),
        "delays_used": group.delays,
    }
