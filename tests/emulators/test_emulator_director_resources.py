"""The Director emulator's resources: for each a table of what is taken, read, and refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from director_client import ONE, TWO, Director

from dsync.emulators import Emulator

pytestmark = pytest.mark.integration

Body = dict[str, Any]
NOWHERE = "64b0c0ffee0000000000ffff"


@pytest.fixture
def node(director: Emulator) -> Director:
    """A node whose orders end at the first poll, with a few objects to refer to."""
    director.switches({"order_polls": 0, "staleness": False})
    director.seed(
        [
            {
                "resource": "Users",
                "objects": [{"username": "soc_admin", "email": "s@example.test"}],
            },
            {"resource": "Users", "objects": [{"username": "soc_two", "active": False}]},
            {"resource": "UserGroups", "objects": [{"name": "soc"}]},
            {"resource": "IncidentUserGroups", "objects": [{"name": "tier1"}]},
            {"resource": "LogCollectionPolicies", "objects": ["lcp_web"]},
            {"resource": "Devices", "objects": [{"name": "fw-01", "ip": ["192.0.2.10", "fw"]}]},
            {
                "resource": "Devices",
                "objects": [
                    {
                        "name": "relay-01",
                        "ip": ["192.0.2.50", "192.0.2.51"],
                        "col_apps": [{"app": "SyslogCollector", "proxy_condition": "use_as_proxy"}],
                    }
                ],
            },
        ]
    )
    return Director(director)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One resource: a good create and edit, how they read, and what is refused."""

    name: str
    create: str = ""
    """The path of a create, and of an edit without the id; by default the name."""
    data: Body
    key: str
    """Of the object in a list, once created."""
    reads: Body
    edit: Body | None = None
    edited: Body = field(default_factory=dict)
    refused: tuple[tuple[str, Body], ...] = ()
    """A check, and what differs from `data`; a value of None leaves the key out."""

    @property
    def path(self) -> str:
        return self.create or self.name

    def wrong(self, changes: Body) -> Body:
        return {key: item for key, item in {**self.data, **changes}.items() if item is not None}


DEVICE: Body = {
    "name": "web-01", "ip": ["192.0.2.20", "web-01.example.test"], "availability": "Major",
    "confidentiality": "Minor", "integrity": "Minimal", "timezone": "Europe/Paris",
    "devicegroup": ["@DeviceGroups/linux"], "logpolicy": ["@LogCollectionPolicies/lcp_web"],
    "distributed_collector": ["@DistributedCollectors/collector-1"],
}  # fmt: skip
DIRECT: Body = {
    "device_id": "@Devices/fw-01", "proxy_condition": "None", "parser": "SyslogParser",
    "charset": "utf_8", "processpolicy": "@ProcessingPolicy/default",
}  # fmt: skip
BEHIND: Body = {
    "device_id": "@Devices/fw-01", "proxy_condition": "uses_proxy", "processpolicy": "None",
    "proxy_ip": ["192.0.2.51"], "hostname": ["app-07"],
}  # fmt: skip
RULE: Body = {
    "searchname": "Many failed logins", "owner": "@Users/admin", "risk": "high", "aggregate": "max",
    "condition_option": "greaterthan", "condition_value": 0, "limit": 25,
    "repos": ["127.0.0.1:5504/default", "198.51.100.12:5504"], "timerange_minute": 30,
}  # fmt: skip
USER: Body = {
    "username": "ann", "password": "secret", "email": "ann@example.test", "firstname": "Ann",
    "lastname": "Example", "usergroup": ["@UserGroups/soc"],
}  # fmt: skip
EVERYTHING = {"include_all_permission": True}
NO_GROUPS = {"include_all_device_groups": None}
GROUP: Body = {
    "name": "ops", "roles": "@PermissionGroups/Operator", "object_permission": EVERYTHING,
}  # fmt: skip


SOURCE: Body = {"operation": "Equals", "source_key": "address"}
SIMPLE: Body = {**SOURCE, "category": "simple", "event_key": "device_ip"}
MATCHES: Body = {"type": "KeyPresentsValueMatches", "key": "k"}


def specification(**changes: Any) -> Body:
    entry = {"source": "host_owners", "criteria": [], "rules": [SIMPLE], **changes}
    return {"specifications": [{key: item for key, item in entry.items() if item is not None}]}


def permission(**changes: Any) -> Body:
    entry = {"logpoint_ip": "127.0.0.1", "repos": ["default"], "include_all_device_groups": True}
    entry = {key: item for key, item in {**entry, **changes}.items() if item is not None}
    return {"object_permission": {"permission": [entry]}}


CASES = [
    Case(
        name="Repos",
        data={
            "name": "Repo_app",
            "hiddenrepopath": [{"path": "/opt/immune/storage/", "retention": 90}],
            "repoha": [{"ha_li": "198.51.100.12", "ha_day": 30}],
        },
        key="Repo_app",
        reads={
            "repopath": [{"path": "/opt/immune/storage/", "retention": 90}],
            "repoha": [{"ha_li": "198.51.100.12", "ha_day": 30}],
            "repo_number": 4,
        },
        edit={"hiddenrepopath": [{"path": "/opt/immune/cold/", "retention": 1}]},
        edited={"repopath": [{"path": "/opt/immune/cold/", "retention": 1}], "repoha": []},
        refused=(
            ("unknown_logpoint", {"repoha": [{"ha_li": "203.0.113.7", "ha_day": 1}]}),
            ("missing_key", {"repoha": [{"ha_li": "198.51.100.12"}]}),
        ),
    ),
    Case(
        name="RoutingPolicies",
        data={
            "policy_name": "rp",
            "catch_all": "default",
            "routing_criteria": [
                {"type": "KeyPresent", "key": "k", "value": "", "repo": "", "drop": "anything"}
            ],
        },
        key="rp",
        reads={"catch_all": "default", "active": True, "user": "admin"},
        edit={"policy_name": "rp2", "catch_all": "_logpoint", "routing_criteria": []},
        edited={"policy_name": "rp2", "catch_all": "_logpoint", "routing_criteria": []},
        refused=(("missing_key", {"routing_criteria": [{"type": "KeyPresent"}]}),),
    ),
    Case(
        name="NormalizationPolicy",
        data={
            "name": "np",
            "norm_packages": "@NormalizationPackage/LP_Sample App",
            "compiled_normalizer": "JSONCompiledNormalizer",
        },
        key="np",
        reads={
            "normalization_packages": ["@NormalizationPackage/LP_Sample App"],
            "compiled_normalizer": ["JSONCompiledNormalizer"],
        },
        edit={"norm_packages": "", "compiled_normalizer": "CEFCompiledNormalizer"},
        edited={"normalization_packages": [], "compiled_normalizer": ["CEFCompiledNormalizer"]},
        refused=(("norm_packages_list", {"norm_packages": ["x"]}),),
    ),
    Case(
        name="NormalizationPackage",
        data={"name": "My-Package_1", "description": "mine"},
        key="My-Package_1",
        reads={"type": "user", "vid": "", "description": "mine"},
        edit={"description": "still mine"},
        edited={"description": "still mine"},
        refused=(("bad_value", {"name": "my package"}), ("bad_value", {"name": "x"})),
    ),
    Case(
        name="EnrichmentPolicy",
        data={
            "name": "ep",
            "specifications": [
                {
                    "source": "threat_feed",
                    "criteria": [{"type": "KeyPresents", "key": "k", "value": ""}],
                    "rules": [
                        {
                            "category": "type_based",
                            "operation": "Equals",
                            "source_key": "ip_address",
                            "type": "ip",
                            "prefix": True,
                        }
                    ],
                }
            ],
        },
        key="ep",
        reads={"description": ""},
        refused=(
            ("missing_key", specification(criteria=None)),
            ("missing_key", specification(criteria=[MATCHES])),
            ("missing_key", specification(rules=[{"category": "simple", **SOURCE}])),
            ("missing_key", specification(rules=[{**SIMPLE, "category": "type_based"}])),
            ("unknown_enum", specification(rules=[{**SIMPLE, "operation": "Contains"}])),
            ("unknown_reference", specification(source="nowhere")),
            ("no_rules", specification(rules=[])),
        ),
    ),
    Case(
        name="ProcessingPolicy",
        data={
            "policy_name": "pp",
            "norm_policy": "_logpoint",
            "enrich_policy": "@EnrichmentPolicy/ep_hosts",
            "routing_policy": "@RoutingPolicies/default",
        },
        key="pp",
        reads={"norm_policy": "_logpoint", "routing_policy": "@RoutingPolicies/default"},
        edit={
            "id": "anything", "policy_name": "pp2", "norm_policy": "None", "enrich_policy": "None",
            "routing_policy": "None",
        },
        edited={"policy_name": "pp2", "enrich_policy": "None"},
        refused=(
            ("unknown_reference", {"norm_policy": "nowhere"}),
            ("unknown_reference", {"enrich_policy": "ep_hosts"}),
            ("unknown_reference", {"routing_policy": "default"}),
        ),
    ),
    Case(
        name="DeviceGroups",
        data={"name": "firewalls", "description": "", "devices": ["@Devices/fw-01"]},
        key="firewalls",
        reads={"devices": ["@Devices/fw-01"]},
        edit={"name": "walls", "description": "all"},
        edited={"name": "walls", "description": "all", "devices": []},
        refused=(
            ("missing_key", {"description": None}),
            ("unknown_reference", {"devices": [NOWHERE]}),
            ("duplicate_name", {"name": "linux"}),
        ),
    ),
    Case(
        name="Devices",
        data=DEVICE,
        key="web-01",
        reads={
            "ip": ["192.0.2.20", "web-01.example.test"],
            "has_hostname": True,
            "device_groups": ["@DeviceGroups/linux"],
            "log_policies": ["@LogCollectionPolicies/lcp_web"],
            "distributed_collector": ["@DistributedCollectors/collector-1"],
            "timezone": "Europe/Paris",
            "risk_values": {
                "availability": "Major",
                "confidentiality": "Minor",
                "integrity": "Minimal",
            },
            "col_apps": [],
        },
        edit={
            "name": "web-02", "ip": ["192.0.2.21"], "availability": "Critical",
            "confidentiality": "Critical", "integrity": "Critical",
        },
        edited={"name": "web-02", "device_groups": [], "timezone": "Europe/Paris"},
        refused=(
            ("missing_key", {"ip": None}),
            ("bad_value", {"ip": []}),
            ("wrong_type", {"ip": "192.0.2.20"}),
            ("unknown_enum", {"availability": "major"}),
            ("unknown_reference", {"devicegroup": ["linux"]}),
            ("unknown_reference", {"logpolicy": [NOWHERE]}),
            ("unknown_reference", {"distributed_collector": [NOWHERE]}),
            ("unknown_reference", {"timezone": "Mars/Base"}),
            ("duplicate_name", {"name": "fw-01"}),
        ),
    ),
    Case(
        name="SyslogCollector",
        data=DIRECT,
        key="fw-01",
        reads={
            "sid": "syslog|device-fw-01",
            "proxy_condition": "None",
            "parser": "SyslogParser",
            "processpolicy": "@ProcessingPolicy/default",
        },
        edit={
            "proxy_condition": "uses_proxy", "processpolicy": "None", "proxy_ip": ["192.0.2.51"],
            "hostname": ["app-07"],
        },
        edited={
            "proxy_condition": "uses_proxy", "proxy_ip": ["192.0.2.51"], "hostname": ["app-07"],
            "processpolicy": "None",
        },
        refused=(
            ("no_owner", {"device_id": None}),
            ("missing_key", {"proxy_condition": None}),
            ("missing_key", {"parser": None}),
            ("missing_key", {"charset": ""}),
            ("missing_key", {"processpolicy": None}),
            ("unknown_enum", {"proxy_condition": "none"}),
            ("unknown_enum", {"parser": "OtherParser"}),
            ("unknown_reference", {"charset": "utf-8"}),
            ("unknown_reference", {"device_id": NOWHERE}),
            ("unknown_reference", {"device_id": None, "policy_id": NOWHERE}),
            ("unknown_reference", {"processpolicy": "default"}),
            ("unknown_proxy", {**BEHIND, "proxy_ip": ["192.0.2.10"]}),
            ("missing_key", {**BEHIND, "processpolicy": None}),
            ("duplicate_name", {"device_id": "@Devices/relay-01"}),
        ),
    ),
    Case(
        name="LogCollectionPolicies",
        data={"name": "lcp_db", "description": "databases"},
        key="lcp_db",
        reads={"description": "databases", "active": True, "col_apps": []},
        edit={"name": "ignored", "description": "all databases"},
        edited={"name": "lcp_db", "description": "all databases"},
        refused=(("duplicate_name", {"name": "lcp_web"}), ("missing_key", {"name": None})),
    ),
    Case(
        name="DistributedLogpoints",
        data={"ip_dns": "203.0.113.9", "password": "secret", "private_ip": "198.51.100.90"},
        key="198.51.100.90",
        reads={"remote": "203.0.113.9", "status": "Connected"},
        refused=(
            ("missing_key", {"password": None}),
            ("duplicate_name", {"private_ip": "198.51.100.12"}),
        ),
    ),
    Case(
        name="Lists",
        create="Lists/static",
        data={"s_name": "admin_Users", "lists": ["alice", '"bob"', "alice"]},
        key="ADMIN_USERS",
        reads={
            "list_type": "static_list",
            "lists": ["alice", '"bob"', "alice"],
            "age_limit": 0,
            "vid": "",
            "user": "admin",
        },
        edit={"s_name": "ignored", "lists": []},
        edited={"name": "ADMIN_USERS", "lists": []},
        refused=(
            ("missing_key", {"lists": None}),
            ("wrong_type", {"lists": "alice"}),
            ("wrong_type", {"lists": [1]}),
            ("bad_value", {"s_name": "admin users"}),
            ("bad_value", {"s_name": "admin-users"}),
            ("bad_value", {"s_name": "_admin"}),
            ("bad_value", {"s_name": "a"}),
            ("duplicate_name", {"s_name": "sample_admin_tools"}),
        ),
    ),
    Case(
        name="Lists",
        create="Lists/dynamic",
        data={"d_name": "RECENT", "agelimit_day": 3, "agelimit_hour": 0, "agelimit_minute": 1},
        key="RECENT",
        reads={"list_type": "dynamic_list", "age_limit": 259_260, "lists": []},
        edit={"agelimit_day": 0, "agelimit_hour": 0, "agelimit_minute": 30},
        edited={"age_limit": 1800},
        refused=(
            ("missing_key", {"agelimit_hour": None}),
            ("wrong_type", {"agelimit_day": "3"}),
            ("bad_value", {"agelimit_day": -1}),
        ),
    ),
    Case(
        name="AlertRules",
        data={
            **RULE,
            "assigned_to": "@Users/soc_admin",
            "manageable_by": ["@IncidentUserGroups/tier1"],
            "log_source": ["windows"],
            "metadata": [{"field": "playbook", "value": "PB-12"}],
            "flush_on_trigger": "on",
            "throttling_enabled": "on",
            "throttling_field": "user",
            "throttling_time_range": 60,
            "original_data": "true",
        },
        key="Many failed logins",
        reads={
            "searchname": "Many failed logins",
            "owner": "@Users/admin",
            "user": "admin",
            "active": True,
            "vid": "",
            "condition_value": 0,
            "timerange_minute": 30,
            "assigned_to": "@Users/soc_admin",
            "flush_on_trigger": "on",
            "throttling_field": "user",
            "original_data": True,
            "attack_tag": [],
            "notifications": [],
        },
        edit={
            **{key: item for key, item in RULE.items() if key != "timerange_minute"},
            "owner": "@Users/soc_admin",
            "timerange_hour": 2,
            "timerange_day": 0,
        },
        edited={"owner": "@Users/admin", "timerange_hour": 2, "log_source": [], "metadata": []},
        refused=(
            ("missing_key", {"owner": None}),
            ("missing_key", {"repos": None}),
            ("bad_value", {"repos": []}),
            ("missing_key", {"timerange_minute": None}),
            ("missing_key", {"timerange_minute": 0}),
            ("missing_key", {"throttling_field": None}),
            ("missing_key", {"throttling_time_range": None}),
            ("missing_key", {"metadata": [{"field": "playbook"}]}),
            ("wrong_type", {"condition_value": "5"}),
            ("wrong_type", {"repos": "127.0.0.1:5504/default"}),
            ("wrong_type", {"original_data": "yes"}),
            ("unknown_enum", {"risk": "High"}),
            ("unknown_enum", {"aggregate": "sum"}),
            ("unknown_enum", {"condition_option": "greater"}),
            ("unknown_enum", {"flush_on_trigger": "off"}),
            ("unknown_enum", {"throttling_enabled": "off"}),
            ("bad_value", {"condition_value": -1}),
            ("bad_value", {"limit": 0}),
            ("two_time_units", {"timerange_hour": 1}),
            ("unknown_reference", {"repos": ["127.0.0.1:5504/nowhere"]}),
            ("unknown_reference", {"repos": ["203.0.113.1:5504/default"]}),
            ("unknown_reference", {"repos": ["127.0.0.1/default"]}),
            ("unknown_reference", {"repos": ["127.0.0.1:5505/default"]}),
            ("unknown_reference", {"owner": "admin"}),
            ("unknown_reference", {"assigned_to": NOWHERE}),
            ("unknown_reference", {"manageable_by": [NOWHERE]}),
            ("unknown_reference", {"attack_tag": ["T0001"]}),
            ("needs_log_ts", {"delay_interval_minute": 5}),
            ("manual_limits", {"searchname": "Four"}),
            ("manual_limits", {"search_interval_minute": 7}),
            ("manual_limits", {"timerange_minute": None, "timerange_day": 31}),
        ),
    ),
    Case(
        name="Users",
        data=USER,
        key="ann",
        reads={"fullname": "Ann Example", "usergroup": ["@UserGroups/soc"], "timezone": "UTC"},
        edit={
            "email": "a@example.test", "firstname": "Anna", "lastname": "Example",
            "usergroup": ["@UserGroups/LogPoint Administrator"],
        },
        edited={"username": "ann", "fullname": "Anna Example", "email": "a@example.test"},
        refused=(
            ("bad_value", {"username": "a"}),
            ("bad_value", {"password": "four"}),
            ("bad_value", {"usergroup": []}),
            ("missing_key", {"email": None}),
            ("unknown_reference", {"usergroup": ["soc"]}),
            ("unknown_reference", {"timezone": "Mars/Base"}),
            ("duplicate_name", {"username": "soc_admin"}),
        ),
    ),
    Case(
        name="UserGroups",
        data=GROUP,
        key="ops",
        reads={"permission_group": "@PermissionGroups/Operator", "users": [], "lpadmin": False},
        edit={**GROUP, **permission()},
        edited={
            "permitted": [
                {
                    "logpoint_ip": "127.0.0.1",
                    "logpoint_name": "blue-be-1",
                    "repos": ["default"],
                    "device_groups": [
                        {"name": "windows", "devices": []},
                        {"name": "linux", "devices": []},
                    ],
                }
            ]
        },
        refused=(
            ("missing_key", {"roles": None}),
            ("unknown_reference", {"roles": "Operator"}),
            ("missing_key", {"object_permission": {}}),
            ("bad_value", {"object_permission": {**EVERYTHING, "permission": []}}),
            ("missing_key", permission(repos=None)),
            ("bad_value", permission(include_all_repos=True)),
            ("missing_key", permission(**NO_GROUPS)),
            ("missing_key", permission(**{**NO_GROUPS, "device_groups": [{"name": "linux"}]})),
            ("unknown_reference", permission(repos=["nowhere"])),
            ("unknown_reference", permission(logpoint_ip="203.0.113.1")),
            ("duplicate_name", {"name": "soc"}),
        ),
    ),
    Case(
        name="IncidentUserGroups",
        data={"selected_usergroups": ["@UserGroups/soc"]},
        key="soc",
        reads={"usergroup": "@UserGroups/soc", "users": [], "user": "admin"},
        refused=(
            ("bad_value", {"selected_usergroups": []}),
            ("wrong_type", {"selected_usergroups": "soc"}),
            ("unknown_reference", {"selected_usergroups": ["soc"]}),
        ),
    ),
    Case(
        name="LogSources",
        data={
            "name": "erp",
            "type": "UniversalRestApi",
            "config": {"Source": {"url": "https://erp.example.test"}, "RoutingPolicy": {}},
        },
        key="erp",
        reads={"log_source_type": "UniversalRestApi", "user": "@Users/admin"},
        edit={"name": "erp", "type": "UniversalRestApi", "config": {}, "description": "ERP"},
        edited={"description": "ERP"},
        refused=(("missing_key", {"config": None}), ("wrong_type", {"config": []})),
    ),
]  # fmt: skip
NAMED = [pytest.param(case, id=case.path) for case in CASES]


@pytest.mark.parametrize("case", NAMED)
def test_a_resource_is_created_read_edited_and_deleted(
    node: Director, director: Emulator, case: Case
) -> None:
    """A good body is taken, reads as documented, changes with an edit, and goes with a delete."""
    done = node.order("POST", case.path, node.filled(case.data))
    assert done == {
        "success": True, "message": f"{case.name} created", "errors": [], "node_change_count": -1,
    }  # fmt: skip
    made = node.find(case.name, case.key)
    assert _part(made, case.reads) == node.filled(case.reads)
    if case.edit is not None:
        path = f"{case.path}/{made['id']}"
        edited = node.order("PUT", path, node.filled(case.edit))
        assert edited["message"] == f"{case.name} edited"
        again = next(one for one in node.objects(case.name) if one["id"] == made["id"])
        assert _part(again, case.edited) == node.filled(case.edited)
    if case.name == "Users":
        node.order("POST", f"Users/{made['id']}/deactivate", {})
    gone = node.order("DELETE", f"{case.name}/{made['id']}")
    assert (gone["success"], gone["message"]) == (True, f"{case.name} deleted")
    assert made["id"] not in [one["id"] for one in node.objects(case.name)]
    kinds = [one["kind"] for one in director.effects() if one["resource"] == case.name]
    assert (kinds[0], kinds[-1]) == ("create", "delete")
    assert ("update" in kinds) is (case.edit is not None or case.name == "Users")


def _part(shown: Body, wanted: Body) -> Body:
    return {key: shown.get(key) for key in wanted}


REFUSED = [
    pytest.param(case, check, changes, id=f"{case.path}-{number}-{check}")
    for case in CASES
    for number, (check, changes) in enumerate(case.refused)
]


@pytest.mark.parametrize(("case", "check", "changes"), REFUSED)
def test_a_wrong_body_is_refused_by_its_check_alone(
    node: Director, director: Emulator, case: Case, check: str, changes: Body
) -> None:
    """A body with one fault is refused by one check: as 400, as a failed order, or not at all."""
    body = node.filled(case.wrong(changes))
    director.switches({f"check_{check}": "sync"})
    refused = node.send("POST", case.path, body)
    assert (refused.status, refused.json["status"]) == (400, "Failed")
    director.switches({f"check_{check}": "order"})
    failed = node.order("POST", case.path, body)
    assert (failed["success"], failed["message"]) == (False, failed["errors"][0])
    assert failed["errors"] == refused.json["error"].split("; ")
    assert director.effects() == []
    director.switches({f"check_{check}": "off"})
    assert node.order("POST", case.path, body)["success"] is True


JUNK: tuple[object, ...] = (None, True, -1, "", [], {}, [None], [{"name": 1}], [[]])


@pytest.mark.parametrize("case", NAMED)
def test_no_body_makes_the_emulator_fail(node: Director, director: Emulator, case: Case) -> None:
    """With all checks off any value is taken, and what was made of it can be read."""
    checks = {name: "off" for name in director.switches() if name.startswith("check_")}
    director.switches({**checks, "effect_time": "at_once"})
    body = node.filled(case.data)
    node.order("POST", case.path, body)
    made = node.find(case.name, case.key)
    for key in body:
        for junk in JUNK:
            assert node.send("POST", case.path, {**body, key: junk}).status == 200
            if case.edit is not None:
                edit = {**body, key: junk}
                assert node.send("PUT", f"{case.path}/{made['id']}", edit).status == 200
    assert len(node.objects(case.name)) > len(body)
    director.state()


# ---- devices and collectors --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (DIRECT, {"parser", "charset", "processpolicy", "proxy_condition"}),
        (
            {**DIRECT, "proxy_condition": "use_as_proxy", "proxy_ip": ["192.0.2.50"]},
            {"parser", "charset", "processpolicy", "proxy_condition"},
        ),
        (BEHIND, {"processpolicy", "proxy_condition", "proxy_ip", "hostname"}),
    ],
    ids=["None", "use_as_proxy", "uses_proxy"],
)
def test_a_collector_shows_what_its_condition_uses(
    node: Director, director: Emulator, body: Body, shown: set[str]
) -> None:
    """A collector reads through its device, with the keys of its condition and no others."""
    director.switches({"extra_fields": False})
    node.order("POST", "SyslogCollector", node.filled(body))
    [app] = node.find("Devices", "fw-01")["col_apps"]
    assert app.keys() == shown | {"app", "sid", "uuid"}
    if body["proxy_condition"] == "use_as_proxy":
        assert app["processpolicy"] == "None"
    [effect] = director.effects()
    assert (effect["resource"], effect["id"], effect["key"]) == (
        "SyslogCollector", app["uuid"], "fw-01",
    )  # fmt: skip


def test_a_collector_has_no_list_and_its_plugin_no_id(node: Director) -> None:
    """Nothing lists collectors, and `plugins` leaves out what one would be edited by."""
    node.order("POST", "SyslogCollector", node.filled(DIRECT))
    for path in ("SyslogCollector", f"SyslogCollector/{NOWHERE}"):
        assert node.send("GET", path).status == 405
    device = node.find("Devices", "fw-01")
    [plugin] = node.get(f"Devices/{device['id']}/plugins")
    assert (plugin["app"], plugin["sid"]) == ("SyslogCollector", "syslog|device-fw-01")
    assert plugin.keys().isdisjoint({"uuid", "processpolicy", "proxy_ip", "hostname"})


def test_a_collector_may_belong_to_a_log_collection_policy(node: Director) -> None:
    """Made with `policy_id` it shows there, with that id."""
    policy = node.find("LogCollectionPolicies", "lcp_web")
    body = {**node.filled(DIRECT), "policy_id": policy["id"]}
    del body["device_id"]
    node.order("POST", "SyslogCollector", body)
    [app] = node.find("LogCollectionPolicies", "lcp_web")["col_apps"]
    assert (app["policy_id"], app["sid"]) == (policy["id"], "syslog|policy-lcp_web")
    assert len(node.get(f"LogCollectionPolicies/{policy['id']}/plugins")) == 1


def test_a_collector_goes_with_its_device_and_holds_its_policy(
    node: Director, director: Emulator
) -> None:
    """A policy in a collector cannot be deleted; with the device its collector goes."""
    node.order("POST", "SyslogCollector", node.filled(DIRECT))
    policy = f"ProcessingPolicy/{node.filled('@ProcessingPolicy/default')}"
    assert "in use" in node.order("DELETE", policy)["message"]
    device = node.filled("@Devices/fw-01")
    assert node.order("DELETE", f"Devices/{device}")["delete_remote_device"] == ["192.0.2.10", "fw"]
    deleted = [one["resource"] for one in director.effects() if one["kind"] == "delete"]
    assert sorted(deleted) == ["Devices", "SyslogCollector"]
    assert node.order("DELETE", policy)["success"] is True


def test_addresses_of_a_collector_may_be_written_as_text(
    node: Director, director: Emulator
) -> None:
    """By switch `proxy_ip` and `hostname` read as lists in a text."""
    director.switches({"collector_addresses": "text"})
    node.order("POST", "SyslogCollector", node.filled(BEHIND))
    assert node.find("Devices", "fw-01")["col_apps"][0]["proxy_ip"] == "['192.0.2.51']"


def test_other_plugins_take_any_field_and_hide_secrets(node: Director) -> None:
    """Fetchers follow the collector's pattern; what looks like a secret reads encrypted."""
    device = node.filled("@Devices/fw-01")
    body = {"device_id": device, "client_secret": "hush", "fetch_interval": 5}
    assert node.send("POST", "SCPFetcher", {"fetch_interval": 5}).status == 400
    assert node.order("POST", "SCPFetcher", body)["success"] is True
    [app] = node.find("Devices", "fw-01")["col_apps"]
    assert (app["app"], app["fetch_interval"]) == ("SCPFetcher", 5)
    assert app["client_secret"].startswith("encrypted:")
    node.order("PUT", f"SCPFetcher/{app['uuid']}", {"fetch_interval": 6})
    assert node.find("Devices", "fw-01")["col_apps"][0]["fetch_interval"] == 6
    node.order("DELETE", f"SCPFetcher/{app['uuid']}")
    assert node.find("Devices", "fw-01")["col_apps"] == []


def test_a_seeded_collector_can_be_edited(node: Director, director: Emulator) -> None:
    """`col_apps` of a seed are collectors like any other, with the uuid that the seed gives."""
    app = {"app": "SyslogCollector", "uuid": "a" * 32, "proxy_condition": "use_as_proxy"}
    risks = {"risk_values": {"availability": "Major"}}
    one = {"name": "old-01", "ip": ["192.0.2.60"], "col_apps": [app, {"app": "Other"}], **risks}
    director.seed({"resource": "Devices", "objects": [one], "node": ONE})
    device = node.find("Devices", "old-01")
    assert [one["app"] for one in device["col_apps"]] == ["Other", "SyslogCollector"]
    assert device["risk_values"]["availability"] == "Major"
    edit = {"proxy_condition": "use_as_proxy", "parser": "LineParser", "charset": "ascii"}
    assert node.order("PUT", f"SyslogCollector/{'a' * 32}", edit)["success"] is True
    assert node.find("Devices", "old-01")["col_apps"][1]["parser"] == "LineParser"
    assert node.send("PUT", f"SyslogCollector/{'b' * 32}", edit).status == 404


def test_collectors_of_others_machines_are_listed_twice_nested(
    node: Director, director: Emulator
) -> None:
    """Distributed collectors come in an array in an array, by switch in one."""
    [[one]] = node.get("DistributedCollectors")
    assert (one["name"], one["ip"]) == ("collector-1", "203.0.113.5")
    director.switches({"distributed_collectors": "flat"})
    path = f"DistributedCollectors/{one['id']}"
    node.order("POST", f"{path}/deactivate", {})
    assert node.get("DistributedCollectors")[0]["active"] is False
    node.order("POST", f"{path}/activate", {})
    assert node.get(path)["active"] is True
    assert node.send("POST", "DistributedCollectors", {}).status == 405


def test_a_collector_machine_is_attached_the_old_way(node: Director) -> None:
    """`attach` and `detach` take one id and change the device's list."""
    device, one = node.filled(["@Devices/fw-01", "@DistributedCollectors/collector-1"])
    path = f"Devices/{device}"
    node.order("POST", f"{path}/attach", {"distributed_collector": one})
    assert node.get(path)["distributed_collector"] == [one]
    assert "in use" in node.order("DELETE", f"DistributedCollectors/{one}")["message"]
    node.order("POST", f"{path}/detach", {"distributed_collector": one})
    assert node.get(path)["distributed_collector"] == []
    assert node.send("POST", f"{path}/attach", {"distributed_collector": [one]}).status == 400
    failed = node.order("POST", f"{path}/attach", {"distributed_collector": NOWHERE})
    assert failed["success"] is False


def test_ignored_and_blocked_addresses(node: Director, director: Emulator) -> None:
    """Ignored addresses are added, listed and deleted; blocked ones show after a refresh."""
    node.order("POST", "Devices/ignoredips", {"ip": "192.0.2.99"})
    [entry] = node.get("Devices/ignoredips")
    assert entry["ips"] == ["192.0.2.99"]
    node.order("DELETE", f"Devices/{entry['id']}/ignoredips")
    assert node.get("Devices/ignoredips") == []
    director.switches({"staleness": True})
    blocked = {"ip": "192.0.2.98", "name": "x", "collected_at": 1}
    director.seed({"resource": "BlockedIps", "objects": [blocked], "stale": True})
    assert node.get("Devices/blockedips") == []
    node.order("POST", "Devices/detectblockedips/refreshlist", {})
    assert node.get("Devices/blockedips") == [blocked]


# ---- lists -------------------------------------------------------------------------------------


def test_a_list_is_of_one_type_for_ever(node: Director) -> None:
    """A static list is not found under `dynamic`, and a plain create or edit does not exist."""
    node.order("POST", "Lists/static", {"s_name": "VIPS", "lists": ["a"]})
    id_ = node.filled("@Lists/VIPS")
    age = {"agelimit_day": 1, "agelimit_hour": 0, "agelimit_minute": 0}
    assert node.send("PUT", f"Lists/dynamic/{id_}", age).status == 404
    assert node.send("POST", "Lists", {"s_name": "X", "lists": []}).status == 405
    assert node.send("PUT", f"Lists/{id_}", {"lists": []}).status == 405
    twin = {"d_name": "vips", **age}
    assert "already exists: VIPS" in node.order("POST", "Lists/dynamic", twin)["message"]


def test_lists_show_after_their_refresh(node: Director, director: Emulator) -> None:
    """A written list is not read before `refreshlist` is done."""
    director.switches({"staleness": True})
    node.order("POST", "Lists/static", {"s_name": "VIPS", "lists": ["a"]})
    assert node.find("Lists", "VIPS") is None
    node.order("POST", "Lists/refreshlist", {})
    assert node.find("Lists", "VIPS")["lists"] == ["a"]


def test_a_list_of_the_vendor_stays(node: Director) -> None:
    """Vendor lists have a `vid` and cannot be deleted."""
    listed = node.find("Lists", "SAMPLE_ADMIN_TOOLS")
    assert (listed["vid"], len(listed["lists_vendor"])) == ("LIST_901", 2)
    assert node.order("DELETE", f"Lists/{listed['id']}")["success"] is False


def test_a_list_is_installed_from_a_file(node: Director) -> None:
    """An uploaded text file becomes a static list; an unknown file fails the order."""
    files = f"/configapi/{node.scope.partition('/')[0]}/Lists"
    headers = {"file_name": "vips.txt", "replace_existing": "false"}

    def upload(body: bytes, **changes: str) -> Any:
        return node.call("POST", f"{files}/upload", body, headers={**headers, **changes})

    assert upload(b"alice\nbob\n").json == {"status": "Success", "message": "File uploaded"}
    assert upload(b"carol\n").status == 400
    assert upload(b"carol\n", replace_existing="true").status == 200
    assert node.call("GET", f"{files}/list").json == ["vips.txt"]
    install = {"file_location": "private", "file_name": "vips.txt"}
    assert node.order("POST", "Lists/install", install)["success"] is True
    assert node.find("Lists", "VIPS")["lists"] == ["carol"]
    public = {**install, "file_location": "public"}
    assert "not found" in node.order("POST", "Lists/install", public)["message"]
    assert node.call("DELETE", f"{files}/vips.txt").status == 200
    assert node.call("DELETE", f"{files}/vips.txt").status == 404
    everybody = "/configapi/Lists"
    sent = node.call("POST", f"{everybody}/publicupload", b"dan", headers=headers)
    assert (sent.status, node.call("GET", f"{everybody}/list").json) == (200, ["vips.txt"])
    assert node.order("POST", "Lists/install", public)["success"] is True
    assert node.send("POST", "Lists/install", {"file_name": "x"}).status == 400


# ---- users -------------------------------------------------------------------------------------


def test_a_user_shows_in_groups_and_changes_by_actions(node: Director) -> None:
    """Membership shows on both sides; activation, unlocking and passwords have actions."""
    node.order("POST", "Users", node.filled(USER))
    user = node.filled("@Users/ann")
    assert node.find("UserGroups", "soc")["users"] == [user]
    node.order("POST", f"Users/{user}/deactivate", {})
    assert node.get(f"Users/{user}")["active"] is False
    node.order("POST", f"Users/{user}/activate", {})
    node.order("POST", f"Users/{user}/unlock", {})
    assert node.get(f"Users/{user}")["active"] is True
    assert node.send("POST", f"Users/{user}/changePassword", {"new_password": "four"}).status == 400
    changed = node.order("POST", f"Users/{user}/changePassword", {"new_password": "fiver"})
    assert changed["success"] is True
    assert "password" not in node.get(f"Users/{user}")


def test_a_user_with_rules_leaves_them_or_takes_them(node: Director) -> None:
    """A user is deleted after deactivation; rules go to the heir, or go too when forced."""
    node.order("POST", "AlertRules", node.filled({**RULE, "owner": "@Users/soc_two"}))
    two, admin = node.filled(["@Users/soc_two", "@Users/admin"])
    assert "deactivated" in node.order("DELETE", f"Users/{admin}")["message"]
    assert "shared" in node.order("DELETE", f"Users/{two}")["message"]
    bad = node.order("DELETE", f"Users/{two}", {"assigned_to_user": NOWHERE})
    assert bad["message"] == "Invalid user id"
    assert node.order("DELETE", f"Users/{two}", {"assigned_to_user": admin})["success"] is True
    assert node.find("AlertRules", RULE["searchname"])["user"] == "admin"
    node.order("POST", f"Users/{admin}/deactivate", {})
    forced = node.order("DELETE", f"Users/{admin}", {"force_delete": "true"})
    assert forced["success"] is True


def test_groups_are_read_under_other_names(node: Director) -> None:
    """`permission` reads as `permitted`, expanded; `roles` as `permission_group`."""
    group = node.find("UserGroups", "LogPoint Administrator")
    assert [one["logpoint_name"] for one in group["permitted"]] == [
        "blue-be-1", "blue-be-2", "blue-sh-1",
    ]  # fmt: skip
    assert group["permitted"][0]["repos"] == ["default", "_logpoint", "_LogPointAlerts"]
    assert len(group["users"]) == 1
    assert {"permission", "roles", "object_permission"}.isdisjoint(group)


def test_incident_groups_cannot_be_edited_and_are_unique(node: Director) -> None:
    """One is made for each user group that is named, once."""
    body = node.filled({"selected_usergroups": ["@UserGroups/soc"]})
    node.order("POST", "IncidentUserGroups", body)
    assert "already exists" in node.order("POST", "IncidentUserGroups", body)["message"]
    id_ = node.filled("@IncidentUserGroups/soc")
    assert node.send("PUT", f"IncidentUserGroups/{id_}", body).status == 405
    assert len(node.order("POST", "IncidentUserGroups/fetch", {})["rows"]) == 2
    group = node.filled("@UserGroups/soc")
    assert "in use" in node.order("DELETE", f"UserGroups/{group}")["message"]


def test_seeds_in_either_shape_change_what_is_there(node: Director, director: Emulator) -> None:
    """A seed has the names of a create or of a read; its key finds the object that it changes."""
    director.seed({"resource": "Lists", "objects": [{"s_name": "vips", "lists": ["a"]}]})
    director.seed({"resource": "Lists", "objects": [{"name": "VIPS", "vid": "LIST_1"}]})
    age = {"d_name": "recent", "agelimit_day": 1, "agelimit_hour": 0, "agelimit_minute": 0}
    director.seed({"resource": "Lists", "objects": [age]})
    [vips] = [one for one in node.get("Lists") if one["name"] == "VIPS"]
    assert (vips["lists"], vips["vid"], vips["list_type"]) == (["a"], "LIST_1", "static_list")
    assert node.find("Lists", "RECENT")["age_limit"] == 86_400
    for _ in range(2):
        director.seed({"resource": "IncidentUserGroups", "objects": [{"name": "tier1"}]})
    assert len(node.get("IncidentUserGroups")) == 1
    director.seed({"resource": "IncidentUserGroups", "remove": ["tier1"]})
    assert node.get("IncidentUserGroups") == []
    [row, *_] = node.order("POST", "MitreAttacks/fetch", {})["rows"]
    director.seed({"resource": "MitreAttacks", "objects": [{"hash": row["hash"], "url": "x"}]})
    assert node.order("POST", "MitreAttacks/fetch", {})["rows"][0]["url"] == "x"


def test_addresses_of_nodes_are_told_by_the_switch(director: Emulator) -> None:
    """A node's private address is where alert rules and remote repos find it."""
    pool = "0" * 31 + "a"
    nodes = [f"{pool}/{'0' * 31}b/one/198.51.100.200", {"pool": pool, "node": "0" * 31 + "c"}]
    director.switches({"nodes": nodes, "order_polls": 0})
    two = Director(director, "0" * 31 + "c", pool)
    rows = two.order("POST", "Repos/RemoteRepos/fetch", {})["rows"]
    assert "198.51.100.200:5504/default" in [row["repo"] for row in rows]
    remote = two.get("DistributedLogpoints")
    assert [(one["name"], one["private_ip"]) for one in remote] == [("one", "198.51.100.200")]


# ---- small lookups -----------------------------------------------------------------------------


def test_the_small_lookups(node: Director) -> None:
    """Charsets, timezones, parsers, the machine and its settings read as documented."""
    [charsets] = node.get("Charsets")
    assert {"ascii", "utf_8", "utf_8_sig"} <= set(charsets["charsets"])
    zones = {one["name"]: one["description"] for one in node.get("Timezone")}
    assert zones["Europe/Paris"] == "(GMT+01:00) Europe/Paris"
    assert "SyslogParser" in [one["name"] for one in node.get("Parsers")]
    machine = node.get("MachineInfo")
    assert (machine["machine_name"], machine["pool_name"]) == ("blue-be-1", "blue")
    [settings] = node.get("SystemSettingsGeneral")
    assert (settings["timestamp_on"], settings["identifier"]) == ("col_ts", ONE)
    assert node.get("LogSources/LogSourceMetaData") == [{"UniversalRestApi": {"schema_version": 0}}]


def test_policies_inside_a_log_source_read_as_ids(node: Director) -> None:
    """What was written out in `config` comes back as ids, among keys of the server."""
    config = {"RoutingPolicy": {"catch_all": "default"}, "NormalizationPolicy": {}, "Source": 1}
    node.order("POST", "LogSources", {"name": "erp", "type": "UniversalRestApi", "config": config})
    shown = node.find("LogSources", "erp")["config"]
    assert shown["Source"] == 1
    assert all(len(shown[key]) == 24 for key in ("RoutingPolicy", "NormalizationPolicy"))
    assert shown.keys() > config.keys()


@pytest.mark.parametrize(
    ("query", "good"),
    [('label=Login "a ( b" | chart count() by user', True), ("count(", False), ('a "b', False)],
)
def test_a_query_is_validated_by_an_order(
    node: Director, director: Emulator, query: str, good: bool
) -> None:
    """An open bracket or quote fails the order; validation writes nothing."""
    assert node.order("POST", "Query/validate", {"query": query})["success"] is good
    assert director.writes() == 0


def test_techniques_have_other_ids_on_other_nodes(director: Emulator, node: Director) -> None:
    """A technique's hash is the same everywhere; its id is not, and its name is not unique."""
    one = node.order("POST", "MitreAttacks/fetch", {})["rows"]
    other = Director(director, TWO).order("POST", "MitreAttacks/fetch", {})["rows"]
    assert [row["hash"] for row in one] == [row["hash"] for row in other]
    assert {row["id"] for row in one}.isdisjoint(row["id"] for row in other)
    assert len({row["attack_id"] for row in one}) < len(one)
    assert len({(row["attack_id"], row["attack_category"]) for row in one}) == len(one)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "AlertRules", 405),
        ("GET", f"AlertRules/{NOWHERE}", 405),
        ("POST", "AlertRules/fetchmyrules", 404),
        ("POST", "AlertRules/refreshlist", 404),
        ("POST", "EnrichmentPolicy/refreshlist", 404),
        ("POST", "IncidentUserGroups/addUsers", 404),
        ("PUT", f"IncidentUserGroups/{NOWHERE}", 405),
        ("GET", "IncidentGroups", 404),
        ("GET", "IgnoredIps", 404),
        ("GET", "MitreAttacks", 404),
        ("POST", f"DistributedCollectors/{NOWHERE}", 404),
        ("POST", f"AlertRules/{NOWHERE}/activate", 404),
        ("POST", f"AlertRules/{NOWHERE}/explode", 404),
        ("GET", f"Devices/{NOWHERE}/plugins", 404),
    ],
)
def test_endpoints_that_only_rumour_knows(
    node: Director, method: str, path: str, status: int
) -> None:
    """What the vendor does not have is refused, also where old texts speak of it."""
    answer = node.send(method, path, {})
    assert (answer.status, answer.json["status"]) == (status, "Failed")
