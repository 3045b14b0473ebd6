"""Logpoint Director: configuration of many nodes, written by orders that are followed to an end.

Everything is kept per pool and node, and an object has another id on every node. A write is only
*accepted*; its order, found at the path in `message`, tells later what became of it. Without a
poll an order still finishes, `order_max_s` after it was accepted.

Each rule that a body may break is a check of its own, and a switch `check_…` says whether the
answer is a 400 (`sync`), a failed order (`order`), or nothing (`off`).

Source: Director API 2.7.0 and observed traffic; `director_resources.py` holds the table.
"""

from __future__ import annotations

import base64
import random
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from .director_resources import RESOURCES, Node, Resource, Store, seed_node
from .ledger import Call
from .messages import Answer, BadJson, Request, encode, json_answer
from .server import SeedError, World
from .shapes import Object, Problem, problems
from .switches import Switch

__all__ = ["FAULTS", "SWITCHES", "App"]

Data = dict[str, object]

_MODES = ("sync", "order", "off")


def _check(default: str, doc: str) -> Switch:
    return Switch(default=default, kind="choice", words=_MODES, doc=doc)


SWITCHES: dict[str, Switch] = {
    "nodes": Switch(
        default=[],
        kind="list",
        doc="the nodes: `POOL/NODE`, `POOL/NODE/NAME`, or {pool, node, name, pool_name}; "
        "empty = pools blue (two back ends, a search head) and green (all in one)",
    ),
    "tokens": Switch(default=["demo"], kind="list", doc="bearer tokens that are valid from now on"),
    "token_life_s": Switch(default=28_800, kind="number", doc="how long any token is valid"),
    "secret_key": Switch(default="demo-secret", kind="text", doc="what refreshToken takes"),
    "rotate_secret": Switch(default=False, kind="flag", doc="refreshToken gives a new secret key"),
    "v1_prefix": Switch(
        default="accepted",
        kind="choice",
        words=("accepted", "refused"),
        doc="`/configapi/v1/…` and `/monitorapi/v1/POOL/…`",
    ),
    "message_slash": Switch(
        default="without",
        kind="choice",
        words=("without", "with"),
        doc="leading slash of the order's path in `message`",
    ),
    "order_polls": Switch(
        default=2,
        kind="int",
        words=("never", "random"),
        doc="polls that find an order pending before one finds it done",
    ),
    "order_max_s": Switch(
        default=30, kind="number", doc="after so long an order is done without being polled"
    ),
    "order_pending": Switch(
        default="empty",
        kind="choice",
        words=("empty", "null", "absent", "404", "202", "204"),
        doc="how a pending order looks: its `response`, or a status",
    ),
    "order_success": Switch(
        default="response",
        kind="choice",
        words=("response", "status"),
        doc="a done order says `response.success`, or only a top-level `status`",
    ),
    "order_failure": Switch(
        default="texts",
        kind="choice",
        words=("texts", "objects", "errors_only", "status"),
        doc="a failed order: `errors` as texts or objects, without `success`, or a top-level "
        "`status: failed`",
    ),
    "effect_time": Switch(
        default="finish",
        kind="choice",
        words=("finish", "at_once"),
        doc="when an object changes: as its order finishes, or as the call is accepted",
    ),
    "staleness": Switch(
        default=True, kind="flag", doc="resources with a refreshlist show changes only after it"
    ),
    "read_lag_s": Switch(
        default=0, kind="number", doc="other resources show changes so much later"
    ),
    "edit_omitted": Switch(
        default="clear",
        kind="choice",
        words=("clear", "keep"),
        doc="an optional key that an edit omits",
    ),
    "membership": Switch(
        default="both",
        kind="choice",
        words=("both", "one_sided"),
        doc="devices and device groups keep each other's lists in step",
    ),
    "compiled_normalizer": Switch(
        default="list",
        kind="choice",
        words=("list", "csv", "absent", "get_only"),
        doc="how it shows in a NormalizationPolicy that is read",
    ),
    "enrichment_source": Switch(
        default="plain",
        kind="choice",
        words=("plain", "spaces", "underscore_id"),
        doc="keys and values with a trailing space in lists, or `_id` for `id`",
    ),
    "get_omits_rule_type": Switch(
        default=True,
        kind="flag",
        doc="Get of an EnrichmentPolicy leaves `type` out of simple rules",
    ),
    "extra_fields": Switch(
        default=True, kind="flag", doc="every object that is read has a key nobody knows"
    ),
    "shuffle_lists": Switch(
        default=False, kind="flag", doc="lists come in another order each time"
    ),
    "random_seed": Switch(default=1, kind="int", doc="for order ids, tokens and random polls"),
    "check_body_json": _check("sync", "the body is no JSON object"),
    "check_no_data_wrapper": _check("sync", "the body has no `data`"),
    "check_missing_key": _check("sync", "a mandatory key is missing"),
    "check_wrong_type": _check("sync", "a value has another JSON type"),
    "check_unknown_enum": _check("sync", "a value is not one of the words that exist"),
    "check_body_id": _check("sync", "an edit of a ProcessingPolicy without `id` in its body"),
    "check_unknown_id": _check("sync", "the id in the path is not on the node (sync: 404)"),
    "check_unknown_key": _check("off", "a key that nobody knows"),
    "check_unknown_reference": _check("order", "a repo, path, package, policy … is not there"),
    "check_duplicate_name": _check("order", "the natural key is taken"),
    "check_norm_packages_list": _check("order", "norm_packages is no text"),
    "check_no_rules": _check("order", "an enrichment specification has no rules"),
    "check_in_use": _check("order", "another object still needs what is to be deleted"),
}

FAULTS: dict[str, str] = {
    "refused": "HTTP 200 whose `status` is not Success; `error`: its text",
    "order_fail": "the order fails and has no effect; `message`: its text",
    "order_fail_with_effect": "the order says it failed, and the effect is there",
    "order_no_effect": "the order says success, and nothing has changed",
    "order_partial": "the order says success, and half of the keys have changed; `says`: `failed`",
    "order_never": "the order stays pending for ever and has no effect",
    "order_stuck": "the effect is there, and the order stays pending for ever",
    "order_polls": "this order is pending for `polls` polls",
    "order_missing": "the order's path answers 404; the effect happens",
    "order_hostile": "`message` is a URL of another host; `url`: which",
    "order_no_message": "accepted, without a `message` to follow",
}
"""Faults of orders, for rules beside those of the wire."""

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

_LOOKUPS = {
    ("Repos", "RepoPaths"): "RepoPaths",
    ("NormalizationPackage", "CompiledNormalizers"): "CompiledNormalizers",
}
_READ_NAMES = {
    "repopath": "hiddenrepopath",
    "device_groups": "devicegroup",
    "log_policies": "logpolicy",
}


# ---- orders ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    success: bool
    message: str
    errors: tuple[str, ...] = ()
    more: Data = field(default_factory=dict)


@dataclass(slots=True, kw_only=True, eq=False)
class _Order:
    id: str
    node: Node
    call: Call
    act: Callable[[], _Outcome]
    polls_left: int | None
    """None = it never ends."""
    done_at_s: float
    data_node: str | None = None
    echo: object = None
    outcome: _Outcome | None = None


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
        self._orders: dict[str, _Order] = {}
        self._open: list[_Order] = []
        self._secret = self._switches.text("secret_key")
        self._tokens: dict[str, float] = {}
        self.switched(["nodes", "tokens"])

    def switched(self, names: Sequence[str]) -> None:
        if "nodes" in names:
            nodes = [self._node_of(value) for value in self._switches.sequence("nodes")]
            listed = nodes or [
                Node(pool=pool, pool_name=pool_name, id=id_, name=name, address="")
                for pool, pool_name, id_, name in _DEFAULT_NODES
            ]
            for number, node in enumerate(listed):
                node.address = f"198.51.100.{11 + number % 240}"
                if node.scope not in self._nodes:
                    seed_node(node)
            known = self._nodes
            self._nodes = {node.scope: known.get(node.scope, node) for node in listed}
        if "tokens" in names:
            now = self._clock.monotonic_s()
            self._tokens = {str(token): now for token in self._switches.sequence("tokens")}
        if "secret_key" in names:
            self._secret = self._switches.text("secret_key")

    def state(self) -> object:
        """Every object as it truly is, in the shape it is read, by node; and open orders."""
        self._finish_due()
        nodes = {
            node.scope: {
                "name": node.name,
                "resources": {
                    name: [
                        RESOURCES[name].read(value, self._switches, True)
                        for value in store.true.values()
                    ]
                    for name, store in node.stores.items()
                },
            }
            for node in self._nodes.values()
        }
        orders = [{"id": order.id, "path": self._path(order)} for order in self._open]
        return {"nodes": nodes, "orders": len(self._orders), "open_orders": orders}

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
        scope = "/".join(path[:2]) if of_node else ""
        quiet = family == "refreshToken" or path[-1:] in (["refreshlist"], ["fetch"])
        return scope, request.method not in ("GET", "HEAD", "OPTIONS") and not quiet

    def handle(self, request: Request, call: Call) -> Answer:
        self._finish_due()
        if request.segments == ("refreshToken",):
            call.template = "/refreshToken"
            return self._refresh_token(request)
        if not self._authorized(request):
            call.template = "(unauthorized)"
            return _failed(401, "Unauthorized")
        match request.segments:
            case ("monitorapi", "v1", "director", what):
                call.template = f"/monitorapi/v1/director/{what}"
                return self._director(request, what)
            case ("monitorapi" | "configapi" as family, "v1", *rest):
                if self._switches.text("v1_prefix") == "refused":
                    return _failed(404, "Not found")
                return self._of_node(family, rest, request, call)
            case ("monitorapi" | "configapi" as family, *rest):
                return self._of_node(family, rest, request, call)
        return _failed(404, "Not found")

    def _of_node(
        self, family: str, segments: Sequence[str], request: Request, call: Call
    ) -> Answer:
        pool, id_, *rest = [*segments, "", ""][: max(2, len(segments))]
        node = self._nodes.get(f"{pool}/{id_}")
        base = f"/{family}/{{pool}}/{{node}}"
        if node is None:
            call.template = f"{base}/…"
            return _failed(404, "Unknown pool or logpoint")
        if family == "configapi":
            return self._of_resource(node, rest, request, call, base)
        match rest:
            case ["orders", order]:
                call.template = f"{base}/orders/{{id}}"
                return self._poll(request, node, order, None)
            case ["orders", order, data_node]:
                call.template = f"{base}/orders/{{id}}/{{data_node}}"
                return self._poll(request, node, order, data_node)
        return _failed(404, "Not found")

    def _of_resource(
        self, node: Node, path: Sequence[str], request: Request, call: Call, base: str
    ) -> Answer:
        method = "GET" if request.method == "HEAD" else request.method
        match (method, *path):
            case (_, name, *_) if name not in RESOURCES or not RESOURCES[name].verbs:
                return _failed(404, f"Unknown resource: {name}")
            case ("GET", name, lookup) if (name, lookup) in _LOOKUPS:
                call.template = f"{base}/{name}/{lookup}"
                return self._lookup(node, _LOOKUPS[name, lookup])
            case ("POST", name, lookup, "refreshlist") if (name, lookup) in _LOOKUPS:
                call.template = f"{base}/{name}/{lookup}/refreshlist"
                return self._refresh(node, _LOOKUPS[name, lookup], request, call)
            case ("POST", name, "refreshlist") if RESOURCES[name].stale:
                call.template = f"{base}/{name}/refreshlist"
                return self._refresh(node, name, request, call)
            case ("POST", "Repos", "RemoteRepos", "fetch"):
                call.template = f"{base}/Repos/RemoteRepos/fetch"
                return self._fetch_remote_repos(node, request, call)
            case ("GET", name):
                call.template = f"{base}/{name}"
                return self._list(node, name)
            case ("GET", name, id_):
                call.template = f"{base}/{name}/{{id}}"
                return self._get(node, name, id_)
            case ("POST", name) if "create" in RESOURCES[name].verbs:
                call.template = f"{base}/{name}"
                return self._write("create", node, name, "", request, call)
            case ("PUT", name, id_) if "edit" in RESOURCES[name].verbs:
                call.template = f"{base}/{name}/{{id}}"
                return self._write("edit", node, name, id_, request, call)
            case ("DELETE", name, id_) if "trash" in RESOURCES[name].verbs:
                call.template = f"{base}/{name}/{{id}}"
                return self._write("trash", node, name, id_, request, call)
            case (verb, _, *rest) if len(rest) < (1 if verb == "POST" else 2):
                return _failed(405, "Method not allowed")
        return _failed(404, "Not found")

    # ---- the Director itself -------------------------------------------------------------------

    def _director(self, request: Request, what: str) -> Answer:
        if request.method not in ("GET", "HEAD"):
            return _failed(405, "Method not allowed")
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
        return _failed(404, "Not found")

    def _authorized(self, request: Request) -> bool:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        issued = self._tokens.get(token.strip())
        if scheme.lower() != "bearer" or issued is None:
            return False
        return self._clock.monotonic_s() - issued < self._switches.number("token_life_s")

    def _refresh_token(self, request: Request) -> Answer:
        if request.method != "POST":
            return _failed(405, "Method not allowed")
        try:
            body = request.json
        except BadJson:
            body = None
        if not isinstance(body, dict) or not isinstance(body.get("secretKey"), str):
            return _failed(400, "Missing parameter: secretKey")
        if body["secretKey"] != self._secret:
            return _failed(401, "Unauthorized")
        if self._switches.flag("rotate_secret"):
            self._secret = f"{self._chance.getrandbits(128):032x}"
        parts = ({"alg": "HS256", "typ": "JWT"}, {"sub": "admin", "exp": 0})
        packed = [base64.urlsafe_b64encode(encode(part)).rstrip(b"=").decode() for part in parts]
        token = ".".join([*packed, f"{self._chance.getrandbits(256):064x}"])
        self._tokens[token] = self._clock.monotonic_s()
        details = {"secretKey": self._secret, "token": token}
        return json_answer({"status": "Success", "tokenDetails": details})

    # ---- reads ---------------------------------------------------------------------------------

    def _list(self, node: Node, name: str) -> Answer:
        values = [self._shape(name, value, True) for value in self._shown(node, name).values()]
        if self._switches.flag("shuffle_lists"):
            self._chance.shuffle(values)
        return json_answer(values)

    def _get(self, node: Node, name: str, id_: str) -> Answer:
        value = self._shown(node, name).get(id_)
        if value is None:
            return _failed(404, f"{name} not found: {id_}")
        return json_answer(self._shape(name, value, False))

    def _lookup(self, node: Node, name: str) -> Answer:
        values = self._shown(node, name).values()
        if name == "RepoPaths":
            return json_answer([{"paths": [value["path"] for value in values]}])
        return json_answer([{k: v for k, v in value.items() if k != "id"} for value in values])

    def _shown(self, node: Node, name: str) -> dict[str, Data]:
        if RESOURCES[name].stale and not self._switches.flag("staleness"):
            node.store(name).refresh()
        return node.store(name).shown(self._clock.monotonic_s())

    def _shape(self, name: str, value: Data, listed: bool) -> Data:
        shown = RESOURCES[name].read(value, self._switches, listed)
        if self._switches.flag("extra_fields"):
            shown["service_hint"] = {"added": "without notice"}
        return shown

    # ---- writes --------------------------------------------------------------------------------

    def _write(
        self, verb: str, node: Node, name: str, id_: str, request: Request, call: Call
    ) -> Answer:
        call.write = True
        resource, data, found = RESOURCES[name], dict[str, object](), list[Problem]()
        if verb != "trash":
            data, found = self._data(request)
        unknown = verb != "create" and not node.has(name, id_)
        if unknown and self._mode("unknown_id") == "sync":
            return _failed(404, f"{name} not found: {id_}")

        def wrong(mode: str) -> list[Problem]:
            if any(self._mode(problem.check) != "off" for problem in found):
                all_ = found  # without the wrapper there is nothing more to look at
            else:
                all_ = list(self._problems(verb, node, name, id_, data))
            return [problem for problem in all_ if self._mode(problem.check) == mode]

        if refused := wrong("sync"):
            return _failed(400, "; ".join(problem.text for problem in refused))

        def act() -> _Outcome:
            if failed := wrong("order"):
                reasons = tuple(problem.text for problem in failed)
                return _Outcome(success=False, message=reasons[0], errors=reasons)
            part = data if call.has_fault("order_partial") is None else _half(resource.key, data)
            more = self._commit(verb, node, name, resource, id_, part, call)
            past = {"create": "created", "edit": "edited", "trash": "deleted"}[verb]
            return _Outcome(success=True, message=f"{name} {past}", more=more)

        return self._accept(node, call, act, echo={} if verb == "trash" else {"data": data})

    def _data(self, request: Request) -> tuple[Data, list[Problem]]:
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

    def _problems(
        self, verb: str, node: Node, name: str, id_: str, data: Data
    ) -> Iterator[Problem]:
        resource, there = RESOURCES[name], node.store(name).true
        if verb != "create" and id_ not in there:
            yield Problem("unknown_id", f"{name} not found: {id_}")
            return
        if verb == "trash":
            if user := resource.used_by(node, there[id_]):
                yield Problem("in_use", f"{name} in use by {user}")
            return
        shape = resource.create if verb == "create" else resource.edit
        found = list(problems(shape, data, "data"))
        yield from found
        if verb == "edit" and resource.body_id and not data.get("id"):
            yield Problem("body_id", "Missing parameter: id")
        if any(problem.check in _SHAPELESS for problem in found):
            return
        yield from resource.references(node, data)
        key = data.get(resource.key)
        in_shape = any(one.name == resource.key for one in shape.fields)
        if in_shape and any(v.get(resource.key) == key for i, v in there.items() if i != id_):
            yield Problem("duplicate_name", f"{name} already exists: {key}")

    def _commit(
        self,
        verb: str,
        node: Node,
        name: str,
        resource: Resource,
        id_: str,
        data: Data,
        call: Call,
    ) -> Data:
        store = node.store(name)
        before = store.true.get(id_)
        if verb == "trash":
            if before is None:
                return {}
            store.put(id_, None, shown_at=self._shown_at(resource))
            gone: Data = {**before}
            self._mirror(node, resource, gone, before)
            self._effect(call, "delete", node, name, id_, before)
            return {"delete_remote_device": before.get("ip")} if name == "Devices" else {}
        if verb == "create":
            id_ = node.new_id()
            blanks = {one.name: one.blank() for one in resource.create.fields if one.must}
            value = {"id": id_, **blanks, **resource.born(node)}
            value |= _filled(resource.create, data)
        elif before is None:
            return {}
        else:
            keep = self._switches.text("edit_omitted") == "keep"
            given = _given(resource.edit, data) if keep else _filled(resource.edit, data)
            value = {**before, **given}
        store.put(id_, value, shown_at=self._shown_at(resource))
        self._mirror(node, resource, value, before)
        self._effect(call, "create" if verb == "create" else "update", node, name, id_, value)
        return {}

    def _mirror(self, node: Node, resource: Resource, value: Data, before: Data | None) -> None:
        if self._switches.text("membership") == "both":
            resource.changed(node, value, before)

    def _effect(self, call: Call, kind: str, node: Node, name: str, id_: str, value: Data) -> None:
        key = str(value.get(RESOURCES[name].key, ""))
        call.effect(kind, resource=name, scope=node.scope, id=id_, key=key)

    def _shown_at(self, resource: Resource) -> float | None:
        if resource.stale and self._switches.flag("staleness"):
            return None
        return self._clock.monotonic_s() + self._switches.number("read_lag_s")

    def _mode(self, check: str) -> str:
        return self._switches.text(f"check_{check}")

    # ---- actions that change no object ---------------------------------------------------------

    def _refresh(self, node: Node, name: str, request: Request, call: Call) -> Answer:
        _, found = self._data(request)
        if found and self._mode(found[0].check) == "sync":
            return _failed(400, found[0].text)

        def act() -> _Outcome:
            node.store(name).refresh()
            return _Outcome(success=True, message=f"{name} refreshed")

        return self._accept(node, call, act, echo={})

    def _fetch_remote_repos(self, node: Node, request: Request, call: Call) -> Answer:
        _, found = self._data(request)
        if found and self._mode(found[0].check) == "sync":
            return _failed(400, found[0].text)

        def act() -> _Outcome:
            others = [one for one in self._nodes.values() if one.pool == node.pool]
            rows: list[Data] = []
            for one in sorted(others, key=lambda other: (other is not node, other.address)):
                ip = "127.0.0.1" if one is node else one.address
                for repo in one.store("Repos").true.values():
                    where = f"{ip}:5504/{repo['name']}"
                    rows.append({"repo": where, "name": repo["name"], "ip": ip, "port": 5504})
            return _Outcome(success=True, message="Fetched", more={"rows": rows})

        return self._accept(node, call, act, echo={}, data_node=node.id)

    # ---- orders --------------------------------------------------------------------------------

    def _accept(
        self,
        node: Node,
        call: Call,
        act: Callable[[], _Outcome],
        *,
        echo: object,
        data_node: str | None = None,
    ) -> Answer:
        if rule := call.has_fault("refused"):
            return json_answer({"status": "Failed", "error": rule.args.get("error", "Refused")})
        wanted: object = self._switches.get("order_polls")
        if rule := call.has_fault("order_polls"):
            wanted = int(rule.number("polls", 2))
        if wanted == "random":
            wanted = self._chance.randrange(5)
        never = wanted == "never" or call.has_fault("order_never") is not None
        order = _Order(
            id=str(uuid.UUID(int=self._chance.getrandbits(128), version=4)),
            node=node,
            call=call,
            act=self._bent(call, act),
            polls_left=None if never or not isinstance(wanted, int) else wanted,
            done_at_s=self._clock.monotonic_s() + self._switches.number("order_max_s"),
            data_node=data_node,
            echo=echo,
        )
        if not never and self._switches.text("effect_time") == "at_once":
            outcome = order.act()
            order.act = lambda: outcome
        self._orders[order.id] = order
        self._open.append(order)
        call.accepted()
        if call.has_fault("order_no_message"):
            return json_answer({"status": "Success"})
        message = self._path(order)
        if rule := call.has_fault("order_hostile"):
            message = str(rule.args.get("url", f"http://203.0.113.66/{message}"))
        elif self._switches.text("message_slash") == "with":
            message = f"/{message}"
        return json_answer({"status": "Success", "message": message})

    def _bent(self, call: Call, act: Callable[[], _Outcome]) -> Callable[[], _Outcome]:
        """What the order really does, where a fault lets it lie."""
        if rule := call.has_fault("order_fail"):
            text = str(rule.args.get("message", "Order failed"))
            return lambda: _Outcome(success=False, message=text, errors=(text,))
        if rule := call.has_fault("order_fail_with_effect"):
            text = str(rule.args.get("message", "Order failed"))

            def failed() -> _Outcome:
                act()
                return _Outcome(success=False, message=text, errors=(text,))

            return failed
        if call.has_fault("order_no_effect"):
            return lambda: _Outcome(success=True, message="Done")
        if (rule := call.has_fault("order_partial")) and rule.args.get("says") == "failed":
            text = "Order failed on its way"

            def broken() -> _Outcome:
                act()
                return _Outcome(success=False, message=text, errors=(text,))

            return broken
        return act

    def _path(self, order: _Order) -> str:
        path = f"monitorapi/{order.node.scope}/orders/{order.id}"
        return f"{path}/{order.data_node}" if order.data_node else path

    def _poll(self, request: Request, node: Node, id_: str, data_node: str | None) -> Answer:
        if request.method not in ("GET", "HEAD"):
            return _failed(405, "Method not allowed")
        order = self._orders.get(id_)
        if order is None or order.node is not node or order.data_node != data_node:
            return _failed(404, "Order not found")
        if order.call.has_fault("order_missing"):
            return _failed(404, "Order not found")
        if order.outcome is None and order.polls_left == 0:
            self._finish(order)
        if order.outcome is None:
            order.polls_left = None if order.polls_left is None else order.polls_left - 1
            return self._pending()
        if order.call.has_fault("order_stuck"):
            return self._pending()
        return json_answer(self._verdict(order.outcome, order.echo))

    def _finish(self, order: _Order) -> None:
        order.outcome = order.act()
        order.call.job_open = order.call.has_fault("order_stuck") is not None
        self._open.remove(order)

    def _finish_due(self) -> None:
        if not self._open:
            return
        now = self._clock.monotonic_s()
        for order in [one for one in self._open if one.done_at_s <= now]:
            if order.polls_left is not None:
                self._finish(order)

    def _pending(self) -> Answer:
        match self._switches.text("order_pending"):
            case "null":
                return json_answer({"request": {}, "response": None})
            case "absent":
                return json_answer({"request": {}})
            case "404":
                return _failed(404, "Order not found")
            case "202":
                return json_answer({}, 202)
            case "204":
                return Answer(status=204)
        return json_answer({"request": {}, "response": {}})

    def _verdict(self, outcome: _Outcome, echo: object) -> Data:
        if outcome.success:
            if self._switches.text("order_success") == "status":
                return {"status": "completed", "message": outcome.message, **outcome.more}
            response = {"success": True, "message": outcome.message, "errors": list[str]()}
            return {
                "request": {},
                "response": {**response, "node_change_count": -1, **outcome.more},
            }
        errors = list(outcome.errors)
        match self._switches.text("order_failure"):
            case "objects":
                response = {"success": False, "message": outcome.message}
                listed = [{"message": text} for text in errors]
                return {"request": echo, "response": {**response, "errors": listed}}
            case "errors_only":
                return {"request": echo, "response": {"errors": errors}}
            case "status":
                return {"request": echo, "status": "failed", "message": outcome.message}
        response = {"success": False, "message": outcome.message, "errors": errors}
        return {"request": echo, "response": response}

    # ---- seeds ---------------------------------------------------------------------------------

    def _node_of(self, value: object) -> Node:
        if isinstance(value, str):
            pool, id_, name = [*value.split("/"), "", ""][:3]
            entry: dict[str, object] = {"pool": pool, "node": id_, "name": name}
        elif isinstance(value, dict):
            entry = value
        else:
            raise ValueError(f"a node is POOL/NODE/NAME or an object, not {value!r}")
        pool, id_ = str(entry.get("pool", "")), str(entry.get("node", ""))
        for one in (pool, id_):
            if not _ID32.fullmatch(one):
                raise ValueError(f"pools and nodes are named by 32 hex digits, not {one!r}")
        name = str(entry.get("name") or f"node-{id_[-4:]}")
        pool_name = str(entry.get("pool_name") or f"pool-{pool[-4:]}")
        return Node(pool=pool, id=id_, name=name, pool_name=pool_name, address="")

    def _seed(self, node: Node, entry: Data) -> Iterator[str]:
        name = str(entry["resource"])
        resource, store = RESOURCES[name], node.store(name)
        at = None if entry.get("stale") and resource.stale else self._clock.monotonic_s()
        gone = entry.get("remove", [])
        if entry.get("replace"):
            gone = list(store.true)
        if not isinstance(gone, list):
            raise SeedError("`remove` is a list of keys or ids")
        for one in gone:
            for id_ in _find(store, resource, one, one):
                store.put(id_, None, shown_at=at)
        objects = entry.get("objects", [])
        if not isinstance(objects, list):
            raise SeedError("`objects` is a list")
        for given in objects:
            value = {resource.key: given} if isinstance(given, str) else given
            if not isinstance(value, dict) or not value.get(resource.key):
                raise SeedError(f"an object of {name} has a {resource.key}")
            value = {_READ_NAMES.get(key, key): item for key, item in value.items()}
            there = _find(store, resource, value.get("id"), value[resource.key])
            id_ = next(iter(there), None) or str(value.get("id") or node.new_id())
            before = store.true.get(id_) or {
                **resource.born(node),
                **_filled(resource.create, {}),
            }
            store.put(id_, {**before, **value, "id": id_}, shown_at=at)
            yield id_


_SHAPELESS = {"wrong_type", "norm_packages_list"}


def _filled(shape: Object, data: Data) -> Data:
    """The known keys of a body; what it omits is blank, where an edit clears it."""
    blanks = {one.name: one.blank() for one in shape.fields if one.cleared and not one.must}
    return {**blanks, **_given(shape, data)}


def _given(shape: Object, data: Data) -> Data:
    return {one.name: data[one.name] for one in shape.fields if one.name in data}


def _half(key: str, data: Data) -> Data:
    """The key and the first half of the others."""
    others = [name for name in data if name != key]
    kept = others[: len(others) // 2]
    return {name: item for name, item in data.items() if name == key or name in kept}


def _find(store: Store, resource: Resource, id_: object, key: object) -> list[str]:
    return [
        one for one, value in store.true.items() if one == id_ or value.get(resource.key) == key
    ]


def _failed(status: int, error: str) -> Answer:
    return json_answer({"status": "Failed", "error": error}, status)
