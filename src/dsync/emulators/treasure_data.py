"""Treasure Data's REST API v3: databases, tables, bulk imports, streaming imports, jobs.

| calls below `/v3` | do |
|---|---|
| `system/server_status` | needs no key |
| `database/…`: list, show, create, delete | |
| `table/…`: list, show, create, delete, swap, rename, update, update-schema, append-schema, \
change_database, tail | |
| `table/import`, `table/import_with_id` | streaming import; an id that came before adds nothing |
| `bulk_import/…`: create, show, list, list_parts, upload_part, delete_part, freeze, unfreeze, \
perform, commit, error_records, delete | |
| `job/…`: issue, status, show, result, list, kill, status_by_domain_key, statistics | `SELECT` of \
columns or `COUNT` from one table, with a `LIMIT` |

What stands before `/v3` in a path, and runs of slashes, are ignored. Fields may come as multipart,
as a form, as JSON, or in the query. A seed is `{"databases": […], "tables": ["db.table" …], \
"rows": {"db.table": [{…}]}}`.

Parts are decoded when they are uploaded and kept on disk; what perform tells was known by then.

Source: Treasure Data's API reference, its limits pages and its clients. Not published, and chosen
here: the statuses of calls that come at the wrong moment (422), what a write-only key may look at,
that a part with a byte that is no MessagePack counts as a whole, and how values fit other types.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .ledger import Call
from .messages import Answer, Request, json_answer
from .msgpack_bytes import pack
from .server import SeedError, World
from .treasure_data_forms import Fields, fields_of, whole
from .treasure_data_jobs import Job, Jobs, result
from .treasure_data_sessions import Refused, Sessions
from .treasure_data_switches import FAULTS, REGIONS, SWITCHES
from .treasure_data_tables import NAME, Database, SchemaError, Table, read_part

__all__ = ["FAULTS", "SWITCHES", "App"]

_OF_WRITE_ONLY = {
    *("database/list", "database/show", "table/list", "table/show", "table/append-schema"),
    *("table/import", "table/import_with_id", "job/status", "job/show"),
}
"""What a write-only key may do, beside bulk imports."""


class App:
    """One account."""

    def __init__(self, world: World) -> None:
        self._clock = world.clock
        self._switches = world.switches
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self.reset()

    # ---- what every emulator can do ------------------------------------------------------------

    def reset(self) -> None:
        if self._folder:
            self._folder.cleanup()
        self._folder = None
        self._numbers = itertools.count(1)
        self._databases: dict[str, Database] = {}
        self._jobs = Jobs(self._clock)
        self._sessions = Sessions(self._clock, self._switches, self._jobs, self._file)
        self.switched(["databases"])

    def switched(self, names: Sequence[str]) -> None:
        if "databases" in names:
            for name in self._switches.names("databases"):
                self._add_database(name)

    def state(self) -> object:
        """Tables with exact counts, sessions with their parts, jobs.

        Of a table: `count`; `distinct` rows, `time` aside; `identities` by the switch `identity`,
        `without_identity`, `repeated` (rows whose identity came before) with some examples;
        `digest`, the sum of the rows' digests, which order does not change; and its `rows`, unless
        they are more than `state_rows`.
        """
        identity = self._switches.names("identity")
        shown = self._switches.count("state_rows")
        sessions = self._sessions.to_json()
        return {
            "databases": {
                database.name: {
                    table.name: table.account(identity, shown) for table in database.tables.values()
                }
                for database in self._databases.values()
            },
            "sessions": sessions,
            "jobs": self._jobs.to_json(),
        }

    def seed(self, value: object) -> object:
        """Puts databases, empty tables, and rows."""
        if not isinstance(value, dict) or not value.keys() <= {"databases", "tables", "rows"}:
            raise SeedError('a seed is {"databases": [...], "tables": [...], "rows": {...}}')
        rows = value.get("rows", {})
        for name in value.get("databases", []):
            self._add_database(str(name))
        for place in [*value.get("tables", []), *rows]:
            self._seeded(str(place))
        for place, records in rows.items():
            data = gzip.compress(b"".join(map(pack, records)), mtime=0)
            part = read_part(data, self._file())
            if part.broken or part.errors:
                raise SeedError(f"rows are objects with a `time` in whole seconds: {part.broken}")
            self._seeded(place).add([part], self._clock.wall_s())
        return {"databases": list(self._databases)}

    def _seeded(self, place: str) -> Table:
        name, dot, table = place.partition(".")
        if not dot or not NAME.fullmatch(name) or not NAME.fullmatch(table):
            raise SeedError(f"a table is DATABASE.TABLE, not {place}")
        database = self._add_database(name)
        return database.tables.get(table) or self._add_table(database, table)

    # ---- routes ----------------------------------------------------------------------------------

    def place(self, request: Request) -> tuple[str, bool]:
        """One account has one scope; a query writes nothing."""
        path = _path(request)
        return "", request.method not in ("GET", "HEAD") and path[:1] != ("job",)

    def handle(self, request: Request, call: Call) -> Answer:
        path = _path(request)
        call.template = "/v3/" + "/".join(path[:2]) if path else "(unknown)"
        for _ in self._sessions.each():
            pass  # what is due is done, even if nobody asks for it
        try:
            answer = self._route(path, request, call)
        except Refused as error:
            return _problem(error.status, str(error))
        packs = "gzip" in request.headers.get("accept-encoding", "")
        if (
            packs
            and answer.content_type == "application/json"
            and self._switches.flag("gzip_answers")
        ):
            answer.body = gzip.compress(answer.body, mtime=0)
            answer.headers.append(("Content-Encoding", "gzip"))
        return answer

    def _route(self, path: tuple[str, ...], request: Request, call: Call) -> Answer:
        if path == ("system", "server_status"):
            return json_answer({"status": "ok"})
        permission = self._authorize(path, request, call)
        fields = fields_of(request)
        call.write = self.place(request)[1]
        match request.method, path:
            case _, ("database", action, *rest):
                return self._database_call(request.method, action, rest, permission, call)
            case "PUT", ("table", "import" | "import_with_id" as action, *rest):
                return self._stream(action, rest, request, call)
            case "GET", ("table", action, *rest):
                return self._table_read(action, rest, permission, request)
            case "POST", ("table", action, *rest):
                return self._table_write(action, rest, fields, call)
            case "GET", ("bulk_import", "list"):
                return self._sessions.listed()
            case "POST", ("bulk_import", "create", name, database, table):
                return self._sessions.create(name, self._table(database, table), call)
            case method, ("bulk_import", action, name, *rest) if _SESSION_CALLS.get(action) == (
                method,
                len(rest),
            ):
                return self._sessions.handle(action, name, "".join(rest), request, call)
            case method, ("job", action, *rest):
                return self._job_call(method, action, rest, fields, request)
        raise _unknown(request)

    def _authorize(self, path: tuple[str, ...], request: Request, call: Call) -> str:
        """The permission of the key. Raises: Refused."""
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        key = key.strip()
        if scheme != "TD1" or call.has_fault("bad_key"):
            raise Refused(401, "Authentication failed")
        regions = self._switches.get("key_regions")
        home = regions.get(key) if isinstance(regions, dict) else None
        if home not in (None, self._region(request)):
            raise Refused(401, "Authentication failed: the key is of another region")
        if call.has_fault("forbidden"):
            raise Refused(403, "Access denied")
        if key in self._switches.names("keys"):
            return "administrator"
        if key not in self._switches.names("write_only_keys"):
            raise Refused(401, "Authentication failed")
        if path[:1] != ("bulk_import",) and "/".join(path[:2]) not in _OF_WRITE_ONLY:
            raise Refused(403, "Access denied: the key is write-only")
        return "import_only"

    def _region(self, request: Request) -> str:
        host = request.headers.get("host", "").partition(":")[0]
        for region, domain in REGIONS.items():
            if host in (f"api.{domain}", f"api-import.{domain}"):
                return region
        return self._switches.text("region")

    # ---- databases -------------------------------------------------------------------------------

    def _database_call(
        self, method: str, action: str, rest: list[str], permission: str, call: Call
    ) -> Answer:
        match method, action, rest:
            case "GET", "list", []:
                found = [one.to_json(permission) for one in self._databases.values()]
                return json_answer({"databases": found})
            case "GET", "show", [name]:
                return json_answer(self._database(name).to_json(permission))
            case "POST", "create", [name]:
                _check_name(name, "Database")
                if name in self._databases:
                    raise Refused(409, f"Database {name} already exists")
                self._add_database(name)
                _effect(call, "create", "database", name)
                return json_answer({"database": name})
            case "POST", "delete", [name]:
                for table in self._database(name).tables.values():
                    table.gone = True
                del self._databases[name]
                _effect(call, "delete", "database", name)
                return json_answer({"database": name})
        raise Refused(404, f"there is no call {method} database/{action}")

    def _database(self, name: str) -> Database:
        if name not in self._databases:
            raise Refused(404, f"Couldn't find database {name}")
        return self._databases[name]

    def _add_database(self, name: str) -> Database:
        number = next(self._numbers)
        new = Database(id=number, name=name, created_s=self._clock.wall_s())
        return self._databases.setdefault(name, new)

    # ---- tables ----------------------------------------------------------------------------------

    def _table(self, database: str, name: str) -> Table:
        tables = self._database(database).tables
        if name not in tables:
            raise Refused(404, f"Couldn't find table {database}.{name}")
        return tables[name]

    def _add_table(self, database: Database, name: str) -> Table:
        now_s = self._clock.wall_s()
        table = Table(
            id=next(self._numbers),
            name=name,
            database=database.name,
            created_s=now_s,
            updated_s=now_s,
        )
        database.tables[name] = table
        return table

    def _table_read(
        self, action: str, rest: list[str], permission: str, request: Request
    ) -> Answer:
        match action, rest:
            case "list", [database]:
                tables = self._database(database).tables.values()
                found = [table.to_json(permission) for table in tables]
                return json_answer({"database": database, "tables": found})
            case "show", [database, name]:
                return json_answer(self._table(database, name).to_json(permission))
            case "tail", [database, name]:
                rows = list(self._table(database, name).rows())
                count = whole(request.query.get("count"), 30)
                body = b"".join(pack(row) for row in rows[::-1][:count])
                return Answer(body=body, content_type="application/x-msgpack")
        raise _unknown(request)

    def _table_write(self, action: str, rest: list[str], fields: Fields, call: Call) -> Answer:
        match action, rest:
            case "create", [database, name, *kind] if kind in ([], ["log"]):
                return self._create_table(self._database(database), name, fields, call)
            case "delete", [database, name]:
                table = self._table(database, name)
                table.gone = True
                del self._databases[database].tables[name]
                _effect(call, "delete", "table", f"{database}.{name}")
                return _reference(table)
            case "swap", [database, first, second]:
                return self._swap(self._table(database, first), self._table(database, second), call)
            case "rename", [database, name, new]:
                return self._rename(self._table(database, name), new, fields, call)
            case "update", [database, name]:
                return self._update(self._table(database, name), fields, call)
            case "update-schema" | "append-schema", [database, name]:
                table = self._table(database, name)
                _set_schema(table, fields.get("schema", ""), keep=action == "append-schema")
                table.updated_s = self._clock.wall_s()
                _effect(call, "update", "table", f"{database}.{name}")
                return _reference(table)
            case "change_database", [database, name]:
                return self._move(self._table(database, name), fields, call)
        raise Refused(404, f"there is no call POST table/{action}")

    def _create_table(self, database: Database, name: str, fields: Fields, call: Call) -> Answer:
        _check_name(name, "Table")
        key, there = fields.get("idempotent_key", ""), database.tables.get(name)
        if there and key and key == there.idempotent_key:
            return _reference(there)
        if there:
            raise Refused(409, f"Table {database.name}.{name} already exists")
        table = self._add_table(database, name)
        table.idempotent_key = key
        try:
            if "schema" in fields:
                _set_schema(table, fields["schema"], keep=False)
            _settings(table, fields)
        except Refused:
            del database.tables[name]
            raise
        _effect(call, "create", "table", f"{database.name}.{name}")
        return _reference(table)

    def _swap(self, one: Table, other: Table, call: Call) -> Answer:
        tables = self._databases[one.database].tables
        first, second = one.name, other.name
        one.name, other.name = second, first
        tables[second], tables[first] = one, other
        for name in (first, second):
            _effect(call, "update", "table", f"{one.database}.{name}")
        return json_answer({"database": one.database, "table1": first, "table2": second})

    def _rename(self, table: Table, new: str, fields: Fields, call: Call) -> Answer:
        _check_name(new, "Table")
        tables = self._databases[table.database].tables
        there = tables.get(new)
        if there is not None and there is not table:
            if fields.get("overwrite") != "true":
                raise Refused(409, f"Table {table.database}.{new} already exists")
            there.gone = True
        del tables[table.name]
        table.name, tables[new] = new, table
        _effect(call, "update", "table", f"{table.database}.{new}")
        return _reference(table)

    def _update(self, table: Table, fields: Fields, call: Call) -> Answer:
        _settings(table, fields)
        if fields.get("name"):
            return self._rename(table, fields["name"], fields, call)
        _effect(call, "update", "table", f"{table.database}.{table.name}")
        return _reference(table)

    def _move(self, table: Table, fields: Fields, call: Call) -> Answer:
        wanted = self._database(fields.get("dest_database_name", ""))
        if table.name in wanted.tables:
            raise Refused(409, f"Table {wanted.name}.{table.name} already exists")
        del self._databases[table.database].tables[table.name]
        wanted.tables[table.name], table.database = table, wanted.name
        _effect(call, "update", "table", f"{wanted.name}.{table.name}")
        return _reference(table)

    # ---- streaming import ------------------------------------------------------------------------

    def _stream(self, action: str, rest: list[str], request: Request, call: Call) -> Answer:
        database, name, *more = rest if len(rest) > 2 else ("", "", "")
        given = more[0] if action == "import_with_id" and len(more) == 2 else ""
        if len(more) != 1 + (action == "import_with_id") or more[-1] != "msgpack.gz":
            raise _unknown(request)
        table, md5 = self._table(database, name), hashlib.md5(request.body).hexdigest()  # noqa: S324
        if rule := call.has_fault("storage_full"):
            raise Refused(int(rule.number("status", 500)), "No space left on device")
        key = given or md5
        if key not in table.imports:
            part = read_part(request.body, self._file())
            if part.broken:
                raise Refused(422, f"the body is no msgpack.gz: {part.broken}")
            table.imports[key] = md5
            count = table.add([part], self._clock.wall_s())
            place = f"{database}.{name}"
            call.effect("create", resource="rows", scope=place, id=key, key=str(count))
        return json_answer(
            {
                "elapsed_time": 0,
                "database": database,
                "table": name,
                "md5_hex": md5,
                "unique_id": key,
            }
        )

    def _file(self) -> Path:
        """Where another upload may be kept."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="treasure-data-")
        return Path(self._folder.name) / f"{next(self._numbers)}.msgpack.gz"

    # ---- jobs ------------------------------------------------------------------------------------

    def _job_call(
        self, method: str, action: str, rest: list[str], fields: Fields, request: Request
    ) -> Answer:
        match method, action, rest:
            case "POST", "issue", ["presto" | "trino" | "hive" | "bulkload" as kind, name]:
                self._database(name)
                job = self._jobs.ask(kind, fields, self._databases, name)
                return json_answer({"job": job.id, "job_id": job.id, "database": name})
            case "GET", "list", []:
                return json_answer(self._jobs.listed(request.query))
            case "GET", "status_by_domain_key", [key]:
                return json_answer(self._job(self._jobs.by_domain_key(key)).summary())
            case "GET", ("status" | "show" | "result" | "statistics"), [id_]:
                job = self._job(self._jobs.get(id_))
                if action in ("status", "show"):
                    job.settle(self._clock, look=True)
                if action == "result":
                    return result(job, request)
                if action == "statistics":
                    return json_answer({"records_inserted": str(job.records)})
                return json_answer(job.to_json() if action == "show" else job.summary())
            case "POST", "kill", [id_]:
                job = self._job(self._jobs.get(id_))
                former = job.status
                if job.ended_s is None:
                    job.end("killed", self._clock)
                return json_answer({"job_id": id_, "former_status": former})
        raise _unknown(request)

    def _job(self, job: Job | None) -> Job:
        if job is None:
            raise Refused(404, "Couldn't find job")
        return job


# ---- small things ------------------------------------------------------------------------------

_SESSION_CALLS = {
    "show": ("GET", 0),
    "list_parts": ("GET", 0),
    "error_records": ("GET", 0),
    "upload_part": ("PUT", 1),
    "delete_part": ("POST", 1),
    "freeze": ("POST", 0),
    "unfreeze": ("POST", 0),
    "perform": ("POST", 0),
    "commit": ("POST", 0),
    "delete": ("POST", 0),
}


def _path(request: Request) -> tuple[str, ...]:
    """What comes after `v3`; slashes in a row are one, and a prefix is none of ours."""
    parts = [part for part in request.segments if part]
    return tuple(parts[parts.index("v3") + 1 :]) if "v3" in parts else ()


def _unknown(request: Request) -> Refused:
    return Refused(404, f"there is no call {request.method} {request.path}")


def _problem(status: int, text: str) -> Answer:
    title = _TITLES.get(status, "Request failed")
    return json_answer(
        {"error": title, "text": text, "message": text, "severity": "error", "status_code": status},
        status,
    )


_TITLES = {
    401: "Authentication failed",
    403: "Forbidden",
    404: "Resource not found",
    409: "Resource already exists",
    422: "Unprocessable entity",
}


def _reference(table: Table) -> Answer:
    return json_answer({"database": table.database, "table": table.name, "type": "log"})


def _effect(call: Call, kind: str, resource: str, name: str) -> None:
    call.effect(kind, resource=resource, scope="", id=name, key=name)


def _check_name(name: str, what: str) -> None:
    if not NAME.fullmatch(name):
        raise Refused(422, f"{what} name must be 3 to 128 characters of a-z, 0-9 and _: {name}")


def _set_schema(table: Table, text: str, *, keep: bool) -> None:
    try:
        table.set_schema(json.loads(text), keep=keep)
    except (SchemaError, ValueError) as error:
        raise Refused(422, f"{error}") from error


def _settings(table: Table, fields: Fields) -> None:
    if "expire_days" in fields:
        table.expire_days = whole(fields["expire_days"], 0) or None
    if "include_v" in fields:
        table.include_v = fields["include_v"] == "true"
