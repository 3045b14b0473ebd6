"""Logpoint Director: configuration of many nodes, written by orders that are followed to an end.

Everything is kept per pool and node, and an object has another id on every node. A write is only
*accepted*; its order, found at the path in `message`, tells later what became of it.

Each rule that a body may break is a check of its own, and a switch `check_…` says whether the
answer is a 400 (`sync`), a failed order (`order`), or nothing (`off`).

What there is to read and write is declared in `director_resources.py`; here is what all of it has
in common: tokens, the envelope, when a broken rule is told, and when a change happens and shows.

Source: Director API 2.7.0 and observed traffic.
"""

from __future__ import annotations

import base64
import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from .director_files import Files
from .director_kinds import Action, Desk, Fetch, Form, Refused, Resource, filled, given, used_by
from .director_nodes import Node, Stored, View
from .director_orders import Orders, Outcome, failed
from .director_resources import RESOURCES
from .director_routes import Route, Routes
from .director_seeds import seed_node
from .director_switches import FAULTS, SWITCHES
from .ledger import Call
from .messages import Answer, BadJson, Request, encode, json_answer
from .server import SeedError, World
from .shapes import Object, Problem, problems

__all__ = ["FAULTS", "SWITCHES", "App"]

_DEFAULT_NODES = (
    ("b0b0b0b0b0b0b0b0b0b0b0b0b0b00001", "blue", "c0ffee00c0ffee00c0ffee00c0ffee01", "blue-be-1"),
    ("b0b0b0b0b0b0b0b0b0b0b0b0b0b00001", "blue", "c0ffee00c0ffee00c0ffee00c0ffee02", "blue-be-2"),
    ("b0b0b0b0b0b0b0b0b0b0b0b0b0b00001", "blue", "c0ffee00c0ffee00c0ffee00c0ffee09", "blue-sh-1"),
    (
        "b0b0b0b0b0b0b0b0b0b0b0b0b0b00002",
        "green",
        "c0ffee00c0ffee00c0ffee00c0ffee11",
        "green-aio-1",
    ),
)
_ID32 = re.compile(r"[0-9a-fA-F]{32}")
_ROUTES = Routes(RESOURCES)
_QUIET = ("refreshlist", "fetch", "validate")
"""Posts that change nothing."""

Found = Callable[[Stored], Iterable[Problem]]


class App:
    """The API over its nodes."""

    def __init__(self, world: World) -> None:
        self._clock = world.clock
        self._switches = world.switches
        self.reset()

    # ---- what every emulator can do ------------------------------------------------------------

    def reset(self) -> None:
        self._chance = random.Random(self._switches.count("random_seed"))
        self._nodes: dict[str, Node] = {}
        self._files = Files()
        self._orders = Orders(self._clock, self._switches, self._chance)
        self._secret = self._switches.text("secret_key")
        self._tokens: dict[str, float] = {}
        self.switched(["nodes", "tokens"])

    def switched(self, names: Sequence[str]) -> None:
        if "nodes" in names:
            self._set_nodes()
        if "tokens" in names:
            now = self._clock.monotonic_s()
            self._tokens = {str(token): now for token in self._switches.sequence("tokens")}
        if "secret_key" in names:
            self._secret = self._switches.text("secret_key")

    def _set_nodes(self) -> None:
        nodes = [self._node_of(value) for value in self._switches.sequence("nodes")]
        listed = nodes or [
            Node(pool=pool, pool_name=pool_name, id=id_, name=name, address="")
            for pool, pool_name, id_, name in _DEFAULT_NODES
        ]
        for number, node in enumerate(listed):
            node.address = node.address or f"198.51.100.{11 + number % 240}"
        known = self._nodes
        self._nodes = {node.scope: known.get(node.scope, node) for node in listed}
        for node in self._nodes.values():
            node.pool_nodes = [one for one in self._nodes.values() if one.pool == node.pool]
            node.files = self._files.shelves
        for node in self._nodes.values():
            if node.scope not in known:
                seed_node(node)

    def state(self) -> object:
        """Every object as it truly is, in the shape it is read, by node; and open orders."""
        self._orders.finish_due()
        return {
            "nodes": {node.scope: self._state_of(node) for node in self._nodes.values()},
            **self._orders.summary(),
        }

    def _state_of(self, node: Node) -> Stored:
        view = View(node=node, switches=self._switches)
        return {
            "name": node.name,
            "resources": {
                name: [RESOURCES[name].read(view, value, True) for value in store.true.values()]
                for name, store in list(node.stores.items())
                if not RESOURCES[name].fixed
            },
        }

    def seed(self, value: object) -> object:
        """Puts or removes objects: {resource, objects, remove, replace, node, pool, stale}.

        `objects` are in the shape of a create (the names of the read shape are understood); one
        whose key or id is there changes that object. `remove` lists keys or ids. Without `node`
        (an id or a name) it happens on every node. `stale`: not shown before a refreshlist.
        """
        ids: list[str] = []
        for entry in value if isinstance(value, list) else [value]:
            if not isinstance(entry, dict) or entry.get("resource") not in RESOURCES:
                raise SeedError(f"a seed names a resource: {' '.join(RESOURCES)}")
            nodes = [
                node
                for node in self._nodes.values()
                if entry.get("node", "*") in ("*", node.id, node.name)
                and entry.get("pool", "*") in ("*", node.pool, node.pool_name)
            ]
            if not nodes:
                raise SeedError(f"no node {entry.get('node')} in pool {entry.get('pool', '*')}")
            for node in nodes:
                ids += self._seed(node, entry)
        return {"ids": ids}

    # ---- routes --------------------------------------------------------------------------------

    def place(self, request: Request) -> tuple[str, bool]:
        """A node is a scope. To log in, to refresh a list or to fetch one changes nothing."""
        family, *path = request.segments
        path = path[1:] if path[:1] == ["v1"] else path
        of_node = family in ("configapi", "monitorapi") and path[1:] and path[0] != "director"
        scope = "/".join(path[:2]) if of_node and not Files.owner(path) else ""
        quiet = family == "refreshToken" or path[-1:] in ([word] for word in _QUIET)
        return scope, request.method not in ("GET", "HEAD", "OPTIONS") and not quiet

    def handle(self, request: Request, call: Call) -> Answer:
        self._orders.finish_due()
        if request.segments == ("refreshToken",):
            call.template = "/refreshToken"
            return self._refresh_token(request)
        if not self._authorized(request):
            call.template = "(unauthorized)"
            return failed(401, "Unauthorized")
        match request.segments:
            case ("monitorapi", "v1", "director", what):
                call.template = f"/monitorapi/v1/director/{what}"
                return self._director(request, what)
            case ("monitorapi" | "configapi" as family, "v1", *rest):
                if self._switches.text("v1_prefix") == "refused":
                    return failed(404, "Not found")
                return self._of_family(family, rest, request, call)
            case ("monitorapi" | "configapi" as family, *rest):
                return self._of_family(family, rest, request, call)
        return failed(404, "Not found")

    def _of_family(
        self, family: str, segments: Sequence[str], request: Request, call: Call
    ) -> Answer:
        if family == "configapi" and Files.owner(segments):
            pools = {node.pool for node in self._nodes.values()}
            return self._files.handle(segments, request, call, pools)
        pool, id_, *rest = [*segments, "", ""][: max(2, len(segments))]
        node = self._nodes.get(f"{pool}/{id_}")
        base = f"/{family}/{{pool}}/{{node}}"
        if node is None:
            call.template = f"{base}/…"
            return failed(404, "Unknown pool or logpoint")
        if family == "configapi":
            return self._of_resource(node, rest, request, call, base)
        match rest:
            case ["orders", order]:
                call.template = f"{base}/orders/{{id}}"
                return self._orders.poll(request, node, order, None)
            case ["orders", order, data_node]:
                call.template = f"{base}/orders/{{id}}/{{data_node}}"
                return self._orders.poll(request, node, order, data_node)
        return failed(404, "Not found")

    def _of_resource(
        self, node: Node, path: Sequence[str], request: Request, call: Call, base: str
    ) -> Answer:
        method = "GET" if request.method == "HEAD" else request.method
        route, template = _ROUTES.find(method, path)
        if route == 405:
            call.template = f"{base}/{template}"
            return failed(405, "Method not allowed")
        if not isinstance(route, Route):
            return failed(404, f"Unknown resource: {'/'.join(path)}")
        call.template = f"{base}/{template}"
        id_ = path[template.split("/").index("{id}")] if "{id}" in template else ""
        return self._answer(route, node, id_, request, call)

    def _answer(self, route: Route, node: Node, id_: str, request: Request, call: Call) -> Answer:
        resource = RESOURCES[route.resource]
        match route.what:
            case "list":
                return self._list(node, route.resource)
            case "get":
                return self._get(node, route.resource, id_)
            case "face":
                return self._face(node, route, id_)
            case "create":
                form = resource.creates[route.word]
                return self._write("create", node, route.resource, form, "", request, call)
            case "edit":
                form = resource.edits[route.word]
                return self._write("edit", node, route.resource, form, id_, request, call)
            case "trash":
                return self._trash(node, route.resource, id_, request, call)
            case "action":
                action = resource.actions[route.word]
                return self._act(node, route.resource, action, id_, request, call)
            case "shared_action":
                action = resource.shared_actions[route.word]
                return self._act(node, route.resource, action, "", request, call)
            case "fetch":
                return self._fetch(node, resource.fetches[route.word], request, call)
            case "refresh":
                return self._refresh(node, route.resource, request, call)
        raise ValueError(route.what)

    # ---- the Director itself -------------------------------------------------------------------

    def _director(self, request: Request, what: str) -> Answer:
        if request.method not in ("GET", "HEAD"):
            return failed(405, "Method not allowed")
        nodes = list(self._nodes.values())
        if what == "poolinfo":
            pools = {node.pool: node.pool_name for node in nodes}
            return json_answer(
                [
                    {
                        "active": True,
                        "name": pool_name,
                        "pool_uuid": pool,
                        "machines": [
                            {
                                "director_mode": "fabric_only",
                                "identifier": node.id,
                                "name": node.name,
                                "version": "7.4.0",
                            }
                            for node in nodes
                            if node.pool == pool
                        ],
                    }
                    for pool, pool_name in pools.items()
                ]
            )
        if what == "health":
            return json_answer({"version": {"message": "All services run", "status": "OK"}})
        if what == "version":
            fabric = {node.address: "2.7.0" for node in nodes}
            return json_answer({"fabric": fabric, "api": "2.7.0", "lpsm": "2.7.0"})
        return failed(404, "Not found")

    def _authorized(self, request: Request) -> bool:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        issued = self._tokens.get(token.strip())
        if scheme.lower() != "bearer" or issued is None:
            return False
        return self._clock.monotonic_s() - issued < self._switches.number("token_life_s")

    def _refresh_token(self, request: Request) -> Answer:
        if request.method != "POST":
            return failed(405, "Method not allowed")
        try:
            body = request.json
        except BadJson:
            body = None
        if not isinstance(body, dict) or not isinstance(body.get("secretKey"), str):
            return failed(400, "Missing parameter: secretKey")
        if body["secretKey"] != self._secret:
            return failed(401, "Unauthorized")
        if self._switches.flag("rotate_secret"):
            self._secret = f"{self._chance.getrandbits(128):032x}"
        parts = ({"alg": "HS256", "typ": "JWT"}, {"sub": "admin", "exp": 0})
        packed = [base64.urlsafe_b64encode(encode(part)).rstrip(b"=").decode() for part in parts]
        token = ".".join([*packed, f"{self._chance.getrandbits(256):064x}"])
        self._tokens[token] = self._clock.monotonic_s()
        details = {"secretKey": self._secret, "token": token}
        return json_answer({"status": "Success", "tokenDetails": details})

    # ---- reads ---------------------------------------------------------------------------------

    def _view(self, node: Node) -> View:
        return View(node=node, switches=self._switches, now=self._clock.monotonic_s())

    def _truth(self, node: Node) -> View:
        return View(node=node, switches=self._switches)

    def _list(self, node: Node, name: str) -> Answer:
        view, resource = self._view(node), RESOURCES[name]
        values = [self._shape(view, name, value, True) for value in view.objects(name).values()]
        if self._switches.flag("shuffle_lists"):
            self._chance.shuffle(values)
        return json_answer(resource.listing(view, values) if resource.listing else values)

    def _get(self, node: Node, name: str, id_: str) -> Answer:
        view = self._view(node)
        value = view.objects(name).get(id_)
        if value is None:
            return failed(404, f"{name} not found: {id_}")
        return json_answer(self._shape(view, name, value, False))

    def _face(self, node: Node, route: Route, id_: str) -> Answer:
        view = self._view(node)
        value = view.objects(route.resource).get(id_)
        if value is None:
            return failed(404, f"{route.resource} not found: {id_}")
        return json_answer(RESOURCES[route.resource].faces[route.word](view, value))

    def _shape(self, view: View, name: str, value: Stored, listed: bool) -> Stored:
        shown = RESOURCES[name].read(view, value, listed)
        if self._switches.flag("extra_fields"):
            shown["service_hint"] = {"added": "without notice"}
        return shown

    # ---- bodies --------------------------------------------------------------------------------

    def _data(self, request: Request) -> tuple[Stored, list[Problem]]:
        try:
            body = request.json
        except BadJson:
            body = None
        if not isinstance(body, dict):
            return {}, [Problem("body_json", "The body is not a JSON object")]
        data = body.get("data")
        if isinstance(data, dict):
            return data, []
        return body, [Problem("no_data_wrapper", "Missing parameter: data")]

    def _mode(self, check: str) -> str:
        return self._switches.text(f"check_{check}")

    def _ordered(
        self,
        node: Node,
        call: Call,
        *,
        data: Stored,
        outer: list[Problem],
        found: Found,
        act: Callable[[], Outcome],
        echo: object,
        data_node: str | None = None,
    ) -> Answer:
        """Refuses, or takes an order that looks again for what only the node can see."""

        def wrong(mode: str) -> list[Problem]:
            if any(self._mode(problem.check) != "off" for problem in outer):
                all_ = outer  # without the wrapper there is nothing more to look at
            else:
                all_ = list(found(data))
            return [problem for problem in all_ if self._mode(problem.check) == mode]

        if refused := wrong("sync"):
            return failed(400, "; ".join(problem.text for problem in refused))

        def run() -> Outcome:
            reasons = tuple(problem.text for problem in wrong("order"))
            if not reasons:
                try:
                    return act()
                except Refused as error:
                    reasons = (str(error),)
            return Outcome(success=False, message=reasons[0], errors=reasons)

        return self._orders.accept(node, call, run, echo=echo, data_node=data_node)

    # ---- writes --------------------------------------------------------------------------------

    def _desk(self, node: Node, call: Call) -> Desk:
        return Desk(view=self._truth(node), call=call, resources=RESOURCES, shown_at=self._shown_at)

    def _shown_at(self, resource: Resource) -> float | None:
        if resource.stale and self._switches.flag("staleness"):
            return None
        return self._clock.monotonic_s() + self._switches.number("read_lag_s")

    def _target(self, node: Node, name: str, id_: str, form: Form | None = None) -> Stored | None:
        value = node.store(name).true.get(id_)
        if value is not None and form is not None and form.only:
            key, wanted = form.only
            return value if value.get(key) == wanted else None
        return value

    def _gone(self, name: str, id_: str) -> Answer | None:
        """The refusal of a path whose object is not there, unless its order shall fail."""
        if self._mode("unknown_id") == "sync":
            return failed(404, f"{name} not found: {id_}")
        return None

    def _write(
        self, verb: str, node: Node, name: str, form: Form, id_: str, request: Request, call: Call
    ) -> Answer:
        call.write = True
        resource = RESOURCES[name]
        data, outer = self._data(request)
        unknown = verb == "edit" and self._target(node, name, id_, form) is None
        if unknown and (refusal := self._gone(name, id_)):
            return refusal

        def found(data: Stored) -> Iterator[Problem]:
            before = self._target(node, name, id_, form) if verb == "edit" else None
            if verb == "edit" and before is None:
                yield Problem("unknown_id", f"{name} not found: {id_}")
                return
            yield from self._problems(node, name, form, before, data)

        def act() -> Outcome:
            key = form.key or resource.key
            part = data if call.has_fault("order_partial") is None else _half(key, data)
            self._commit(node, name, form, id_ if verb == "edit" else None, part, call)
            past = {"create": "created", "edit": "edited"}[verb]
            return Outcome(success=True, message=f"{name} {past}")

        return self._ordered(
            node, call, data=data, outer=outer, found=found, act=act, echo={"data": data}
        )

    def _problems(
        self, node: Node, name: str, form: Form, before: Stored | None, data: Stored
    ) -> Iterator[Problem]:
        resource, view = RESOURCES[name], self._truth(node)
        shape = list(problems(form.shape, data, "data"))
        yield from shape
        if before is not None and resource.body_id and not data.get("id"):
            yield Problem("body_id", "Missing parameter: id")
        if any(problem.check in _SHAPELESS for problem in shape):
            return
        body = given(form.shape, data)
        for ref in resource.refs:
            yield from ref.problems(node, body)
        yield from form.check(view, body, before)
        value = {**(before or {}), **form.kept(view, body)}
        identity = resource.identity_of(value)
        rivals = (one for one in node.store(name).true.values() if one is not before)
        if identity is not None and any(resource.identity_of(one) == identity for one in rivals):
            shown = value.get(resource.key, identity)
            yield Problem("duplicate_name", f"{name} already exists: {shown}")

    def _commit(
        self, node: Node, name: str, form: Form, id_: str | None, data: Stored, call: Call
    ) -> None:
        desk, resource = self._desk(node, call), RESOURCES[name]
        if form.instead:
            form.instead(desk, data)
            return
        if id_ is None:
            body = form.kept(desk.view, {**_blanks(form.shape), **filled(form.shape, data)})
            born = {"id": resource.new_id(node), **resource.born(desk.view)}
            desk.put(name, {**born, **body})
        elif (before := self._target(node, name, id_, form)) is not None:
            keep = self._switches.text("edit_omitted") == "keep"
            body = given(form.shape, data) if keep else filled(form.shape, data)
            desk.put(name, {**before, **form.kept(desk.view, body)})

    def _trash(self, node: Node, name: str, id_: str, request: Request, call: Call) -> Answer:
        call.write = True
        resource = RESOURCES[name]
        data, _ = self._data(request)
        if not node.has(name, id_) and (refusal := self._gone(name, id_)):
            return refusal

        def found(data: Stored) -> Iterator[Problem]:
            value = node.store(name).true.get(id_)
            if value is None:
                yield Problem("unknown_id", f"{name} not found: {id_}")
                return
            if user := used_by(RESOURCES, node, name, value):
                yield Problem("in_use", f"{name} in use by {user}")
            yield from resource.trash_check(self._truth(node), value, data)

        def act() -> Outcome:
            desk, value = self._desk(node, call), node.store(name).true.get(id_)
            more: Stored = {}
            if value is not None:
                resource.before_trash(desk, value, data)
                desk.remove(name, id_)
                more = resource.response(value)
            return Outcome(success=True, message=f"{name} deleted", more=more)

        return self._ordered(node, call, data=data, outer=[], found=found, act=act, echo={})

    # ---- actions, fetches, refreshes -----------------------------------------------------------

    def _act(
        self, node: Node, name: str, action: Action, id_: str, request: Request, call: Call
    ) -> Answer:
        call.write = action.writes
        data, outer = self._data(request)
        target = node.store(name).true.get(id_)
        if id_ and target is None and (refusal := self._gone(name, id_)):
            return refusal

        def found(data: Stored) -> Iterator[Problem]:
            target = node.store(name).true.get(id_)
            if id_ and target is None:
                yield Problem("unknown_id", f"{name} not found: {id_}")
                return
            shape = list(problems(action.body, data, "data"))
            yield from shape
            if any(problem.check in _SHAPELESS for problem in shape):
                return
            for ref in action.refs:
                yield from ref.problems(node, data)
            yield from action.check(self._truth(node), data, target)

        def act() -> Outcome:
            target = node.store(name).true.get(id_)
            if id_ and target is None:
                return Outcome(success=True, message=f"{name} {action.done}")
            body = {**_blanks(action.body), **given(action.body, data)}
            more = action.act(self._desk(node, call), target or {}, body) or {}
            return Outcome(success=True, message=f"{name} {action.done}", more=more)

        return self._ordered(
            node, call, data=data, outer=outer, found=found, act=act, echo={"data": data}
        )

    def _fetch(self, node: Node, fetch: Fetch, request: Request, call: Call) -> Answer:
        data, outer = self._data(request)

        def act() -> Outcome:
            view = self._view(node)
            rows = [
                self._shape(view, fetch.of, row, True) if fetch.of else row
                for row in fetch.rows(view, data)
            ]
            if self._switches.flag("shuffle_lists"):
                self._chance.shuffle(rows)
            return Outcome(success=True, message="Fetched", more={"rows": rows})

        return self._ordered(
            node,
            call,
            data=data,
            outer=outer,
            found=lambda data: problems(fetch.body, data, "data"),
            act=act,
            echo={},
            data_node=node.id,
        )

    def _refresh(self, node: Node, name: str, request: Request, call: Call) -> Answer:
        data, outer = self._data(request)

        def act() -> Outcome:
            node.store(name).refresh()
            return Outcome(success=True, message=f"{name} refreshed")

        return self._ordered(
            node, call, data=data, outer=outer, found=lambda _data: (), act=act, echo={}
        )

    # ---- seeds ---------------------------------------------------------------------------------

    def _node_of(self, value: object) -> Node:
        if isinstance(value, str):
            pool, id_, name, address = [*value.split("/"), "", "", ""][:4]
            entry: Stored = {"pool": pool, "node": id_, "name": name, "address": address}
        elif isinstance(value, dict):
            entry = value
        else:
            raise ValueError(f"a node is POOL/NODE/NAME/ADDRESS or an object, not {value!r}")
        pool, id_ = str(entry.get("pool", "")), str(entry.get("node", ""))
        for one in (pool, id_):
            if not _ID32.fullmatch(one):
                raise ValueError(f"pools and nodes are named by 32 hex digits, not {one!r}")
        return Node(
            pool=pool,
            id=id_,
            name=str(entry.get("name") or f"node-{id_[-4:]}"),
            pool_name=str(entry.get("pool_name") or f"pool-{pool[-4:]}"),
            address=str(entry.get("address") or ""),
        )

    def _seed(self, node: Node, entry: Stored) -> Iterator[str]:
        name = str(entry["resource"])
        resource, store = RESOURCES[name], node.store(name)
        at = None if entry.get("stale") and resource.stale else self._clock.monotonic_s()
        gone = entry.get("remove", [])
        if entry.get("replace"):
            gone = list(store.true)
        if not isinstance(gone, list):
            raise SeedError("`remove` is a list of keys or ids")
        for one in gone:
            for id_ in _find(node, name, one, one) or _by_key(node, name, one):
                store.put(id_, None, shown_at=at)
        listed = entry.get("objects", [])
        if not isinstance(listed, list):
            raise SeedError("`objects` is a list")
        for item in listed:
            yield self._plant(
                node, name, {resource.key: item} if isinstance(item, str) else item, at
            )

    def _plant(self, node: Node, name: str, item: object, at: float | None) -> str:
        resource, store = RESOURCES[name], node.store(name)
        if not isinstance(item, dict):
            raise SeedError(f"an object of {name} is an object, or its {resource.key}")
        value = {resource.read_names.get(key, key): part for key, part in item.items()}
        view = self._truth(node)
        forms = list(resource.creates.values())
        for form in forms:
            if not form.key or form.key in value:
                fields = {one.name for one in form.shape.fields}
                others = {key: part for key, part in value.items() if key not in fields}
                value = {**others, **form.kept(view, given(form.shape, value))}
                break
        if not value.get(resource.key) and resource.identity_of(value) is None:
            raise SeedError(f"an object of {name} has a {resource.key}")
        there = _find(node, name, value.get("id"), resource.identity_of(value))
        id_ = next(iter(there), None) or str(value.get("id") or resource.new_id(node))
        blank = filled(forms[0].shape, {}) if forms and not forms[0].key else {}
        before = store.true.get(id_) or {**resource.born(view), **blank}
        store.put(id_, {**before, **resource.planted(node, {**value, "id": id_})}, shown_at=at)
        return id_


_SHAPELESS = {"wrong_type", "norm_packages_list"}


def _blanks(shape: Object) -> Stored:
    """What is mandatory, where a switch lets it be missing."""
    return {one.name: one.blank() for one in shape.fields if one.must}


def _half(key: str, data: Stored) -> Stored:
    """The key and the first half of the others."""
    others = [name for name in data if name != key]
    kept = others[: len(others) // 2]
    return {name: item for name, item in data.items() if name == key or name in kept}


def _by_key(node: Node, name: str, key: object) -> list[str]:
    there = node.store(name).true
    return [one for one, value in there.items() if value.get(RESOURCES[name].key) == key]


def _find(node: Node, name: str, id_: object, identity: object) -> list[str]:
    resource = RESOURCES[name]
    return [
        one
        for one, value in node.store(name).true.items()
        if one == id_ or (identity is not None and resource.identity_of(value) == identity)
    ]
