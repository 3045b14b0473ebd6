"""What the Director emulator holds: one entry a resource, and what a new node contains.

An entry says which keys its bodies have, how a stored object reads, what a body may refer to, and
who may be using an object. Another resource is another entry in `RESOURCES`.

Source: Director API 2.7.0 and observed traffic; decided by us where both are silent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from .shapes import Field, Flag, Int, ListOf, Object, Problem, Text
from .switches import Switches

__all__ = ["RESOURCES", "Node", "Resource", "Store", "seed_node", "texts"]

Stored = dict[str, object]
References = Iterator[Problem]


# ---- one node ----------------------------------------------------------------------------------


class Store:
    """The objects of one resource on one node: what is true, and what a client is shown."""

    def __init__(self) -> None:
        self.true: dict[str, Stored] = {}
        self._shown: dict[str, Stored] = {}
        self._pending: list[tuple[float | None, str, Stored | None]] = []

    def put(self, id: str, value: Stored | None, *, shown_at: float | None) -> None:  # noqa: A002
        """Sets an object, or removes it; clients see it from `shown_at`, None = after a refresh."""
        if value is None:
            self.true.pop(id, None)
        else:
            self.true[id] = value
        self._pending.append((shown_at, id, value))

    def shown(self, now: float) -> dict[str, Stored]:
        """What a client sees now."""
        if self._pending:
            self._settle(lambda at: at is not None and at <= now)
        return self._shown

    def refresh(self) -> None:
        """From now on clients see the truth."""
        self._settle(lambda _at: True)

    def _settle(self, due: Callable[[float | None], bool]) -> None:
        # Changes of one object stay in order: a later one never shows before an earlier one.
        held: set[str] = set()
        later: list[tuple[float | None, str, Stored | None]] = []
        for at, id_, value in self._pending:
            if id_ in held or not due(at):
                held.add(id_)
                later.append((at, id_, value))
            elif value is None:
                self._shown.pop(id_, None)
            else:
                self._shown[id_] = value
        self._pending = later


@dataclass(slots=True, kw_only=True, eq=False)
class Node:
    """One Logpoint machine of a pool; nothing on it is known to another node."""

    pool: str
    id: str
    name: str
    pool_name: str
    address: str
    """Its private address."""
    stores: dict[str, Store] = field(default_factory=dict)
    _made: int = 0

    @property
    def scope(self) -> str:
        return f"{self.pool}/{self.id}"

    def store(self, resource: str) -> Store:
        return self.stores.setdefault(resource, Store())

    def new_id(self) -> str:
        """24 hex digits that no other node gives, the same in every run."""
        self._made += 1
        mark = hashlib.sha256(self.scope.encode()).hexdigest()[:8]
        return f"64b0c0ff{mark}{self._made:08x}"

    def names(self, resource: str, key: str) -> set[str]:
        """The keys of all objects of a resource, as they truly are."""
        return set(texts([value.get(key) for value in self.store(resource).true.values()]))

    def has(self, resource: str, id: object) -> bool:  # noqa: A002
        return id in self.store(resource).true


# ---- the table ---------------------------------------------------------------------------------


def _same(value: Stored, _switches: Switches, _listed: bool) -> Stored:
    return dict(value)


def _none(_node: Node, _data: Stored) -> References:
    yield from ()


def _unused(_node: Node, _value: Stored) -> str | None:
    return None


def _no_change(_node: Node, _value: Stored, _before: Stored | None) -> None:
    return None


def _nothing(_node: Node) -> Stored:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """One kind of object."""

    key: str
    """Its natural key, unique on the node."""
    create: Object = field(default_factory=lambda: Object(()))
    edit: Object = field(default_factory=lambda: Object(()))
    verbs: frozenset[str] = frozenset({"list", "get", "create", "edit", "trash"})
    stale: bool = False
    """Changes show only after its refreshlist."""
    born: Callable[[Node], Stored] = _nothing
    """What the node itself puts into a new object."""
    read: Callable[[Stored, Switches, bool], Stored] = _same
    """The read shape; True: as an element of the list, else as Get."""
    references: Callable[[Node, Stored], References] = _none
    """What a body names that the node does not have."""
    used_by: Callable[[Node, Stored], str | None] = _unused
    """Who needs this object."""
    changed: Callable[[Node, Stored, Stored | None], None] = _no_change
    """What else changes on the node: after a write of an object, given what it was before."""
    body_id: bool = False
    """An edit must carry the id in its body too."""


def texts(value: object) -> list[str]:
    """The texts in a list; nothing when it is no list."""
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _objects(value: object) -> list[Stored]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _unknown(what: str, name: object) -> Problem:
    return Problem("unknown_reference", f"{what} not found: {name}")


# Repos: written as hiddenrepopath, read as repopath; no rename.

_TIERS = Field(
    name="hiddenrepopath",
    must=True,
    shape=ListOf(
        Object(
            (
                Field(name="path", shape=Text(), must=True),
                Field(name="retention", shape=Int(), must=True),
            )
        )
    ),
)
_REMOTE = Field(
    name="repoha",
    shape=ListOf(
        Object(
            (
                Field(name="ha_li", shape=Text(), must=True),
                Field(name="ha_day", shape=Int(), must=True),
            )
        )
    ),
)


def _born_repo(node: Node) -> Stored:
    numbers = [value.get("repo_number") for value in node.store("Repos").true.values()]
    last = max((number for number in numbers if isinstance(number, int)), default=0)
    return {"active": True, "repo_number": last + 1, "tid": "", "used_size": "0 B"}


def _read_repo(value: Stored, _switches: Switches, _listed: bool) -> Stored:
    shown = {key: item for key, item in value.items() if key != "hiddenrepopath"}
    return {**shown, "repopath": value.get("hiddenrepopath", [])}


def _repo_references(node: Node, data: Stored) -> References:
    known = {value["path"] for value in node.store("RepoPaths").true.values()}
    for tier in _objects(data.get("hiddenrepopath")):
        if tier.get("path") not in known:
            yield _unknown("Repo path", tier.get("path"))


def _repo_used(node: Node, repo: Stored) -> str | None:
    for policy in node.store("RoutingPolicies").true.values():
        rules = _objects(policy.get("routing_criteria"))
        if repo["name"] in [policy.get("catch_all"), *(rule.get("repo") for rule in rules)]:
            return f"routing policy {policy['policy_name']}"
    return None


# RoutingPolicies: name repos by name; rules are ordered.

_ROUTING_RULE = Object(
    (
        Field(name="type", shape=Text(choices=("KeyPresent", "KeyPresentValueMatches")), must=True),
        Field(name="key", shape=Text(), must=True),
        Field(name="value", shape=Text()),
        Field(name="repo", shape=Text()),
        Field(name="drop", shape=Text()),
    )
)
_ROUTING = Object(
    (
        Field(name="policy_name", shape=Text(), must=True),
        Field(name="catch_all", shape=Text(), must=True),
        Field(name="routing_criteria", shape=ListOf(_ROUTING_RULE)),
        Field(name="active", shape=Flag(), cleared=False),
    )
)


def _routing_references(node: Node, data: Stored) -> References:
    known = node.names("Repos", "name")
    if "catch_all" in data and data["catch_all"] not in known:
        yield _unknown("Repo", data["catch_all"])
    for rule in _objects(data.get("routing_criteria")):
        if rule.get("repo", "") not in {"", *known}:
            yield _unknown("Repo", rule.get("repo"))


def _used_in_processing(key: str, by: str) -> Callable[[Node, Stored], str | None]:
    def used(node: Node, value: Stored) -> str | None:
        for policy in node.store("ProcessingPolicy").true.values():
            if policy.get(key) == value[by]:
                return f"processing policy {policy['policy_name']}"
        return None

    return used


# NormalizationPolicy: written as comma-separated texts, read as lists; no rename.

_NORM_FIELDS = (
    Field(name="norm_packages", shape=Text(), wrong_type="norm_packages_list"),
    Field(name="compiled_normalizer", shape=Text()),
)


def _parts(value: object) -> list[str]:
    """`a,b`, or (where a switch lets a list pass) its items."""
    if isinstance(value, str):
        return [part for part in value.split(",") if part]
    return texts(value)


def _read_norm(value: Stored, switches: Switches, listed: bool) -> Stored:
    packages = _parts(value.get("norm_packages"))
    shown = {key: value[key] for key in ("id", "name", "active", "tid")}
    shown["normalization_packages"] = packages
    shown["ordered_signatures"] = []
    shown["selected_signatures"] = [f"sig_{one[-6:]}" for one in packages]
    compiled = _parts(value.get("compiled_normalizer"))
    form = switches.text("compiled_normalizer")
    if form == "list" or (form == "get_only" and not listed):
        shown["compiled_normalizer"] = compiled
    elif form == "csv":
        shown["compiled_normalizer"] = ",".join(compiled)
    return shown


def _norm_references(node: Node, data: Stored) -> References:
    for package in _parts(data.get("norm_packages")):
        if not node.has("NormalizationPackage", package):
            yield _unknown("Normalization package", package)
    known = node.names("CompiledNormalizers", "name")
    for name in _parts(data.get("compiled_normalizer")):
        if name not in known:
            yield _unknown("Compiled normalizer", name)


# EnrichmentPolicy: other words for its criteria than routing has.


def _enrichment_criterion(value: Stored) -> Iterator[Problem]:
    if value.get("type") == "KeyPresentsValueMatches" and "value" not in value:
        yield Problem("missing_key", "Missing parameter: criteria.value")


def _enrichment_rule(value: Stored) -> Iterator[Problem]:
    needed = {"simple": ["event_key"], "type_based": ["type", "prefix"]}
    for key in needed.get(str(value.get("category")), []):
        if key not in value:
            yield Problem("missing_key", f"Missing parameter: rules.{key}")


def _specification(value: Stored) -> Iterator[Problem]:
    if not value.get("rules"):
        yield Problem("no_rules", f"No rules for enrichment source {value.get('source')}")


_SPECIFICATION = Object(
    (
        Field(name="source", shape=Text(), must=True),
        Field(
            name="criteria",
            must=True,
            shape=ListOf(
                Object(
                    (
                        Field(
                            name="type",
                            shape=Text(choices=("KeyPresents", "KeyPresentsValueMatches")),
                            must=True,
                        ),
                        Field(name="key", shape=Text(), must=True),
                        Field(name="value", shape=Text()),
                    ),
                    _enrichment_criterion,
                )
            ),
        ),
        Field(
            name="rules",
            shape=ListOf(
                Object(
                    (
                        Field(
                            name="category", shape=Text(choices=("simple", "type_based")), must=True
                        ),
                        Field(name="operation", shape=Text(choices=("Equals",)), must=True),
                        Field(name="source_key", shape=Text(), must=True),
                        Field(name="event_key", shape=Text()),
                        Field(name="type", shape=Text(choices=("ip", "string", "num"))),
                        Field(name="prefix", shape=Flag()),
                    ),
                    _enrichment_rule,
                )
            ),
        ),
    ),
    _specification,
)
_ENRICHMENT = Object(
    (
        Field(name="name", shape=Text(), must=True),
        Field(name="description", shape=Text()),
        Field(name="specifications", shape=ListOf(_SPECIFICATION), must=True),
    )
)


def _enrichment_references(node: Node, data: Stored) -> References:
    known = node.names("EnrichmentSource", "source_name")
    for specification in _objects(data.get("specifications")):
        if specification.get("source") not in known:
            yield _unknown("Enrichment source", specification.get("source"))


def _read_enrichment(value: Stored, switches: Switches, listed: bool) -> Stored:
    if listed or not switches.flag("get_omits_rule_type"):
        return dict(value)
    specifications = []
    for specification in _objects(value.get("specifications")):
        rules = [
            {key: item for key, item in rule.items() if key != "type"}
            if rule.get("category") == "simple"
            else rule
            for rule in _objects(specification.get("rules"))
        ]
        specifications.append({**specification, "rules": rules})
    return {**value, "specifications": specifications}


def _read_source(value: Stored, switches: Switches, listed: bool) -> Stored:
    form = switches.text("enrichment_source")
    if form == "spaces" and listed:
        return {f"{key} ": f"{v} " if isinstance(v, str) else v for key, v in value.items()}
    if form == "underscore_id":
        return {"_id" if key == "id" else key: item for key, item in value.items()}
    return dict(value)


# ProcessingPolicy: the normalization policy by name, the other two by id, `None` for none of them.

_PROCESSING = Object(
    (
        Field(name="policy_name", shape=Text(), must=True),
        Field(name="norm_policy", shape=Text(), must=True),
        Field(name="enrich_policy", shape=Text(), must=True),
        Field(name="routing_policy", shape=Text(), must=True),
        Field(name="active", shape=Flag(), cleared=False),
    )
)


def _processing_references(node: Node, data: Stored) -> References:
    norm, enrich = data.get("norm_policy", "None"), data.get("enrich_policy", "None")
    if norm != "None" and norm not in node.names("NormalizationPolicy", "name"):
        yield _unknown("Normalization policy", norm)
    if enrich != "None" and not node.has("EnrichmentPolicy", enrich):
        yield _unknown("Enrichment policy", enrich)
    routing = data.get("routing_policy", "None")
    if routing != "None" and not node.has("RoutingPolicies", routing):
        yield _unknown("Routing policy", routing)


# DeviceGroups and Devices: membership shows on both.

_GROUP = Object(
    (
        Field(name="name", shape=Text(), must=True),
        Field(name="description", shape=Text(), must=True),
        Field(name="devices", shape=ListOf(Text())),
    )
)
_RISK = Text(choices=("Minimal", "Minor", "Major", "Critical"))
_DEVICE = Object(
    (
        Field(name="name", shape=Text(), must=True),
        Field(name="ip", shape=ListOf(Text()), must=True),
        Field(name="availability", shape=_RISK, must=True),
        Field(name="confidentiality", shape=_RISK, must=True),
        Field(name="integrity", shape=_RISK, must=True),
        Field(name="devicegroup", shape=ListOf(Text())),
        Field(name="distributed_collector", shape=ListOf(Text())),
        Field(name="logpolicy", shape=ListOf(Text())),
        Field(name="timezone", shape=Text(), cleared=False),
    )
)
_RISKS = ("availability", "confidentiality", "integrity")


def _group_references(node: Node, data: Stored) -> References:
    for device in texts(data.get("devices")):
        if not node.has("Devices", device):
            yield _unknown("Device", device)


def _device_references(node: Node, data: Stored) -> References:
    for group in texts(data.get("devicegroup")):
        if not node.has("DeviceGroups", group):
            yield _unknown("Device group", group)


def _read_device(value: Stored, _switches: Switches, _listed: bool) -> Stored:
    renamed = {"devicegroup": "device_groups", "logpolicy": "log_policies"}
    shown = {renamed.get(key, key): item for key, item in value.items() if key not in _RISKS}
    shown["risk_values"] = {risk: value.get(risk) for risk in _RISKS}
    shown["has_hostname"] = any(
        any(letter.isalpha() for letter in one) and ":" not in one for one in texts(value.get("ip"))
    )
    return shown


def _mirror(other: str, mine: str, theirs: str) -> Callable[[Node, Stored, Stored | None], None]:
    """Keeps the other side of a membership in step: `mine` lists their ids, `theirs` lists ours."""

    def changed(node: Node, value: Stored, before: Stored | None) -> None:
        me = value["id"]
        now = set(texts(value.get(mine))) if me in node.store(_OTHER[other]).true else set()
        was = set(texts(before.get(mine))) if before else set()
        store = node.store(other)
        for id_ in sorted(now ^ was):
            if (twin := store.true.get(id_)) is not None:
                members = [one for one in texts(twin.get(theirs)) if one != me]
                members += [str(me)] if id_ in now else []
                store.put(id_, {**twin, theirs: members}, shown_at=0.0)

    return changed


_OTHER = {"Devices": "DeviceGroups", "DeviceGroups": "Devices"}

_READ_ONLY = frozenset({"list", "get"})

RESOURCES: dict[str, Resource] = {
    "Repos": Resource(
        key="name",
        create=Object((Field(name="name", shape=Text(), must=True), _TIERS, _REMOTE)),
        edit=Object((_TIERS, _REMOTE)),
        born=_born_repo,
        read=_read_repo,
        references=_repo_references,
        used_by=_repo_used,
    ),
    "RoutingPolicies": Resource(
        key="policy_name",
        create=_ROUTING,
        edit=_ROUTING,
        born=lambda _node: {"active": True, "tid": "", "user": "admin"},
        references=_routing_references,
        used_by=_used_in_processing("routing_policy", "id"),
    ),
    "NormalizationPolicy": Resource(
        key="name",
        create=Object((Field(name="name", shape=Text(), must=True), *_NORM_FIELDS)),
        edit=Object(_NORM_FIELDS),
        born=lambda _node: {"active": True, "tid": ""},
        read=_read_norm,
        references=_norm_references,
        used_by=_used_in_processing("norm_policy", "name"),
    ),
    "NormalizationPackage": Resource(key="name", verbs=_READ_ONLY),
    "EnrichmentSource": Resource(
        key="source_name", verbs=_READ_ONLY, stale=True, read=_read_source
    ),
    "EnrichmentPolicy": Resource(
        key="name",
        create=_ENRICHMENT,
        edit=_ENRICHMENT,
        read=_read_enrichment,
        references=_enrichment_references,
        used_by=_used_in_processing("enrich_policy", "id"),
    ),
    "ProcessingPolicy": Resource(
        key="policy_name",
        create=_PROCESSING,
        edit=_PROCESSING,
        born=lambda _node: {"active": True, "tid": ""},
        references=_processing_references,
        body_id=True,
    ),
    "DeviceGroups": Resource(
        key="name",
        create=_GROUP,
        edit=_GROUP,
        references=_group_references,
        changed=_mirror("Devices", "devices", "devicegroup"),
    ),
    "Devices": Resource(
        key="name",
        create=_DEVICE,
        edit=_DEVICE,
        born=lambda _node: {
            "active": True,
            "tid": "",
            "type": None,
            "timezone": "UTC",
            "col_apps": [],
        },
        read=_read_device,
        references=_device_references,
        changed=_mirror("DeviceGroups", "devicegroup", "devices"),
    ),
    "Users": Resource(key="username", verbs=_READ_ONLY, stale=True),
    "UserGroups": Resource(key="name", verbs=_READ_ONLY, stale=True),
    # Lookups below a resource: no objects of the API, but kept like them.
    "RepoPaths": Resource(key="path", verbs=frozenset(), stale=True),
    "CompiledNormalizers": Resource(key="name", verbs=frozenset(), stale=True),
}
"""By the name in the path."""


# ---- what a new node contains ------------------------------------------------------------------

_PACKAGES = (
    "LP_Acme Firewall",
    "LP_Borealis Proxy",
    "LP_Cobalt Switch",
    "LP_Dune VPN",
    "LP_Ember Mail Gateway",
    "LP_Fjord Database",
    "LP_Granite Storage",
    "LP_Harbor Web Server",
    "LP_Indigo Endpoint",
    "LP_Jasper DNS",
    "LP_Kestrel Identity",
    "LP_Sample App",
)
_COMPILED = (
    "CEFCompiledNormalizer",
    "CSVCompiledNormalizer",
    "JSONCompiledNormalizer",
    "KeyValueCompiledNormalizer",
    "LEEFCompiledNormalizer",
    "WindowsSampleCompiledNormalizer",
    "XMLCompiledNormalizer",
)


def seed_node(node: Node) -> None:
    """Fills a new node with what the vendor's machines contain from the start."""

    def put(resource: str, **value: object) -> str:
        id_ = node.new_id()
        node.store(resource).put(id_, {"id": id_, **value}, shown_at=0.0)
        return id_

    for path in ("/opt/immune/storage/", "/opt/immune/cold/"):
        put("RepoPaths", path=path)
    for number, name in enumerate(("default", "_logpoint", "_LogPointAlerts"), start=1):
        put(
            "Repos",
            name=name,
            active=True,
            repo_number=number,
            hiddenrepopath=[{"path": "/opt/immune/storage/", "retention": 365}],
            repoha=[],
            tid="",
            used_size="1.24 MB",
        )
    routing = {
        name: put(
            "RoutingPolicies",
            policy_name=name,
            catch_all=catch_all,
            routing_criteria=[_alert_rule(value) for value in values],
            active=True,
            tid="",
        )
        for name, catch_all, values in _SEED_ROUTING
    }
    for name in ("_logpoint", "_LogPointAlerts"):
        norm = {"norm_packages": "", "compiled_normalizer": ""}
        put("NormalizationPolicy", name=name, active=True, tid="", **norm)
    for name, route in routing.items():
        put(
            "ProcessingPolicy",
            policy_name=name,
            norm_policy="None" if name == "default" else name,
            enrich_policy="None",
            routing_policy=route,
            active=True,
            tid="",
        )
    for name in ("windows", "linux"):
        put("DeviceGroups", name=name, description="", devices=[])
    group = put("UserGroups", name="LogPoint Administrator", **_user_group(lpadmin=True))
    put("UserGroups", name="User Account Administrator", **_user_group(useradmin=True))
    put("Users", **_ADMIN, usergroup=[group])
    for number, name in enumerate(_PACKAGES, start=1):
        put("NormalizationPackage", **_package(number, name))
    for number, name in enumerate(_COMPILED, start=1):
        put("CompiledNormalizers", name=name, version=f"3.{number}.0")
    put("EnrichmentSource", **_HOST_OWNERS)
    put("EnrichmentSource", **_THREAT_FEED)
    put("EnrichmentPolicy", **_EP_HOSTS)


_SEED_ROUTING: Sequence[tuple[str, str, tuple[str, ...]]] = (
    ("default", "default", ()),
    ("_logpoint", "_logpoint", ()),
    ("_LogPointAlerts", "default", ("LogPointAlert", "UEBA")),
)


def _alert_rule(value: str) -> Stored:
    return {
        "type": "KeyPresentValueMatches",
        "key": "norm_id",
        "value": value,
        "repo": "_LogPointAlerts",
        "drop": "store",
    }


def _user_group(*, lpadmin: bool = False, useradmin: bool = False) -> Stored:
    return {
        "description": "",
        "active": True,
        "lpadmin": lpadmin,
        "useradmin": useradmin,
        "users": [],
        "permitted": [],
        "permission_group": "64b0c0ffee0000000000bb01",
        "tid": "",
    }


def _package(number: int, name: str) -> Stored:
    signatures = [
        {
            "sig_id": sig,
            "vid": f"SIG_{sig}",
            "hash": hashlib.sha256(f"{name} {sig}".encode()).hexdigest()[:32],
            "package_name": name,
            "pattern": "&lt;action:all&gt; by &lt;user:word&gt;",
            "example": "login by alice",
            "extra_key_value": {"norm_id": name.removeprefix("LP_").replace(" ", "")},
            "replace_key_value": {},
            "which_norm_package": number,
            "unused": False,
            "kb_version": ["2"],
        }
        for sig in (500_000 + 10 * number, 500_001 + 10 * number)
    ]
    return {
        "name": name,
        "type": "vendor",
        "vid": f"NORMPACKAGE_{900 + number}",
        "description": f"{name.removeprefix('LP_')} events",
        "active": True,
        "version": 3,
        "share_is": False,
        "tid": "",
        "fields_info": [],
        "unused_signatures": [],
        "last_sig_id": 500_001 + 10 * number,
        "signatures": signatures,
    }


_ADMIN: Stored = {
    "username": "admin",
    "email": "admin@example.test",
    "firstname": "Ad",
    "lastname": "Min",
    "fullname": "Ad Min",
    "active": True,
    "locked": False,
    "failed_login_count": 0,
    "timezone": "UTC",
    "tid": "",
    "last_login": {"login_date": "2025-01-02 03:04:05.000000"},
}
_HOST_OWNERS: Stored = {
    "source_name": "host_owners",
    "source_type": "CSV",
    "active": True,
    "delete_status": "",
    "tid": "",
    "last_updated": 1_700_000_000,
    "result": "Updated",
    "reason": None,
    "source_info": {"id": "112233445566778899aabbccddeeff00", "source_name": "CSV"},
    "plugin_info": {
        "source_name": "host_owners",
        "charset": "utf_8",
        "csv_file": "/opt/immune/app_store/host_owners.csv",
        "includes_header": True,
        "source_fields": [
            {"field": "address", "type": "string"},
            {"field": "owner", "type": "string"},
        ],
    },
}
_THREAT_FEED: Stored = {
    "source_name": "threat_feed",
    "source_type": "ThreatIntelligence",
    "active": True,
    "delete_status": "",
    "tid": "",
    "last_updated": 0,
    "result": "Updated",
    "reason": None,
    "single_entry": True,
    "plugin_info": {"source_fields": [{"field": "ip_address"}, {"field": "score"}]},
}
_EP_HOSTS: Stored = {
    "name": "ep_hosts",
    "description": "Adds owner of the host",
    "specifications": [
        {
            "source": "host_owners",
            "criteria": [{"type": "KeyPresents", "key": "device_ip", "value": ""}],
            "rules": [
                {
                    "category": "simple",
                    "operation": "Equals",
                    "prefix": False,
                    "event_key": "device_ip",
                    "source_key": "address",
                    "type": "string",
                }
            ],
        }
    ],
}
