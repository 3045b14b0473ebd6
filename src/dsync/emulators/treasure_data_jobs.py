"""Jobs of the Treasure Data emulator: those of bulk imports, and very small queries."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from .clock import Clock
from .messages import Answer, Request, encode, json_answer
from .msgpack_bytes import pack
from .treasure_data_tables import Database, Record, moment, rows_of

__all__ = ["FINAL", "Job", "Jobs", "Pace", "QueryError", "result"]

FINAL = ("success", "error", "killed")


class QueryError(ValueError):
    """A query that this imitation does not understand, or whose table is not there."""


@dataclass(slots=True, kw_only=True)
class Pace:
    """When something that takes a while is done: after so many looks, and not before a moment."""

    looks: int | None
    """None: never."""
    done_at_s: float

    def due(self, now_s: float, *, look: bool) -> bool:
        """Whether it is done; a `look` counts when it is not."""
        if self.looks == 0 and now_s >= self.done_at_s:
            return True
        if look and self.looks:
            self.looks -= 1
        return False


@dataclass(slots=True, kw_only=True, eq=False)
class Job:
    """One job."""

    id: str
    type: str
    database: str
    query: str
    created_s: float
    pace: Pace
    outcome: str = "success"
    """What it will end as."""
    ended: Callable[[str], None] | None = None
    status: str = "queued"
    error: str = ""
    ended_s: float | None = None
    columns: list[list[str]] = field(default_factory=list)
    rows: Callable[[], Iterator[list[object]]] | None = None
    records: int = 0
    domain_key: str = ""
    priority: int = 0
    retry_limit: int = 0
    _packed: bytes | None = None

    def settle(self, clock: Clock, *, look: bool) -> None:
        """Ends when it is due; one more `look` at it."""
        if self.status in FINAL:
            return
        if self.pace.due(clock.monotonic_s(), look=look):
            self.end(self.outcome, clock)
        elif look:
            self.status = "running"

    def end(self, status: str, clock: Clock) -> None:
        self.status, self.ended_s = status, clock.wall_s()
        if self.ended:
            self.ended(status)

    def packed(self) -> bytes:
        """Its result as `msgpack.gz`."""
        if self._packed is None:
            rows = self.rows() if self.rows and self.status == "success" else iter(())
            self._packed = gzip.compress(b"".join(map(pack, rows)), 1, mtime=0)
        return self._packed

    def summary(self) -> Record:
        """As `status` answers it."""
        ended = None if self.ended_s is None else moment(self.ended_s)
        return {
            "job_id": self.id,
            "status": self.status,
            "created_at": moment(self.created_s),
            "updated_at": ended or moment(self.created_s),
            "start_at": moment(self.created_s),
            "end_at": ended,
            "duration": None if self.ended_s is None else int(self.ended_s - self.created_s),
            "cpu_time": None,
            "result_size": len(self.packed()) if self.rows and self.status == "success" else 0,
            "num_records": self.records,
        }

    def to_json(self) -> Record:
        """As `show` answers it."""
        return self.summary() | {
            "type": self.type,
            "database": self.database,
            "query": self.query,
            "priority": self.priority,
            "retry_limit": self.retry_limit,
            "url": f"http://console.example.test/jobs/{self.id}",
            "user_name": "Demo",
            "organization": None,
            "hive_result_schema": json.dumps(self.columns) if self.columns else None,
            "result": "",
            "debug": {"cmdout": "", "stderr": self.error},
            "linked_result_export_job_id": None,
            "result_export_target_job_id": None,
        }


class Jobs:
    """All jobs, by number."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._all: dict[str, Job] = {}

    def add(
        self, type_: str, database: str, query: str, pace: Pace, *, outcome: str = "success"
    ) -> Job:
        """A new job; it has not ended, even if it is due."""
        job = Job(
            id=str(len(self._all) + 1001),
            type=type_,
            database=database,
            query=query,
            created_s=self._clock.wall_s(),
            pace=pace,
            outcome=outcome,
        )
        self._all[job.id] = job
        return job

    def get(self, id_: str) -> Job | None:
        return self._all.get(id_)

    def by_domain_key(self, key: str) -> Job | None:
        return next((job for job in self._all.values() if key and job.domain_key == key), None)

    def ask(
        self, type_: str, fields: Mapping[str, str], databases: Mapping[str, Database], name: str
    ) -> Job:
        """Runs a query at once; one that makes no sense ends in error."""
        job = self.add(type_, name, fields.get("query", ""), Pace(looks=0, done_at_s=0.0))
        job.domain_key = fields.get("domain_key", "")
        job.priority = int(fields.get("priority") or 0)
        job.retry_limit = int(fields.get("retry_limit") or 0)
        try:
            job.columns, job.rows, job.records = _answered(job.query, databases, name)
        except QueryError as error:
            job.outcome, job.error = "error", str(error)
        job.settle(self._clock, look=False)
        return job

    def listed(self, query: Mapping[str, str]) -> Record:
        """As `list` answers it: the latest first."""
        wanted = query.get("status", "")
        jobs = [job for job in reversed(self._all.values()) if wanted in ("", job.status)]
        first, last = int(query.get("from") or 0), int(query.get("to") or 19)
        shown = jobs[first : last + 1]
        return {
            "count": len(jobs),
            "from": first,
            "to": last,
            "jobs": [job.to_json() for job in shown],
        }

    def to_json(self) -> Record:
        return {job.id: [job.type, job.status] for job in self._all.values()}


def result(job: Job, request: Request) -> Answer:
    """The rows of a job, in the form that was asked for."""
    form = request.query.get("format", "msgpack")
    rows = job.rows() if job.rows and job.status == "success" else iter(())
    if form == "msgpack":
        return _binary(b"".join(map(pack, rows)), "application/x-msgpack")
    if form == "json":
        return Answer(body=b"".join(encode(row) + b"\n" for row in rows))
    if form != "msgpack.gz":
        return json_answer({"error": f"no format {form}"}, 400)
    data = job.packed()
    found = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
    if not found:
        return _binary(data, "application/gzip")
    first, last = int(found[1]), min(int(found[2] or len(data)), len(data) - 1)
    answer = _binary(data[first : last + 1], "application/gzip")
    answer.status = 206
    answer.headers.append(("Content-Range", f"bytes {first}-{last}/{len(data)}"))
    return answer


def _binary(data: bytes, kind: str) -> Answer:
    return Answer(body=data, content_type=kind)


# ---- queries -----------------------------------------------------------------------------------

_NAME = r'"?([a-z0-9_]+)"?'
_SELECT = re.compile(
    rf"select\s+(?P<what>.+?)\s+from\s+(?:{_NAME}\.)?{_NAME}(?:\s+limit\s+(?P<limit>\d+))?\s*;?",
    re.IGNORECASE | re.DOTALL,
)
_COUNT = re.compile(r"count\s*\(\s*(?:1|\*)\s*\)(?:\s+(?:as\s+)?\"?(\w+)\"?)?", re.IGNORECASE)
_DISTINCT = re.compile(rf"count\s*\(\s*distinct\s+{_NAME}\s*\)", re.IGNORECASE)

_Answered = tuple[list[list[str]], Callable[[], Iterator[list[object]]], int]


def _answered(query: str, databases: Mapping[str, Database], name: str) -> _Answered:
    """The columns, the rows and their number. Raises: QueryError."""
    found = _SELECT.fullmatch(re.sub(r"--[^\n]*", "", query).strip())
    if not found:
        raise QueryError("only SELECT of columns or COUNT, FROM one table, with a LIMIT at most")
    database = databases.get(found[2] or name)
    table = database.tables.get(found[3]) if database else None
    if table is None:
        raise QueryError(f"Table {found[2] or name}.{found[3]} does not exist")
    parts, schema = list(table.parts), [list(column) for column in table.schema]
    if counted := _COUNT.fullmatch(found["what"]):
        number = table.count
        return [[counted[1] or "_col0", "bigint"]], lambda: iter([[number]]), 1
    types = {column[0]: column[1] for column in schema} | {"time": "long"}
    if distinct := _DISTINCT.fullmatch(found["what"]):
        names = _known([distinct[1]], types)
        values = {
            encode(row[names[0]]) for row in rows_of(parts, schema) if row[names[0]] is not None
        }
        return [["_col0", "bigint"]], lambda: iter([[len(values)]]), 1
    asked = [one.strip().strip('"') for one in found["what"].split(",")]
    names = list(types) if asked == ["*"] else _known(asked, types)
    limit = table.count if found["limit"] is None else min(int(found["limit"]), table.count)

    def rows() -> Iterator[list[object]]:
        for _, row in zip(range(limit), rows_of(parts, schema), strict=False):
            yield [row[one] for one in names]

    return [[one, types[one]] for one in names], rows, limit


def _known(names: Sequence[str], types: Mapping[str, str]) -> list[str]:
    unknown = [name for name in names if name not in types]
    if unknown:
        raise QueryError(f"Column {unknown[0]} cannot be resolved")
    return list(names)
