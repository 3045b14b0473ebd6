"""Yotpo Core API v3: tokens, and listings by cursor of customers, orders and products.

| call | does |
|---|---|
| `POST /core/v3/stores/{store}/access_tokens` | `{"secret": …}` for a token |
| `POST /oauth/token` | the older way: `client_id`, `client_secret`, as form or JSON |
| `GET /core/v3/stores/{store}/customers` | a page; `limit`, `page_info`, `expand`, \
`include_custom_properties`, `external_ids`, `email`, `phone_number` |
| `PATCH /core/v3/stores/{store}/customers` | `{"customer": {…}}` creates or changes one |
| `GET /core/v3/stores/{store}/orders` | a page; `order_date_min` on the first call only |
| `GET /core/v3/stores/{store}/products` | a page |

All else is 404. The token goes into `X-Yotpo-Token`, or into the query as `access_token`.
Generated customers are not kept: each follows from its number (`yotpo_people.People`), so there
may be a million. A seed is `{"customers": […], "remove": [IDENTITY …], "replace": true}`.

Source: `Yotpo Core API v3` as published, and what connectors of others rely on. Not published, and
chosen here: the texts of errors, that the cursor remembers `limit`, that refused calls do not count
against the rate, that a call to another store is 404 whatever its token.
"""

from __future__ import annotations

import json
import math
import random
from collections import deque
from collections.abc import Sequence
from urllib.parse import parse_qsl

from .faults import retry_after
from .ledger import Call
from .messages import Answer, BadJson, Request, encode, json_answer
from .server import SeedError, World
from .yotpo_cursors import PAGE_SIZE, Cursor, read_cursor
from .yotpo_goods import MAKERS
from .yotpo_people import People, View, customer_number, phone_numbers
from .yotpo_switches import FAULTS, SWITCHES

__all__ = ["FAULTS", "SWITCHES", "App"]

Value = dict[str, object]

_PEOPLE = (
    "record_bytes without_id_every without_identity_every without_loyalty_every "
    "shared_email_every duplicate_every far_names_every surrogate_every odd_texts_every "
    "big_bytes version changed_every"
).split()


class _Refused(Exception):
    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class App:
    """One store."""

    def __init__(self, world: World) -> None:
        self._clock = world.clock
        self._switches = world.switches
        self.reset()

    # ---- what every emulator can do ------------------------------------------------------------

    def reset(self) -> None:
        self._chance = random.Random(self._switches.count("random_seed"))
        self._issued: dict[str, tuple[float, int]] = {}
        self._recent: deque[float] = deque()
        self._lies = 0
        self._hidden = False
        self._gone: set[int] = set()
        self._changed: dict[int, Value] = {}
        self._added: list[Value | None] = []
        self.switched(list(SWITCHES))

    def switched(self, names: Sequence[str]) -> None:
        if "lie" in names or "lie_page" in names:
            self._lies = 0
        numbers = [int(str(one)) for one in self._switches.sequence("big_records")]
        self._people = People(
            seed=self._switches.count("random_seed"),
            big_records=frozenset(numbers),
            **{name: self._switches.count(name) for name in _PEOPLE},
        )
        now = self._clock.monotonic_s()
        for token in self._switches.names("tokens"):
            self._issued.setdefault(token, (now, 0))

    def state(self) -> object:
        """How many customers there are, and how many one can tell apart; what was added or changed.

        `customers`: records in a full listing; `identities`: different ones among them;
        `without_identity`: records that have none; `repeated`: records whose identity came before.
        """
        found: set[str] = set()
        records = nameless = 0
        for identity in self._identities():
            records += 1
            if identity is None:
                nameless += 1
            else:
                found.add(identity)
        return {
            "customers": records,
            "identities": len(found),
            "without_identity": nameless,
            "repeated": records - nameless - len(found),
            "orders": self._switches.count("orders"),
            "products": self._switches.count("products"),
            "tokens": len(self._issued),
            "changed": list(self._changed.values()),
            "added": [one for one in self._added if one is not None],
        }

    def seed(self, value: object) -> object:
        """Puts customers as PATCH does, removes some by identity, or first all (`replace`)."""
        if not isinstance(value, dict) or not value.keys() <= {"customers", "remove", "replace"}:
            raise SeedError('a seed is {"customers": [...], "remove": [...], "replace": true}')
        customers, gone = value.get("customers", []), value.get("remove", [])
        if not isinstance(customers, list) or not isinstance(gone, list):
            raise SeedError("`customers` and `remove` are lists")
        if value.get("replace"):
            self._hidden, self._added = True, []
        for identity in map(str, gone):
            number = self._number({"external_id": identity}) or self._number({"email": identity})
            if number is None:
                raise SeedError(f"there is no customer {identity}")
            self._remove(number)
        for customer in customers:
            if not isinstance(customer, dict):
                raise SeedError("a customer is a JSON object")
            self._put(customer)
        return {"customers": self._total()}

    # ---- routes ----------------------------------------------------------------------------------

    def place(self, request: Request) -> tuple[str, bool]:
        """A store is a scope; asking for a token writes nothing."""
        match request.segments:
            case ("core", "v3", "stores", store, what):
                return store, what != "access_tokens" and request.method != "GET"
        return "", False

    def handle(self, request: Request, call: Call) -> Answer:
        remaining, reset_s = self._rate()
        if remaining < 0:
            call.template = "(too many)"
            answer = self._too_many(reset_s)
        else:
            try:
                answer = self._route(request, call)
            except _Refused as error:
                answer = _problem(error.status, str(error))
        if self._switches.count("store_rate_per_s"):
            answer.headers += [
                ("RateLimit-Remaining", str(max(0, remaining))),
                ("RateLimit-Reset", str(math.ceil(reset_s))),
            ]
        return answer

    def _route(self, request: Request, call: Call) -> Answer:
        match request.method, request.segments:
            case "POST", ("oauth", "token"):
                call.template = "/oauth/token"
                return self._legacy_token(request)
            case method, ("core", "v3", "stores", store, what):
                call.template = f"/core/v3/stores/{{store}}/{what}"
                if store != self._switches.text("store_id"):
                    raise _Refused(404, "Store not found")
                if (method, what) == ("POST", "access_tokens"):
                    return self._token(_body(request).get("secret"))
                self._authorize(request, call)
                match method, what:
                    case "GET", ("customers" | "orders" | "products"):
                        return self._list(what, request, call)
                    case "PATCH", "customers":
                        call.write = True
                        return self._patch(request, call)
        call.template = "(unknown)"
        raise _Refused(404, "Not Found")

    def _rate(self) -> tuple[int, float]:
        """Calls left in this second, this one taken (-1: refused); and how long until one more."""
        limit = self._switches.count("store_rate_per_s")
        if not limit:
            return 0, 0.0
        now = self._clock.monotonic_s()
        while self._recent and self._recent[0] <= now - 1.0:
            self._recent.popleft()
        if len(self._recent) >= limit:
            return -1, self._recent[0] + 1.0 - now
        self._recent.append(now)
        return limit - len(self._recent), self._recent[0] + 1.0 - now

    def _too_many(self, reset_s: float) -> Answer:
        answer = _problem(429, "Too Many Requests")
        form, wait_s = self._switches.text("retry_after"), self._switches.number("retry_after_s")
        asked: object = {
            "seconds": max(1, math.ceil(wait_s or reset_s)),
            "decimal": f"{wait_s or reset_s:.2f}",
            # Such a date has whole seconds: the next one but one is surely late enough.
            "date": f"date:{math.ceil(wait_s or reset_s) + 1}",
        }.get(form)
        if asked is not None:
            answer.headers.append(("Retry-After", retry_after(asked, self._clock)))
        return answer

    # ---- tokens ----------------------------------------------------------------------------------

    def _token(self, secret: object, **more: object) -> Answer:
        if secret != self._switches.text("secret"):
            raise _Refused(401, "Unauthorized")
        token = f"ytp-{self._chance.getrandbits(160):040x}"
        self._issued[token] = (self._clock.monotonic_s(), 0)
        return json_answer({"access_token": token, **more})

    def _legacy_token(self, request: Request) -> Answer:
        if "json" in request.headers.get("content-type", ""):
            given = _body(request)
        else:
            given = dict(parse_qsl(request.body.decode("latin-1")))
        if given.get("grant_type") != "client_credentials":
            raise _Refused(400, "unsupported grant_type")
        if given.get("client_id") != self._switches.text("store_id"):
            raise _Refused(401, "Unauthorized")
        return self._token(given.get("client_secret"), token_type="bearer")

    def _authorize(self, request: Request, call: Call) -> None:
        token = request.headers.get("x-yotpo-token") or request.query.get("access_token", "")
        if call.has_fault("token_dies"):
            self._issued.pop(token, None)
        issued_s, calls = self._issued.get(token, (-math.inf, 0))
        age_s = self._clock.monotonic_s() - issued_s
        most = self._switches.count("token_calls")
        if age_s >= self._switches.number("token_life_s") or (most and calls >= most):
            raise _Refused(int(self._switches.text("unauthorized_status")), "Unauthorized")
        self._issued[token] = (issued_s, calls + 1)

    # ---- listings --------------------------------------------------------------------------------

    def _list(self, what: str, request: Request, call: Call) -> Answer:
        if call.has_fault("bad_cursor"):
            raise _Refused(400, "invalid page_info")
        if call.has_fault("no_results"):
            raise _Refused(400, _NO_RESULTS)
        cursor = self._cursor(what, request.query)
        lie = self._lie(cursor)
        if lie in _BODIES:
            return Answer(body=_BODIES[lie])
        if lie == "html":
            return Answer(body=_HTML, content_type="text/html; charset=utf-8")
        if lie == "empty_page":
            return self._page(what, [], cursor.following(again=True))
        total = self._total() if what == "customers" else self._switches.count(what)
        size = cursor.limit // 2 if lie == "short_page" else cursor.limit
        records, end = self._records(cursor, size, total)
        following: Cursor | None = cursor.following(after=end)
        if lie == "loop_cursor":
            following = cursor
        elif lie == "repeat_page":
            following = cursor.following(again=True)
        elif not records or (end >= total and not self._switches.flag("extra_page")):
            following = None
        if not records and self._switches.text("no_results") == "400":
            raise _Refused(400, _NO_RESULTS)
        answer = self._page(what, records, following)
        if lie == "truncated":
            answer.body = answer.body[: len(answer.body) // 2]
        return answer

    def _records(self, cursor: Cursor, size: int, total: int) -> tuple[list[bytes], int]:
        """The records of a page, and how many the listing has passed after it."""
        end = min(cursor.after + size, total)
        if cursor.what != "customers":
            make, least = MAKERS[cursor.what], cursor.filters.get("order_date_min", "")
            values = [make(number) for number in range(cursor.after + 1, end + 1)]
            chosen = [one for one in values if str(one.get("order_date", "~")) >= least]
            return [encode(one) for one in chosen], end
        if cursor.filters:
            numbers = [] if cursor.after else self._matching(cursor.filters)
            end = total
        elif self._gone or self._changed or self._hidden or end > self._generated():
            numbers = [one for one in range(cursor.after + 1, end + 1) if self._there(one)]
        else:
            record, view = self._people.record, cursor.view
            return [record(number, view) for number in range(cursor.after + 1, end + 1)], end
        return [self._record(number, cursor.view) for number in numbers], end

    def _cursor(self, what: str, query: dict[str, str]) -> Cursor:
        """Raises: _Refused for a cursor that is not one of ours, or parameters it does not bear."""
        limit = _limit(query.get("limit"))
        if "page_info" not in query:
            expand = query.get("expand", "").split(",")
            names = _FILTERS[what]
            return Cursor(
                what=what,
                limit=limit or PAGE_SIZE,
                loyalty="loyalty" in expand,
                reviews="reviews" in expand,
                properties=query.get("include_custom_properties") == "true",
                filters={name: query[name] for name in names if name in query},
            )
        beside = query.keys() - {"page_info", "limit", "access_token"}
        if not self._switches.flag("cursor_strict"):
            beside -= {"expand", "include_custom_properties"}
        if beside:
            raise _Refused(400, f"page_info cannot be combined with {', '.join(sorted(beside))}")
        cursor = read_cursor(query["page_info"])
        if cursor is None or cursor.what != what:
            raise _Refused(400, "invalid page_info")
        return cursor.following(page=cursor.page, again=cursor.again, limit=limit or cursor.limit)

    def _lie(self, cursor: Cursor) -> str:
        times, lie = self._switches.count("lie_times"), self._switches.text("lie")
        strikes = cursor.page == self._switches.count("lie_page") or lie == "loop_cursor"
        if lie == "none" or cursor.again or not strikes or (times and self._lies >= times):
            return "none"
        if lie == "loop_cursor" and cursor.page < self._switches.count("lie_page"):
            return "none"
        self._lies += 1
        return lie

    def _page(self, what: str, records: list[bytes], following: Cursor | None) -> Answer:
        end = _LAST[self._switches.text("last_next")]
        if following:
            end = f',"pagination":{{"next_page_info":"{following.text()}"}}'
        body = b",".join(records)
        return Answer(body=b'{"%b":[%b]%b}' % (what.encode(), body, end.encode()))

    # ---- customers -------------------------------------------------------------------------------

    def _generated(self) -> int:
        return 0 if self._hidden else self._switches.count("customers")

    def _total(self) -> int:
        return self._generated() + len(self._added)

    def _there(self, number: int) -> bool:
        added = number - self._generated() - 1
        return number not in self._gone if added < 0 else self._added[added] is not None

    def _record(self, number: int, view: View) -> bytes:
        added = number - self._generated() - 1
        value = self._added[added] if added >= 0 else self._changed.get(number)
        if value is None:
            return self._people.record(number, view)
        shown = {"loyalty": view.loyalty, "yotpo_ugc": view.reviews}
        shown["custom_properties"] = view.properties
        return encode({key: item for key, item in value.items() if shown.get(key, True)})

    def _identities(self) -> list[str | None]:
        numbers = filter(self._there, range(1, self._generated() + 1))
        found: list[str | None] = [
            _identity(self._changed[one]) if one in self._changed else self._people.identity(one)
            for one in numbers
        ]
        return found + [_identity(one) for one in self._added if one is not None]

    def _matching(self, filters: dict[str, str]) -> list[int]:
        """The numbers of the customers that all filters fit."""
        wanted = set(filters.get("external_ids", "").split(",")) - {""}
        candidates: set[int] = set(range(self._generated() + 1, self._total() + 1))
        candidates |= self._changed.keys()
        for text in (*wanted, filters.get("email", "")):
            if number := customer_number(text):
                candidates |= {number, number + 1}
        for number in phone_numbers(filters.get("phone_number", ""), self._generated()):
            candidates |= {number, number + 1}
        fitting = []
        for number in sorted(candidates):
            if not 0 < number <= self._total() or not self._there(number):
                continue
            value = self._value(number)
            if (
                (not wanted or value.get("external_id") in wanted)
                and filters.get("email", value.get("email")) == value.get("email")
                and filters.get("phone_number", value.get("phone_number"))
                == value.get("phone_number")
            ):
                fitting.append(number)
        return fitting[:PAGE_SIZE]

    def _value(self, number: int) -> Value:
        full = View(loyalty=True, reviews=True, properties=True)
        value: Value = json.loads(self._record(number, full))
        return value

    def _number(self, customer: Value) -> int | None:
        """The customer that has this one's identity: the first of the keys that it carries."""
        keys = {"external_id": "external_ids", "email": "email", "phone_number": "phone_number"}
        for name, filter_ in keys.items():
            if customer.get(name):
                found = self._matching({filter_: str(customer[name])})
                return found[0] if found else None
        return None

    def _put(self, customer: Value) -> tuple[str, str]:
        number = self._number(customer)
        if number is None:
            self._added.append(customer)
            return "create", _identity(customer) or ""
        value = self._value(number) | customer
        added = number - self._generated() - 1
        if added >= 0:
            self._added[added] = value
        else:
            self._changed[number] = value
        return "update", _identity(value) or ""

    def _remove(self, number: int) -> None:
        added = number - self._generated() - 1
        if added >= 0:
            self._added[added] = None
        else:
            self._gone.add(number)

    def _patch(self, request: Request, call: Call) -> Answer:
        customer = _body(request).get("customer")
        if not isinstance(customer, dict) or not _identity(customer):
            raise _Refused(400, "customer needs an external_id, an email or a phone_number")
        kind, key = self._put(customer)
        call.effect(
            kind, resource="customers", scope=self._switches.text("store_id"), id=key, key=key
        )
        return json_answer({"customer": {"external_id": customer.get("external_id")}})


# ---- small things ------------------------------------------------------------------------------

_NO_RESULTS = "No results found"
_HTML = b"<!DOCTYPE html><html><head><title>Be right back</title></head><body></body></html>"
_BODIES = {
    "null_body": b"null",
    "list_body": b"[]",
    "no_customers": b"{}",
    "null_customers": b'{"customers":null,"pagination":{"next_page_info":null}}',
    "object_customers": b'{"customers":{"cust-1":{}},"pagination":{"next_page_info":null}}',
}
_LAST = {
    "null": ',"pagination":{"next_page_info":null}',
    "absent": ',"pagination":{}',
    "empty": ',"pagination":{"next_page_info":""}',
    "no_pagination": "",
    "null_pagination": ',"pagination":null',
}
_FILTERS = {
    "customers": ("external_ids", "email", "phone_number"),
    "orders": ("order_date_min",),
    "products": (),
}


def _problem(status: int, text: str) -> Answer:
    return json_answer({"errors": [{"message": text}]}, status)


def _body(request: Request) -> Value:
    try:
        value = request.json
    except BadJson as error:
        raise _Refused(400, "the body is not JSON") from error
    if not isinstance(value, dict):
        raise _Refused(400, "the body is not an object")
    return value


def _limit(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdecimal() or not 1 <= int(text) <= PAGE_SIZE:
        raise _Refused(400, f"limit must be between 1 and {PAGE_SIZE}")
    return int(text)


def _identity(customer: Value) -> str | None:
    for name in ("external_id", "email", "phone_number"):
        if text := customer.get(name):
            return str(text).lower() if name == "email" else str(text)
    return None
