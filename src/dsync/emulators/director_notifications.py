"""Notifications of an alert rule: one setting for each kind, written by actions of the rule.

They have no read of their own; a fetched rule lists them as a node exports them, under other
names and with their secrets masked.

Source: Director API 2.7.0; that a second post replaces the first is decided by us.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from .director_kinds import Action, Desk
from .director_nodes import Stored
from .shapes import Field, Flag, Int, ListOf, Object, Problem, Text, is_on

__all__ = ["NOTIFICATIONS", "exported"]

MASK = "****"
_SECRETS = {
    "sms_password", "ssh_auth_password", "snmp_authorization_key", "snmp_private_key",
    "snmp_community_string", "auth_pass", "auth_value",
}  # fmt: skip
_FLAG = Flag(texts=True)
_PORT = Int(least=1, most=65_535)

Rule = Callable[[Stored], Iterable[Problem]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One way to tell people; `notify_…` switches it on or off."""

    switch: str
    needs: Mapping[str, Text | Int | Flag | ListOf]
    """What is mandatory when it is on."""
    may: Mapping[str, Text | Int | Flag | ListOf | Object]
    prefix: str
    """Of its threshold's keys."""
    least: int = 1
    """Of its threshold's value."""
    rule: Rule = lambda _body: ()
    """What depends on several keys, when it is on."""

    def body(self) -> Object:
        unit, value = f"{self.prefix}threshold_option", f"{self.prefix}threshold_value"
        fields = {
            **self.needs,
            **self.may,
            unit: Text(choices=("minute", "hour", "day")),
            value: Int(least=self.least),
            "dispatch_option": Text(choices=("auto", "manual")),
        }
        must = Field(name=self.switch, shape=Text(choices=("on", "off")), must=True)
        optional = (Field(name=name, shape=shape) for name, shape in fields.items())

        def extra(body: Stored) -> Iterator[Problem]:
            if (unit in body) is not (value in body):
                yield _missing(value if unit in body else unit)
            if body.get(self.switch) == "on":
                yield from (_missing(name) for name in self.needs if name not in body)
                yield from self.rule(body)

        return Object((must, *optional), extra)


def _missing(name: str) -> Problem:
    return Problem("missing_key", f"Missing parameter: {name}")


def _when(key: str, needed: Mapping[str, tuple[str, ...]]) -> Rule:
    """Keys that are mandatory for one value of another key."""

    def rule(body: Stored) -> Iterator[Problem]:
        for name in needed.get(str(body.get(key)), ()):
            if not body.get(name):
                yield _missing(name)

    return rule


def _email(body: Stored) -> Iterator[Problem]:
    if not is_on(body.get("logo_enable", False)):
        return
    logo = str(body.get("b64_logo", ""))
    if not logo:
        yield _missing("b64_logo")
    elif not logo.startswith("data:image/jpeg;base64,"):
        yield Problem("bad_value", "b64_logo must be a JPEG as a data URL")


def _http(body: Stored) -> Iterator[Problem]:
    if body.get("http_body") and body.get("http_request_type") not in ("POST", "PUT", "PATCH"):
        yield Problem("bad_value", "http_body goes with POST, PUT and PATCH only")


_AUTH_NEEDS = _when(
    "auth_type",
    {
        "basic_auth": ("auth_key", "auth_pass"),
        "api_token": ("auth_key", "auth_value"),
        "bearer_token": ("auth_key",),
    },
)
_AUTH = Object(
    (
        Field(name="auth_type", shape=Text(choices=("basic_auth", "api_token", "bearer_token"))),
        Field(name="auth_key", shape=Text()),
        Field(name="auth_value", shape=Text()),
        Field(name="auth_pass", shape=Text()),
    ),
    lambda body: iter(_AUTH_NEEDS(body)),
)

KINDS: dict[str, Kind] = {
    "Email": Kind(
        switch="notify_email",
        prefix="email_",
        needs={"email_emails": ListOf(Text())},
        may={
            "subject": Text(),
            "email_template": Text(),
            "link_disable": _FLAG,
            "logo_enable": _FLAG,
            "b64_logo": Text(),
        },
        rule=_email,
    ),
    "HTTP": Kind(
        switch="notify_http",
        prefix="http_",
        needs={
            "http_url": Text(),
            "http_request_type": Text(choices=("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD")),
            "http_querystring": Text(),
        },
        may={
            "http_body": Text(),
            "http_header": _AUTH,
            "protocol": Text(choices=("HTTP", "HTTPS")),
        },
        rule=_http,
    ),
    "SMS": Kind(
        switch="notify_sms",
        prefix="sms_",
        needs={
            "sms_server": Text(),
            "sms_port": _PORT,
            "sms_sender": Text(),
            "sms_username": Text(),
            "sms_password": Text(),
            "sms_receivers": ListOf(Text(form=r"\+?[0-9]{3,15}", rule="3 to 15 digits")),
        },
        may={"sms_body": Text()},
    ),
    "SNMP": Kind(
        switch="notify_snmp",
        prefix="snmp_",
        needs={
            "snmp_ip": Text(),
            "snmp_port": _PORT,
            "snmp_version": Text(choices=("SNMPv2c", "SNMPv3")),
            "snmp_oid": Text(form=r"[^.].*", rule="an OID without a leading dot"),
        },
        may={
            "snmp_agent": Text(),
            "snmp_community_string": Text(),
            "snmp_username": Text(),
            "snmp_authorization_key": Text(),
            "snmp_private_key": Text(),
            "snmp_message": Text(),
            "snmp_threshold_enabled": _FLAG,
        },
        rule=_when(
            "snmp_version",
            {
                "SNMPv2c": ("snmp_agent", "snmp_community_string"),
                "SNMPv3": ("snmp_username", "snmp_authorization_key", "snmp_private_key"),
            },
        ),
    ),
    "SSH": Kind(
        switch="notify_ssh",
        prefix="ssh_",
        needs={
            "ssh_server": Text(),
            "ssh_port": _PORT,
            "ssh_username": Text(),
            "ssh_auth_type": Text(choices=("password", "certificate")),
            "ssh_command": Text(),
        },
        may={
            "ssh_auth_password": Text(),
            "ssh_cert_type": Text(choices=("system_cert", "user_cert")),
        },
        rule=_when(
            "ssh_auth_type",
            {"password": ("ssh_auth_password",), "certificate": ("ssh_cert_type",)},
        ),
    ),
    "Syslog": Kind(
        switch="notify_syslog",
        prefix="",
        least=0,
        needs={
            "server": Text(),
            "port": _PORT,
            "protocol": Text(choices=("UDP", "TCP")),
            "severity": Int(least=0, most=7),
        },
        may={"facility": Int(least=0, most=23), "message": Text(), "split_rows": _FLAG},
    ),
}


def _posted(kind: str) -> Action:
    def act(desk: Desk, rule: Stored, body: Stored) -> None:
        settings = rule.get("notifications")
        known = settings if isinstance(settings, dict) else {}
        desk.put("AlertRules", {**rule, "notifications": {**known, kind: body}})

    return Action(body=KINDS[kind].body(), act=act, done="edited")


NOTIFICATIONS: dict[str, Action] = {f"{kind}Notification": _posted(kind) for kind in KINDS}
"""By the word in the path."""


def exported(settings: object) -> list[Stored]:
    """A rule's notifications as its node exports them."""
    if not isinstance(settings, dict):
        return []
    return [_exported(kind, body) for kind, body in settings.items() if kind in KINDS]


def _exported(name: str, body: Stored) -> Stored:
    kind = KINDS[name]
    shown: Stored = {"type": name.lower(), "simple_view": False, "dispatch_option": "auto"}
    for key, item in body.items():
        if key == kind.switch:
            shown[key] = item == "on"
        elif key.startswith(f"{kind.prefix}threshold_"):
            shown[key.removeprefix(kind.prefix)] = item
        elif isinstance(item, dict):
            shown[key] = {part: _masked(part, text) for part, text in item.items()}
        elif key in ("link_disable", "logo_enable", "split_rows"):
            shown[key] = is_on(item)
        else:
            shown[key] = _masked(key, item)
    shown["threshold"] = bool(shown.get("threshold_value"))
    if name == "Email":
        emails = body.get("email_emails")
        joined = ", ".join(map(str, emails)) if isinstance(emails, list) else ""
        shown |= {"raw_emails": joined, "template_file": "", "logo_type": ""}
    return shown


def _masked(key: str, item: object) -> object:
    return MASK if key in _SECRETS and item else item
