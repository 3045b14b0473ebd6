"""Devices and their groups, what collects from them, and the machines that collect.

A collector or fetcher has no list of its own: it shows in `col_apps` of its device, or of its log
collection policy, and is edited by the `uuid` found there.

Source: Director API 2.7.0 and observed traffic; decided by us where both are silent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

from .director_kinds import Action, Desk, Form, Mirror, Ref, Resource, installation
from .director_nodes import Node, Stored, View, objects, texts
from .shapes import Field, ListOf, Object, Problem, Text

__all__ = ["DEVICES", "PLUGINS"]

_NAME = Field(name="name", shape=Text(), must=True)


# ---- groups and devices: membership shows on both ----------------------------------------------

_GROUP = Form(
    shape=Object(
        (
            _NAME,
            Field(name="description", shape=Text(), must=True),
            Field(name="devices", shape=ListOf(Text())),
        )
    )
)
_RISK = Text(choices=("Minimal", "Minor", "Major", "Critical"))
_RISKS = ("availability", "confidentiality", "integrity")
_DEVICE = Form(
    shape=Object(
        (
            _NAME,
            Field(name="ip", shape=ListOf(Text(), empty=False), must=True),
            *(Field(name=risk, shape=_RISK, must=True) for risk in _RISKS),
            Field(name="devicegroup", shape=ListOf(Text())),
            Field(name="distributed_collector", shape=ListOf(Text())),
            Field(name="logpolicy", shape=ListOf(Text())),
            Field(name="timezone", shape=Text(), cleared=False),
        )
    )
)


def _born_device(_view: View) -> Stored:
    return {"active": True, "tid": "", "type": None, "timezone": "UTC", "col_apps": []}


def _read_device(view: View, value: Stored, _listed: bool) -> Stored:
    renamed = {"devicegroup": "device_groups", "logpolicy": "log_policies"}
    shown = {renamed.get(key, key): item for key, item in value.items() if key not in _RISKS}
    shown["risk_values"] = {risk: value.get(risk) for risk in _RISKS}
    shown["has_hostname"] = any(
        any(letter.isalpha() for letter in one) and ":" not in one for one in texts(value.get("ip"))
    )
    own = objects(value.get("col_apps"))
    return {**shown, "col_apps": own + _apps(view, "device_id", value)}


def _plugins(view: View, value: Stored) -> object:
    """As documented: without the keys by which a collector could be known again."""
    hidden = {"uuid", "processpolicy", "proxy_ip", "hostname", "policy_id"}
    key = "device_id" if "ip" in value else "policy_id"
    apps = objects(value.get("col_apps")) + _apps(view, key, value)
    return [{name: one[name] for name in one.keys() - hidden} for one in apps]


def _risks(value: Stored) -> Stored:
    nested = value.get("risk_values")
    found = nested if isinstance(nested, dict) else {}
    return {**found, **{key: item for key, item in value.items() if key != "risk_values"}}


def _planted(key: str) -> Callable[[Node, Stored], Stored]:
    """A seed's `col_apps` become collectors of their own, which can be edited."""

    def planted(node: Node, value: Stored) -> Stored:
        value = _risks(value)
        kept = []
        for app in objects(value.get("col_apps")):
            if app.get("app") not in PLUGINS:
                kept.append(app)
                continue
            uuid = str(app.get("uuid") or node.new_uuid())
            owned = {name: app[name] for name in app.keys() - {"uuid", "sid", "policy_id"}}
            collector = {**owned, "id": uuid, key: value["id"]}
            node.store(str(app["app"])).put(uuid, collector, shown_at=0.0)
        return {**value, "col_apps": kept} if "col_apps" in value else value

    return planted


def _attach(desk: Desk, device: Stored, body: Stored) -> None:
    collectors = texts(device.get("distributed_collector"))
    one = str(body["distributed_collector"])
    added = collectors if one in collectors else [*collectors, one]
    desk.put("Devices", {**device, "distributed_collector": added})


def _detach(desk: Desk, device: Stored, body: Stored) -> None:
    collectors = texts(device.get("distributed_collector"))
    left = [one for one in collectors if one != body["distributed_collector"]]
    desk.put("Devices", {**device, "distributed_collector": left})


_ONE_COLLECTOR = Object((Field(name="distributed_collector", shape=Text(), must=True),))
_COLLECTOR_REF = Ref(
    path="distributed_collector", to="DistributedCollectors", what="Distributed collector"
)


# ---- collectors and fetchers -------------------------------------------------------------------

_PARSERS = (
    "SyslogParser",
    "LineParser",
    "MultiLineSyslogParser",
    "ProofPointEmailProtectionLogParser",
    "EmailParser",
)
_SENDS = {
    "None": ("parser", "charset", "processpolicy"),
    "use_as_proxy": ("parser", "charset"),
    "uses_proxy": ("processpolicy",),
}
_SYSLOG_FIELDS = (
    Field(
        name="proxy_condition",
        shape=Text(choices=("uses_proxy", "use_as_proxy", "None")),
        must=True,
    ),
    Field(name="parser", shape=Text(choices=("", *_PARSERS))),
    Field(name="charset", shape=Text()),
    Field(name="processpolicy", shape=Text()),
    Field(name="proxy_ip", shape=ListOf(Text())),
    Field(name="hostname", shape=ListOf(Text())),
)
_OWNER_FIELDS = (
    Field(name="device_id", shape=Text()),
    Field(name="policy_id", shape=Text()),
)
_OWNER_REFS = (
    Ref(path="device_id", to="Devices", what="Device", free=("",), holds=False),
    Ref(
        path="policy_id",
        to="LogCollectionPolicies",
        what="Log collection policy",
        free=("",),
        holds=False,
    ),
)
_PP_REF = Ref(
    path="processpolicy",
    to="ProcessingPolicy",
    what="Processing policy",
    free=("None", ""),
)


def _one_owner(body: Stored) -> Iterator[Problem]:
    if not body.get("device_id") and not body.get("policy_id"):
        yield Problem("no_owner", "Missing parameter: device_id or policy_id")


def _needs(body: Stored) -> Iterator[Problem]:
    for key in _SENDS.get(str(body.get("proxy_condition")), ()):
        if not body.get(key):
            yield Problem("missing_key", f"Missing parameter: {key}")


def _new_syslog(body: Stored) -> Iterator[Problem]:
    yield from _one_owner(body)
    yield from _needs(body)


def _relays(view: View, body: Stored, _before: Stored | None) -> Iterator[Problem]:
    """A proxy is any address of a device with a collector that is one."""
    if body.get("proxy_condition") != "uses_proxy" or not body.get("proxy_ip"):
        return
    node = view.node
    devices = node.store("Devices").true
    known = {
        address
        for one in node.store("SyslogCollector").true.values()
        if one.get("proxy_condition") == "use_as_proxy"
        for address in texts(devices.get(str(one.get("device_id")), {}).get("ip"))
    }
    for address in texts(body.get("proxy_ip")):
        if address not in known:
            yield Problem("unknown_proxy", f"Proxy not found: {address}")


def _kept_syslog(_view: View, body: Stored) -> Stored:
    """Only what its condition uses is kept."""
    condition = body.get("proxy_condition")
    kept = {**body, "app": "SyslogCollector"}
    if condition == "use_as_proxy":
        kept["processpolicy"] = "None"
    if condition != "uses_proxy":
        kept |= {"proxy_ip": [], "hostname": []}
    return kept


def _owner(node: Node, value: Stored) -> Stored:
    device = node.store("Devices").true.get(str(value.get("device_id")))
    policy = node.store("LogCollectionPolicies").true.get(str(value.get("policy_id")))
    return device or policy or {}


def _owner_name(node: Node, value: Stored) -> str:
    return str(_owner(node, value).get("name", ""))


_SECRET = ("password", "secret", "token", "key", "passphrase")


def _apps(view: View, key: str, owner: Stored) -> list[Stored]:
    """The collectors and fetchers of a device or a log collection policy."""
    return [
        _app(view, key, owner, one) for name in PLUGINS for one in view.by(name, key, owner["id"])
    ]


def _app(view: View, key: str, owner: Stored, value: Stored) -> Stored:
    app = str(value.get("app"))
    kind = app.removesuffix("Collector").removesuffix("Fetcher").removesuffix("Plugin").lower()
    of = "device" if key == "device_id" else "policy"
    own = {name: item for name, item in value.items() if name not in ("id", "device_id")}
    shown = {**own, "sid": f"{kind}|{of}-{owner['name']}", "uuid": value["id"]}
    if key == "device_id":
        shown.pop("policy_id", None)
    for name in [one for one in shown if one.endswith(_SECRET) and shown[one]]:
        digest = hashlib.sha256(str(shown[name]).encode()).hexdigest()
        shown[name] = f"encrypted:{digest[:24]}"
    if app == "SyslogCollector":
        _dress_syslog(view, shown)
    if view.switches.flag("extra_fields"):
        shown |= {"hasLCP": "0", "requestType": "formsubmit", "LOGGEDINUSER": "admin"}
        shown["ips"] = texts(owner.get("ip"))
    return shown


def _dress_syslog(view: View, shown: Stored) -> None:
    if shown.get("proxy_condition") != "uses_proxy":
        shown.pop("proxy_ip", None)
        shown.pop("hostname", None)
    elif view.switches.text("collector_addresses") == "text":
        shown |= {name: repr(shown.get(name, [])) for name in ("proxy_ip", "hostname")}
    for name in ("parser", "charset"):
        if not shown.get(name):
            shown.pop(name, None)


def _belongs_to(value: Stored) -> object:
    return value.get("device_id") or value.get("policy_id") or None


def _kept_as(app: str) -> Callable[[View, Stored], Stored]:
    return lambda _view, body: {**body, "app": app}


_ANY_FIELDS = Object(_OWNER_FIELDS, _one_owner, open=True)

PLUGINS: dict[str, Resource] = {
    "SyslogCollector": Resource(
        key="device_id",
        reads=frozenset(),
        creates={
            "": Form(
                shape=Object((*_OWNER_FIELDS, *_SYSLOG_FIELDS), _new_syslog),
                kept=_kept_syslog,
                check=_relays,
            )
        },
        edits={"": Form(shape=Object(_SYSLOG_FIELDS, _needs), kept=_kept_syslog, check=_relays)},
        refs=(
            *_OWNER_REFS,
            _PP_REF,
            Ref(path="charset", to="Charsets", by="name", what="Charset", free=("",)),
        ),
        new_id=Node.new_uuid,
        identity=_belongs_to,
        label=_owner_name,
    ),
    **{
        name: Resource(
            key="device_id",
            reads=frozenset(),
            creates={"": Form(shape=_ANY_FIELDS, kept=_kept_as(name))},
            edits={"": Form(shape=Object((), open=True))},
            refs=(*_OWNER_REFS, _PP_REF),
            new_id=Node.new_uuid,
            identity=lambda _value: None,
            label=_owner_name,
        )
        for name in (
            "FileSystemCollector",
            "FTPCollectorPlugin",
            "FTPFetcherPlugin",
            "SCPFetcher",
            "SFlowCollectorPlugin",
            "SnareCollectorPlugin",
            "SNMPFetcher",
            "SNMPTrapCollector",
            "WMIFetcherPlugin",
        )
    },
}
"""Collectors and fetchers; of all but the syslog collector every field is taken as it comes."""


def _read_policy(view: View, value: Stored, _listed: bool) -> Stored:
    own = objects(value.get("col_apps"))
    return {**value, "col_apps": own + _apps(view, "policy_id", value)}


# ---- the table ---------------------------------------------------------------------------------


def _switched(active: bool) -> Action:
    def act(desk: Desk, target: Stored, _body: Stored) -> None:
        desk.put("DistributedCollectors", {**target, "active": active})

    return Action(act=act, done="activated" if active else "deactivated")


def _nested(view: View, values: list[Stored]) -> object:
    return [values] if view.switches.text("distributed_collectors") == "nested" else values


_LOGPOINT = Form(
    shape=Object(
        (
            Field(name="ip_dns", shape=Text(), must=True),
            Field(name="password", shape=Text(), must=True),
            Field(name="private_ip", shape=Text(), must=True),
        )
    ),
    kept=lambda _view, body: {
        key: item
        for key, item in {**body, "remote": body.get("ip_dns")}.items()
        if key != "password"
    },
)


def _read_logpoint(_view: View, value: Stored, _listed: bool) -> Stored:
    return {key: item for key, item in value.items() if key != "ip_dns"}


DEVICES: dict[str, Resource] = {
    "DeviceGroups": Resource(
        key="name",
        creates={"": _GROUP},
        edits={"": _GROUP},
        refs=(Ref(path="devices[]", to="Devices", what="Device", holds=False),),
        mirrors=(Mirror(mine="devices", other="Devices", theirs="devicegroup"),),
    ),
    "Devices": Resource(
        key="name",
        creates={"": _DEVICE},
        edits={"": _DEVICE},
        refs=(
            Ref(path="devicegroup[]", to="DeviceGroups", what="Device group", holds=False),
            Ref(
                path="distributed_collector[]",
                to="DistributedCollectors",
                what="Distributed collector",
            ),
            Ref(path="logpolicy[]", to="LogCollectionPolicies", what="Log collection policy"),
            Ref(path="timezone", to="Timezone", by="name", what="Timezone"),
        ),
        mirrors=(Mirror(mine="devicegroup", other="DeviceGroups", theirs="devices"),),
        owns=tuple((name, "device_id") for name in PLUGINS),
        born=_born_device,
        read=_read_device,
        parts={"ignoredips": "IgnoredIps", "blockedips": "BlockedIps"},
        actions={
            "attach": Action(
                body=_ONE_COLLECTOR, refs=(_COLLECTOR_REF,), act=_attach, done="attached"
            ),
            "detach": Action(
                body=_ONE_COLLECTOR, refs=(_COLLECTOR_REF,), act=_detach, done="detached"
            ),
        },
        shared_actions={"install": installation("Devices")},
        faces={"plugins": _plugins},
        files=True,
        response=lambda value: {"delete_remote_device": value.get("ip")},
        read_names={"device_groups": "devicegroup", "log_policies": "logpolicy"},
        planted=_planted("device_id"),
    ),
    "IgnoredIps": Resource(
        key="ip",
        creates={
            "": Form(
                shape=Object((Field(name="ip", shape=Text(), must=True),)),
                kept=lambda _view, body: {**body, "ips": [body.get("ip")]},
            )
        },
        read=lambda _view, value, _listed: {"id": value["id"], "ips": value.get("ips", [])},
    ),
    "BlockedIps": Resource(
        key="ip",
        trash=False,
        stale=True,
        refresh_word="detectblockedips",
        listing=lambda _view, values: [
            {key: one.get(key) for key in ("collected_at", "ip", "name")} for one in values
        ],
    ),
    **PLUGINS,
    "LogCollectionPolicies": Resource(
        key="name",
        creates={"": Form(shape=Object((_NAME, Field(name="description", shape=Text()))))},
        edits={"": Form(shape=Object((Field(name="description", shape=Text()),)))},
        owns=tuple((name, "policy_id") for name in PLUGINS),
        born=lambda _view: {"active": True, "tid": "", "col_apps": []},
        read=_read_policy,
        faces={"plugins": _plugins},
        planted=_planted("policy_id"),
    ),
    "DistributedCollectors": Resource(
        key="name",
        stale=True,
        listing=_nested,
        actions={"activate": _switched(True), "deactivate": _switched(False)},
    ),
    "DistributedLogpoints": Resource(
        key="private_ip",
        creates={"": _LOGPOINT},
        edits={"": _LOGPOINT},
        stale=True,
        born=lambda view: {
            "name": f"remote-{len(view.objects('DistributedLogpoints')) + 1}",
            "vpn_ip": "",
            "status": "Connected",
            "is_higher_security_lite": False,
        },
        read=_read_logpoint,
    ),
}
"""By the name in the path."""
