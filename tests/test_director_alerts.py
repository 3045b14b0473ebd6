"""Alert rules and what goes with them: owners, sharing and notifications, by the node's ledger."""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import xlsxwriter

import commands
from dsync import emulators

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.integration

Cells = Mapping[str, Any]
OPTIONS = tuple(f"director_options/alert_{name}" for name in ("notifications", "owners", "sharing"))
EVERYTHING = ("director/alert_rules", "director/alert_states", *OPTIONS)
TENANTS = """\
tenants:
  blue:
    pool_uuid: "b0b0b0b0b0b0b0b0b0b0b0b0b0b00001"
    siems:
      search_heads: []
      backends: []
      all_in_one:
        - {name: "blue-aio", id: "c0ffee00c0ffee00c0ffee00c0ffee01", ip_private: "198.51.100.11"}
defaults:
  target: {alert_rules: [all_in_one], repos: [all_in_one]}
"""
S, L = "settings.", "settings.livesearch_data."
RULE: Cells = {
    f"{S}user": "admin", f"{S}risk": "high", f"{S}aggregate": "max",
    f"{S}condition.condition_option": "greaterthan", f"{S}condition.condition_value": 5,
    f"{L}limit": 25, f"{S}repos": '["192.0.2.7:5504/default"]', f"{L}timerange_minute": 30,
    f"{L}timerange_hour": 0, f"{L}query": "label=Login", f"{S}active": True,
}  # fmt: skip
EMAIL = {
    "type": "email", "notify_email": True, "email_emails": ["soc@example.test"],
    "raw_emails": "soc@example.test", "subject": "An alert", "email_template": "*** {{ rule }} ***",
    "template_file": "", "threshold": True, "threshold_option": "minute", "threshold_value": 30,
    "dispatch_option": "auto", "link_disable": True, "logo_enable": False, "simple_view": False,
}  # fmt: skip
SYSLOG = {
    "type": "syslog", "notify_syslog": True, "server": "192.0.2.50", "port": 514, "protocol": "UDP",
    "severity": 3, "facility": 16, "message": "alert", "split_rows": False, "threshold": False,
    "threshold_option": "hour", "threshold_value": 0,
}  # fmt: skip
HTTP = {
    "type": "http", "notify_http": True, "http_url": "https://hook.example.test/alerts",
    "http_request_type": "POST", "http_querystring": "from=siem", "http_body": "{}",
    "protocol": "HTTPS",
    "http_header": {"auth_type": "api_token", "auth_key": "X-Hook", "auth_value": "s3cr3t-hook"},
}  # fmt: skip
SNMP = {
    "type": "snmp", "notify_snmp": True, "snmp_ip": "192.0.2.51", "snmp_port": 162,
    "snmp_version": "SNMPv2c", "snmp_oid": "1.3.6.1.4.1.99", "snmp_agent": "siem",
    "snmp_community_string": "s3cr3t-community",
}  # fmt: skip
SSH = {
    "type": "ssh", "notify_ssh": True, "ssh_server": "192.0.2.52", "ssh_port": 22,
    "ssh_username": "soc", "ssh_auth_type": "password", "ssh_auth_password": "s3cr3t-ssh",
    "ssh_command": "block", "threshold_option": "day", "threshold_value": "2",
}  # fmt: skip
SMS = {
    "type": "sms", "notify_sms": "on", "sms_server": "192.0.2.53", "sms_port": "2775",
    "sms_sender": "siem", "sms_username": "siem", "sms_password": "s3cr3t-sms",
    "sms_receivers": ["+32000000"],
}  # fmt: skip


def alert(name: str | None, **cells: Any) -> Cells:
    """A row of sheet Alert; `hour` stands for settings.livesearch_data.timerange_hour."""
    words = {"hour": f"{L}timerange_hour"}
    return {**RULE, "name": name, **{words.get(k, S + k): v for k, v in cells.items()}}


def told(*settings: Cells) -> str:
    """The cell of notifications."""
    return json.dumps(settings)


class Node:
    """A project whose workbook is written by the test, and the one node of its tenant."""

    def __init__(self, folder: Path, api: Any) -> None:
        self.folder, self.api = folder, api
        folder.mkdir()
        (folder / "tenants.yml").write_text(TENANTS)
        (folder / "directorsync.yml").write_text(
            f"version: 1\nconnections:\n  director:\n    system: director\n"
            f"    base_url: {api.url}\n    credentials: {{token: demo}}\n"
            "    job_interval_s: 0.05\n    scopes: tenants.yml\n"
            "context: {tenant: blue}\ninputs: {xlsx_path: input.xlsx}\n"
        )

    def sheet(self, *rows: Cells, **sheets: Sequence[Cells]) -> None:
        """Write the workbook: sheet Alert, and others."""
        with xlsxwriter.Workbook(str(self.folder / "input.xlsx")) as workbook:
            for name, lines in {"Alert": rows, **sheets}.items():
                sheet = workbook.add_worksheet(name)
                headers = list(dict.fromkeys(key for line in lines for key in line))
                sheet.write_row(0, 0, headers)
                for number, line in enumerate(lines, start=1):
                    sheet.write_row(number, 0, [line.get(header) for header in headers])

    def run(self, *words: str, code: int | None = 0) -> str:
        """Run a command; its exit code must be this one. Gives what it prints."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("DSYNC_", "LP_"))}
        done = commands.run(
            *words,
            cwd=self.folder,
            env={**environment, "PYTHONPATH": str(ROOT / "src"), "HOME": str(self.folder.parent)},
            timeout=120,
        )
        assert code is None or done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    def plan(self, *names: str) -> dict[str, Any]:
        """The plan of these profiles."""
        return dict(json.loads(self.run("plan", *names, "--format", "json", code=None)))

    def apply(self, *names: str) -> list[str]:
        """Apply these profiles; gives the calls that wrote, in their order."""
        before = self.seen
        self.run("apply", *names, "--yes")
        return [
            call["path"].rpartition("/AlertRules")[2].lstrip("/") for call in self.writes(before)
        ]

    def writes(self, since: int = 0) -> list[dict[str, Any]]:
        """The calls that write."""
        return [
            call for call in self.api.ledger(since)
            if call["method"] != "GET" and not call["path"].endswith(("/fetch", "/refreshlist"))
        ]  # fmt: skip

    @property
    def seen(self) -> int:
        """The number of the last call."""
        return max((call["seq"] for call in self.api.ledger()), default=0)

    def is_as_wanted(self, *names: str) -> None:
        """A plan of these profiles has nothing to do."""
        assert "Nothing to do" in self.run("plan", *names, "--detailed-exitcode")


def listed(api: Any, resource: str) -> list[dict[str, Any]]:
    """The node's own list of a resource."""
    path = "configapi/b0b0b0b0b0b0b0b0b0b0b0b0b0b00001/c0ffee00c0ffee00c0ffee00c0ffee01"
    request = urllib.request.Request(
        f"{api.url}/{path}/{resource}", headers={"Authorization": "Bearer demo"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return list(json.load(answer))


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A node with two more users, in groups of their own; its token is admin's."""
    with emulators.start("director") as api:
        api.switches({"order_polls": 0})
        api.seed([{"resource": "UserGroups", "objects": [{"name": "soc"}, {"name": "ops"}]}])
        users = [
            {"username": name, "usergroup": [group["id"]]}
            for name, group in zip(("ann", "ben"), listed(api, "UserGroups")[-2:], strict=True)
        ]
        api.seed([{"resource": "Users", "objects": users}])
        yield Node(tmp_path / "siem", api)


ALL = (EMAIL, SYSLOG, HTTP, SNMP, SSH, SMS)


# --- notifications --------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", ["flat", "nested"])
def test_notifications_of_every_kind(node: Node, rows: str) -> None:
    """Each kind is written by its own call and keys, and the second plan is empty."""
    node.api.switches({"alert_rows": rows})
    node.sheet(alert("Many failed logins", notifications=told(*ALL)), alert("Quiet rule"))
    names = ("director/alert_rules", OPTIONS[0])
    for form in ("text", "json"):
        assert "s3cr3t" not in node.run("plan", *names, "--format", form, code=None)
    node.apply(*names)
    sent = {
        call["path"].rpartition("/")[2]: call["body"]["data"]
        for call in node.writes()
        if call["path"].endswith("Notification")
    }
    assert sent["EmailNotification"] == {
        "notify_email": "on", "email_emails": ["soc@example.test"], "subject": "An alert",
        "email_template": "*** {{ rule }} ***", "link_disable": True, "logo_enable": False,
        "dispatch_option": "auto", "email_threshold_option": "minute", "email_threshold_value": 30,
    }  # fmt: skip
    assert sent["SyslogNotification"]["threshold_option"] == "hour"
    assert sent["SyslogNotification"]["threshold_value"] == 0
    assert sent["SyslogNotification"]["notify_syslog"] == "on"
    assert sent["SSHNotification"]["ssh_threshold_value"] == 2
    assert sent["SSHNotification"]["ssh_auth_password"].startswith("sha256:")
    assert sent["SNMPNotification"]["snmp_oid"] == "1.3.6.1.4.1.99"
    assert sent["SMSNotification"]["sms_port"] == 2775
    assert sent["HTTPNotification"]["http_header"]["auth_key"] == "X-Hook"
    assert all(
        len([key for key in body if key.startswith("notify_")]) == 1 for body in sent.values()
    )
    node.is_as_wanted(*names)


def test_notifications_are_edited_and_switched_off(node: Node) -> None:
    """An edit sends its kind alone; what the cell lacks, or says is off, is switched off."""
    names = ("director/alert_rules", OPTIONS[0])
    node.sheet(alert("Many failed logins", notifications=told(*ALL)))
    node.apply(*names)
    edited = {**EMAIL, "subject": "Look at this"}
    node.sheet(
        alert(
            "Many failed logins",
            notifications=told(edited, {**SYSLOG, "notify_syslog": False}, HTTP, SNMP, SMS),
        )
    )
    before = node.seen
    changes = {tuple(one["key"]): one for one in node.plan(*names)["changes"]}
    assert changes["Many failed logins", "SSH"]["before"]["notify"] == "on"
    assert changes["Many failed logins", "SSH"]["after"]["notify"] == "off"
    calls = node.apply(*names)
    assert sorted(path.rpartition("/")[2] for path in calls) == [
        "EmailNotification", "SSHNotification", "SyslogNotification",
    ]  # fmt: skip
    bodies = {call["path"].rpartition("/")[2]: call["body"]["data"] for call in node.writes(before)}
    assert bodies["SSHNotification"] == {"notify_ssh": "off"}
    assert bodies["SyslogNotification"] == {"notify_syslog": "off"}
    node.is_as_wanted(*names)
    node.sheet(alert("Many failed logins", notifications="[]"))
    assert len(node.apply(*names)) == 4
    node.is_as_wanted(*names)
    node.sheet(alert("Many failed logins"))
    node.is_as_wanted(*names)


# --- owners and sharing ---------------------------------------------------------------------------


def test_a_rule_given_away_is_found_again(node: Node) -> None:
    """A rule goes to its owner after it was shared, and is then found among the shared ones."""
    node.sheet(alert("Many failed logins"))
    node.apply("director/alert_rules")
    node.sheet(
        alert("Many failed logins", user="Ann", visible_to='["LogPoint Administrator"]',
              notifications=told(EMAIL), active=False)
    )  # fmt: skip
    moved = [one for one in node.plan(*EVERYTHING)["changes"] if "owners" in one["fields"]]
    assert [one["before"]["owners"][0] for one in moved] != []
    calls = [path.rpartition("/")[2] for path in node.apply(*EVERYTHING)]
    assert calls[-1] == "transferOwnership"
    assert sorted(calls[:-1]) == ["EmailNotification", "deactivate", "share"]
    node.is_as_wanted(*EVERYTHING)
    node.sheet(
        alert("Many failed logins", user="ann", visible_to='["LogPoint Administrator"]', risk="low")
    )
    assert len(node.apply("director/alert_rules")) == 1
    node.is_as_wanted("director/alert_rules")


def test_a_new_rule_for_another_owner(node: Node) -> None:
    """Made by the token's user, shared with his group and given away: one apply, then nothing."""
    (node.folder / "profiles").mkdir()
    (node.folder / "profiles" / "alert_rules.yml").write_text(
        "version: 1\nextends: director/alert_rules\nresource: alert_rules\n"
        "mapping: {owner_name: {col: null, transform: [], value: admin}}\n"
    )
    names = ("alert_rules", *OPTIONS)
    node.sheet(alert("Ann's own rule", user="ann", visible_to='["LogPoint Administrator"]'))
    calls = [path.rpartition("/")[2] for path in node.apply(*names)]
    assert calls == ["", "share", "transferOwnership"]
    node.is_as_wanted(*names)


def test_sharing_with_groups_and_users(node: Node) -> None:
    """Ids of the source become names and then ids; a group is left to its named members."""
    sheets = {
        "User": [{"user_id": "64b0c0ffee00000000008001", "username": "Ann",
                  "usergroup_id": '["64b0c0ffee00000000009001"]'}],
        "UserGroup": [{"group_id": "64b0c0ffee00000000009001", "name": "soc"},
                      {"group_id": "64b0c0ffee00000000009002", "name": "ops"}],
    }  # fmt: skip
    groups = json.dumps([one["group_id"] for one in sheets["UserGroup"]])
    people = json.dumps([sheets["User"][0]["user_id"]])
    rule = alert("Many failed logins", visible_to=groups, visible_to_users=people)
    node.sheet(rule, **sheets)
    names = ("director/alert_rules", OPTIONS[2])
    node.apply(*names)
    (call,) = [call for call in node.writes() if call["path"].endswith("/share")]
    kinds = [sorted(entry) for entry in call["body"]["data"]["rbac_config"]]
    assert kinds == [["group_id", "group_permission"], ["group_id", "user_permissions"]]
    node.is_as_wanted(*names)
    node.sheet(alert("Many failed logins", visible_to="[]", visible_to_users="[]"), **sheets)
    node.apply(*names)
    assert node.writes()[-1]["body"]["data"] == {"rbac_config": []}
    node.is_as_wanted(*names)


def test_the_same_with_and_without_prefetch(node: Node) -> None:
    """Whether inventories are held beforehand or not, rows get the same statuses."""
    node.sheet(
        alert("Many failed logins", notifications=told(EMAIL), visible_to='["soc"]'),
        alert("Of nobody", user="ghost"),
    )
    held = node.plan(*EVERYTHING)
    assert node.run("apply", *EVERYTHING, "--dry-run", code=None) == node.run(
        "apply", *EVERYTHING, "--dry-run", "--no-prefetch", code=None
    )
    node.run("dump", *EVERYTHING, "--out", "held")
    offline = json.loads(
        node.run("plan", *EVERYTHING, "--existing", "held", "--format", "json", code=None)
    )
    assert (offline["tallies"], offline["changes"]) == (held["tallies"], held["changes"])


# --- bad input ------------------------------------------------------------------------------------


def told_of(node: Node, *names: str) -> dict[int, list[tuple[str, str]]]:
    """What a plan says of each row of sheet Alert: cell and message."""
    found: dict[int, list[tuple[str, str]]] = {}
    for one in node.plan(*names)["findings"]:
        found.setdefault(one["row"], []).append((one["place"]["cell"], one["message"]))
    return found


def letter(rows: Sequence[Cells], header: str) -> str:
    """The letter of a column, as `Node.sheet` writes it."""
    headers = list(dict.fromkeys(key for row in rows for key in row))
    return chr(ord("A") + headers.index(header))


BAD_RULES = {
    "owner": ({"user": "ghost"}, "settings.user", "not found in Users: ghost"),
    "units": ({"hour": 2}, "settings.livesearch_data.timerange_minute", "more than one unit"),
    "repo": ({"repos": "[]"}, "settings.repos", "the rule has no repository"),
}


def test_bad_rules(node: Node) -> None:
    """What is wrong with a rule is told at its cell; of two with one name the first counts."""
    rows = [alert(f"Bad {name}", **cells) for name, (cells, _, _) in BAD_RULES.items()]
    rows += [alert("Same name"), alert("Same name", risk="low")]
    node.sheet(*rows)
    found = told_of(node, "director/alert_rules")
    for number, (_, column, message) in enumerate(BAD_RULES.values(), start=2):
        ((cell, said),) = found.pop(number)
        assert cell == f"{letter(rows, column)}{number}"
        assert message in said
    ((row, ((cell, said),)),) = found.items()
    assert (row, cell) == (6, f"{letter(rows, 'name')}6")
    assert "a duplicate name: the first row of a name counts" in said


MASKS = ("****", "********", "***REDACTED***", "<masked>", "[hidden]")
BAD_SETTINGS: dict[str, tuple[Cells | str, str]] = {
    **{f"mask {mask}": ({**SSH, "ssh_auth_password": mask}, "a mask stands") for mask in MASKS},
    "mask in a header": (
        {**HTTP, "http_header": {**HTTP["http_header"], "auth_value": "****"}}, "a mask stands",
    ),
    "mask in a query": ({**HTTP, "http_querystring": "a=1&token=****"}, "a mask stands"),
    "unknown kind": ({"type": "fax", "notify_fax": True}, "kind is not one of Email"),
    "no list": ("email to soc", "the notifications are no JSON list"),
    "no receivers": ({**EMAIL, "email_emails": []}, "Email: email_emails is missing"),
    "no server": ({**SYSLOG, "server": ""}, "Syslog: server is missing"),
    "no password": ({**SSH, "ssh_auth_password": ""}, "SSH: ssh_auth_password is missing"),
    "dotted oid": ({**SNMP, "snmp_oid": ".1.3.6"}, "SNMP: snmp_oid begins with a dot"),
    "no community": (
        {**SNMP, "snmp_community_string": None}, "SNMPv2c needs snmp_agent and snmp_community",
    ),
    "half a threshold": (
        {**EMAIL, "threshold_value": None}, "a threshold needs threshold_option and",
    ),
    "severity": ({**SYSLOG, "severity": 9}, "Syslog: severity is 0 to 7"),
    "body of a GET": ({**HTTP, "http_request_type": "GET"}, "http_body goes with POST"),
}  # fmt: skip


def test_bad_notifications(node: Node) -> None:
    """What is wrong with a notification is told at its cell, and that one is not written."""
    texts = [one if isinstance(one, str) else told(one) for one, _ in BAD_SETTINGS.values()]
    rows = [alert(f"Rule {number}", notifications=text) for number, text in enumerate(texts)]
    node.sheet(*rows)
    names = ("director/alert_rules", OPTIONS[0])
    found = told_of(node, *names)
    column = letter(rows, "settings.notifications")
    for number, (name, (_, message)) in enumerate(BAD_SETTINGS.items(), start=2):
        assert {cell for cell, _ in found[number]} == {f"{column}{number}"}, name
        assert any(message in said for _, said in found.pop(number)), name
    assert found == {}
    node.run("apply", *names, "--yes", code=None)
    assert not any(call["path"].endswith("Notification") for call in node.writes())


def test_an_unknown_audience(node: Node) -> None:
    """A group that the node does not have withholds the sharing of that rule, and says so."""
    rule = alert("Many failed logins", visible_to='["soc", "night shift"]')
    node.sheet(rule)
    ((cell, said),) = told_of(node, "director/alert_rules", OPTIONS[2])[2]
    assert "not found in Audience: group night shift" in said
    assert cell == f"{letter([rule], 'settings.visible_to')}2"
