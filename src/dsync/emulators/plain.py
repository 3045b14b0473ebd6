"""Plain REST: create, read, update and delete over any collection, tuned by switches.

| call | does |
|---|---|
| `GET /api/{collection}` | lists, page by page; other query parameters filter by equality |
| `POST /api/{collection}` | creates: 201, the object with its id, and `Location` |
| `GET`, `PUT`, `PATCH`, `DELETE /api/{collection}/{id}` | one object; PATCH merges |
| `GET`, `PUT`, `DELETE /api/{collection}/by-key/{key}` | the same by natural key; PUT upserts |
| `POST /auth` | `client_id`, `client_secret` for a token, where auth is `exchange` |
| `GET /jobs/{id}` | what became of a write that was only accepted |

Below an object there may be collections of its own: `/api/{parent}/{id}/{collection}/…`.
Collections exist as soon as they are named, unless the switch `collections` lists them.
"""

from __future__ import annotations

import base64
import random
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qs, parse_qsl, quote, urlencode

from .ledger import Call
from .messages import Answer, BadJson, Request, encode, json_answer
from .server import SeedError, World
from .switches import Switch, Switches

__all__ = ["FAULTS", "SWITCHES", "App"]

Value = dict[str, object]


def _choice(default: str, *words: str, doc: str) -> Switch:
    return Switch(default=default, kind="choice", words=(default, *words), doc=doc)


SWITCHES: dict[str, Switch] = {
    "collections": Switch(
        default=[],
        kind="list",
        doc="the collections there are; empty = any, as soon as it is named",
    ),
    "paging": _choice(
        "none",
        "offset",
        "page",
        "cursor",
        "link",
        doc="how a list is cut; `cursor` and `link` stay true while records come and go",
    ),
    "page_size": Switch(default=50, kind="int", doc="records a page when none is asked for"),
    "max_page_size": Switch(default=200, kind="int", doc="more are never given"),
    "first_page": Switch(default=1, kind="int", doc="number of the first page"),
    "offset_param": Switch(default="offset", kind="text", doc="query parameter"),
    "limit_param": Switch(default="limit", kind="text", doc="query parameter: records a page"),
    "page_param": Switch(default="page", kind="text", doc="query parameter"),
    "cursor_param": Switch(default="cursor", kind="text", doc="query parameter"),
    "records_key": Switch(
        default="data", kind="text", doc="where the list is in the body, dots nest; empty = bare"
    ),
    "next_key": Switch(default="next", kind="text", doc="where the next cursor or link is"),
    "next_in": _choice("body", "header", doc="the next link: in the body, or a `Link` header"),
    "last_next": _choice("null", "absent", "empty", doc="what the last page has for a next"),
    "link_form": _choice("relative", "absolute", doc="form of the next link"),
    "total": _choice("body", "header", "none", doc="where the number of all records is"),
    "total_key": Switch(default="total", kind="text", doc="its key, or the header X-Total-Count"),
    "lie": _choice(
        "none",
        "total_high",
        "total_low",
        "repeat_page",
        "empty_page",
        "loop_cursor",
        "skip_page",
        "moved_record",
        "cut_last_page",
        "id_texts",
        doc="the list tells a wrong total, shows the first page again as the second, an empty "
        "second page, or its last page names the first as next; the second page is left out, the "
        "first record moves to the end after the first page, the last record is missing, or ids "
        "are texts from the second page on",
    ),
    "filters": Switch(
        default=True, kind="flag", doc="unknown query parameters filter; else ignored"
    ),
    "item_key": Switch(
        default="", kind="text", doc="where one object is in its body; empty = bare"
    ),
    "auth": _choice("none", "basic", "bearer", "header", "exchange", doc="what a call must show"),
    "user": Switch(default="demo", kind="text", doc="for basic; client_id for exchange"),
    "password": Switch(default="demo-secret", kind="text", doc="for basic; client_secret"),
    "tokens": Switch(default=["demo"], kind="list", doc="for bearer and header"),
    "header_name": Switch(default="X-Api-Key", kind="text", doc="for header"),
    "token_life_s": Switch(default=3600, kind="number", doc="for exchange"),
    "token_key": Switch(default="token", kind="text", doc="where `POST /auth` answers the token"),
    "expires_key": Switch(default="expires_in", kind="text", doc="where it answers its life"),
    "key": Switch(default="name", kind="text", doc="field of the natural key"),
    "unique": Switch(default=True, kind="flag", doc="a second object with a key is refused: 409"),
    "id_field": Switch(default="id", kind="text", doc="field of the id"),
    "id_kind": _choice("int", "text", doc="ids are numbers, or texts like `r-00000001`"),
    "required": Switch(default=[], kind="list", doc="fields without which a write gets 422"),
    "create_answer": _choice("object", "id", "empty", doc="what a create answers"),
    "post_upsert": Switch(default=False, kind="flag", doc="POST with a known key updates: 200"),
    "etag": _choice(
        "off", "on", "required", doc="ETag and If-Match (412); required: 428 without If-Match"
    ),
    "idempotency": Switch(
        default=False, kind="flag", doc="a POST with a known Idempotency-Key is answered again"
    ),
    "idempotency_life_s": Switch(default=86_400, kind="number", doc="how long a key is known"),
    "jobs": Switch(default=False, kind="flag", doc="writes are accepted (202) and done by a job"),
    "job_polls": Switch(
        default=2, kind="int", words=("never",), doc="polls that find a job pending"
    ),
    "job_max_s": Switch(default=30, kind="number", doc="then a job is done without being polled"),
    "consistency_delay_s": Switch(
        default=0, kind="number", doc="lists and reads show changes so much later"
    ),
    "extra_fields": Switch(default=False, kind="flag", doc="objects are read with unknown keys"),
    "random_seed": Switch(default=1, kind="int", doc="for tokens"),
}

FAULTS: dict[str, str] = {
    "failed_inside": "HTTP 200 whose body says `error`, without an effect; `message`: its text",
    "job_fail": "the job fails and has no effect; `message`: its text",
    "job_fail_with_effect": "the job says it failed, and the effect is there",
    "job_no_effect": "the job says it is done, and nothing has changed",
    "job_partial": "the job says it is done, and half of the fields have changed; `says`: `failed`",
    "job_never": "the job stays pending for ever, without an effect",
    "job_stuck": "the effect is there, and the job says pending for ever",
    "job_missing": "the job's path answers 404; the effect happens",
    "job_hostile": "the answer points to a job elsewhere; `url`: where (another host)",
    "job_no_id": "accepted, and the answer does not say which job",
}
"""Faults of the API itself, for rules beside those of the wire."""


# ---- records -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Record:
    seq: int
    id: int | str
    version: int
    value: Value
    encoded: bytes
    """As a client reads it: made once, however often it is listed."""

    @property
    def etag(self) -> str:
        return f'"{self.seq}-{self.version}"'


@dataclass(slots=True, eq=False)
class _Collection:
    """Records in the order they were created, by id and by key; and what clients see of them."""

    path: str
    last: int = 0
    records: dict[str, _Record] = field(default_factory=dict)
    keys: dict[str, dict[str, None]] = field(default_factory=dict)
    shown: dict[str, _Record] = field(default_factory=dict)
    pending: deque[tuple[float, str, _Record | None]] = field(default_factory=deque)
    _view: list[_Record] | None = None

    @property
    def name(self) -> str:
        """Its last word: what switches call it."""
        return self.path.rpartition("/")[2]

    def put(self, id_: str, record: _Record | None, key_field: str, shown_at: float | None) -> None:
        """Sets or removes a record; `shown_at` None = at once."""
        before = self.records.pop(id_, None) if record is None else self.records.get(id_)
        if before is not None:
            owners = self.keys.get(_key(before.value, key_field), {})
            owners.pop(id_, None)
            if not owners:
                self.keys.pop(_key(before.value, key_field), None)
        if record is not None:
            self.records[id_] = record
            self.keys.setdefault(_key(record.value, key_field), {})[id_] = None
        if shown_at is None and not self.pending:
            self._show(id_, record)
        else:
            self.pending.append((shown_at or 0.0, id_, record))

    def settle(self, now: float) -> None:
        """Shows what is due."""
        while self.pending and self.pending[0][0] <= now:
            _, id_, record = self.pending.popleft()
            self._show(id_, record)

    def view(self) -> list[_Record]:
        """What clients see, in order of creation."""
        if self._view is None:
            self._view = list(self.shown.values())
        return self._view

    def _show(self, id_: str, record: _Record | None) -> None:
        self._view = None
        if record is None:
            self.shown.pop(id_, None)
        else:
            self.shown[id_] = record


def _key(value: Value, key_field: str) -> str:
    return _text(value.get(key_field))


def _text(value: object) -> str:
    return value if isinstance(value, str) else encode(value).decode()


_Act = Callable[[Request], Answer]


@dataclass(slots=True, kw_only=True, eq=False)
class _Job:
    id: str
    call: Call
    act: Callable[[], Answer]
    polls_left: int | None
    done_at_s: float
    answer: Answer | None = None


class App:
    """Any collections, kept in memory."""

    def __init__(self, world: World) -> None:
        self._clock = world.clock
        self._switches = world.switches
        self.reset()

    # ---- what every emulator can do ------------------------------------------------------------

    def reset(self) -> None:
        self._chance = random.Random(self._switches.count("random_seed"))
        self._collections: dict[str, _Collection] = {}
        self._jobs: dict[str, _Job] = {}
        self._open: list[_Job] = []
        self._issued: dict[str, float] = {}
        self._touched: list[tuple[str, _Record]] = []
        self._replays: dict[str, tuple[float, bytes, Answer]] = {}

    def switched(self, names: Sequence[str]) -> None:
        words = {name.rpartition(".")[2] for name in names}
        if words & {"extra_fields", "id_field", "key"}:
            for collection in self._collections.values():
                self._rebuild(collection)

    def state(self) -> object:
        """`collections`: every object as it truly is, by path; and the number of open jobs."""
        self._finish_due()
        return {
            "collections": {
                path: [self._shape(collection, r.id, r.value) for r in collection.records.values()]
                for path, collection in self._collections.items()
            },
            "open_jobs": len(self._open),
        }

    def seed(self, value: object) -> object:
        """Puts or removes objects: {collection, objects, remove, replace}, or a list of these.

        An object whose id, or whose unique key, is there replaces that object. `remove` lists keys
        or ids; `replace` removes all others.
        """
        ids: list[object] = []
        for entry in value if isinstance(value, list) else [value]:
            if not isinstance(entry, dict) or not isinstance(entry.get("collection"), str):
                raise SeedError('a seed is {"collection": NAME, "objects": [...]}')
            ids += self._seed(self._collection(str(entry["collection"])), entry)
        return {"ids": ids}

    def _seed(self, collection: _Collection, entry: Value) -> list[object]:
        objects, gone = entry.get("objects", []), entry.get("remove", [])
        if not isinstance(objects, list) or not isinstance(gone, list):
            raise SeedError("`objects` and `remove` are lists")
        key_field = self._switches.text("key", collection.name)
        doomed = list(collection.records) if entry.get("replace") else []
        for one in map(_text, gone):
            doomed += [one] if one in collection.records else list(collection.keys.get(one, {}))
        for id_ in doomed:
            collection.put(id_, None, key_field, None)
        ids: list[object] = []
        id_field = self._switches.text("id_field", collection.name)
        unique = self._switches.flag("unique", collection.name)
        for value in objects:
            if not isinstance(value, dict):
                raise SeedError("an object is a JSON object")
            before = collection.records.get(_text(value[id_field])) if id_field in value else None
            if before is None and unique and id_field not in value:
                owner = next(iter(collection.keys.get(_key(value, key_field), {})), None)
                before = collection.records[owner] if owner is not None else None
            record = self._record(collection, value, before)
            collection.put(_text(record.id), record, key_field, None)
            ids.append(record.id)
        return ids

    # ---- routes ----------------------------------------------------------------------------------

    def place(self, request: Request) -> tuple[str, bool]:
        """`parent/id` of a collection below an object is a scope; a login writes nothing."""
        path = request.segments[1:] if request.segments[0] == "api" else ()
        scope = "/".join(path[:2]) if len(path) > 2 and path[1] != "by-key" else ""
        return scope, request.method not in _SAFE and request.segments != ("auth",)

    def handle(self, request: Request, call: Call) -> Answer:
        self._finish_due()
        if request.segments == ("auth",):
            call.template = "/auth"
            return self._exchange(request)
        name = _collection_of(request.segments)
        if not self._authorized(request, name):
            call.template = "(unauthorized)"
            answer = _problem(401, "Unauthorized")
            scheme = "Basic" if self._is("auth", "basic", name) else "Bearer"
            answer.headers.append(("WWW-Authenticate", scheme))
            return answer
        match request.segments:
            case ("jobs", id_):
                call.template = "/jobs/{id}"
                return self._poll(id_)
            case ("api", *rest):
                return self._of_api(list(rest), request, call)
        return _problem(404, "There is nothing at this path")

    def _of_api(self, path: list[str], request: Request, call: Call) -> Answer:
        call.template = "/api/" + "/".join(_template(path))
        match path:
            case [*parents, name, "by-key", key]:
                return self._keyed(parents, name, key, request, call)
            case [*parents, name] if len(parents) % 2 == 0:
                return self._whole(parents, name, request, call)
            case [*parents, name, id_] if len(parents) % 2 == 0:
                return self._single(parents, name, id_, request, call)
        return _problem(404, "There is nothing at this path")

    def _whole(self, parents: list[str], name: str, request: Request, call: Call) -> Answer:
        collection = self._find(parents, name)
        if collection is None:
            return _problem(404, "There is no such collection")
        if request.method in ("GET", "HEAD"):
            return self._list(collection, request)
        if request.method == "POST":
            return self._write(request, call, collection, lambda r: self._post(collection, r))
        return _not_allowed("GET, HEAD, POST")

    def _single(
        self, parents: list[str], name: str, id_: str, request: Request, call: Call
    ) -> Answer:
        collection = self._find(parents, name)
        if collection is None:
            return _problem(404, "There is no such collection")
        if request.method in ("GET", "HEAD"):
            return self._get(collection, id_, request)
        if request.method in ("PUT", "PATCH"):
            return self._write(
                request, call, collection, lambda r: self._change(collection, id_, r)
            )
        if request.method == "DELETE":
            return self._write(
                request, call, collection, lambda r: self._delete(collection, id_, r)
            )
        return _not_allowed("GET, HEAD, PUT, PATCH, DELETE")

    def _keyed(
        self, parents: list[str], name: str, key: str, request: Request, call: Call
    ) -> Answer:
        collection = self._find(parents, name)
        if collection is None:
            return _problem(404, "There is no such collection")

        def owner() -> str:
            return next(iter(collection.keys.get(key, {})), "")

        if request.method in ("GET", "HEAD"):
            return self._get(collection, owner(), request)
        if request.method == "PUT":
            return self._write(
                request, call, collection, lambda r: self._put_key(collection, owner(), key, r)
            )
        if request.method == "DELETE":
            return self._write(
                request, call, collection, lambda r: self._delete(collection, owner(), r)
            )
        return _not_allowed("GET, HEAD, PUT, DELETE")

    def _find(self, parents: Sequence[str], name: str) -> _Collection | None:
        """The collection; None when it, or an object above it, does not exist."""
        known = self._switches.names("collections")
        if known and name not in known:
            return None
        for depth in range(0, len(parents), 2):
            above = self._collection("/".join(parents[: depth + 1]))
            if parents[depth + 1] not in above.records:
                return None
        return self._collection("/".join([*parents, name]))

    def _collection(self, path: str) -> _Collection:
        return self._collections.setdefault(path, _Collection(path))

    def _is(self, switch: str, word: str, name: str = "") -> bool:
        return self._switches.text(switch, name) == word

    # ---- access --------------------------------------------------------------------------------

    def _authorized(self, request: Request, name: str) -> bool:
        kind = self._switches.text("auth", name)
        if kind == "none":
            return True
        if kind == "header":
            shown = request.headers.get(self._switches.text("header_name", name).lower(), "")
            return shown in self._switches.names("tokens", name)
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        if kind == "basic":
            pair = f"{self._switches.text('user', name)}:{self._switches.text('password', name)}"
            return scheme.lower() == "basic" and secret == base64.b64encode(pair.encode()).decode()
        if scheme.lower() != "bearer":
            return False
        if kind == "bearer":
            return secret in self._switches.names("tokens", name)
        life_s = self._switches.number("token_life_s", name)
        issued = self._issued.get(secret)
        return issued is not None and self._clock.monotonic_s() - issued < life_s

    def _exchange(self, request: Request) -> Answer:
        if request.method != "POST":
            return _not_allowed("POST")
        if "form-urlencoded" in request.headers.get("content-type", ""):
            body: object = dict(parse_qsl(request.body.decode("latin-1")))
        else:
            try:
                body = request.json
            except BadJson:
                body = None
        wanted = {
            "client_id": self._switches.text("user"),
            "client_secret": self._switches.text("password"),
        }
        if not isinstance(body, dict) or any(body.get(k) != v for k, v in wanted.items()):
            return _problem(401, "Wrong client_id or client_secret")
        token = f"{self._chance.getrandbits(160):040x}"
        self._issued[token] = self._clock.monotonic_s()
        life: int | float = self._switches.number("token_life_s")
        life = int(life) if life == int(life) else life
        answer: Value = {}
        _place(answer, self._switches.text("token_key"), token)
        _place(answer, self._switches.text("expires_key"), life)
        return json_answer(answer)

    # ---- reads ---------------------------------------------------------------------------------

    def _get(self, collection: _Collection, id_: str, request: Request) -> Answer:
        collection.settle(self._clock.monotonic_s())
        record = collection.shown.get(id_)
        if record is None:
            return _problem(404, "There is no such object")
        tagged = not self._is("etag", "off", collection.name)
        if tagged and request.headers.get("if-none-match") == record.etag:
            return Answer(status=304, headers=[("ETag", record.etag)])
        return self._object(collection, record)

    def _list(self, collection: _Collection, request: Request) -> Answer:
        name = collection.name
        records = self._matching(collection, request)
        switches = self._switches
        try:
            cut = _cut(switches, name, request.query, records)
        except ValueError as error:
            return _problem(400, str(error))
        page = records[cut.start : cut.stop]
        lie = switches.text("lie", name)
        second = cut.start > 0 and cut.start == cut.size
        if lie == "repeat_page" and second:
            page = records[: cut.size]
        elif lie == "empty_page" and second:
            page = []
        elif lie == "skip_page" and cut.start:
            page = records[cut.start + cut.size : cut.stop + cut.size]
        elif lie == "moved_record" and cut.start:
            page = [*records[1:], *records[:1]][cut.start : cut.stop]
        elif lie == "cut_last_page" and cut.stop >= len(records):
            page = page[:-1]
        total = len(records) + {"total_high": 1, "total_low": -1}.get(lie, 0)
        more = cut.stop < len(records)
        wanted = _next(switches, name, request, records, cut) if more else None
        if lie == "loop_cursor" and not more and records:
            wanted = _next(switches, name, request, records, _Cut(0, 0, cut.size))
        shown = [record.encoded for record in page]
        if lie == "id_texts" and cut.start:
            shown = [encode(self._shape(collection, str(one.id), one.value)) for one in page]
        return _page(switches, name, shown, total, wanted)

    def _matching(self, collection: _Collection, request: Request) -> list[_Record]:
        name = collection.name
        collection.settle(self._clock.monotonic_s())
        if not request.query or not self._switches.flag("filters", name):
            return collection.view()
        own = {self._switches.text(word, name) for word in _PARAMS}
        wanted = {key: text for key, text in request.query.items() if key not in own}
        if not wanted:
            return collection.view()
        id_field = self._switches.text("id_field", name)

        def fits(record: _Record) -> bool:
            return all(
                _text(record.id if key == id_field else record.value.get(key)) == text
                for key, text in wanted.items()
            )

        key = wanted.get(self._switches.text("key", name))
        if key is None or collection.pending:
            records = collection.view()
        else:  # finding by key must not cost a scan
            records = [collection.records[one] for one in collection.keys.get(key, {})]
        return [record for record in records if fits(record)]

    # ---- writes --------------------------------------------------------------------------------

    def _write(self, request: Request, call: Call, collection: _Collection, act: _Act) -> Answer:
        call.write = True
        replay = f"{request.path} {key}" if (key := request.headers.get("idempotency-key")) else ""
        known = self._replays.get(replay)
        if (
            replay
            and request.method == "POST"
            and self._switches.flag("idempotency", collection.name)
        ):
            life_s = self._switches.number("idempotency_life_s", collection.name)
            if known and self._clock.monotonic_s() - known[0] < life_s:
                return _replayed(known[1], known[2], request.body)
        else:
            replay = ""
        answer = self._perform(request, call, collection, act)
        if replay and answer.status < 500:
            self._replays[replay] = (self._clock.monotonic_s(), request.body, answer)
        return answer

    def _perform(self, request: Request, call: Call, collection: _Collection, act: _Act) -> Answer:
        if rule := call.has_fault("failed_inside"):
            text = str(rule.args.get("message", "Not done"))
            return json_answer({"status": "error", "error": text})
        noted = self._noting(call, collection, act)
        if not self._switches.flag("jobs", collection.name):
            return noted(request)
        polls: object = self._switches.get("job_polls", collection.name)
        never = polls == "never" or call.has_fault("job_never") is not None
        max_s = self._switches.number("job_max_s", collection.name)
        job = _Job(
            id=f"j-{len(self._jobs) + 1:06d}",
            call=call,
            act=self._bent(request, call, noted),
            polls_left=None if never or not isinstance(polls, int) else polls,
            done_at_s=self._clock.monotonic_s() + max_s,
        )
        self._jobs[job.id] = job
        self._open.append(job)
        call.accepted()
        where = f"/jobs/{job.id}"
        if call.has_fault("job_no_id"):
            return json_answer({"status": "pending"}, 202)
        if rule := call.has_fault("job_hostile"):
            where = str(rule.args.get("url", f"http://203.0.113.66{where}"))
        body = {"job": where, "id": job.id, "status": "pending"}
        return json_answer(body, 202, ("Location", where))

    def _noting(self, call: Call, collection: _Collection, act: _Act) -> _Act:
        """`act`, with the difference that it makes in the collection noted as effects."""

        def noted(request: Request) -> Answer:
            self._touched = []
            answer = act(request)
            for kind, record in self._touched:
                key = self._key_of(collection, record)
                scope, _, name = collection.path.rpartition("/")
                call.effect(kind, resource=name, scope=scope, id=str(record.id), key=key)
            return answer

        return noted

    def _post(self, collection: _Collection, request: Request) -> Answer:
        value, wrong = self._body(collection, request)
        if wrong:
            return wrong
        key = _key(value, self._switches.text("key", collection.name))
        owner = next(iter(collection.keys.get(key, {})), None)
        if owner is not None and self._switches.flag("post_upsert", collection.name):
            record = self._save(collection, value, collection.records[owner])
            return self._object(collection, record)
        if owner is not None and self._switches.flag("unique", collection.name):
            return _taken(key)
        return self._created(collection, self._save(collection, value, None))

    def _put_key(self, collection: _Collection, id_: str, key: str, request: Request) -> Answer:
        value, wrong = self._body(collection, request)
        if wrong:
            return wrong
        value = {**value, self._switches.text("key", collection.name): key}
        before = collection.records.get(id_)
        if failed := self._precondition(collection, before, request):
            return failed
        record = self._save(collection, value, before)
        return self._object(collection, record) if before else self._created(collection, record)

    def _change(self, collection: _Collection, id_: str, request: Request) -> Answer:
        before = collection.records.get(id_)
        if before is None:
            return _problem(404, "There is no such object")
        if failed := self._precondition(collection, before, request):
            return failed
        base = before.value if request.method == "PATCH" else None
        value, wrong = self._body(collection, request, base)
        if wrong:
            return wrong
        key = _key(value, self._switches.text("key", collection.name))
        others = [one for one in collection.keys.get(key, {}) if one != id_]
        if others and self._switches.flag("unique", collection.name):
            return _taken(key)
        return self._object(collection, self._save(collection, value, before))

    def _delete(self, collection: _Collection, id_: str, request: Request) -> Answer:
        before = collection.records.get(id_)
        if before is None:
            return _problem(404, "There is no such object")
        if failed := self._precondition(collection, before, request):
            return failed
        key_field = self._switches.text("key", collection.name)
        collection.put(id_, None, key_field, self._shown_at(collection))
        self._touched.append(("delete", before))
        return Answer(status=204)

    def _body(
        self, collection: _Collection, request: Request, base: Value | None = None
    ) -> tuple[Value, Answer | None]:
        """The object that a body asks for, `base` patched by it; or what is wrong with it."""
        try:
            body = request.json
        except BadJson as error:
            return {}, _problem(400, f"The body is no JSON: {error}")
        if not isinstance(body, dict):
            return {}, _problem(422, "The body is not an object")
        value = body if base is None else _patched(base, body)
        id_field = self._switches.text("id_field", collection.name)
        value = {key: item for key, item in value.items() if key != id_field}
        required = self._switches.names("required", collection.name)
        missing = [name for name in required if value.get(name) in (None, "")]
        if missing:
            errors = [{"field": name, "message": "is required"} for name in missing]
            return {}, _problem(422, f"{', '.join(missing)} is required", errors=errors)
        return value, None

    def _precondition(
        self, collection: _Collection, before: _Record | None, request: Request
    ) -> Answer | None:
        mode = self._switches.text("etag", collection.name)
        if mode == "off":
            return None
        wanted = request.headers.get("if-match")
        if request.headers.get("if-none-match") == "*" and before is not None:
            return _problem(412, "The object exists")
        if wanted is None:
            refuse = mode == "required" and before is not None
            return _problem(428, "If-Match is required") if refuse else None
        if before is None or wanted not in ("*", before.etag):
            return _problem(412, "The object has changed")
        return None

    def _save(self, collection: _Collection, value: Value, before: _Record | None) -> _Record:
        record = self._record(collection, value, before)
        key_field = self._switches.text("key", collection.name)
        collection.put(_text(record.id), record, key_field, self._shown_at(collection))
        self._touched.append(("update" if before else "create", record))
        return record

    def _record(self, collection: _Collection, value: Value, before: _Record | None) -> _Record:
        id_field = self._switches.text("id_field", collection.name)
        given = value.get(id_field)
        if before is not None:
            seq, id_ = before.seq, before.id
        else:
            collection.last += 1
            seq = collection.last
            if isinstance(given, int | str) and not isinstance(given, bool):
                id_ = given
                collection.last = max(seq, given) if isinstance(given, int) else seq
            else:
                id_ = seq if self._is("id_kind", "int", collection.name) else f"r-{seq:08d}"
        own = {key: item for key, item in value.items() if key != id_field}
        version = before.version + 1 if before else 1
        return _Record(seq, id_, version, own, encode(self._shape(collection, id_, own)))

    def _shape(self, collection: _Collection, id_: object, value: Value) -> Value:
        shown = {self._switches.text("id_field", collection.name): id_, **value}
        if self._switches.flag("extra_fields", collection.name):
            shown |= {"_kind": collection.name, "_links": {"self": f"/api/{collection.path}/{id_}"}}
        return shown

    def _rebuild(self, collection: _Collection) -> None:
        key_field = self._switches.text("key", collection.name)
        collection.keys.clear()
        for id_, old in collection.records.items():
            encoded = encode(self._shape(collection, old.id, old.value))
            collection.records[id_] = _Record(old.seq, old.id, old.version, old.value, encoded)
            collection.keys.setdefault(_key(old.value, key_field), {})[id_] = None
        collection.pending.clear()
        collection.shown = dict(collection.records)
        collection._view = None

    def _shown_at(self, collection: _Collection) -> float | None:
        delay_s = self._switches.number("consistency_delay_s", collection.name)
        return self._clock.monotonic_s() + delay_s if delay_s else None

    def _key_of(self, collection: _Collection, record: _Record) -> str:
        return _key(record.value, self._switches.text("key", collection.name))

    # ---- answers -------------------------------------------------------------------------------

    def _object(self, collection: _Collection, record: _Record, status: int = 200) -> Answer:
        body = record.encoded
        if item_key := self._switches.text("item_key", collection.name):
            envelope: Value = {}
            _place(envelope, item_key, _HERE)
            before, after = encode(envelope).split(_HERE_JSON)
            body = before + body + after
        headers = []
        if not self._is("etag", "off", collection.name):
            headers.append(("ETag", record.etag))
        return Answer(status=status, body=body, headers=headers)

    def _created(self, collection: _Collection, record: _Record) -> Answer:
        answer = self._object(collection, record, 201)
        answer.headers.append(("Location", f"/api/{quote(collection.path)}/{record.id}"))
        kind = self._switches.text("create_answer", collection.name)
        if kind == "id":
            id_field = self._switches.text("id_field", collection.name)
            answer.body = encode({id_field: record.id})
        elif kind == "empty":
            answer.body = b""
        return answer

    # ---- jobs ----------------------------------------------------------------------------------

    def _bent(self, request: Request, call: Call, act: _Act) -> Callable[[], Answer]:
        """What the job really does, where a fault lets it lie."""
        if rule := call.has_fault("job_fail"):
            text = str(rule.args.get("message", "Job failed"))
            return lambda: _problem(500, text)
        if rule := call.has_fault("job_fail_with_effect"):
            text = str(rule.args.get("message", "Job failed"))

            def failed() -> Answer:
                act(request)
                return _problem(500, text)

            return failed
        if call.has_fault("job_no_effect"):
            return lambda: json_answer({})
        if rule := call.has_fault("job_partial"):
            says_failed = rule.args.get("says") == "failed"

            def partial() -> Answer:
                answer = act(_halved(request))
                return _problem(500, "Job failed on its way") if says_failed else answer

            return partial
        return lambda: act(request)

    def _poll(self, id_: str) -> Answer:
        job = self._jobs.get(id_)
        if job is None or job.call.has_fault("job_missing"):
            return _problem(404, "There is no such job")
        if job.answer is None and job.polls_left == 0:
            self._finish(job)
        if job.answer is None:
            job.polls_left = None if job.polls_left is None else job.polls_left - 1
        if job.answer is None or job.call.has_fault("job_stuck"):
            return json_answer({"id": job.id, "status": "pending"})
        failed = job.answer.status >= 400
        status = b'"failed"' if failed else b'"done"'
        part = b'"error"' if failed else b'"result"'
        head = b'{"id":' + encode(job.id) + b',"status":' + status
        head += b',"code":' + encode(job.answer.status)
        return Answer(body=head + b"," + part + b":" + (job.answer.body or b"null") + b"}")

    def _finish(self, job: _Job) -> None:
        job.answer = job.act()
        job.call.job_open = job.call.has_fault("job_stuck") is not None
        self._open.remove(job)

    def _finish_due(self) -> None:
        if not self._open:
            return
        now = self._clock.monotonic_s()
        for job in [one for one in self._open if one.done_at_s <= now]:
            if job.polls_left is not None:
                self._finish(job)


# ---- pages -------------------------------------------------------------------------------------

_SAFE = ("GET", "HEAD", "OPTIONS")
_PARAMS = ("offset_param", "limit_param", "page_param", "cursor_param")
_HERE = "\u2402here\u2403"
_HERE_JSON = encode(_HERE)


@dataclass(frozen=True, slots=True)
class _Cut:
    start: int
    stop: int
    size: int


def _cut(switches: Switches, name: str, query: dict[str, str], records: Sequence[_Record]) -> _Cut:
    """Which records a call asks for. Raises: ValueError for parameters that make no sense."""
    kind = switches.text("paging", name)
    if kind == "none":
        return _Cut(0, len(records), len(records))
    asked = _number(query, switches.text("limit_param", name), switches.count("page_size", name))
    size = min(asked, switches.count("max_page_size", name))
    if size < 1:
        raise ValueError("a page has at least one record")
    if kind == "offset":
        start = _number(query, switches.text("offset_param", name), 0)
    elif kind == "page":
        first = switches.count("first_page", name)
        page = _number(query, switches.text("page_param", name), first)
        if page < first:
            raise ValueError(f"the first page is {first}")
        start = (page - first) * size
    else:
        start = _after(query.get(switches.text("cursor_param", name), ""), records)
    return _Cut(start, start + size, size)


def _number(query: dict[str, str], name: str, default: int) -> int:
    text = query.get(name, "")
    if not text:
        return default
    if not text.isdecimal():
        raise ValueError(f"{name} must be a number, not {text!r}")
    return int(text)


def _after(cursor: str, records: Sequence[_Record]) -> int:
    """Where the records after a cursor begin: it names the last one that was shown."""
    if not cursor:
        return 0
    try:
        word, _, number = base64.urlsafe_b64decode(cursor).decode().partition(":")
        seq = int(number)
    except ValueError as error:
        raise ValueError("the cursor is not one of ours") from error
    if word != "after":
        raise ValueError("the cursor is not one of ours")
    return bisect_right(records, seq, key=lambda record: record.seq)


def _next(
    switches: Switches, name: str, request: Request, records: Sequence[_Record], cut: _Cut
) -> str | None:
    """The cursor or link to the page after this one."""
    kind = switches.text("paging", name)
    if kind not in ("cursor", "link"):
        return None
    seq = records[cut.stop - 1].seq if cut.stop else 0
    cursor = base64.urlsafe_b64encode(f"after:{seq}".encode()).decode()
    if kind == "cursor":
        return cursor
    query = parse_qs(request.target.partition("?")[2])
    query[switches.text("cursor_param", name)] = [cursor]
    link = f"{request.path}?{urlencode(query, doseq=True)}"
    absolute = switches.text("link_form", name) == "absolute"
    return f"http://{request.headers.get('host', '')}{link}" if absolute else link


def _page(
    switches: Switches, name: str, records: list[bytes], total: int, following: str | None
) -> Answer:
    """One page: the records' bytes, joined, in the envelope that the switches describe."""
    headers: list[tuple[str, str]] = []
    envelope: Value = {}
    kind = switches.text("paging", name)
    records_key = switches.text("records_key", name)
    if records_key:
        _place(envelope, records_key, _HERE)
    if switches.text("total", name) == "header":
        headers.append(("X-Total-Count", str(total)))
    elif switches.text("total", name) == "body" and records_key:
        _place(envelope, switches.text("total_key", name), total)
    in_header = kind == "link" and (switches.text("next_in", name) == "header" or not records_key)
    if in_header and following:
        headers.append(("Link", f'<{following}>; rel="next"'))
    elif kind in ("cursor", "link") and not in_header:
        last = switches.text("last_next", name)
        if following or last != "absent":
            shown = following or ("" if last == "empty" else None)
            _place(envelope, switches.text("next_key", name), shown)
    before, after = encode(envelope).split(_HERE_JSON) if records_key else (b"", b"")
    return Answer(body=before + b"[" + b",".join(records) + b"]" + after, headers=headers)


def _place(envelope: Value, path: str, value: object) -> None:
    """Sets `a.b` in nested objects."""
    *parts, last = path.split(".")
    for part in parts:
        inner = envelope.setdefault(part, {})
        envelope = inner if isinstance(inner, dict) else {}
    envelope[last] = value


# ---- small answers -----------------------------------------------------------------------------


def _problem(status: int, detail: str, **more: object) -> Answer:
    """An error in the form of RFC 9457."""
    answer = json_answer(
        {"type": "about:blank", "title": _TITLES.get(status, ""), "status": status}
        | {"detail": detail}
        | more,
        status,
    )
    answer.content_type = "application/problem+json"
    return answer


_TITLES = {
    400: "Bad request",
    401: "Unauthorized",
    404: "Not found",
    405: "Method not allowed",
    409: "Conflict",
    412: "Precondition failed",
    422: "Unprocessable content",
    428: "Precondition required",
    500: "Failed",
}


def _taken(key: str) -> Answer:
    return _problem(409, f"There is already an object with the key {key}")


def _not_allowed(methods: str) -> Answer:
    answer = _problem(405, f"Allowed: {methods}")
    answer.headers.append(("Allow", methods))
    return answer


def _replayed(body: bytes, answer: Answer, now: bytes) -> Answer:
    if body != now:
        return _problem(422, "This Idempotency-Key came with another body")
    headers = [*answer.headers, ("Idempotent-Replayed", "true")]
    return Answer(
        status=answer.status, body=answer.body, content_type=answer.content_type, headers=headers
    )


def _patched(base: Value, patch: Value) -> Value:
    """A merge patch (RFC 7396): null removes, objects merge, all else replaces."""
    merged = dict(base)
    for key, item in patch.items():
        inner = merged.get(key)
        if item is None:
            merged.pop(key, None)
        elif isinstance(item, dict):
            merged[key] = _patched(inner if isinstance(inner, dict) else {}, item)
        else:
            merged[key] = item
    return merged


def _halved(request: Request) -> Request:
    """The same call with the first half of its body's fields; without a body as it is."""
    try:
        body = request.json
    except BadJson:
        return request
    if not isinstance(body, dict):
        return request
    first = dict(list(body.items())[: max(1, len(body) // 2)])
    return replace(request, body=encode(first))


def _collection_of(segments: Sequence[str]) -> str:
    """The collection whose switches hold for a path."""
    match segments:
        case ("api", *_, name, "by-key", _):
            return name
        case ("api", *rest) if len(rest) > 1:
            return rest[-2] if len(rest) % 2 == 0 else rest[-1]
        case ("api", name):
            return name
    return ""


def _template(path: Sequence[str]) -> list[str]:
    """`things/7/parts` is `things/{id}/parts`."""
    if len(path) > 2 and path[-2] == "by-key":
        return [*_template(path[:-2]), "by-key", "{key}"]
    return ["{id}" if number % 2 else part for number, part in enumerate(path)]
