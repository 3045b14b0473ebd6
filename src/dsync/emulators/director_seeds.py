"""What a new node of the Director emulator contains, as the vendor's machines do from the start.

Beside that, a few invented objects of the kinds that a node gets from elsewhere: packages,
enrichment sources, techniques, a collector, and the vendor's lists and alert rules.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence

from .director_lookups import CHARSETS, PARSERS, timezones
from .director_nodes import Node, Stored

__all__ = ["seed_node"]

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
    _people(node, put)
    for number, name in enumerate(_PACKAGES, start=1):
        put("NormalizationPackage", **_package(number, name))
    for number, name in enumerate(_COMPILED, start=1):
        put("CompiledNormalizers", name=name, version=f"3.{number}.0")
    put("EnrichmentSource", **_HOST_OWNERS)
    put("EnrichmentSource", **_THREAT_FEED)
    put("EnrichmentPolicy", **_EP_HOSTS)
    for name in CHARSETS:
        node.store("Charsets").put(name, {"id": name, "name": name}, shown_at=0.0)
    for name, described in timezones():
        zone: Stored = {"id": name, "name": name, "description": described}
        node.store("Timezone").put(name, zone, shown_at=0.0)
    for name in PARSERS:
        put("Parsers", name=name, **_PARSER)
    put("LogSourceMetaData", app="UniversalRestApi")
    put(
        "SystemSettingsGeneral",
        timestamp_on="col_ts",
        lp_mode="standalone",
        name=node.name,
        timezone="UTC",
        identifier=node.id,
        ip_dns=node.address,
    )
    _pool(node, put)
    for technique in _techniques():
        put("MitreAttacks", **technique)
    for value in _VENDOR_LISTS:
        put("Lists", **value)
    for value in _VENDOR_RULES:
        put("AlertRules", **{**value, "owner": ""})


Put = Callable[..., str]


def _people(node: Node, put: Put) -> None:
    roles = [put("PermissionGroups", name=name, **_ROLE) for name in _ROLES]
    users, groups = node.store("Users"), node.store("UserGroups")
    admin, every = node.new_id(), {"include_all_permission": True}
    for name, role in (("LogPoint Administrator", 0), ("User Account Administrator", 1)):
        id_, flags = node.new_id(), {"lpadmin": role == 0, "useradmin": role == 1}
        value: Stored = {"id": id_, "name": name, **_USER_GROUP, **flags}
        value |= {"permission_group": roles[role], "object_permission": every}
        groups.put(id_, {**value, "users": [] if role else [admin]}, shown_at=0.0)
        if not role:
            users.put(admin, {"id": admin, **_ADMIN, "usergroup": [id_]}, shown_at=0.0)


def _pool(node: Node, put: Put) -> None:
    """The machines that a node knows: the others of its pool, and a collector."""
    others = [one for one in node.pool_nodes if one is not node]
    for one in others:
        put("DistributedLogpoints", name=one.name, private_ip=one.address, **_REMOTE)
    put("DistributedCollectors", **_COLLECTOR)


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
_USER_GROUP: Stored = {"description": "", "active": True, "tid": ""}
_ROLES = ("Administrator", "User Administrator", "Operator")
_ROLE: Stored = {"description": "", "active": True, "tid": ""}
_PARSER: Stored = {
    "type": "system",
    "pattern": "",
    "user": "",
    "vid": "",
    "tid": "",
    "active": True,
    "_permission": {"edit": False, "delete": False},
}
_REMOTE: Stored = {
    "ip_dns": "",
    "remote": True,
    "vpn_ip": "",
    "status": "Connected",
    "is_higher_security_lite": False,
}
_COLLECTOR: Stored = {
    "identifier": "c0ffee00c0ffee00c0ffee00c0ffee05",
    "name": "collector-1",
    "ip": "203.0.113.5",
    "description": "",
    "active": True,
    "buffering": False,
    "file_socket_port": 6900,
    "is_li_light": True,
    "tid": "",
}
_TACTICS = (
    "Discovery", "Execution", "Persistence", "Impact", "Collection", "Exfiltration",
    "Initial Access", "Lateral Movement", "Credential Access", "Defense Evasion",
)  # fmt: skip


@functools.cache
def _techniques() -> tuple[Stored, ...]:
    """Techniques, each once for every tactic that it serves: its id alone is not unique."""
    pairs = [
        (f"T{number:04}{part}", _TACTICS[(number + other) % len(_TACTICS)])
        for number in range(1, 21)
        for part in ("", ".001")
        for other in range(1 + number % 2)
    ]
    return tuple(
        {
            "hash": hashlib.sha256(f"{attack} {tactic}".encode()).hexdigest()[:32],
            "attack_id": attack,
            "attack_category": tactic,
            "attack_tag": f"Sample technique {attack.removeprefix('T')}",
            "attack_framework": "MITRE",
            "grouping": "",
            "version": "1.0",
            "description": f"How {attack} serves {tactic}",
            "url": f"https://attack.example.test/{attack}",
        }
        for attack, tactic in pairs
    )


_VENDOR_LISTS: Sequence[Stored] = tuple(
    {
        "name": name,
        "user": "",
        "tid": "",
        "active": True,
        "hidden": hidden,
        "list_type": "static_list",
        "lists": [],
        "lists_vendor": values,
        "age_limit": 0,
        "last_updated": "1700000000000",
        "vid": f"LIST_{number}",
    }
    for number, (name, values, hidden) in enumerate(
        (
            ("SAMPLE_ADMIN_TOOLS", ["tool-a.example.test", "tool-b.example.test"], False),
            ("SAMPLE_INTERNAL", ["192.0.2.1"], True),
        ),
        start=901,
    )
)
_VENDOR_RULES: Sequence[Stored] = tuple(
    {
        "searchname": name,
        "vid": f"ALERT_{number}",
        "used_from": "",
        "active": True,
        "risk": "medium",
        "aggregate": "max",
        "condition_option": "greaterthan",
        "condition_value": 0,
        "limit": 25,
        "repos": ["127.0.0.1:5504"],
        "timerange_minute": 10,
        "query": f"label={name.split()[-1]}",
        "description": "",
        "log_source": [source],
        "attack_tag": [],
        "metadata": [],
        "manageable_by": [],
        "rbac_config": [],
        "notifications": {},
    }
    for number, (name, source) in enumerate(
        (("Sample Vendor Login", "windows"), ("Sample Vendor Scan", "firewall")), start=901
    )
)
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
