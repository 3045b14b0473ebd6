"""Alert rules: their fields, who sees them, and the techniques they are tagged with.

There is no list and no Get: rules are read by fetch orders, each of which shows a part of them.

Source: Director API 2.7.0 and observed traffic; the shape of rows, what `use` makes and what a new
rule starts with are decided by us.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from .director_kinds import Action, Desk, Fetch, Form, Ref, Resource, installation, unknown
from .director_nodes import REPO_PORT, Node, Stored, View, objects, texts
from .director_notifications import NOTIFICATIONS, exported
from .shapes import Field, Flag, Int, ListOf, Object, Problem, Text, is_on

__all__ = ["ALERTS"]

RULES = "AlertRules"

# ---- fields ------------------------------------------------------------------------------------

_UNITS = {"timerange_minute": 60, "timerange_hour": 3_600, "timerange_day": 86_400}
_ON = Text(choices=("on",))
_PAIR = Object(
    (
        Field(name="field", shape=Text(), must=True),
        Field(name="value", shape=Text(), must=True),
    )
)
_CONDITIONS = (
    "greaterthan", "lessthan", "equalsto", "lessequal", "equals", "moreequal", "notequal",
)  # fmt: skip
_MUST = (
    Field(name="searchname", shape=Text(), must=True),
    Field(name="risk", shape=Text(choices=("low", "medium", "high", "critical")), must=True),
    Field(name="aggregate", shape=Text(choices=("min", "max", "avg")), must=True),
    Field(name="condition_option", shape=Text(choices=_CONDITIONS), must=True),
    Field(name="condition_value", shape=Int(least=0), must=True),
    Field(name="limit", shape=Int(least=1), must=True),
    Field(name="repos", shape=ListOf(Text(), empty=False), must=True),
)
_MAY = (
    *(Field(name=name, shape=Int(least=0)) for name in _UNITS),
    Field(name="query", shape=Text()),
    Field(name="description", shape=Text()),
    Field(name="assigned_to", shape=Text()),
    Field(name="manageable_by", shape=ListOf(Text())),
    Field(name="attack_tag", shape=ListOf(Text())),
    Field(name="log_source", shape=ListOf(Text())),
    Field(name="metadata", shape=ListOf(_PAIR)),
    Field(name="alert_context_template", shape=Text()),
    Field(name="apply_jinja_template", shape=_ON),
    Field(name="flush_on_trigger", shape=_ON),
    Field(name="original_data", shape=Flag(texts=True)),
    Field(name="search_interval_minute", shape=Int(least=0)),
    Field(name="delay_interval_minute", shape=Int(least=1, most=1440)),
    Field(name="throttling_enabled", shape=_ON),
    Field(name="throttling_field", shape=Text()),
    Field(name="throttling_time_range", shape=Int(least=1)),
)
_OWNER = Field(name="owner", shape=Text(), must=True)
_SCALARS = tuple(one.name for one in _MAY if not isinstance(one.shape, ListOf))


def _together(body: Stored) -> Iterator[Problem]:
    units = [name for name in _UNITS if body.get(name)]
    if not units:
        yield Problem("missing_key", "Missing parameter: timerange_minute, _hour or _day")
    elif len(units) > 1:
        yield Problem("two_time_units", f"One time range only, not {' and '.join(units)}")
    if body.get("throttling_enabled") == "on":
        for key in ("throttling_field", "throttling_time_range"):
            if not body.get(key):
                yield Problem("missing_key", f"Missing parameter: {key}")


_REPO = re.compile(r"(\d{1,3}(?:\.\d{1,3}){3}):(\d{1,5})(?:/(.+))?")


def _on_the_node(view: View, body: Stored, _before: Stored | None) -> Iterator[Problem]:
    for token in texts(body.get("repos")):
        if not _known_repo(view.node, token):
            yield unknown("Repo", token)
    for tag in texts(body.get("attack_tag")):
        if _technique(view, tag) is None:
            yield unknown("Attack tag", tag)
    if body.get("delay_interval_minute"):
        settings = view.objects("SystemSettingsGeneral").values()
        if all(one.get("timestamp_on") != "log_ts" for one in settings):
            yield Problem("needs_log_ts", "Delay interval needs timestamp_on log_ts")
    yield from _manual(body)


def _known_repo(node: Node, token: str) -> bool:
    found = _REPO.fullmatch(token)
    there = node.at(found[1]) if found else None
    if found is None or there is None or int(found[2]) != REPO_PORT:
        return False
    return found[3] is None or found[3] in there.names("Repos", "name")


def _manual(body: Stored) -> Iterator[Problem]:
    """What only the product's manual says."""
    name, seconds = str(body.get("searchname", "")), _seconds(body)
    if len(name) < 5:
        yield Problem("manual_limits", "Name must have at least 5 characters")
    if seconds > 30 * 86_400:
        yield Problem("manual_limits", "Time range must be 1 minute to 30 days")
    interval = body.get("search_interval_minute")
    if isinstance(interval, int) and interval and seconds % (interval * 60):
        yield Problem("manual_limits", "Search interval must divide the time range")


def _seconds(value: Stored) -> int:
    numbers = {name: value.get(name) for name in _UNITS}
    return sum(number * _UNITS[name] for name, number in numbers.items() if isinstance(number, int))


def _technique(view: View, tag: str) -> Stored | None:
    """A technique by its hash or its id on the node."""
    techniques = view.node.store("MitreAttacks").true
    if tag in techniques:
        return techniques[tag]
    return next((one for one in techniques.values() if one.get("hash") == tag), None)


def _kept(view: View, body: Stored) -> Stored:
    """Tags are kept as hashes; of the time ranges, the three belong together."""
    kept = dict(body)
    if "attack_tag" in body:
        known = [(tag, _technique(view, tag)) for tag in texts(body["attack_tag"])]
        kept["attack_tag"] = [str(one["hash"]) if one else tag for tag, one in known]
    if any(body.get(name) for name in _UNITS):
        kept |= {name: body.get(name, 0) for name in _UNITS}
    if "original_data" in body:
        kept["original_data"] = is_on(body["original_data"])
    if view.switches.text("alert_jinja") == "ignored":
        kept.pop("apply_jinja_template", None)
    return kept


def _born(_view: View) -> Stored:
    return {
        "active": True,
        "owner": "",
        "vid": "",
        "used_from": "",
        "rbac_config": [],
        "notifications": {},
        "alertrule_id": "",
        "original_data": False,
    }


# ---- how a rule reads --------------------------------------------------------------------------


def _flat(view: View, value: Stored) -> Stored:
    """The write names, without what is not set."""
    hidden = ("rbac_config", "notifications", "used_from", "alertrule_id")
    shown = {
        key: item
        for key, item in value.items()
        if key not in hidden and not (key in _SCALARS and item in ("", 0, None, False))
    }
    return {
        **shown,
        "name": value.get("searchname"),
        "user": view.username(value.get("owner")),
        **_audience(value),
        "notifications": exported(value.get("notifications")),
    }


def _audience(value: Stored) -> Stored:
    entries = objects(value.get("rbac_config"))
    people = [one for entry in entries for one in objects(entry.get("user_permissions"))]
    return {
        "visible_to": [entry.get("group_id") for entry in entries],
        "visible_to_users": [one.get("user_id") for one in people],
    }


def _nested(view: View, value: Stored) -> Stored:
    """As a node exports its configuration: nested, and numbers as texts here and there."""
    name, query = value.get("searchname"), value.get("query", "")
    settings = {
        "name": name,
        "user": view.username(value.get("owner")),
        "active": value.get("active"),
        "vid": value.get("vid", ""),
        "risk": value.get("risk"),
        "aggregate": value.get("aggregate"),
        "condition": {
            "condition_option": value.get("condition_option"),
            "condition_value": str(value.get("condition_value")),
        },
        "livesearch_data": {
            "searchname": name,
            "limit": value.get("limit"),
            "query": query,
            "generated_by": "alert",
            "timerange_second": 0,
            "search_interval_minute": str(value.get("search_interval_minute") or ""),
            **{unit: value.get(unit) or 0 for unit in _UNITS},
        },
        "time_range_seconds": _seconds(value),
        "extra_config": {"query": query},
        "is_context_template_enabled": value.get("apply_jinja_template") == "on",
        "context_template": value.get("alert_context_template", ""),
        "flush_on_trigger": value.get("flush_on_trigger") == "on",
        "throttling_enabled": value.get("throttling_enabled") == "on",
        "throttling_field": value.get("throttling_field", ""),
        "throttling_time_range": str(value.get("throttling_time_range") or ""),
        "notifications": exported(value.get("notifications")),
        "alertrule_id": value.get("alertrule_id", ""),
        "used_from": value.get("used_from", ""),
        "simple_view": False,
        "version": 1,
        "tid": "",
        **_audience(value),
    }
    same = ("repos", "description", "assigned_to", "attack_tag", "log_source", "metadata")
    return {
        "id": value["id"],
        "settings": {**settings, **{key: value.get(key) for key in same}},
    }


def _read(view: View, value: Stored, _listed: bool) -> Stored:
    nested = view.switches.text("alert_rows") == "nested"
    return _nested(view, value) if nested else _flat(view, value)


# ---- who sees which ----------------------------------------------------------------------------


def _is_mine(view: View, rule: Stored) -> bool:
    mine = view.switches.text("my_rules") == "all" or rule.get("owner") == view.me
    return mine and not rule.get("vid") and not rule.get("used_from")


def _is_shared(view: View, rule: Stored) -> bool:
    """Another one's rule that the token's user was let see."""
    me = view.me
    if rule.get("owner") == me or rule.get("vid") or rule.get("used_from"):
        return False
    user = view.node.store("Users").true.get(me, {})
    groups = texts(user.get("usergroup"))
    for entry in objects(rule.get("rbac_config")):
        if entry.get("group_permission") and entry.get("group_id") in groups:
            return True
        if me in [one.get("user_id") for one in objects(entry.get("user_permissions"))]:
            return True
    return False


def _is_used(view: View, rule: Stored, *, of_vendor: bool) -> bool:
    if not rule.get("used_from") or rule.get("owner") != view.me:
        return False
    origin = view.objects(RULES).get(str(rule["used_from"]), {})
    return bool(origin.get("vid")) is of_vendor


def _rows(seen: Callable[[View, Stored], bool], view: View, body: Stored) -> Iterable[Stored]:
    active, sources = body.get("active"), texts(body.get("log_source"))
    for rule in view.objects(RULES).values():
        if not seen(view, rule):
            continue
        if active is not None and rule.get("active") is not is_on(active):
            continue
        if sources and not set(sources) & set(texts(rule.get("log_source"))):
            continue
        yield rule


_SOURCES = Field(name="log_source", shape=ListOf(Text()))
_FILTER = Object((Field(name="active", shape=Flag(texts=True)), _SOURCES))


def _fetch(seen: Callable[[View, Stored], bool], body: Object = _FILTER) -> Fetch:
    return Fetch(body=body, rows=partial(_rows, seen), of=RULES)


# ---- actions -----------------------------------------------------------------------------------

_USER = Ref(path="owner", to="Users", what="User", text="Invalid user id", holds=False)
_PERMISSION = Text(choices=("READ", "EDIT", "FULL"))


def _one_way(entry: Stored) -> Iterator[Problem]:
    ways = [key for key in ("group_permission", "user_permissions") if key in entry]
    if len(ways) != 1:
        text = "rbac_config: either group_permission or user_permissions"
        yield Problem("missing_key" if not ways else "bad_value", text)


_RBAC = Object(
    (
        Field(
            name="rbac_config",
            must=True,
            shape=ListOf(
                Object(
                    (
                        Field(name="group_id", shape=Text(), must=True),
                        Field(name="group_permission", shape=_PERMISSION),
                        Field(
                            name="user_permissions",
                            shape=ListOf(
                                Object(
                                    (
                                        Field(name="user_id", shape=Text(), must=True),
                                        Field(name="permission", shape=_PERMISSION, must=True),
                                    )
                                ),
                                empty=False,
                            ),
                        ),
                    ),
                    _one_way,
                )
            ),
        ),
    )
)


def _members(view: View, body: Stored, _rule: Stored | None) -> Iterator[Problem]:
    known = view.node.store("Users").true
    for entry in objects(body.get("rbac_config")):
        for one in objects(entry.get("user_permissions")):
            if one.get("user_id") not in known:
                yield Problem("unknown_reference", "Invalid user id")


def _set(**values: object) -> Callable[[Desk, Stored, Stored], None]:
    def act(desk: Desk, rule: Stored, _body: Stored) -> None:
        desk.put(RULES, {**rule, **values})

    return act


def _share(desk: Desk, rule: Stored, body: Stored) -> None:
    desk.put(RULES, {**rule, "rbac_config": body.get("rbac_config", [])})


def _transfer(desk: Desk, rule: Stored, body: Stored) -> None:
    desk.put(RULES, {**rule, "owner": body.get("userid")})


def _use(desk: Desk, rule: Stored, body: Stored) -> None:
    """The user gets a rule of the same name that follows the used one."""
    copy = {**rule, "id": desk.node.new_id(), "owner": body.get("owner"), "used_from": rule["id"]}
    desk.put(RULES, {**copy, "vid": "", "rbac_config": [], "active": True})


def _only_vendors(_view: View, _body: Stored, rule: Stored | None) -> Iterator[Problem]:
    if rule is not None and not rule.get("vid"):
        yield Problem("vendor_object", "Not a vendor rule")


def _not_vendors(_view: View, rule: Stored, _body: Stored) -> Iterator[Problem]:
    if rule.get("vid"):
        name = rule.get("searchname")
        yield Problem("vendor_object", f"Vendor rule cannot be changed: {name}")


def _check_create(view: View, body: Stored, before: Stored | None) -> Iterator[Problem]:
    yield from _on_the_node(view, body, before)


def _check_edit(view: View, body: Stored, before: Stored | None) -> Iterator[Problem]:
    if before is not None:
        yield from _not_vendors(view, before, body)
    yield from _on_the_node(view, body, before)


def _own_name(rule: Stored) -> object:
    """Rules of the vendor, and those that follow another rule, may have any name."""
    if rule.get("vid") or rule.get("used_from"):
        return None
    return rule.get("searchname")


_OWNER_BODY = Object((_OWNER,))

ALERTS: dict[str, Resource] = {
    RULES: Resource(
        key="searchname",
        reads=frozenset(),
        creates={
            "": Form(
                shape=Object((*_MUST, _OWNER, *_MAY), _together), kept=_kept, check=_check_create
            )
        },
        edits={"": Form(shape=Object((*_MUST, *_MAY), _together), kept=_kept, check=_check_edit)},
        refs=(
            _USER,
            Ref(
                path="assigned_to",
                to="Users",
                what="User",
                text="Invalid user id",
                free=("",),
                holds=False,
            ),
            Ref(path="manageable_by[]", to="IncidentUserGroups", what="Incident user group"),
        ),
        born=_born,
        read=_read,
        identity=_own_name,
        trash_check=_not_vendors,
        fetches={
            "MyAlertRules": _fetch(_is_mine),
            "SharedAlertRules": _fetch(_is_shared),
            "UsedAlertRules": _fetch(partial(_is_used, of_vendor=True)),
            "UsedSharedAlertRules": _fetch(partial(_is_used, of_vendor=False)),
            "VendorAlertRules": _fetch(
                lambda _view, rule: bool(rule.get("vid")), Object((_SOURCES,))
            ),
        },
        actions={
            "activate": Action(act=_set(active=True), done="activated"),
            "deactivate": Action(act=_set(active=False), done="deactivated"),
            "share": Action(
                body=_RBAC,
                refs=(Ref(path="rbac_config[].group_id", to="UserGroups", what="User group"),),
                check=_members,
                act=_share,
                done="shared",
            ),
            "unshare": Action(act=_set(rbac_config=[]), done="unshared"),
            "transferOwnership": Action(
                body=Object((Field(name="userid", shape=Text(), must=True),)),
                refs=(Ref(path="userid", to="Users", what="User", text="Invalid user id"),),
                act=_transfer,
                done="transferred",
            ),
            "useAlertRules": Action(body=_OWNER_BODY, refs=(_USER,), act=_use, done="used"),
            "useVendorRules": Action(
                body=_OWNER_BODY, refs=(_USER,), check=_only_vendors, act=_use, done="used"
            ),
            **NOTIFICATIONS,
        },
        shared_actions={"install": installation(RULES, _OWNER, refs=(_USER,))},
        files=True,
        read_names={"name": "searchname"},
    ),
    "MitreAttacks": Resource(
        key="hash",
        reads=frozenset(),
        trash=False,
        fetches={
            "": Fetch(
                rows=lambda view, _body: view.objects("MitreAttacks").values(), of="MitreAttacks"
            )
        },
    ),
}
"""By the name in the path."""
