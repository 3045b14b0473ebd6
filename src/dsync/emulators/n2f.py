"""N2F: users and analytic axes of an expense service, under quotas by the time of day.

Everything is below `/services/api/v2/`. Calls are to come one after the other; a day's minute has
room for 10 writes, a night's for 50. A POST creates what it does not know and changes what it does:
fields left out keep their value, an explicit null clears.

| call | answer |
|---|---|
| `POST auth` | 200, a token and the moment of its end |
| `GET companies`, `GET users` | pages, `start` and `limit` |
| `GET roles`, `GET userprofiles` | labels by language, all at once |
| `POST users` | 201 or 200; `mail` is the key; a creation sends an e-mail (`state`) |
| `DELETE users/{mail}` | 204, 404, 409 |
| `GET companies/{c}/axes` | the axes of a company, whose ids are its own |
| `GET companies/{c}/axes/{a}` | pages of values; `{a}` is `projects` or an id |
| `POST companies/{c}/axes/{a}` | 201 or 200; `code` is the key |
| `DELETE companies/{c}/axes/{a}/{code}` | 204, 404, 409 |

Seeds are those of `POST /_emulator/seed`: `companies axes roles profiles users values replace
remove`, as `state` shows them; `revoke_tokens: true` ends all tokens.

Source: observed traffic and the code of one client; what neither tells is a switch.
"""

from __future__ import annotations

import base64
import itertools
import json
import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from .ledger import Call
from .messages import Answer, Request, json_answer
from .n2f_data import Axis, Company, Data, Refused, Value, put
from .n2f_people import People
from .n2f_seeds import first
from .n2f_switches import FAULTS, SEEDS, SWITCHES
from .n2f_values import Values, refusal
from .server import SeedError, World

__all__ = ["FAULTS", "SWITCHES", "TOO_MANY", "App"]

TOO_MANY = {"error": "Too many requests"}

_BASE = ("services", "api", "v2")
_SAFE = ("GET", "HEAD", "OPTIONS")
_PAGE_UNASKED = 200


class App:
    """The API over its companies."""

    def __init__(self, world: World) -> None:
        self._clock = world.clock
        self._switches = world.switches
        self.reset()

    # ---- what every emulator can do ------------------------------------------------------------

    def reset(self) -> None:
        self._chance = random.Random(self._switches.count("random_seed"))
        self._tokens: dict[str, float] = {}
        self._issue_tokens()
        self._data = Data()
        counts = {word: self._switches.count(word) for word in SEEDS[1:]}
        for one in first(self._switches.text("seed"), counts):
            put(self._data, one)
        self._people = People(self._data, self._switches)
        self._values = Values(self._data, self._switches, self._chance)

    def switched(self, names: Sequence[str]) -> None:
        """A change of what there is at first starts anew, tokens and all."""
        if set(names) & set(SEEDS):
            self.reset()
        elif "tokens" in names:
            self._issue_tokens()

    def _issue_tokens(self) -> None:
        end = self._clock.wall_s() + self._switches.number("token_life_s")
        self._tokens |= dict.fromkeys(self._switches.names("tokens"), end)

    def state(self) -> object:
        """Everything, hidden fields too, in the form of a seed; and `creation_mails`."""
        return self._data.dump()

    def seed(self, value: object) -> object:
        for one in value if isinstance(value, list) else [value]:
            if not isinstance(one, dict):
                raise SeedError('a seed is an object: {"users": [...], "values": [...]}')
            put(self._data, one)
            if one.get("revoke_tokens"):
                self._tokens.clear()
        return {
            "users": len(self._data.users),
            "values": sum(
                len(axis.values)
                for company in self._data.companies.values()
                for axis in company.axes.values()
            ),
        }

    # ---- routes --------------------------------------------------------------------------------

    def place(self, request: Request) -> tuple[str, bool]:
        """All of it is one scope: no call may run beside another. A login counts as a write."""
        login = self._path(request) == ("auth",) and self._switches.text("auth_class") == "read"
        return "", request.method not in _SAFE and not login

    def handle(self, request: Request, call: Call) -> Answer:
        try:
            return self._routed(request, call)
        except Refused as refused:
            return json_answer({"error": str(refused)}, refused.status)

    def _path(self, request: Request) -> tuple[str, ...] | None:
        """The parts below the base, each decoded by itself; None for a path beside it."""
        parts = request.segments
        if not self._switches.flag("strict_slashes"):
            parts = tuple(part for part in parts if part)
        if parts[:3] != _BASE or "" in parts:
            return None
        return parts[3:]

    def _routed(self, request: Request, call: Call) -> Answer:
        path = self._path(request)
        if self._switches.flag("refuse_concurrent") and call.overlaps:
            raise Refused(409, "Concurrent call")
        if path == ("auth",):
            call.template = _template("auth")
            return self._log_in(request)
        call.write = request.method not in _SAFE
        if not self._authorized(request):
            call.template = "(unauthorized)"
            raise Refused(401, "Unauthorized")
        method = "GET" if request.method == "HEAD" else request.method
        match path:
            case ("companies" | "users" | "roles" | "userprofiles" as what,):
                call.template = _template(what)
                return self._of_collection(method, what, request, call)
            case ("users", mail):
                call.template = _template("users/{mail}")
                _only(method, "DELETE")
                return self._delete_user(mail, call)
            case ("companies", word, "axes", *rest) if len(rest) < 3:
                names = "/".join(["companies/{company}/axes", "{axis}", "{code}"][: len(rest) + 1])
                call.template = _template(names)
                return self._of_company(method, word, rest, request, call)
        raise Refused(404, "Not found")

    def _of_collection(self, method: str, what: str, request: Request, call: Call) -> Answer:
        _only(method, *(("GET", "POST") if what == "users" else ("GET",)))
        match what:
            case "users" if method == "POST":
                return self._write_user(request, call)
            case "users":
                return self._page(request, self._people.listed(), "mail", self._people.shown())
            case "companies":
                companies = [company.value for company in self._data.companies.values()]
                return self._page(request, companies, "code", self._with_extras)
        labels = self._data.labels("role" if what == "roles" else "profile")
        return json_answer({"response": [self._with_extras(one) for one in labels]})

    def _of_company(
        self, method: str, word: str, rest: list[str], request: Request, call: Call
    ) -> Answer:
        company = self._data.companies.get(word)
        if company is None:
            raise Refused(404, f"Unknown company: {word}")
        if not rest:
            _only(method, "GET")
            return self._axes(request, company)
        axis = company.axes.get(rest[0])
        if axis is None:
            raise Refused(404, f"Unknown axis: {rest[0]}")
        if rest[1:]:
            _only(method, "DELETE")
            value = self._values.delete(company, axis, rest[1])
            self._note(call, "delete", _place(company, axis), value, "code")
            return Answer(status=204)
        _only(method, "GET", "POST")
        if method == "GET":
            return self._page(request, list(axis.values.values()), "code", self._values.shown())
        new, value = self._values.upsert(axis, _body(request))
        self._note(call, "create" if new else "update", _place(company, axis), value, "code")
        return self._written(new, value)

    # ---- tokens --------------------------------------------------------------------------------

    def _log_in(self, request: Request) -> Answer:
        _only(request.method, "POST")
        body = _body(request)
        if f"{body.get('client_id')}:{body.get('client_secret')}" not in self._switches.names(
            "clients"
        ):
            raise Refused(401, "Invalid credentials")
        secret = self._chance.randbytes(30)
        token = "eyJ" + base64.urlsafe_b64encode(secret).decode()
        end = self._clock.wall_s() + self._switches.number("token_life_s")
        self._tokens[token] = end
        validity = _moment(end, self._switches.count("validity_digits"))
        return json_answer({"response": {"token": token, "validity": validity}})

    def _authorized(self, request: Request) -> bool:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        end = self._tokens.get(token.strip())
        return scheme.lower() == "bearer" and end is not None and self._clock.wall_s() < end

    # ---- reads ---------------------------------------------------------------------------------

    def _page(
        self, request: Request, items: list[Value], key: str, show: Callable[[Value], Value]
    ) -> Answer:
        most = self._switches.count("page_max")
        start = _number(request, "start", 0, least=0)
        limit = min(_number(request, "limit", _PAGE_UNASKED, least=1), most)
        style = self._switches.text("paging")
        if style == "repeats":
            start = 0
        if style == "short":
            limit = max(1, limit - 1)
        if twins := set(self._switches.names("twins")):
            items = [one for item in items for one in [item] * (1 + (item.get(key) in twins))]
        return self._listing([show(item) for item in itertools.islice(items, start, start + limit)])

    def _axes(self, request: Request, company: Company) -> Answer:
        axes: list[Value] = [
            {"uuid": axis.id, "names": axis.names} for axis in company.axes.values() if axis.names
        ]
        if request.query.keys() & {"start", "limit"}:
            return self._page(request, axes, "uuid", self._with_extras)
        return self._listing([self._with_extras(one) for one in axes])

    def _listing(self, found: list[Value]) -> Answer:
        style = "list" if found else self._switches.text("empty_data")
        if style == "absent":
            return json_answer({"response": {}})
        return json_answer({"response": {"data": found if style == "list" else None}})

    def _with_extras(self, value: Value) -> Value:
        more = {"id": value["uuid"], "archived": False}
        return {**value, **more} if self._switches.flag("extra_fields") else value

    # ---- writes --------------------------------------------------------------------------------

    def _write_user(self, request: Request, call: Call) -> Answer:
        new, user = self._people.upsert(_body(request))
        self._note(call, "create" if new else "update", ("users", ""), user, "mail")
        return self._written(new, user)

    def _delete_user(self, mail: str, call: Call) -> Answer:
        known = self._data.users.get(mail.lower())
        if known is not None and (text := refusal(self._switches, known, str(known["mail"]))):
            raise Refused(409, text)
        self._note(call, "delete", ("users", ""), self._people.delete(mail), "mail")
        return Answer(status=204)

    def _note(self, call: Call, kind: str, place: tuple[str, str], value: Value, key: str) -> None:
        resource, scope = place
        id_ = str(value.get("uuid"))
        call.effect(kind, resource=resource, scope=scope, id=id_, key=str(value[key]))

    def _written(self, new: bool, value: Value) -> Answer:
        status = 201 if new else 200
        if self._switches.text("write_answer") == "empty":
            return Answer(status=status)
        return json_answer({"response": {"uuid": value.get("uuid")}}, status)


def _place(company: Company, axis: Axis) -> tuple[str, str]:
    """Resource and scope of an effect: `projects` or the axis' first label, and the company."""
    label = axis.names[0].get("value") if axis.names else axis.id
    return str(label), company.code


def _template(rest: str) -> str:
    return f"/{'/'.join(_BASE)}/{rest}"


def _only(method: str, *known: str) -> None:
    if method not in known:
        raise Refused(405, "Method not allowed")


def _body(request: Request) -> Value:
    """The object of a body. Raises: Refused."""
    try:
        body = json.loads(request.body.decode(), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"Invalid body: {error}") from error
    if not isinstance(body, dict):
        raise Refused(400, "Invalid body: not an object")
    return body


def _no_number(word: str) -> object:
    raise ValueError(f"{word} is not JSON")


def _number(request: Request, name: str, default: int, *, least: int) -> int:
    text = request.query.get(name)
    if text is None:
        return default
    if not text.isdecimal() or len(text) > 9 or int(text) < least:
        raise Refused(400, f"Invalid parameter: {name}")
    return int(text)


def _moment(wall_s: float, digits: int) -> str:
    at = datetime.fromtimestamp(wall_s, UTC)
    fraction = f"{at.microsecond:06}7"[:digits]
    return at.strftime("%Y-%m-%dT%H:%M:%S") + (f".{fraction}" if fraction else "") + "Z"
