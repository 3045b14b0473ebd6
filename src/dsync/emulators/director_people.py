"""Users, their groups, and the groups that handle incidents.

Source: Director API 2.7.0; what a deletion of a user with rules does is decided by us.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .director_kinds import Action, Desk, Fetch, Form, Mirror, Ref, Resource
from .director_nodes import Node, Stored, View, objects, texts
from .shapes import Field, Flag, ListOf, Object, Problem, Text, is_on

__all__ = ["PEOPLE"]

# ---- users -------------------------------------------------------------------------------------

_PASSWORD = Text(form=r"(?s).{5,}", rule="at least 5 characters")
_PERSON = (
    Field(name="email", shape=Text(), must=True),
    Field(name="firstname", shape=Text(), must=True),
    Field(name="lastname", shape=Text(), must=True),
    Field(name="usergroup", shape=ListOf(Text(), empty=False), must=True),
    Field(name="timezone", shape=Text(), cleared=False),
)
_LOGIN = (
    Field(name="username", shape=Text(form=r".{2,50}", rule="2 to 50 characters"), must=True),
    Field(name="password", shape=_PASSWORD, must=True),
)


def _kept_user(_view: View, body: Stored) -> Stored:
    kept = {key: item for key, item in body.items() if key != "password"}
    if "firstname" in body or "lastname" in body:
        kept["fullname"] = f"{body.get('firstname', '')} {body.get('lastname', '')}".strip()
    return kept


def _born_user(_view: View) -> Stored:
    return {
        "active": True,
        "locked": False,
        "locked_time": None,
        "failed_login_count": 0,
        "timezone": "UTC",
        "tid": "",
        "last_login": {},
        "password_change_date": None,
        "dashboard": [],
        "preferences": {},
        "fields": [],
        "plugin_settings": {},
        "ldap_strategy": "",
        "query": "",
        "usergroup": [],
    }


def _changed_user(done: str, **values: object) -> Action:
    def act(desk: Desk, user: Stored, _body: Stored) -> None:
        desk.put("Users", {**user, **values})

    return Action(act=act, done=done)


def _new_password(desk: Desk, user: Stored, _body: Stored) -> None:
    desk.put("Users", user)


def _rules_of(node: Node, user: Stored) -> list[Stored]:
    return [one for one in node.store("AlertRules").true.values() if one.get("owner") == user["id"]]


def _user_stays(view: View, user: Stored, body: Stored) -> Iterator[Problem]:
    if user.get("active"):
        yield Problem("user_active", f"User must be deactivated first: {user.get('username')}")
    heir = body.get("assigned_to_user")
    if heir is not None and not view.node.has("Users", heir):
        yield Problem("unknown_reference", "Invalid user id")
    elif heir is None and not is_on(body.get("force_delete")) and _rules_of(view.node, user):
        yield Problem("in_use", f"User owns shared resources: {user.get('username')}")


def _leave_rules(desk: Desk, user: Stored, body: Stored) -> None:
    """The heir takes the rules, or they go too."""
    heir = body.get("assigned_to_user")
    for rule in _rules_of(desk.node, user):
        if heir is None:
            desk.remove("AlertRules", str(rule["id"]))
        else:
            desk.put("AlertRules", {**rule, "owner": heir})


# ---- user groups: written as permission and roles, read as permitted and permission_group ------


Rule = Callable[[Stored], Iterator[Problem]]


def _either(first: str, other: str) -> Rule:
    def rule(value: Stored) -> Iterator[Problem]:
        if is_on(value.get(first)) is (other in value):
            check = "bad_value" if other in value else "missing_key"
            yield Problem(check, f"Either {first} or {other} is needed")

    return rule


def _two(first: Rule, second: Rule) -> Rule:
    def rule(value: Stored) -> Iterator[Problem]:
        yield from first(value)
        yield from second(value)

    return rule


_FLAG = Flag(texts=True)
_DEVICE = Object(
    (
        Field(name="name", shape=Text(), must=True),
        Field(name="include_all_ips", shape=_FLAG),
        Field(name="ips", shape=ListOf(Text())),
    ),
    _either("include_all_ips", "ips"),
)
_GROUP = Object(
    (
        Field(name="name", shape=Text(), must=True),
        Field(name="include_all_devices", shape=_FLAG),
        Field(name="devices", shape=ListOf(_DEVICE)),
    ),
    _either("include_all_devices", "devices"),
)
_LOGPOINT = Object(
    (
        Field(name="logpoint_ip", shape=Text(), must=True),
        Field(name="include_all_repos", shape=_FLAG),
        Field(name="repos", shape=ListOf(Text())),
        Field(name="include_all_device_groups", shape=_FLAG),
        Field(name="device_groups", shape=ListOf(_GROUP)),
    ),
    _two(
        _either("include_all_repos", "repos"),
        _either("include_all_device_groups", "device_groups"),
    ),
)
_PERMISSION = Object(
    (
        Field(name="include_all_permission", shape=_FLAG),
        Field(name="permission", shape=ListOf(_LOGPOINT)),
    ),
    _either("include_all_permission", "permission"),
)


def _allowed(view: View, body: Stored, _before: Stored | None) -> Iterator[Problem]:
    """Machines, repos and groups that a permission names are there."""
    permission = body.get("object_permission")
    for entry in objects(permission.get("permission") if isinstance(permission, dict) else []):
        node = view.node.at(str(entry.get("logpoint_ip")))
        if node is None:
            yield Problem("unknown_reference", f"Logpoint not found: {entry.get('logpoint_ip')}")
            continue
        for repo in texts(entry.get("repos")):
            if repo not in node.names("Repos", "name"):
                yield Problem("unknown_reference", f"Repo not found: {repo}")
        for group in objects(entry.get("device_groups")):
            if group.get("name") not in {"Ungrouped", *node.names("DeviceGroups", "name")}:
                yield Problem("unknown_reference", f"Device group not found: {group.get('name')}")


def _kept_group(_view: View, body: Stored) -> Stored:
    kept = {key: item for key, item in body.items() if key != "roles"}
    return {**kept, "permission_group": body["roles"]} if "roles" in body else kept


def _read_group(view: View, value: Stored, _listed: bool) -> Stored:
    shown = {key: item for key, item in value.items() if key != "object_permission"}
    permission = value.get("object_permission")
    if not isinstance(permission, dict):
        return {**shown, "permitted": value.get("permitted", [])}
    entries = objects(permission.get("permission"))
    if is_on(permission.get("include_all_permission")):
        everything = {"include_all_repos": True, "include_all_device_groups": True}
        entries = [{"logpoint_ip": one.address, **everything} for one in view.node.pool_nodes]
    return {**shown, "permitted": [_permitted(view.node, entry) for entry in entries]}


def _permitted(node: Node, entry: Stored) -> Stored:
    """Expanded to names and addresses."""
    ip = str(entry.get("logpoint_ip"))
    there = node.at(ip)
    if there is None:
        return {"logpoint_ip": ip, "logpoint_name": "", "repos": [], "device_groups": []}
    repos = texts(entry.get("repos"))
    if is_on(entry.get("include_all_repos")):
        repos = [str(one["name"]) for one in there.store("Repos").true.values()]
    groups = objects(entry.get("device_groups"))
    if is_on(entry.get("include_all_device_groups")):
        names = [one["name"] for one in there.store("DeviceGroups").true.values()]
        groups = [{"name": name, "include_all_devices": True} for name in names]
    return {
        "logpoint_ip": ip,
        "logpoint_name": there.name,
        "repos": repos,
        "device_groups": [
            {"name": one.get("name"), "devices": list(_devices(there, one))} for one in groups
        ],
    }


def _devices(node: Node, group: Stored) -> Iterator[Stored]:
    known = {str(one["name"]): one for one in node.store("Devices").true.values()}
    if is_on(group.get("include_all_devices")):
        twins = node.store("DeviceGroups").true.values()
        ids = {
            id_ for one in twins if one["name"] == group["name"] for id_ in texts(one["devices"])
        }
        for name, device in known.items():
            if device["id"] in ids:
                yield {"name": name, "ips": device.get("ip", [])}
        return
    for one in objects(group.get("devices")):
        every = is_on(one.get("include_all_ips"))
        ips = known.get(str(one.get("name")), {}).get("ip") if every else one.get("ips")
        yield {"name": one.get("name"), "ips": ips or []}


_GROUP_FORM = Form(
    shape=Object(
        (
            Field(name="name", shape=Text(), must=True),
            Field(name="description", shape=Text()),
            Field(name="query", shape=Text()),
            Field(name="roles", shape=Text(), must=True),
            Field(name="object_permission", shape=_PERMISSION, must=True),
        )
    ),
    kept=_kept_group,
    check=_allowed,
)


# ---- incident user groups: one for each user group that a create selects -----------------------


def _select(desk: Desk, body: Stored) -> None:
    for id_ in texts(body.get("selected_usergroups")):
        group = desk.node.store("UserGroups").true.get(id_, {})
        desk.put(
            "IncidentUserGroups",
            {
                "id": desk.node.new_id(),
                "name": group.get("name", ""),
                "user": desk.view.switches.text("token_user"),
                "usergroup": id_,
                "tid": "",
            },
        )


def _selected(view: View, body: Stored, _before: Stored | None) -> Iterator[Problem]:
    chosen = {one.get("usergroup") for one in view.objects("IncidentUserGroups").values()}
    for id_ in texts(body.get("selected_usergroups")):
        group = view.node.store("UserGroups").true.get(id_)
        if group is None:
            yield Problem("unknown_reference", f"User group not found: {id_}")
        elif id_ in chosen:
            name = group.get("name")
            yield Problem("duplicate_name", f"IncidentUserGroups already exists: {name}")


def _read_incident(view: View, value: Stored, _listed: bool) -> Stored:
    group = view.objects("UserGroups").get(str(value.get("usergroup")), {})
    return {**value, "users": value.get("users", group.get("users", []))}


PEOPLE: dict[str, Resource] = {
    "Users": Resource(
        key="username",
        creates={"": Form(shape=Object((*_LOGIN, *_PERSON)), kept=_kept_user)},
        edits={"": Form(shape=Object(_PERSON), kept=_kept_user)},
        refs=(
            Ref(path="usergroup[]", to="UserGroups", what="User group", holds=False),
            Ref(path="timezone", to="Timezone", by="name", what="Timezone"),
        ),
        mirrors=(Mirror(mine="usergroup", other="UserGroups", theirs="users"),),
        stale=True,
        born=_born_user,
        actions={
            "activate": _changed_user("activated", active=True),
            "deactivate": _changed_user("deactivated", active=False),
            "unlock": _changed_user("unlocked", locked=False, failed_login_count=0),
            "changePassword": Action(
                body=Object((Field(name="new_password", shape=_PASSWORD, must=True),)),
                act=_new_password,
                done="password changed",
            ),
        },
        fetches={"": Fetch(rows=lambda view, _body: view.objects("Users").values(), of="Users")},
        trash_check=_user_stays,
        before_trash=_leave_rules,
    ),
    "UserGroups": Resource(
        key="name",
        creates={"": _GROUP_FORM},
        edits={"": _GROUP_FORM},
        refs=(Ref(path="roles", to="PermissionGroups", what="Permission group"),),
        stale=True,
        born=lambda _view: {
            "active": True,
            "lpadmin": False,
            "useradmin": False,
            "users": [],
            "tid": "",
        },
        read=_read_group,
        trash_check=lambda view, group, _body: (
            Problem("in_use", f"UserGroups in use by Users {user['username']}")
            for user in view.objects("Users").values()
            if texts(user.get("usergroup")) == [group["id"]]
        ),
    ),
    "IncidentUserGroups": Resource(
        key="name",
        creates={
            "": Form(
                shape=Object(
                    (
                        Field(
                            name="selected_usergroups",
                            shape=ListOf(Text(), empty=False),
                            must=True,
                        ),
                    )
                ),
                check=_selected,
                instead=_select,
            )
        },
        refs=(Ref(path="usergroup", to="UserGroups", what="User group"),),
        read=_read_incident,
        fetches={
            "": Fetch(
                rows=lambda view, _body: view.objects("IncidentUserGroups").values(),
                of="IncidentUserGroups",
            )
        },
    ),
    "PermissionGroups": Resource(key="name", trash=False),
}
"""By the name in the path."""
