"""Makes the inputs of the golden tests: for each importer a workbook and what its node holds.

    python tests/golden_inputs.py FOLDER      # <importer>/input.xlsx, dump/<node>/<resource>.ndjson

All names are invented. Ids in the workbooks are those of a source node; the node has others.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import xlsxwriter

Cell = str | int | float | bool | None
Row = Sequence[Cell]
Sheets = Mapping[str, tuple[Sequence[str], Sequence[Row]]]
Record = dict[str, Any]

BACKEND, HEAD = "gold-be-1", "gold-sh-1"
TENANTS = """\
tenants:
  gold:
    pool_uuid: "b0b0b0b0b0b0b0b0b0b0b0b0b0b00003"
    siems:
      search_heads:
        - {name: "gold-sh-1", id: "c0ffee00c0ffee00c0ffee00c0ffee31", ip: "203.0.113.31", ip_private: "198.51.100.31"}
      backends:
        - {name: "gold-be-1", id: "c0ffee00c0ffee00c0ffee00c0ffee32", ip: "203.0.113.32", ip_private: "198.51.100.32"}
        - {name: "gold-be-2", id: "c0ffee00c0ffee00c0ffee00c0ffee33", ip: "203.0.113.33", ip_private: "198.51.100.33"}
      all_in_one:
        - {name: "gold-aio-1", id: "c0ffee00c0ffee00c0ffee00c0ffee34", ip: "203.0.113.34", ip_private: "198.51.100.34"}
defaults:
  target:
    repos: [backends, all_in_one]
    routing_policies: [backends, all_in_one]
    normalization_policies: [backends, all_in_one]
    processing_policies: [backends, all_in_one]
    enrichment_policies: [backends, all_in_one]
    device_groups: [backends, all_in_one]
    devices: [backends, all_in_one]
    syslog_collectors: [backends, all_in_one]
    alert_rules: [search_heads]
    user_defined_lists: [search_heads]
"""  # noqa: E501 - one node a line
CONFIG = """\
version: 1
connections:
  director:
    system: director
    base_url: http://127.0.0.1:9
    credentials: {token: demo}
    scopes: tenants.yml
context: {tenant: gold}
inputs: {xlsx_path: input.xlsx}
"""

HOT, COLD = "/opt/immune/storage", "/opt/immune/cold"
MATCHES, PRESENT = "KeyPresentValueMatches", "KeyPresent"


def of_source(kind: str, number: int) -> str:
    """An object's id on the source node."""
    return f"64b0c0ffee0000000000{kind}{number:03d}"


def here(kind: str, number: int) -> str:
    """An object's id on the node."""
    return f"7a46e7000000000000{kind * 3}{number:03d}"


# --- repos ----------------------------------------------------------------------------------------

_REPO = (
    "original_repo_name", "cleaned_repo_name", "Storage_Paths ", "retention_days", "repoha_li",
    "repoha_day", "repo_number", "active", "used_size",
)  # fmt: skip


def _repo(name: str | None, paths: str | None, days: Cell, *ha: Cell) -> Row:
    li, day = ha or (None, None)
    return (f"Repo-gold-{name}", name, paths, days, li, day, 9, True, "1.2 GB")


REPOS: Sheets = {
    "Repo": (
        _REPO,
        (
            _repo("Repo_new", HOT, 365.0),
            _repo("  Repo_tiers ", f"{HOT} | {COLD}/", "90 | 275.0"),
            _repo("Repo_literal", f"['{HOT}', '{COLD}']", "[30, 60]"),
            _repo("Repo_same", f"{COLD} | {HOT}", "275 | 90"),  # the node has them in another order
            _repo("Repo_grow", HOT, "90"),
            _repo("Repo_remote", HOT, 30, "198.51.100.7 | 198.51.100.8", "30 | 60"),
            _repo("Repo_ha_same", HOT, 30),  # what it has elsewhere stays as it is
            _repo("Repo_ha_grow", HOT, 60),
            _repo("Repo_uneven", f"{HOT} | {COLD}", 90),
            _repo("Repo_attic", f"{HOT} | /opt/immune/attic", "30 | 60"),
            _repo("Repo_word", HOT, "a year"),
            _repo("Repo_zero", HOT, 0),
            _repo("Repo_pathless", None, None),
            _repo(None, HOT, 365),
            _repo("Repo_twin", HOT, 10),
            _repo("Repo_twin", HOT, 20),
            _repo("Repo_ha_uneven", HOT, 30, "198.51.100.7 | 198.51.100.8", 30),
        ),
    )
}


def _stored(number: int, name: str, *tiers: tuple[str, int], **more: Any) -> Record:
    paths = [{"path": f"{path}/", "retention": days} for path, days in tiers]
    return {
        "id": here("a", number), "name": name, "active": True, "repo_number": number,
        "repopath": paths, "repoha": [], "tid": "", "used_size": "1.24 MB", **more,
    }  # fmt: skip


_HA = [{"ha_li": "198.51.100.7", "ha_day": 30}]
NODE_REPOS = [
    _stored(1, "default", (HOT, 365)),
    _stored(2, "_logpoint", (HOT, 365)),
    _stored(3, "_LogPointAlerts", (HOT, 365)),
    _stored(4, "Repo_same", (HOT, 90), (COLD, 275)),
    _stored(5, "Repo_grow", (HOT, 30), added_by_a_later_version=1),
    _stored(6, "Repo_ha_same", (HOT, 30), repoha=_HA),
    _stored(7, "Repo_ha_grow", (HOT, 30), repoha=_HA),
    _stored(8, "Repo_of_nobody", (HOT, 30)),
]

# --- routing policies -----------------------------------------------------------------------------

_ROUTING = (
    "policy_id", "original_policy_name", "CLEANED_POLICY_NAME", "active", "catch_all", "rule_type",
    "key", "value", "repo", "drop",
)  # fmt: skip


def _rule(name: str | None, catch_all: str | None, *parts: Cell) -> Row:
    return (of_source("c", 1), f"rp-gold-{name}", name, True, catch_all, *(parts or (None,) * 5))


_APP, _AUDIT = "Repo-gold-app", "Repo-gold-audit"

ROUTING_POLICIES: Sheets = {
    "RP": (  # the sheet's other name
        _ROUTING,
        (
            _rule("rp_new", _APP, MATCHES, "action", "deny", _AUDIT, "store"),
            _rule("rp_new", None, PRESENT, "debug_flag", None, None, "discard_raw"),
            _rule("rp_new ", _APP, MATCHES, "status_code", 500.0, "default", "store"),
            _rule("rp_ruleless", _APP, "nan", "-", "None", "null", None),
            _rule("rp_same", _APP, PRESENT, "user", None, _AUDIT, "store"),
            _rule("rp_turned", _APP, PRESENT, "user", None, _AUDIT, "store"),
            _rule("rp_turned", _APP, PRESENT, "host", None, _AUDIT, "store"),
            _rule("rp_torn", _APP, PRESENT, "user", None, _AUDIT, "store"),
            _rule("rp_torn", "default", PRESENT, "host", None, _AUDIT, "store"),
            _rule("rp_keyless", _APP, PRESENT, None, None, _AUDIT, "store"),
            _rule("rp_dropless", _APP, PRESENT, "user", None, _AUDIT, None),
            _rule("rp_valueless", _APP, MATCHES, "user", "-", _AUDIT, "store"),
            _rule("rp_gone", _APP, PRESENT, "user", None, "Repo-gone", "store"),
            _rule("rp_nowhere", "Repo-gone"),
            _rule("rp_homeless", None, PRESENT, "user", None, _AUDIT, "store"),
            _rule(None, _APP, PRESENT, "user", None, _AUDIT, "store"),
        ),
    ),
    "Repo": (
        _REPO,
        (
            ("Repo-gold-app", "Repo_app", HOT, 30, None, None, 4, True, "1 GB"),
            ("Repo-gold-audit", "Repo_audit", HOT, 30, None, None, 5, True, "1 GB"),
        ),
    ),
}


def _kept_rule(kind: str, key: str, repo: str, **more: Any) -> Record:
    return {"type": kind, "key": key, "repo": repo, "drop": "store", **more}


NODE_ROUTING = [
    {"id": here("c", 1), "policy_name": "default", "catch_all": "default", "routing_criteria": [],
     "active": True, "tid": ""},
    {"id": here("c", 2), "policy_name": "rp_same", "catch_all": "Repo_app", "active": True,
     "tid": "", "user": "admin", "routing_criteria": [_kept_rule(PRESENT, "user", "Repo_audit")]},
    {"id": here("c", 3), "policy_name": "rp_turned", "catch_all": "Repo_app", "active": True,
     "tid": "", "user": "admin",
     "routing_criteria": [_kept_rule(PRESENT, "host", "Repo_audit", value=""),
                          _kept_rule(PRESENT, "user", "Repo_audit", value="")]},
]  # fmt: skip

# --- normalization policies -----------------------------------------------------------------------

NORMALIZATION_POLICIES: Sheets = {
    "NormalizationPolicy": (
        ("policy_name", "normalization_packages", "compiled_normalizer", "active"),
        (
            ("np_new", "LP_Acme Firewall | LP_Cobalt Switch", "CEFCompiledNormalizer", True),
            ("np_commas", "LP_Acme Firewall, LP_Cobalt Switch,LP_Acme Firewall", None, True),
            ("np_compiled", "-", "JSONCompiledNormalizer | CEFCompiledNormalizer", True),
            ("np_same", "LP_Cobalt Switch | LP_Acme Firewall", "CEFCompiledNormalizer", True),
            ("np_untold", "LP_Acme Firewall", "CEFCompiledNormalizer", True),
            ("np_text", "nan", "JSONCompiledNormalizer | CEFCompiledNormalizer", True),
            ("np_edit", "LP_Acme Firewall", None, True),
            ("np_blank", "null", "None", True),
            ("np_gone", "LP_Acme Firewall | LP_Unknown Thing", None, True),
            ("np_case", "lp_acme firewall", None, True),
            ("np_uncompiled", "LP_Acme Firewall", "NoSuchCompiledNormalizer", True),
            (None, "LP_Acme Firewall", None, True),
        ),
    )
}
_FIREWALL, _SWITCH, _RETIRED = here("b", 1), here("b", 2), here("b", 9)
NODE_PACKAGES = [
    {"id": _FIREWALL, "name": "LP_Acme Firewall", "type": "vendor"},
    {"id": _SWITCH, "name": "LP_Cobalt Switch", "type": "vendor"},
]
NODE_COMPILED = [
    {"name": "CEFCompiledNormalizer", "version": "3.1.0"},
    {"name": "JSONCompiledNormalizer", "version": "3.3.0"},
]


def _norm(number: int, name: str, packages: list[str], **more: Any) -> Record:
    return {
        "id": here("5", number), "name": name, "active": True, "tid": "",
        "normalization_packages": packages, "ordered_signatures": [],
        "selected_signatures": ["sig_500001"], **more,
    }  # fmt: skip


NODE_NORMALIZATION = [
    _norm(1, "_logpoint", []),
    _norm(2, "np_same", [_FIREWALL, _SWITCH], compiled_normalizer=["CEFCompiledNormalizer"]),
    _norm(3, "np_untold", [_FIREWALL]),  # it does not tell its compiled normalizers
    _norm(4, "np_text", [], compiled_normalizer="CEFCompiledNormalizer,JSONCompiledNormalizer"),
    _norm(5, "np_edit", [_FIREWALL, _RETIRED], compiled_normalizer=["CEFCompiledNormalizer"]),
]

# --- enrichment policies --------------------------------------------------------------------------

_EP = ("policy_id", "policy_name ", "spec_index", "source", "description", "tags", "active")
_EP_RULES = (
    "policy_name", "spec_index", "source", "category", "source_key", "prefix", "operation", "type",
    "event_key",
)  # fmt: skip
_EP_CRITERIA = ("policy_name", "spec_index", "source", "type", "key", "value")


def _spec(name: str | None, index: Cell, source: str | None, description: str | None = None) -> Row:
    return (of_source("f", 1), name, index, source, description, None, True)


_BY_ADDRESS = ("simple", "address", False, "Equals", "string", "device_ip")

ENRICHMENT_POLICIES: Sheets = {
    "EnrichmentPolicy": (
        _EP,
        (
            _spec("ep_new", 0, "host_owners", "Owner, then \"threats\""),
            _spec("ep_new", 1, "threat_feed"),
            _spec("ep_new", 2.0, "host_owners"),  # the same source twice stays two specifications
            _spec("ep_same", 0, "host_owners", "Adds owner of the host"),
            _spec("ep_told", 0, "host_owners"),  # a blank description leaves the node's
            _spec("ep_edit", 0, "host_owners", "Now told"),
            _spec("ep_ruleless", 0, "host_owners"),
            _spec("ep_free", 0, "host_owners"),  # no criteria
            _spec("ep_sourceless", 0, None),
            _spec("ep_unknown", 0, "no_such_source"),
            _spec("ep_case", 0, "Host_Owners"),
            _spec("ep_keyless", 0, "host_owners"),
            _spec(None, 0, "host_owners"),
        ),
    ),
    "EnrichmentRules": (
        _EP_RULES,
        (
            ("ep_new", 0, "host_owners", *_BY_ADDRESS),
            ("ep_new", 0, "host_owners", "simple", "owner", False, None, None, "user"),
            ("ep_new", 1, "threat_feed", "type_based", "ip_address", True, "Equals", "ip", None),
            ("ep_new", "2", "host_owners", "type_based", "port", "no", "Equals", "num", None),
            ("ep_same", 0, "host_owners", "simple", "owner", None, "Equals", None, "user"),
            ("ep_same", 0, "host_owners", *_BY_ADDRESS),
            ("ep_told", 0, "host_owners", *_BY_ADDRESS),
            ("ep_edit", 0, "host_owners", "simple", "address", False, "Equals", "string", "host"),
            *(
                (name, 0, "host_owners", *_BY_ADDRESS)
                for name in ("ep_free", "ep_sourceless", "ep_unknown", "ep_case", "ep_keyless")
            ),
        ),
    ),
    "EnrichmentCriteria": (
        _EP_CRITERIA,
        (
            ("ep_new", 0, "host_owners", "KeyPresents", "device_ip", None),
            ("ep_new", 0.0, "host_owners", "KeyPresentsValueMatches", "status", 404.0),
            ("ep_new", 1, "threat_feed", "KeyPresentsValueMatches", "event_source", "proxy"),
            ("ep_new", 2, "host_owners", "KeyPresents", "port", None),
            *(
                (name, 0, "host_owners", "KeyPresents", "device_ip", None)
                for name in (
                    "ep_same", "ep_told", "ep_edit", "ep_ruleless", "ep_sourceless", "ep_unknown",
                    "ep_case",
                )
            ),
            ("ep_keyless", 0, "host_owners", "KeyPresents", None, None),
        ),
    ),
}  # fmt: skip


def _kept_spec(*rules: Record) -> Record:
    criteria = [{"type": "KeyPresents", "key": "device_ip"}]
    return {"source": "host_owners", "criteria": criteria, "rules": list(rules)}


_SIMPLE = {
    "category": "simple", "operation": "Equals", "prefix": False, "source_key": "address",
    "event_key": "device_ip",
}  # fmt: skip
NODE_ENRICHMENT = [
    # A rule that a node tells without its defaults, and in another order.
    {"id": here("d", 1), "name": "ep_same", "description": "Adds owner of the host",
     "specifications": [_kept_spec(_SIMPLE, {"category": "simple", "source_key": "owner",
                                             "event_key": "user", "type": "string"})]},
    {"id": here("d", 2), "name": "ep_told", "description": "As it was told on the node",
     "specifications": [_kept_spec(_SIMPLE)]},
    {"id": here("d", 3), "name": "ep_edit", "description": "",
     "specifications": [_kept_spec(_SIMPLE)]},
]  # fmt: skip
NODE_SOURCES = [
    {"id": here("6", 1), "source_name": "host_owners"},
    {"id": here("6", 2), "source_name": "threat_feed"},
]

# --- processing policies --------------------------------------------------------------------------

_PP = (
    "policy_id", "original_policy_name", "cleaned_policy_name", "active", "norm_policy",
    "enrich_policy", "routing_policy_id",
)  # fmt: skip


def _pp(name: str | None, norm: Cell, enrich: Cell, routing: Cell, number: int = 1) -> Row:
    return (of_source("d", number), f"pp-gold-{name}", name, True, norm, enrich, routing)


_RP_APP, _RP_GONE = of_source("c", 1), of_source("c", 2)
_EP_HOSTS, _EP_GONE = of_source("f", 1), of_source("f", 2)

PROCESSING_POLICIES: Sheets = {
    "ProcessingPolicy": (
        _PP,
        (
            _pp("pp_plain", "None", "None", _RP_APP),
            _pp("pp_full", "np_app", _EP_HOSTS, f" {_RP_APP} "),
            _pp("pp_blank", None, "nan", _RP_APP),
            _pp("pp_same", "np_app", "None", _RP_APP),
            _pp("pp_none_told", "None", None, _RP_APP),
            _pp("pp_edit", "np_app", _EP_HOSTS, _RP_APP),
            (of_source("d", 7), "pp_original", None, True, "None", "None", _RP_APP),
            _pp("pp_dangling_enrich", "np_app", of_source("f", 99), _RP_APP),
            _pp("pp_dangling_routing", "np_app", "None", of_source("c", 99)),
            _pp("pp_routeless", "np_app", "None", None),
            _pp("pp_norm_gone", "np_gone", "None", _RP_APP),
            _pp("pp_enrich_gone", "np_app", _EP_GONE, _RP_APP),
            _pp("pp_routing_gone", "np_app", "None", _RP_GONE),
        ),
    ),
    "RoutingPolicy": (
        _ROUTING,
        (
            _rule("rp_app", _APP, PRESENT, "user", None, _AUDIT, "store"),
            _rule("rp_app", _APP, PRESENT, "host", None, _AUDIT, "store"),  # the id comes twice
            (_RP_GONE, "rp-gold-gone", "rp_gone", True, _APP, *(None,) * 5),
        ),
    ),
    "EnrichmentPolicy": (
        _EP,
        (
            _spec("ep_hosts", 0, "host_owners"),
            _spec("ep_hosts", 1, "threat_feed"),
            (_EP_GONE, "ep_gone", 0, "host_owners", None, None, True),
        ),
    ),
}


def _kept_pp(number: int, name: str, norm: str, enrich: str | None) -> Record:
    return {
        "id": here("f", number), "policy_name": name, "norm_policy": norm, "enrich_policy": enrich,
        "routing_policy": here("c", 5), "active": True, "tid": "",
    }  # fmt: skip


NODE_PROCESSING = [
    _kept_pp(1, "pp_same", "np_app", "None"),
    _kept_pp(2, "pp_none_told", "", None),  # empty, absent and None mean the same
    _kept_pp(3, "pp_edit", "None", "None"),
]

# --- device groups --------------------------------------------------------------------------------

DEVICE_GROUPS: Sheets = {
    "DeviceGroups": (
        ("group_id", " Name", "description", "active", "device_ids", "tags"),
        (
            (of_source("e", 1), "new", "Just made", True, of_source("d", 1), None),
            (of_source("e", 2), "undescribed", None, True, None, None),
            (of_source("e", 3), "same", "Linux servers", True, None, None),
            (of_source("e", 4), "blank", None, True, None, None),
            (of_source("e", 5), "described", "Now described", True, of_source("d", 1), None),
            (of_source("e", 6), "twin", "one", True, None, None),
            (of_source("e", 7), "twin", "two", True, None, None),
            (of_source("e", 8), None, "nameless", True, None, None),
        ),
    )
}
NODE_GROUPS = [
    {"id": here("e", 1), "name": "same", "description": "Linux servers", "devices": []},
    {"id": here("e", 2), "name": "blank", "devices": [here("d", 1)]},
    {"id": here("e", 3), "name": "described", "description": "", "devices": [here("d", 1)]},
]

# --- devices --------------------------------------------------------------------------------------

_DEVICE = (
    "device_id", "Name", "IPs", "availability", "confidentiality", "integrity", "Time_Zone",
    "Groups", "distributed_collector", "log_policies", "description", "type", "active",
)  # fmt: skip


def _device(
    name: str | None, ip: Cell, groups: Cell = None, zone: Cell = None,
    risks: tuple[Cell, Cell, Cell] = ("Major", "minor", " MINIMAL "),
) -> Row:  # fmt: skip
    ours = of_source("9", 1)  # a collector of the source node: never sent
    return (of_source("d", 1), name, ip, *risks, zone, groups, ours, None, "x", None, True)


DEVICES: Sheets = {
    "Device": (
        _DEVICE,
        (
            _device("fw-new", "192.0.2.10 | fw-new.example.test | 192.0.2.128/25", "linux", "UTC"),
            _device("fw-literal", "['192.0.2.11', '192.0.2.12']", "linux | windows"),
            _device("fw-bare", "192.0.2.13 | 192.0.2.13"),
            _device("fw-half", "192.0.2.14", "linux | no_such_group"),
            _device("fw-stray", "192.0.2.15", "no_such_group"),
            _device("fw-same", "192.0.2.17 | 192.0.2.16", "windows | linux"),
            _device("fw-edit", "192.0.2.18 | 192.0.2.19"),
            _device("fw-moved", "192.0.2.20", "linux", "Europe/Paris"),
            _device("fw-homeless", None),
            _device("fw-risky", "192.0.2.21", risks=("Huge", "Minor", "Minor")),
            _device("fw-riskless", "192.0.2.22", risks=("Major", None, "Minor")),
            _device("fw-twin", "192.0.2.23"),
            _device("fw-twin", "192.0.2.24"),
            _device(None, "192.0.2.25"),
        ),
    )
}
_LINUX, _WINDOWS = here("e", 7), here("e", 8)
NODE_DEVICE_GROUPS = [
    {"id": _LINUX, "name": "linux", "description": "", "devices": []},
    {"id": _WINDOWS, "name": "windows", "description": "", "devices": []},
]


def _kept_device(number: int, name: str, ip: list[str], groups: list[str], **more: Any) -> Record:
    risks = {"availability": "Major", "confidentiality": "Minor", "integrity": "Minimal"}
    return {
        "id": here("d", number), "name": name, "ip": ip, "active": True, "has_hostname": False,
        "timezone": "UTC", "type": None, "tid": "", "risk_values": risks, "device_groups": groups,
        "distributed_collector": [], "log_policies": [], "col_apps": [], **more,
    }  # fmt: skip


_OTHERS = {"distributed_collector": [here("9", 1)], "log_policies": [here("8", 1)]}
NODE_DEVICES = [
    _kept_device(1, "fw-same", ["192.0.2.16", "192.0.2.17"], [_LINUX, _WINDOWS], **_OTHERS),
    _kept_device(2, "fw-edit", ["192.0.2.18"], [_LINUX], **_OTHERS),
    _kept_device(3, "fw-moved", ["192.0.2.20"], [_WINDOWS]),
    _kept_device(4, "fw-of-nobody", ["192.0.2.99"], []),
]

# --- syslog collectors ----------------------------------------------------------------------------

_FETCHER = (
    "app", "Device_Name", "parser", "charset", "proxy_condition", "processpolicy", "proxy_ip",
    "hostname", "device_id", "sid", "uuid", "hasLCP", "client_secret", "fetch_interval",
)  # fmt: skip


def _fetcher(
    name: str | None, condition: Cell, policy: Cell = None, proxies: Cell = None,
    hosts: Cell = None, parser: Cell = "SyslogParser", charset: Cell = "utf_8",
) -> Row:  # fmt: skip
    return (
        "SyslogCollector", name, parser, charset, condition, policy, proxies, hosts,
        of_source("d", 1), f"syslog|device-{name}", "5c01d00d5c01d00d5c01d00d5c01d001", "0", None,
        None,
    )  # fmt: skip


_PP_APP, _PP_GONE = of_source("d", 1), of_source("d", 2)
_BARE: dict[str, Cell] = {"parser": None, "charset": None}

SYSLOG_COLLECTORS: Sheets = {
    "DeviceFetcher": (
        _FETCHER,
        (
            # Behind a relay; the relays stand below, and come first all the same.
            _fetcher("app-new", "uses_proxy", _PP_APP, "['192.0.2.50']", "['app-new']", **_BARE),
            _fetcher("app-two", "uses_proxy", _PP_APP, "192.0.2.50 | 192.0.2.61", "a | b", **_BARE),
            _fetcher("app-full", "uses_proxy", _PP_APP, "192.0.2.60", "app-full"),
            _fetcher("direct-new", "None", _PP_APP),
            _fetcher("direct-unprocessed", "None", "None"),  # None is a value here, too
            _fetcher("direct-named", "None", "pp_app"),  # a name instead of an id
            _fetcher("relay-new", "use_as_proxy"),
            _fetcher("relay-same", "use_as_proxy"),
            _fetcher("direct-same", "None", _PP_APP),
            _fetcher("direct-edit", "None", _PP_APP, parser="LineParser"),
            _fetcher("app-same", "uses_proxy", _PP_APP, "192.0.2.60", "y | x", **_BARE),
            _fetcher("nowhere", "None", _PP_APP),
            _fetcher("parserless", "None", _PP_APP, parser="nan"),
            _fetcher("charsetless", "use_as_proxy", charset="-"),
            _fetcher("conditionless", None, _PP_APP),
            _fetcher("odd", "sometimes", _PP_APP),
            _fetcher("relay-behind", "use_as_proxy", None, "192.0.2.60", None),
            _fetcher("relay-processed", "use_as_proxy", _PP_APP),
            _fetcher("direct-behind", "None", _PP_APP, "192.0.2.60"),
            _fetcher("direct-blank", "None"),
            _fetcher("app-proxyless", "uses_proxy", _PP_APP, None, "host"),
            _fetcher("app-hostless", "uses_proxy", _PP_APP, "192.0.2.60", None),
            _fetcher("app-unprocessed", "uses_proxy", None, "192.0.2.60", "host"),
            _fetcher("app-stray", "uses_proxy", _PP_APP, "192.0.2.60 | 192.0.2.200", "host"),
            _fetcher("direct-gone", "None", _PP_GONE),
            _fetcher("direct-dangling", "None", of_source("d", 99)),
            _fetcher("twice", "None", _PP_APP),
            _fetcher("twice", "use_as_proxy"),
            _fetcher(None, "None", _PP_APP),  # a row without a device is no row
            ("CloudFetcher", "direct-new", None, None, None, None, None, None, None, None, None,
             None, "hush", 5),
        ),
    ),
    "ProcessingPolicy": (
        _PP,
        (
            _pp("pp_app", "None", "None", None, 1),
            _pp("pp_gone", "None", "None", None, 2),
        ),
    ),
    "Device": (_DEVICE, (_device("relay-new", "192.0.2.50 | 192.0.2.51"),)),
}  # fmt: skip


def _app(name: str, condition: str, **more: Any) -> Record:
    return {
        "app": "SyslogCollector", "sid": f"syslog|device-{name}", "hasLCP": "0",
        "proxy_condition": condition, "charset": "utf_8", "parser": "SyslogParser", **more,
    }  # fmt: skip


_PROCESSED = {"processpolicy": here("f", 1)}
_BEHIND = {**_PROCESSED, "proxy_ip": ["192.0.2.60"], "hostname": ["x", "y"]}
_COLLECTED: dict[str, Record] = {
    "relay-same": _app("relay-same", "use_as_proxy"),
    "direct-same": _app("direct-same", "None", **_PROCESSED),
    "direct-edit": _app("direct-edit", "None", **_PROCESSED),
    "app-same": {k: v for k, v in _app("app-same", "uses_proxy", **_BEHIND).items()
                 if k not in ("parser", "charset")},
}  # fmt: skip
_ADDRESSES = {"relay-new": ["192.0.2.50", "192.0.2.51"], "relay-same": ["192.0.2.60", "192.0.2.61"]}
_SENDERS = dict.fromkeys(
    str(row[1]) for row in SYSLOG_COLLECTORS["DeviceFetcher"][1] if row[1] and row[1] != "nowhere"
)
NODE_SENDERS = [
    _kept_device(number, name, _ADDRESSES.get(name, [f"192.0.2.{100 + number}"]), [],
                 col_apps=[{**_COLLECTED[name], "uuid": f"{'5c01d00d' * 3}5c01d{number:03d}"}]
                 if name in _COLLECTED else [])
    for number, name in enumerate(_SENDERS, start=1)
]  # fmt: skip
# As the listing of a resource that is read inside of another one leaves them.
NODE_COLLECTORS = [
    {**app, "device_name": device["name"], "device_id": device["id"]}
    for device in NODE_SENDERS
    for app in device["col_apps"]
]
NODE_RELAYS = [
    {"address": address, "device_name": device["name"]}
    for device in NODE_SENDERS
    if any(app["proxy_condition"] == "use_as_proxy" for app in device["col_apps"])
    for address in device["ip"]
]
NODE_ADDRESSES = [
    {"address": address, "device_name": device["name"]}
    for device in NODE_SENDERS
    for address in device["ip"]
]

# --- lists ----------------------------------------------------------------------------------------

_LIST = (
    "Name", "list_type", "lists", "age_limit", "last_updated", "vid", "hidden", "lists_vendor",
    "user", "tid", "user_list_index",
)  # fmt: skip


def _list(
    name: str | None, kind: Cell, values: Cell = None, age: Cell = 0, *, vid: Cell = None,
    hidden: Cell = False,
) -> Row:  # fmt: skip
    return (name, kind, values, age, "1700000000000", vid, hidden, "[]", "admin", None, 1)


LISTS: Sheets = {
    "UserDefinedList": (
        _LIST,
        (
            _list("new_users", "static_list", '["alice", "bob", "alice", " bob"]'),
            _list("ODD_VALUES", "static_list", '["[x]", "\'q\'", "a | b", "Ünïcode", "10.0"]'),
            _list("NUMBERS", "static_list", "[1, 2, 3]"),
            _list("SAME_USERS", "static_list", '["bob", "alice"]'),
            _list("EDIT_USERS", "static_list", '["alice", "bob", "carol"]'),
            _list("EMPTY", "static_list", "[]"),
            _list("NO_VALUES", "static_list", None),
            _list("NO_JSON", "static_list", "alice, bob"),
            _list("TOOLS_VENDOR", "static_list", '["tool-a"]', vid="LIST_901"),
            _list("TOOLS_HIDDEN", "static_list", '["tool-a"]', hidden=True),
            _list("_edge", "static_list", '["x"]'),
            _list("A-B", "static_list", '["x"]'),
            _list("ODD_TYPE", "table", '["x"]'),
            _list("TYPELESS", None, '["x"]'),
            _list("WAS_DYNAMIC", "static_list", '["x"]'),
            _list(None, "static_list", '["x"]'),
            _list("recent_ips", "dynamic_list", "[]", 259260),
            _list("LATE", "dynamic_list", "[]", "86400.0"),
            _list("LAST_DAY", "dynamic_list", "[]", 86400),
            _list("LAST_HOUR", "dynamic_list", "[]", 3600),
            _list("SECONDS", "dynamic_list", "[]", 90),
            _list("AGELESS", "dynamic_list", "[]", None),
            _list("ODD_AGE", "dynamic_list", "[]", "a day"),
            _list("AGED_VENDOR", "dynamic_list", "[]", 60, vid="LIST_902"),
            _list("AGED_HIDDEN", "dynamic_list", "[]", 60, hidden="yes"),
            _list("WAS_STATIC", "dynamic_list", "[]", 60),
            _list("twice", "dynamic_list", "[]", 60),
            _list("TWICE", "dynamic_list", "[]", 120),
        ),
    )
}


def _kept_list(number: int, name: str, *values: str, **more: Any) -> Record:
    return {
        "id": here("1", number), "name": name, "lists": list(values), "lists_vendor": [],
        "list_type": "static_list", "age_limit": 0, "last_updated": "", "user": "admin", "tid": "",
        "vid": "", "active": True, "hidden": False, **more,
    }  # fmt: skip


_AGED = {"list_type": "dynamic_list"}
NODE_STATIC = [
    _kept_list(1, "SAME_USERS", "alice", "bob"),
    _kept_list(2, "EDIT_USERS", "alice", "bob"),
    _kept_list(3, "WAS_STATIC", "x"),
    _kept_list(4, "TOOLS_VENDOR", vid="LIST_901", lists_vendor=["tool-a"]),
]
NODE_DYNAMIC = [
    _kept_list(5, "WAS_DYNAMIC", age_limit=60, **_AGED),
    _kept_list(6, "LAST_DAY", "192.0.2.1", age_limit=86400, last_updated="1700000000000", **_AGED),
    _kept_list(7, "LAST_HOUR", age_limit=1800, **_AGED),
]

# --- alert rules ----------------------------------------------------------------------------------

_S, _L = "settings.", "settings.livesearch_data."
_ALERT = (
    "name", f"{_S}user", f"{_S}risk", f"{_S}aggregate", f"{_S}condition.condition_option",
    f"{_S}condition.condition_value", f"{_L}limit", f"{_S}repos", f"{_L}timerange_minute",
    f"{_L}timerange_hour", f"{_L}timerange_day", f"{_L}timerange_second",
    f"{_S}time_range_seconds", f"{_S}extra_config.query", f"{_L}query", f"{_S}description",
    f"{_S}log_source", f"{_S}attack_tag", f"{_S}manageable_by", f"{_S}metadata",
    f"{_S}assigned_to", f"{_S}flush_on_trigger", f"{_S}throttling_enabled",
    f"{_S}throttling_field", f"{_S}throttling_time_range", f"{_L}search_interval_minute",
    f"{_S}context_template", f"{_S}is_context_template_enabled", f"{_S}active",
    f"{_S}notifications", f"{_S}visible_to", f"{_S}vid", "alert_index", "tenant_scope",
)  # fmt: skip
_RULE: dict[str, Cell] = {
    f"{_S}user": "soc_admin", f"{_S}risk": "high", f"{_S}aggregate": "max",
    f"{_S}condition.condition_option": "greaterthan", f"{_S}condition.condition_value": 5,
    f"{_L}limit": 25, f"{_S}repos": '["192.0.2.7:5504/Repo-gold-app"]',
    f"{_L}timerange_minute": 30, f"{_L}timerange_hour": 0, f"{_L}timerange_day": 0,
    f"{_L}timerange_second": 0, f"{_S}time_range_seconds": 1800,
    f"{_S}extra_config.query": "label=Login label=Fail", f"{_S}flush_on_trigger": False,
    f"{_S}throttling_enabled": False, f"{_S}is_context_template_enabled": False,
    f"{_S}active": True, f"{_S}notifications": "[]", "tenant_scope": "repo-mapped",
}  # fmt: skip


def _alert(name: str | None, **cells: Cell) -> Row:
    """A row; `minute` stands for settings.livesearch_data.timerange_minute, and so on."""
    known = {column.rpartition(".")[2].removeprefix("timerange_"): column for column in _ALERT}
    known |= {"query": f"{_S}extra_config.query", "live_query": f"{_L}query"}
    row = {**_RULE, "name": name, **{known[word]: cell for word, cell in cells.items()}}
    return tuple(row.get(column) for column in _ALERT)


_HASHES = ("0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210")
_ANN, _BEN = of_source("8", 1), of_source("8", 2)
_HOURLY: dict[str, Cell] = {"minute": 0, "time_range_seconds": 7200}

ALERT_RULES: Sheets = {
    "MyAlertRules": (
        _ALERT,
        (
            _alert("Plain rule"),
            _alert(
                "Full rule", risk=" High", aggregate="MAX", condition_value="5", limit=25.0,
                repos='["192.0.2.7:5504/Repo-gold-app", "192.0.2.8:5504/Repo-gold-app",'
                ' "192.0.2.7:5504/default"]',
                description="Several lines\nand a bar |", log_source='["windows", "linux"]',
                attack_tag=f'["{_HASHES[0]}", "T0002"]', manageable_by='["soc_tier1"]',
                metadata='[{"field": "playbook", "value": "PB-12"}]', assigned_to=_ANN,
                flush_on_trigger=True, throttling_enabled="on", throttling_field="user",
                throttling_time_range="60", search_interval_minute="15",
                context_template="{% for r in rows %}{{ r.user }}{% endfor %}",
                is_context_template_enabled=True,
            ),
            _alert("Hourly rule", hour=2, **_HOURLY),
            _alert("Daily rule", minute="0", day="1", time_range_seconds=86400),
            _alert("Seconds alone", minute=0, time_range_seconds=5400),
            _alert("Whole hours in seconds", minute=0, second=7200),
            _alert("Whole days in seconds", minute=None, time_range_seconds=172800.0),
            _alert("All repos of two", repos='["192.0.2.7:5504", "192.0.2.8:5504"]'),
            _alert("Other port", repos="192.0.2.7:5514/Repo_other | 127.0.0.1:5504/_logpoint"),
            _alert("Query from below", query=None, live_query="| chart count()",
                   metadata="a=1; b=2"),
            _alert("Same rule", log_source='["linux", "windows"]', attack_tag=f'["{_HASHES[1]}"]'),
            _alert("Edited rule", risk="critical", throttling_field="user"),
            _alert("Rule with gaps", attack_tag='["T9999"]', assigned_to=_BEN,
                   manageable_by='["no_such_group", "soc_tier1"]'),
            _alert("Nested rule", search_interval_minute=15, throttling_enabled=True,
                   throttling_field="user", throttling_time_range="60"),
            _alert("Vendor rule", vid="ALERT_901"),
            _alert("Plain rule", risk="low"),
            _alert("Unknown owner", user="nobody"),
            _alert("Ownerless", user=None),
            _alert("Bad risk", risk="extreme"),
            _alert("Bad aggregate", aggregate="sum"),
            _alert("Bad condition", condition_option="around"),
            _alert("Bad value", condition_value="many"),
            _alert("Bad limit", limit=0),
            _alert("Two units", hour=1),
            _alert("Timeless", minute=0, time_range_seconds=0),
            _alert("Under a minute", minute=0, time_range_seconds=30),
            _alert("Portless", repos='["192.0.2.7/Repo-gold-app"]'),
            _alert("Repoless", repos="[]"),
            _alert("Unthrottled field", throttling_enabled=True, throttling_time_range=None),
            _alert(None),
        ),
    ),
    "Repo": (
        ("original_repo_name", "cleaned_repo_name"),
        (("Repo-gold-app", "Repo_app"),),
    ),
    "User": (
        ("user_id", "username", "fullname", "email", "active"),
        (
            (_ANN, "ann", "Ann Field", "ann@example.test", True),
            (_BEN, "ben", "Ben Hill", None, True),
        ),
    ),
}  # fmt: skip

_SOC, _ANN_HERE = here("8", 1), here("8", 2)
NODE_USERS = [
    {"ref": ref, "user": id_}
    for id_, refs in {
        _SOC: ("soc_admin", _SOC, "soc@example.test"),
        _ANN_HERE: ("ann", _ANN_HERE, "ann@example.test"),
    }.items()
    for ref in refs
]
NODE_INCIDENT_GROUPS = [{"ref": ref, "group": here("7", 1)} for ref in ("soc_tier1", here("7", 1))]
NODE_TECHNIQUES = [
    {"ref": ref, "hash": hash_}
    for number, hash_ in enumerate(_HASHES, start=1)
    for ref in (hash_, here("6", number), f"T000{number}", f"Technique {number}")
]
_BACKENDS = ("198.51.100.32", "198.51.100.33", "198.51.100.34")


def _kept_alert(number: int, name: str, **more: Any) -> Record:
    return {
        "id": here("2", number), "name": name, "searchname": name, "active": True,
        "user": "soc_admin", "vid": "", "risk": "high", "aggregate": "max",
        "condition_option": "greaterthan", "condition_value": 5, "limit": 25,
        "repos": [f"{ip}:5504/Repo_app" for ip in reversed(_BACKENDS)], "timerange_minute": 30,
        "query": "label=Login label=Fail", "attack_tag": [], "log_source": [], **more,
    }  # fmt: skip


NODE_ALERTS = [
    _kept_alert(1, "Same rule", log_source=["windows", "linux"], attack_tag=[_HASHES[1]]),
    _kept_alert(2, "Edited rule", assigned_to=_ANN_HERE, throttling_enabled="on",
                throttling_field="user", throttling_time_range=60),
    _kept_alert(3, "Rule of nobody"),
    # As a node exports its rules: nested, with numbers as texts.
    {"id": here("2", 4), "settings": {
        "name": "Nested rule", "user": "soc_admin", "risk": "high", "aggregate": "max",
        "condition": {"condition_option": "greaterthan", "condition_value": "5"},
        "repos": [f"{ip}:5504/Repo_app" for ip in _BACKENDS], "active": True, "vid": "",
        "livesearch_data": {"limit": "25", "timerange_minute": "30", "timerange_hour": 0,
                            "timerange_day": 0, "search_interval_minute": "15"},
        "extra_config": {"query": "label=Login label=Fail"}, "throttling_enabled": True,
        "throttling_field": "user", "throttling_time_range": "60", "flush_on_trigger": False,
    }},
]  # fmt: skip

# --- states of alert rules ------------------------------------------------------------------------

ALERT_STATES: Sheets = {
    "Alert": (
        _ALERT,
        (
            _alert("Stays on", active=True),
            _alert("Turned off", active=False),
            _alert("Turned on", active="yes"),
            _alert("Untold", active=None),
            _alert("Unknown", active=True),
            _alert("Vendor rule", active=False, vid="ALERT_901"),
            _alert("Twice", active=True),
            _alert("Twice", active=False),
        ),
    )
}
NODE_STATES = [
    _kept_alert(11, "Stays on"),
    _kept_alert(12, "Turned off"),
    _kept_alert(13, "Turned on", active=False),
    _kept_alert(14, "Untold", active=False),
    _kept_alert(15, "Twice"),
]

# --- owners, sharing and notifications of alert rules ---------------------------------------------

ALERT_OWNERS: Sheets = {
    "Alert": (
        _ALERT,
        (
            _alert("Of the same", user="SOC_admin"),
            _alert("Told by id", user="soc_admin"),
            _alert("Told by mail", user="soc@example.test"),
            _alert("Given away", user="ann"),
            _alert("Of a stranger", user="nobody"),
            _alert("Ownerless", user=None),
            _alert("Unknown", user="ann"),
            _alert("Vendor rule", user="ann", vid="ALERT_901"),
        ),
    )
}
NODE_OWNED = [
    _kept_alert(21, "Of the same"),
    _kept_alert(22, "Told by id", user=_SOC),
    _kept_alert(23, "Told by mail", owner=_SOC),
    _kept_alert(24, "Given away", owner=_SOC),
    _kept_alert(25, "Of a stranger"),
    _kept_alert(26, "Ownerless"),
    _kept_alert(27, "Vendor rule", vid="ALERT_901"),
]
_ALL_REFS = {
    _SOC: ["soc_admin", _SOC, "soc@example.test"],
    _ANN_HERE: ["ann", _ANN_HERE, "ann@example.test"],
}
NODE_OWNERS = [{**one, "refs": _ALL_REFS[one["user"]]} for one in NODE_USERS]

_SOC_GROUP, _OPS_GROUP = of_source("9", 1), of_source("9", 2)
_SOC_HERE, _OPS_HERE = here("9", 1), here("9", 2)
ALERT_SHARING: Sheets = {
    "Alert": (
        (*_ALERT, f"{_S}visible_to_users"),
        tuple(
            (*_alert(name, visible_to=groups), users)
            for name, groups, users in (
                ("Same groups", f'["{_OPS_GROUP}", "{_SOC_GROUP}"]', "[]"),
                ("With a group", f'["{_SOC_GROUP}"]', None),
                ("With one of a group", f'["{_SOC_GROUP}", "ops"]', f'["{_ANN}"]'),
                ("With nobody", "[]", "[]"),
                ("Not managed", None, None),
                ("With strangers", '["night shift"]', None),
                ("Unknown", "[]", None),
            )
        ),
    ),
    "User": (
        ("user_id", "username", "usergroup_id"),
        ((_ANN, "Ann", f'["{_SOC_GROUP}"]'),),
    ),
    "UserGroup": (("group_id", "name"), ((_SOC_GROUP, "soc"), (_OPS_GROUP, "ops"))),
}
NODE_SHARED = [
    _kept_alert(31, "Same groups", visible_to=[_SOC_HERE, _OPS_HERE], visible_to_users=[]),
    _kept_alert(32, "With a group", visible_to=[], visible_to_users=[]),
    _kept_alert(33, "With one of a group", visible_to=[_SOC_HERE], visible_to_users=[]),
    _kept_alert(34, "With nobody", visible_to=[_SOC_HERE], visible_to_users=[_ANN_HERE]),
    _kept_alert(35, "Not managed", visible_to=[_SOC_HERE], visible_to_users=[]),
    _kept_alert(36, "With strangers", visible_to=[_SOC_HERE], visible_to_users=[]),
]
NODE_AUDIENCE = [
    {"ref": f"group {name}", "group": id_, "read": {"group_id": id_, "group_permission": "READ"}}
    for name, id_ in (("soc", _SOC_HERE), ("ops", _OPS_HERE))
] + [
    {
        "ref": "user ann", "user": _ANN_HERE, "group": _SOC_HERE,
        "read": {
            "group_id": _SOC_HERE,
            "user_permissions": [{"user_id": _ANN_HERE, "permission": "READ"}],
        },
    }
]  # fmt: skip

_EMAIL: Record = {
    "type": "email", "notify_email": True, "email_emails": ["b@example.test", "a@example.test"],
    "raw_emails": "", "subject": "An alert", "email_template": "*** {{ rule }} ***",
    "template_file": "", "threshold": True, "threshold_option": "minute", "threshold_value": "30",
    "dispatch_option": "auto", "link_disable": True, "logo_enable": False, "logo_type": "",
    "simple_view": False,
}  # fmt: skip
_SYSLOG: Record = {
    "type": "syslog", "notify_syslog": True, "server": "192.0.2.50", "port": 514, "severity": 3,
    "protocol": "UDP", "facility": 16, "message": "alert", "split_rows": False, "threshold": False,
    "threshold_option": "hour", "threshold_value": 0,
}  # fmt: skip
_HTTP: Record = {
    "type": "http", "notify_http": True, "http_url": "https://hook.example.test/alerts",
    "http_request_type": "POST", "http_querystring": "from=siem", "http_body": "{}",
    "http_header": {"auth_type": "basic_auth", "auth_key": "siem", "auth_pass": "an invented one"},
}  # fmt: skip
_SNMP: Record = {
    "type": "snmp", "notify_snmp": True, "snmp_ip": "192.0.2.51", "snmp_port": 162,
    "snmp_version": "SNMPv2c", "snmp_oid": "1.3.6.1.4.1.99", "snmp_agent": "siem",
    "snmp_community_string": "an invented one",
}  # fmt: skip
_SSH: Record = {
    "type": "ssh", "notify_ssh": True, "ssh_server": "192.0.2.52", "ssh_port": 22,
    "ssh_username": "soc", "ssh_auth_type": "certificate", "ssh_cert_type": "system_cert",
    "ssh_command": "block",
}  # fmt: skip
_SMS: Record = {
    "type": "sms", "notify_sms": "on", "sms_server": "192.0.2.53", "sms_port": "2775",
    "sms_sender": "siem", "sms_username": "siem", "sms_password": "an invented one",
    "sms_receivers": ["+32000000"],
}  # fmt: skip


def _told(*settings: Record) -> str:
    return json.dumps(settings)


_PASSWORD = {"ssh_auth_type": "password", "ssh_auth_password": "****"}
ALERT_NOTIFICATIONS: Sheets = {
    "Alert": (
        _ALERT,
        (
            _alert("All kinds", notifications=_told(_EMAIL, _HTTP, _SMS, _SNMP, _SSH, _SYSLOG)),
            _alert("Same mail", notifications=_told(_EMAIL)),
            _alert("Other mail", notifications=_told({**_EMAIL, "subject": "Look at this"})),
            _alert("Masked", notifications=_told({**_SSH, **_PASSWORD})),
            _alert("By fax", notifications=_told({"type": "fax"})),
            _alert("Not managed", notifications=None),
            _alert("Unknown", notifications=_told(_EMAIL)),
            _alert("Vendor rule", notifications=_told(_EMAIL), vid="ALERT_901"),
        ),
    )
}
_NOTIFIED = ("All kinds", "Same mail", "Other mail", "Masked", "By fax", "Not managed")
NODE_NOTIFIED = [_kept_alert(n, name) for n, name in enumerate(_NOTIFIED, start=41)]


def _setting(number: int, setting: Record) -> Record:
    """As it is listed: beside its rule."""
    rule = {"searchname": _NOTIFIED[number - 41], "rule": here("2", number), "vid": ""}
    return {**setting, **rule}


NODE_SETTINGS = [
    _setting(42, {**_EMAIL, "email_emails": ["a@example.test", "b@example.test"]}),
    _setting(43, _EMAIL),
    _setting(43, {**_SSH, **_PASSWORD}),
    _setting(43, {"type": "syslog"}),
    _setting(46, _EMAIL),
]

# --- all of them ----------------------------------------------------------------------------------

_SOME_REPOS = [_stored(n, name, (HOT, 30)) for n, name in enumerate(
    ("default", "Repo_app", "Repo_audit"), start=1)]  # fmt: skip
_NAMES = {
    "NormalizationPolicy": [_norm(1, "np_app", [])],
    "EnrichmentPolicy": [{"id": here("d", 5), "name": "ep_hosts", "specifications": []}],
    "RoutingPolicies": [{"id": here("c", 5), "policy_name": "rp_app", "catch_all": "default",
                         "routing_criteria": []}],
}  # fmt: skip
_LISTED = {
    "StaticLists": NODE_STATIC, "DynamicLists": NODE_DYNAMIC, "Lists": NODE_STATIC + NODE_DYNAMIC,
}  # fmt: skip

INPUTS: Mapping[str, tuple[str, Sheets, Mapping[str, Sequence[Record]]]] = {
    "repos": (
        BACKEND,
        REPOS,
        {"Repos": NODE_REPOS, "RepoPaths": [{"path": f"{HOT}/"}, {"path": f"{COLD}/"}]},
    ),
    "routing_policies": (
        BACKEND, ROUTING_POLICIES, {"RoutingPolicies": NODE_ROUTING, "Repos": _SOME_REPOS},
    ),
    "normalization_policies": (
        BACKEND,
        NORMALIZATION_POLICIES,
        {
            "NormalizationPolicy": NODE_NORMALIZATION,
            "NormalizationPackage": NODE_PACKAGES,
            "CompiledNormalizers": NODE_COMPILED,
        },
    ),
    "enrichment_policies": (
        BACKEND,
        ENRICHMENT_POLICIES,
        {"EnrichmentPolicy": NODE_ENRICHMENT, "EnrichmentSource": NODE_SOURCES},
    ),
    "processing_policies": (
        BACKEND, PROCESSING_POLICIES, {"ProcessingPolicy": NODE_PROCESSING, **_NAMES},
    ),
    "device_groups": (BACKEND, DEVICE_GROUPS, {"DeviceGroups": NODE_GROUPS}),
    "devices": (BACKEND, DEVICES, {"Devices": NODE_DEVICES, "DeviceGroups": NODE_DEVICE_GROUPS}),
    "syslog_collectors": (
        BACKEND,
        SYSLOG_COLLECTORS,
        {
            "SyslogCollectors": NODE_COLLECTORS,
            "Devices": NODE_SENDERS,
            "Relays": NODE_RELAYS,
            "Addresses": NODE_ADDRESSES,
            "ProcessingPolicy": [_kept_pp(1, "pp_app", "None", "None")],
        },
    ),
    "static_lists": (HEAD, LISTS, _LISTED),
    "dynamic_lists": (HEAD, LISTS, _LISTED),
    "alert_rules": (
        HEAD,
        ALERT_RULES,
        {
            "AlertRules": NODE_ALERTS,
            "Users": NODE_USERS,
            "IncidentUserGroups": NODE_INCIDENT_GROUPS,
            "MitreAttacks": NODE_TECHNIQUES,
        },
    ),
    "alert_states": (
        HEAD, ALERT_STATES, {"AlertStates": NODE_STATES, "AlertRules": NODE_STATES},
    ),
    "alert_owners": (
        HEAD,
        ALERT_OWNERS,
        {"AlertOwners": NODE_OWNED, "AlertRules": NODE_OWNED, "Users": NODE_OWNERS},
    ),
    "alert_sharing": (
        HEAD,
        ALERT_SHARING,
        {"AlertShares": NODE_SHARED, "AlertRules": NODE_SHARED, "Audience": NODE_AUDIENCE},
    ),
    "alert_notifications": (
        HEAD,
        ALERT_NOTIFICATIONS,
        {"AlertNotifications": NODE_SETTINGS, "AlertRules": NODE_NOTIFIED},
    ),
}  # fmt: skip
"""importer -> its node, its workbook, and the records of the node by resource"""

OPTIONS = frozenset({"alert_owners", "alert_sharing", "alert_notifications"})
"""importers whose profiles are options: in director_options"""


def write(importer: str, folder: Path) -> None:
    """Write a project to `folder`: its files, `input.xlsx`, and `dump` for `--existing`."""
    node, sheets, records = INPUTS[importer]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "directorsync.yml").write_text(CONFIG, encoding="utf-8")
    (folder / "tenants.yml").write_text(TENANTS, encoding="utf-8")
    with xlsxwriter.Workbook(str(folder / "input.xlsx")) as workbook:
        for name, (headers, rows) in sheets.items():
            sheet = workbook.add_worksheet(name)
            for number, row in enumerate((headers, *rows)):
                for column, cell in enumerate(row):
                    if isinstance(cell, bool):
                        sheet.write_boolean(number, column, cell)
                    elif isinstance(cell, str):
                        sheet.write_string(number, column, cell)
                    elif cell is not None:
                        sheet.write_number(number, column, cell)
    dump = folder / "dump" / node
    dump.mkdir(parents=True, exist_ok=True)
    for resource, held in records.items():
        lines = "".join(json.dumps(record) + "\n" for record in held)
        (dump / f"{resource}.ndjson").write_text(lines, encoding="utf-8")


def main(folder: Path) -> None:
    """Write the inputs of all importers below `folder`."""
    for importer in INPUTS:
        write(importer, folder / importer)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
