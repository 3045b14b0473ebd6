"""Alert rules of the Director emulator: who fetches which, and what is done with a rule."""

from __future__ import annotations

from typing import Any

import pytest
from director_client import ONE, Director

from dsync.emulators import Emulator

pytestmark = pytest.mark.integration

Body = dict[str, Any]
NOWHERE = "64b0c0ffee0000000000ffff"
RULE: Body = {
    "searchname": "Many failed logins", "owner": "@Users/admin", "risk": "high", "aggregate": "max",
    "condition_option": "greaterthan", "condition_value": 5, "limit": 25,
    "repos": ["127.0.0.1:5504/default"], "timerange_minute": 30, "log_source": ["windows"],
    "query": "label=Login label=Fail",
}  # fmt: skip


@pytest.fixture
def node(director: Emulator) -> Director:
    """A node with two more users, each in a group, whose orders end at the first poll."""
    director.switches({"order_polls": 0, "staleness": False})
    director.seed(
        [
            {"resource": "UserGroups", "objects": [{"name": "soc"}, {"name": "ops"}]},
            {"resource": "Users", "objects": [{"username": "soc_admin"}, {"username": "operator"}]},
        ]
    )
    node = Director(director)
    for name, group in (("soc_admin", "soc"), ("operator", "ops")):
        user = node.find("Users", name)
        edit = {
            **dict.fromkeys(("email", "firstname", "lastname"), "x"),
            "usergroup": ["@UserGroups/" + group],
        }
        node.order("PUT", f"Users/{user['id']}", node.filled(edit))
    return node


def make(node: Director, **changes: object) -> str:
    """Creates a rule; returns its id."""
    body = node.filled({**RULE, **changes})
    assert node.order("POST", "AlertRules", body)["success"] is True
    effects = node.emulator.effects()
    return str(effects[-1]["id"])


def seen(node: Director, kind: str, user: str = "admin", **filters: object) -> list[str]:
    """The names that a fetch shows to a user."""
    node.emulator.switches({"token_user": user})
    rows = node.order("POST", f"AlertRules/{kind}/fetch", filters)["rows"]
    node.emulator.switches({"token_user": "admin"})
    return [row["name"] for row in rows]


# ---- what a fetch shows ------------------------------------------------------------------------


def test_a_fetch_shows_the_rules_of_its_user(node: Director, director: Emulator) -> None:
    """My rules are those that the token's user owns, by switch those of everybody."""
    make(node)
    make(node, searchname="Another one's", owner="@Users/soc_admin")
    assert seen(node, "MyAlertRules") == ["Many failed logins"]
    assert seen(node, "MyAlertRules", "soc_admin") == ["Another one's"]
    assert seen(node, "SharedAlertRules") == []
    assert seen(node, "VendorAlertRules") == ["Sample Vendor Login", "Sample Vendor Scan"]
    director.switches({"my_rules": "all"})
    assert seen(node, "MyAlertRules") == ["Many failed logins", "Another one's"]
    again = node.order("POST", "AlertRules", node.filled({**RULE, "searchname": "Another one's"}))
    assert (again["success"], "already exists" in again["message"]) == (False, True)


def test_a_fetch_filters_by_activity_and_source(node: Director) -> None:
    """`active` may be a boolean or its text; one common log source is enough."""
    id_ = make(node)
    make(node, searchname="Off", log_source=[])
    off = node.find("AlertRules", "Off")["id"]
    node.order("POST", f"AlertRules/{off}/deactivate", {})
    assert seen(node, "MyAlertRules", active=True) == ["Many failed logins"]
    assert seen(node, "MyAlertRules", active="false") == ["Off"]
    assert seen(node, "MyAlertRules", log_source=["windows", "x"]) == ["Many failed logins"]
    assert seen(node, "VendorAlertRules", log_source=["firewall"]) == ["Sample Vendor Scan"]
    assert node.send("POST", "AlertRules/MyAlertRules/fetch", {"active": "yes"}).status == 400
    assert node.send("POST", "AlertRules/MyAlertRules/fetch").status == 400
    node.order("POST", f"AlertRules/{off}/activate", {})
    assert seen(node, "MyAlertRules", active=False) == []
    assert id_ != off


def test_rows_come_under_the_data_node_and_write_nothing(
    node: Director, director: Emulator
) -> None:
    """A fetch is an order whose path ends with the node; it is no write."""
    before = director.writes()
    message = node.send("POST", "AlertRules/MyAlertRules/fetch", {}).json["message"]
    assert message.endswith(f"/{ONE}")
    assert node.follow(message)["rows"] == []
    assert director.writes() == before


def test_a_row_has_the_written_names(node: Director) -> None:
    """Flat rows have what was written, in its types; what is not set is left out."""
    [technique, *_] = node.order("POST", "MitreAttacks/fetch", {})["rows"]
    make(node, attack_tag=[technique["id"]], search_interval_minute=10, timerange_hour=0)
    [row] = node.objects("AlertRules")
    wanted = {**node.filled(RULE), "attack_tag": [technique["hash"]], "search_interval_minute": 10}
    assert {key: row[key] for key in wanted} == wanted
    assert (row["name"], row["user"], row["visible_to"]) == ("Many failed logins", "admin", [])
    assert {"timerange_hour", "timerange_day", "flush_on_trigger", "assigned_to"}.isdisjoint(row)


def test_a_row_may_be_nested(node: Director, director: Emulator) -> None:
    """By switch a row is nested as a node exports it, with numbers as texts here and there."""
    make(node, throttling_enabled="on", throttling_field="user", throttling_time_range=60)
    director.switches({"alert_rows": "nested", "extra_fields": False})
    [row] = node.objects("AlertRules")
    assert row.keys() == {"id", "settings"}
    settings = row["settings"]
    assert settings["condition"] == {"condition_option": "greaterthan", "condition_value": "5"}
    live = settings["livesearch_data"]
    assert (live["searchname"], live["timerange_minute"]) == (RULE["searchname"], 30)
    assert (settings["time_range_seconds"], settings["throttling_time_range"]) == (1800, "60")
    assert (settings["throttling_enabled"], settings["flush_on_trigger"]) == (True, False)
    assert settings["extra_config"]["query"] == RULE["query"]
    assert (settings["user"], settings["repos"]) == ("admin", RULE["repos"])


def test_an_edit_replaces_all_but_owner_state_and_notifications(node: Director) -> None:
    """What an edit leaves out is off; the time range is one value in three keys."""
    id_ = make(node, flush_on_trigger="on", description="d", apply_jinja_template="on")
    node.order("POST", f"AlertRules/{id_}/deactivate", {})
    body = {key: item for key, item in RULE.items() if key not in ("owner", "timerange_minute")}
    done = node.order("PUT", f"AlertRules/{id_}", {**body, "timerange_day": 1})
    assert done["success"] is True
    [row] = node.objects("AlertRules")
    assert (row["active"], row["user"], row["timerange_day"]) == (False, "admin", 1)
    assert {
        "flush_on_trigger",
        "description",
        "apply_jinja_template",
        "timerange_minute",
    }.isdisjoint(row)


def test_a_template_flag_may_be_unknown(node: Director, director: Emulator) -> None:
    """By switch `apply_jinja_template` is taken and forgotten."""
    director.switches({"alert_jinja": "ignored"})
    make(node, apply_jinja_template="on")
    assert "apply_jinja_template" not in node.objects("AlertRules")[0]


def test_a_delay_needs_the_time_of_the_log(node: Director, director: Emulator) -> None:
    """A delay interval is taken where the node counts by `log_ts`."""
    body = node.filled({**RULE, "delay_interval_minute": 5})
    assert node.order("POST", "AlertRules", body)["success"] is False
    settings = {"name": "blue-be-1", "timestamp_on": "log_ts"}
    director.seed({"resource": "SystemSettingsGeneral", "objects": [settings], "node": ONE})
    assert node.order("POST", "AlertRules", body)["success"] is True
    assert node.send("POST", "AlertRules", {**body, "delay_interval_minute": 1441}).status == 400


def test_a_seeded_rule_is_like_a_written_one(node: Director, director: Emulator) -> None:
    """Seeds have the written names, or `name`; what they leave out is as in a new rule."""
    director.seed({"resource": "AlertRules", "objects": [{"name": "Old", "owner": "x"}]})
    director.switches({"my_rules": "all"})
    [row] = node.objects("AlertRules")
    assert (row["name"], row["active"], row["attack_tag"]) == ("Old", True, [])
    director.seed({"resource": "AlertRules", "remove": ["Old", "Sample Vendor Scan"]})
    assert node.objects("AlertRules") == []
    assert seen(node, "VendorAlertRules") == ["Sample Vendor Login"]


# ---- what is done with a rule ------------------------------------------------------------------


def test_a_rule_is_shared_and_unshared(node: Director) -> None:
    """Members of a group, or single users, see a shared rule."""
    id_ = make(node)
    soc, ops, operator = node.filled(["@UserGroups/soc", "@UserGroups/ops", "@Users/operator"])
    path = f"AlertRules/{id_}/share"
    node.order("POST", path, {"rbac_config": [{"group_id": soc, "group_permission": "READ"}]})
    assert seen(node, "SharedAlertRules", "soc_admin") == [RULE["searchname"]]
    assert seen(node, "SharedAlertRules", "operator") == []
    one = {"user_id": operator, "permission": "FULL"}
    node.order("POST", path, {"rbac_config": [{"group_id": ops, "user_permissions": [one]}]})
    assert seen(node, "SharedAlertRules", "soc_admin") == []
    assert seen(node, "SharedAlertRules", "operator") == [RULE["searchname"]]
    [row] = node.objects("AlertRules")
    assert (row["visible_to"], row["visible_to_users"]) == ([ops], [operator])
    node.order("POST", f"AlertRules/{id_}/unshare", {})
    assert seen(node, "SharedAlertRules", "operator") == []


def test_an_action_is_a_write_with_an_effect(node: Director, director: Emulator) -> None:
    """Activation, sharing and notifications count as writes and change the rule."""
    id_ = make(node)
    before = director.writes()
    node.order("POST", f"AlertRules/{id_}/deactivate", {})
    node.order("POST", f"AlertRules/{id_}/share", {"rbac_config": []})
    node.order("POST", f"AlertRules/{id_}/EmailNotification", {"notify_email": "off"})
    assert director.writes() == before + 3
    last = director.effects()[-3:]
    assert {(one["kind"], one["resource"], one["id"], one["key"]) for one in last} == {
        ("update", "AlertRules", id_, "Many failed logins")
    }


@pytest.mark.parametrize(
    ("entry", "status"),
    [
        ({"group_id": "G"}, 400),
        ({"group_permission": "READ"}, 400),
        ({"group_id": "G", "group_permission": "WRITE"}, 400),
        ({"group_id": "G", "group_permission": "READ", "user_permissions": []}, 400),
        ({"group_id": "G", "user_permissions": []}, 400),
        ({"group_id": "G", "user_permissions": [{"user_id": "U"}]}, 400),
        ({"group_id": "G", "user_permissions": [{"user_id": "U", "permission": "READ"}]}, 200),
        ({"group_id": "U", "group_permission": "READ"}, 200),
    ],
)
def test_a_wrong_share_is_refused(node: Director, entry: Body, status: int) -> None:
    """An entry has one kind of permission; unknown groups and users fail the order."""
    id_ = make(node)
    names = {"G": node.filled("@UserGroups/soc"), "U": NOWHERE}
    entry = {key: names.get(str(item), item) for key, item in entry.items()}
    answer = node.send("POST", f"AlertRules/{id_}/share", {"rbac_config": [entry]})
    assert answer.status == status
    if status == 200:
        assert node.follow(answer.json["message"])["success"] is False
    assert node.order("POST", f"AlertRules/{id_}/share", {"rbac_config": []})["success"] is True


def test_a_rule_gets_another_owner(node: Director) -> None:
    """Ownership is transferred to a user who exists, and the rule leaves my rules."""
    id_ = make(node)
    path = f"AlertRules/{id_}/transferOwnership"
    assert node.send("POST", path, {}).status == 400
    assert node.order("POST", path, {"userid": "soc_admin"})["message"] == "Invalid user id"
    node.order("POST", path, {"userid": node.filled("@Users/soc_admin")})
    assert seen(node, "MyAlertRules") == []
    assert seen(node, "MyAlertRules", "soc_admin") == [RULE["searchname"]]


def test_rules_of_others_and_of_the_vendor_are_used(node: Director) -> None:
    """Who uses a rule has one that follows it, among the used ones of its kind."""
    mine = make(node)
    soc = node.filled("@Users/soc_admin")
    node.order("POST", f"AlertRules/{mine}/useAlertRules", {"owner": soc})
    [vendors, *_] = node.order("POST", "AlertRules/VendorAlertRules/fetch", {})["rows"]
    node.order("POST", f"AlertRules/{vendors['id']}/useVendorRules", {"owner": soc})
    assert seen(node, "UsedSharedAlertRules", "soc_admin") == [RULE["searchname"]]
    assert seen(node, "UsedAlertRules", "soc_admin") == ["Sample Vendor Login"]
    assert seen(node, "MyAlertRules", "soc_admin") == []
    wrong = node.order("POST", f"AlertRules/{mine}/useVendorRules", {"owner": soc})
    assert wrong["success"] is False
    nobody = node.order("POST", f"AlertRules/{mine}/useAlertRules", {"owner": "soc_admin"})
    assert nobody["message"] == "Invalid user id"


def test_a_rule_of_the_vendor_is_not_changed(node: Director) -> None:
    """Edits and deletes of a vendor rule fail; it can be switched off."""
    [vendors, *_] = node.order("POST", "AlertRules/VendorAlertRules/fetch", {})["rows"]
    path = f"AlertRules/{vendors['id']}"
    assert node.order("PUT", path, node.filled(RULE))["success"] is False
    assert node.order("DELETE", path)["success"] is False
    assert node.order("POST", f"{path}/deactivate", {})["success"] is True


def test_rules_are_installed_from_a_file_that_is_there(node: Director) -> None:
    """An installation needs an uploaded file and a user; what is in it is not looked at."""
    files = f"/configapi/{node.scope.partition('/')[0]}/AlertRules"
    node.call("POST", f"{files}/upload", b"pak", headers={"file_name": "rules.pak"})
    install = {"file_location": "private", "file_name": "rules.pak"}
    assert node.send("POST", "AlertRules/install", install).status == 400
    body = {**install, "owner": node.filled("@Users/admin")}
    assert node.order("POST", "AlertRules/install", body)["success"] is True
    gone = node.order("POST", "AlertRules/install", {**body, "file_name": "other.pak"})
    assert gone["success"] is False


# ---- notifications -----------------------------------------------------------------------------

EMAIL: Body = {"notify_email": "on", "email_emails": ["soc@example.test"], "subject": "Alert"}
HTTP: Body = {
    "notify_http": "on", "http_url": "https://hook.example.test", "http_request_type": "POST",
    "http_querystring": "", "http_body": "{}",
}  # fmt: skip
BASIC = {"auth_type": "basic_auth", "auth_key": "u", "auth_pass": "hush"}
SMS: Body = {
    "notify_sms": "on", "sms_server": "192.0.2.70", "sms_port": 25, "sms_sender": "soc",
    "sms_username": "u", "sms_password": "hush", "sms_receivers": ["+123456"],
}  # fmt: skip
SNMP: Body = {
    "notify_snmp": "on", "snmp_ip": "192.0.2.71", "snmp_port": 162, "snmp_version": "SNMPv2c",
    "snmp_oid": "1.3.6", "snmp_agent": "a", "snmp_community_string": "hush",
}  # fmt: skip
SSH: Body = {
    "notify_ssh": "on", "ssh_server": "192.0.2.72", "ssh_port": 22, "ssh_username": "u",
    "ssh_auth_type": "password", "ssh_auth_password": "hush", "ssh_command": "ls",
}  # fmt: skip
SYSLOG: Body = {
    "notify_syslog": "on", "server": "192.0.2.80", "port": 514, "protocol": "UDP", "severity": 4,
    "facility": 16, "split_rows": "false", "threshold_option": "hour", "threshold_value": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "body", "shown"),
    [
        ("Email", {**EMAIL, "email_threshold_option": "day", "email_threshold_value": 1},
         {"notify_email": True, "threshold_option": "day", "threshold": True, "subject": "Alert"}),
        ("HTTP", {**HTTP, "http_header": BASIC},
         {"notify_http": True, "http_header": {**BASIC, "auth_pass": "****"}}),
        ("SMS", SMS, {"notify_sms": True, "sms_password": "****"}),
        ("SNMP", SNMP, {"snmp_community_string": "****", "snmp_oid": "1.3.6"}),
        ("SSH", SSH, {"ssh_auth_password": "****", "ssh_command": "ls"}),
        ("Syslog", SYSLOG, {"split_rows": False, "threshold_value": 0, "severity": 4}),
        ("Email", {"notify_email": "off"}, {"notify_email": False}),
    ],
)  # fmt: skip
def test_a_notification_is_set_and_reads_as_exported(
    node: Director, kind: str, body: Body, shown: Body
) -> None:
    """One setting of each kind, replaced by the next; secrets read as a mask."""
    id_ = make(node)
    path = f"AlertRules/{id_}/{kind}Notification"
    for _ in range(2):
        assert node.order("POST", path, body)["success"] is True
    [one] = node.objects("AlertRules")[0]["notifications"]
    assert (one["type"], {key: one.get(key) for key in shown}) == (kind.lower(), shown)
    assert all("hush" not in str(item) for item in one.values())


WRONG: list[tuple[str, Body]] = [
    ("Email", {"email_emails": ["x"]}),
    ("Email", {"notify_email": "yes"}),
    ("Email", {"notify_email": "on"}),
    ("Email", {**EMAIL, "email_emails": "soc@example.test"}),
    ("Email", {**EMAIL, "email_threshold_option": "day"}),
    ("Email", {**EMAIL, "email_threshold_option": "day", "email_threshold_value": 0}),
    ("Email", {**EMAIL, "email_threshold_option": "week", "email_threshold_value": 1}),
    ("Email", {**EMAIL, "logo_enable": True}),
    ("Email", {**EMAIL, "logo_enable": "true", "b64_logo": "data:image/png;base64,AA"}),
    ("Email", {**EMAIL, "dispatch_option": "later"}),
    ("HTTP", {**HTTP, "http_request_type": "GET"}),
    ("HTTP", {**HTTP, "http_request_type": "post"}),
    ("HTTP", {**HTTP, "http_header": {"auth_type": "basic_auth", "auth_key": "u"}}),
    ("HTTP", {**HTTP, "http_header": {"auth_type": "api_token", "auth_key": "u"}}),
    ("HTTP", {**HTTP, "http_header": {"auth_type": "bearer_token"}}),
    ("SMS", {**SMS, "sms_port": "25"}),
    ("SMS", {**SMS, "sms_receivers": ["12"]}),
    ("SNMP", {**SNMP, "snmp_oid": ".1.3.6"}),
    ("SNMP", {**SNMP, "snmp_version": "SNMPv3"}),
    ("SNMP", {**SNMP, "snmp_community_string": ""}),
    ("SSH", {**SSH, "ssh_auth_password": ""}),
    ("SSH", {**SSH, "ssh_auth_type": "certificate"}),
    ("Syslog", {**SYSLOG, "severity": 8}),
    ("Syslog", {**SYSLOG, "facility": 24}),
    ("Syslog", {**SYSLOG, "protocol": "TLS"}),
    ("Syslog", {"notify_syslog": "on", "server": "x", "port": 514, "protocol": "UDP"}),
]


@pytest.mark.parametrize(("kind", "body"), WRONG)
def test_a_wrong_notification_is_a_400(node: Director, kind: str, body: Body) -> None:
    """What is mandatory when on, what goes together, and the words and ranges are checked."""
    id_ = make(node)
    answer = node.send("POST", f"AlertRules/{id_}/{kind}Notification", body)
    assert (answer.status, answer.json["status"]) == (400, "Failed")
    assert node.objects("AlertRules")[0]["notifications"] == []


def test_a_notification_of_no_rule_is_refused(node: Director) -> None:
    """The rule has to be there, and the kind is one of six."""
    assert node.send("POST", f"AlertRules/{NOWHERE}/EmailNotification", EMAIL).status == 404
    assert node.send("POST", f"AlertRules/{make(node)}/PagerNotification", {}).status == 404
