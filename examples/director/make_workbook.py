"""Make the workbooks of this example: one whose rows are all good, one with planted faults.

    python make_workbook.py            # needs xlsxwriter: pip install directorsync-v3[excel]

The shape is that of an exporter which reads a source node: its ids and its original names are those
of that node, and only join the sheets. The same words give the same bytes.
"""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import xlsxwriter

HOT, COLD = "/opt/immune/storage", "/opt/immune/cold"


@dataclass(frozen=True, slots=True)
class Formula:
    """A formula and what Excel found when it calculated it; None: nobody ever calculated it."""

    text: str
    result: int | str | None = None


Cell = str | int | float | bool | Formula | None
Row = Sequence[Cell]
Sheets = Mapping[str, tuple[Sequence[str], Sequence[Row]]]


def source_id(kind: str, number: int) -> str:
    """An object's id on the source node."""
    return f"64b0c0ffee0000000000{kind}{number:03d}"


# --- headers --------------------------------------------------------------------------------------

REPO = (
    "original_repo_name", "cleaned_repo_name", "storage_paths", "retention_days", "repo_number",
    "active", "used_size",
)  # fmt: skip
ROUTING = (
    "policy_id", "original_policy_name", "cleaned_policy_name", "active", "catch_all",
    "rule_type", "key", "value", "repo", "drop",
)  # fmt: skip
NORMALIZATION = ("policy_name", "normalization_packages", "compiled_normalizer", "active")
ENRICHMENT = (
    "policy_id", "policy_name", "spec_index", "source", "description", "tags", "active",
)  # fmt: skip
PROCESSING = (
    "policy_id", "original_policy_name", "cleaned_policy_name", "active", "norm_policy",
    "enrich_policy", "routing_policy_id",
)  # fmt: skip
EP_RULES = (
    "policy_name", "spec_index", "source", "category", "source_key", "prefix", "operation", "type",
    "event_key",
)  # fmt: skip
EP_CRITERIA = ("policy_name", "spec_index", "source", "type", "key", "value")
GROUPS = ("group_id", "name", "description", "active", "device_ids", "tags")
DEVICE = (
    "device_id", "name", "ip", "availability", "confidentiality", "integrity", "timezone",
    "device_groups", "distributed_collector", "log_policies", "description", "type", "tags", "fqdn",
    "active", "has_hostname",
)  # fmt: skip
FETCHER = (
    "app", "device_name", "device_id", "sid", "uuid", "parser", "charset", "proxy_condition",
    "processpolicy", "proxy_ip", "hostname", "hasLCP", "LOGGEDINUSER", "requestType",
    "client_id", "client_secret", "fetch_interval",
)  # fmt: skip
LIST = (
    "name", "list_type", "lists", "age_limit", "last_updated", "vid", "hidden", "lists_vendor",
    "user", "tid", "user_list_index",
)  # fmt: skip
USER = (
    "user_id", "username", "fullname", "email", "active", "usergroup_id", "preferences", "tags",
)  # fmt: skip
USER_GROUP = (
    "group_id", "name", "description", "active", "permission_group", "object_permission", "tags",
)  # fmt: skip
ALERT = (
    "alert_index",
    "name",
    *(
        f"settings.{name}"
        for name in (
            "user", "active", "risk", "aggregate", "condition.condition_option",
            "condition.condition_value", "repos", "time_range_seconds", "description",
            "log_source", "attack_tag", "metadata", "assigned_to", "flush_on_trigger",
            "throttling_enabled", "throttling_field", "throttling_time_range", "context_template",
            "is_context_template_enabled", "notifications", "visible_to", "visible_to_users",
            "vid", "alertrule_id", "simple_view", "version", "tid", "used_from",
            "data_privacy_request", "name", "extra_config.query",
        )
    ),
    *(
        f"settings.livesearch_data.{name}"
        for name in (
            "limit", "timerange_minute", "timerange_hour", "timerange_day", "timerange_second",
            "search_interval_minute", "query", "vid", "tid", "searchname", "description",
            "flush_on_trigger", "generated_by", "extra_query_filter", "data_privacy_request",
            "query_info", "query_info.aliases", "query_info.columns",
            "query_info.fieldsToExtract", "query_info.grouping", "query_info.lucene_query",
            "query_info.query_filter", "query_info.query_type", "query_info.success",
            "query_info.timechart",
        )
    ),
)  # fmt: skip

MATCHES, PRESENT = "KeyPresentValueMatches", "KeyPresent"


def repo(
    name: str, paths: str | None, days: Cell, number: int, *, original: str | None = None
) -> Row:
    """A row of sheet Repo."""
    return (original or f"Repo-blue-{name}", f"Repo_{name}" if name else None, paths, days, number,
            True, "1.2 GB")  # fmt: skip


def rule(number: int, name: str, catch_all: str, *parts: Cell) -> Row:
    """A row of sheet RoutingPolicy: one rule of a policy, or a policy without rules."""
    rest = parts or (None,) * 5
    return (source_id("c", number), f"rp-blue-{name}", f"rp_{name}", True, catch_all, *rest)


def processing(number: int, name: str, norm: Cell, enrich: Cell, routing: Cell) -> Row:
    """A row of sheet ProcessingPolicy."""
    return (source_id("d", number), f"pp-blue-{name}", f"pp_{name}", True, norm, enrich, routing)


def specification(number: int, name: str, index: int, source: str, told: Cell = None) -> Row:
    """A row of sheet EnrichmentPolicy: one specification of a policy."""
    return (source_id("f", number), name, index, source, told, None, True)


def simple(name: str, index: int, source: str, key: str, event_key: str | None) -> Row:
    """A row of sheet EnrichmentRules."""
    return (name, index, source, "simple", key, False, "Equals", "string", event_key)


def device(number: int, name: str, ip: Cell, groups: Cell, zone: Cell = None) -> Row:
    """A row of sheet Device. Its collector and its policies are those of the source node."""
    risks = ("major", "Minor", "minimal")
    ours = source_id("9", 1)
    return (source_id("b", number), name, ip, *risks, zone, groups, ours, None, None, None, None,
            None, True, False)  # fmt: skip


def fetcher(
    name: str | None, condition: Cell, policy: Cell = None, proxies: Cell = None,
    hosts: Cell = None, parser: Cell = "SyslogParser", charset: Cell = "utf_8",
) -> Row:  # fmt: skip
    """A row of sheet DeviceFetcher: how a device sends syslog."""
    return ("SyslogCollector", name, None, f"syslog|device-{name}",
            "5c01d00d5c01d00d5c01d00d5c01d001", parser, charset, condition, policy, proxies, hosts,
            "0", "exporter", "formsubmit", None, None, None)  # fmt: skip


def values(
    name: str, kind: Cell, items: Cell, age: Cell = 0, *, vid: Cell = None, hidden: bool = False
) -> Row:
    """A row of sheet UserDefinedList."""
    return (name, kind, items, age, "1700000000000", vid, hidden, "[]", "admin", None, 0)


def alert(number: int, name: str | None, repos: Cell, **cells: Cell) -> Row:
    """A row of sheet Alert. `minute` stands for settings.livesearch_data.timerange_minute, …"""
    row: dict[str, Cell] = {
        "alert_index": number, "name": name, "settings.user": "admin", "settings.active": True,
        "settings.risk": "High", "settings.aggregate": "max", "settings.repos": repos,
        "settings.condition.condition_option": "greaterthan",
        "settings.condition.condition_value": 5.0, "settings.name": name,
        "settings.livesearch_data.searchname": name, "settings.livesearch_data.limit": "25",
        "settings.livesearch_data.generated_by": "alert", "settings.notifications": "[]",
        "settings.extra_config.query": "label=Login label=Fail", "settings.version": 1,
    }  # fmt: skip
    for unit in ("minute", "hour", "day", "second"):
        row[f"settings.livesearch_data.timerange_{unit}"] = cells.pop(unit, 0)
    for flag in ("flush_on_trigger", "throttling_enabled", "is_context_template_enabled"):
        row[f"settings.{flag}"] = False
    for word, cell in cells.items():
        below = f"settings.livesearch_data.{word}"
        row[below if word == "search_interval_minute" else f"settings.{word}"] = cell
    return tuple(row.get(column) for column in ALERT)


# --- rows that are good ---------------------------------------------------------------------------

GROUP_ROWS: Sequence[Row] = (
    ("64b0c0ffee0000000000e001", "windows", "Windows servers", True, None, None),
    ("64b0c0ffee0000000000e002", "linux", "Linux servers", True, None, None),
)
ENRICHMENT_ROWS: Sequence[Row] = (
    specification(1, "ep_hosts", 0, "host_owners", "Adds owner of the host"),
    specification(2, "ep_threats", 0, "threat_feed", "Marks known bad addresses"),
    specification(2, "ep_threats", 1, "host_owners"),
)
EP_RULE_ROWS: Sequence[Row] = (
    simple("ep_hosts", 0, "host_owners", "address", "device_ip"),
    ("ep_threats", 0, "threat_feed", "type_based", "ip_address", True, "Equals", "ip", None),
    simple("ep_threats", 1, "host_owners", "owner", "user"),
)
EP_CRITERIA_ROWS: Sequence[Row] = (
    ("ep_hosts", 0, "host_owners", "KeyPresents", "device_ip", None),
    ("ep_threats", 0, "threat_feed", "KeyPresentsValueMatches", "event_source", "proxy"),
    ("ep_threats", 1, "host_owners", "KeyPresents", "user", None),
)
# An attack tag is a hash: it is the same on all nodes, unlike the technique's id.
TAG = "bad02d5040da35515c359cd12de76c23"
ANN = source_id("8", 1)
USER_ROWS: Sequence[Row] = (
    (ANN, "admin", "Ann Field", "ann@example.test", True, source_id("7", 1), None, None),
)
USER_GROUP_ROWS: Sequence[Row] = (
    (source_id("7", 1), "analysts", "Who looks at alerts", True, None, "{}", None),
)

GOOD: Sheets = {
    "Repo": (
        REPO,
        (
            repo("system", HOT, 365.0, 4),
            repo("network", f"{HOT} | {COLD}", "90 | 275", 5),
            repo("web", f"{HOT}/ | {COLD}/", "30.0 | 335.0", 6),
            repo("mail", HOT, 180, 7),
            repo("database", HOT, "365.0", 8),
            repo("identity", f"{COLD}/", 730, 9),
            repo("endpoint", f"{HOT} | {COLD}", "60 | 305", 10),
            repo("audit", COLD, Formula("=10*365", 3650), 11),
        ),
    ),
    "RoutingPolicy": (
        ROUTING,
        (
            rule(1, "system", "Repo-blue-system"),
            rule(2, "network", "Repo-blue-network",
                 MATCHES, "action", "deny", "Repo-blue-audit", "store"),
            rule(2, "network", "Repo-blue-network", PRESENT, "debug_flag", None, None, "store"),
            rule(3, "web", "Repo-blue-web",
                 MATCHES, "status_code", 500.0, "Repo-blue-audit", "store"),
            rule(3, "web", "Repo-blue-web",
                 MATCHES, "norm_id", "Mail", "Repo-blue-mail", "store"),
            # A blank that somebody typed after the name makes no other policy of it.
            rule(3, "web ", "Repo-blue-web", PRESENT, "user", None, "Repo-blue-identity", "store"),
            rule(4, "identity", "Repo-blue-identity",
                 MATCHES, "event_category", "security", "Repo-blue-audit", "store"),
            # A repo that is not in the sheet keeps its name: every node has `default`.
            rule(5, "endpoint", "Repo-blue-endpoint", PRESENT, "sample", None, "default", "store"),
        ),
    ),
    "NormalizationPolicy": (
        NORMALIZATION,
        (
            ("np_network", "LP_Acme Firewall | LP_Cobalt Switch", "CEFCompiledNormalizer", True),
            ("np_web", "LP_Harbor Web Server, LP_Borealis Proxy", None, True),
            ("np_identity", "LP_Kestrel Identity", "JSONCompiledNormalizer | XMLCompiledNormalizer",
             True),
            ("np_endpoint", "-", "WindowsSampleCompiledNormalizer", True),
            ("np_mail", "LP_Ember Mail Gateway", "nan", True),
        ),
    ),
    "EnrichmentPolicy": (ENRICHMENT, ENRICHMENT_ROWS),
    "EnrichmentRules": (EP_RULES, EP_RULE_ROWS),
    "EnrichmentCriteria": (EP_CRITERIA, EP_CRITERIA_ROWS),
    "ProcessingPolicy": (
        PROCESSING,
        (
            processing(1, "system", "None", "None", source_id("c", 1)),
            processing(2, "network", "np_network", source_id("f", 1), source_id("c", 2)),
            processing(3, "web", "np_web", "None", source_id("c", 3)),
            processing(4, "identity", "np_identity", None, source_id("c", 4)),
            processing(5, "endpoint", "np_endpoint", "None", source_id("c", 5)),
            processing(6, "mail", "np_mail", "None", source_id("c", 1)),
        ),
    ),
    "DeviceGroups": (
        GROUPS,
        (
            *GROUP_ROWS,
            ("64b0c0ffee0000000000e003", "network", None, True, source_id("b", 1), None),
        ),
    ),
    "Device": (
        DEVICE,
        (
            device(1, "fw-01", "192.0.2.10 | fw-01.example.test", "network", "Europe/Paris"),
            device(2, "web-01", "192.0.2.20 | 192.0.2.128/28", "linux", "UTC"),
            device(3, "dc-01", "['192.0.2.30', '192.0.2.31']", "windows"),
            device(4, "relay-01", "192.0.2.50 | 192.0.2.51", "linux | network"),
            device(5, "app-07", "192.0.2.70", None),
        ),
    ),
    "DeviceFetcher": (
        FETCHER,
        (
            # Behind a relay whose row comes later; its lists are literals of another language.
            fetcher("app-07", "uses_proxy", source_id("d", 3), "['192.0.2.51']", "['app-07']",
                    None, None),
            fetcher("fw-01", "None", source_id("d", 2)),
            fetcher("dc-01", "None", source_id("d", 4), parser="LineParser"),
            fetcher("web-01", "None", "None"),
            fetcher("relay-01", "use_as_proxy"),
            # A fetcher of another kind is not read, and least of all its secret.
            ("CloudFetcher", "web-01", None, "cloud|x", None, None, None, None, None, None, None,
             None, None, None, "an-id", "****", 300),
        ),
    ),
    "UserDefinedList": (
        LIST,
        (
            values("admin_users", "static_list", '["alice", "bob", "alice"]'),
            values("BAD_WORDS", "static_list", '["[redacted]", "it\'s", "a | b"]'),
            values("RECENT_IPS", "dynamic_list", "[]", 259260),
        ),
    ),
    "Alert": (
        ALERT,
        (
            alert(0, "Many failed logins",
                  '["192.0.2.7:5504/default", "192.0.2.8:5504"]',
                  minute=30, time_range_seconds=1800, attack_tag=f'["{TAG}"]',
                  log_source='["windows", "linux"]', assigned_to=ANN,
                  metadata='[{"field": "playbook", "value": "PB-12"}]'),
            alert(1, "Denied by the firewall", '["192.0.2.7:5504"]', hour="1",
                  time_range_seconds=3600, flush_on_trigger=True, throttling_enabled=True,
                  throttling_field="source_address", throttling_time_range="60",
                  search_interval_minute="15", active=False),
            alert(2, "Silent for a day", '["192.0.2.7:5504", "192.0.2.8:5504"]', day=1,
                  time_range_seconds=86400, risk="critical",
                  context_template="{% for row in rows %}{{ row.host }}{% endfor %}"),
            alert(3, "Trouble of the platform", '["127.0.0.1:5504/_logpoint"]',
                  time_range_seconds=5400),
        ),
    ),
    "User": (USER, USER_ROWS),
    # Nothing reads these two, nor the columns active, used_size, tags, …
    "UserGroup": (USER_GROUP, USER_GROUP_ROWS),
    "About": (("tenant", "exported_by"), (("blue", "an invented exporter"),)),
}  # fmt: skip

# --- rows with faults; tests/test_examples.py says what each must lead to -------------------------

FAULTS: Sheets = {
    "Repo": (
        REPO,
        (
            repo("system", HOT, 365.0, 4),
            repo("network", f"{HOT} | {COLD}", 90, 5),  # two paths, one retention
            repo("web", "/opt/immune/attic", 30, 6),  # the nodes have no such path
            repo("mail", HOT, "a year", 7),
            repo("database", HOT, 0, 8),
            repo("", HOT, 365, 9, original="Repo-blue-nameless"),
            repo("endpoint", HOT, Formula("=NA()", "#N/A"), 10),
            repo("audit", HOT, Formula("=10*365"), 11),
            repo("twin", HOT, 10, 12),
            repo("twin", HOT, 20, 13),
            repo("vault", None, None, 14),
        ),
    ),
    "RoutingPolicy": (
        ROUTING,
        (
            rule(1, "system", "Repo-blue-system"),
            # Two rows that disagree about the repo for the rest.
            rule(2, "network", "Repo-blue-system",
                 MATCHES, "action", "deny", "Repo-blue-system", "store"),
            rule(2, "network", "default", PRESENT, "debug_flag", None, None, "store"),
            rule(3, "web", "Repo-blue-system", PRESENT, None, None, "default", "store"),
            rule(4, "identity", "Repo-blue-system",
                 MATCHES, "event_category", None, "default", "store"),
            # This repo exists nowhere; and that of rp_mail is withheld by its own fault.
            rule(5, "endpoint", "Repo-blue-system", PRESENT, "user", None, "Repo-gone", "store"),
            rule(6, "mail", "Repo-blue-mail"),
            rule(7, "audit", "Repo-blue-system", PRESENT, "user", None, "default", "store"),
            rule(7, "audit", "Repo-blue-system",
                 PRESENT, "host", None, Formula('=VLOOKUP("x",A1:A2,1,FALSE)', "#N/A"), "store"),
        ),
    ),
    "NormalizationPolicy": (
        NORMALIZATION,
        (
            ("np_network", "LP_Acme Firewall", "CEFCompiledNormalizer", True),
            ("np_web", "LP_Harbor Web Server | LP_Unknown Thing", None, True),
            ("np_identity", None, "NoSuchCompiledNormalizer", True),
            ("np_endpoint", "-", "none", True),
            ("np_mail", "lp_ember mail gateway", None, True),  # the case differs
        ),
    ),
    "EnrichmentPolicy": (
        ENRICHMENT,
        (
            ENRICHMENT_ROWS[0],
            specification(2, "ep_threats", 0, "no_such_feed"),
            specification(3, "ep_ruleless", 0, "host_owners"),
            specification(4, "ep_free", 0, "host_owners"),
            specification(5, "ep_sourceless", 0, ""),
        ),
    ),
    "EnrichmentRules": (
        EP_RULES,
        tuple(
            simple(name, 0, "host_owners", "address", "device_ip")
            for name in ("ep_hosts", "ep_threats", "ep_free", "ep_sourceless")
        ),
    ),
    "EnrichmentCriteria": (
        EP_CRITERIA,
        tuple(
            (name, 0, "host_owners", "KeyPresents", "device_ip", None)
            for name in ("ep_hosts", "ep_threats", "ep_ruleless", "ep_sourceless")
        ),
    ),
    "ProcessingPolicy": (
        PROCESSING,
        (
            processing(1, "system", "None", "None", source_id("c", 1)),
            processing(2, "network", "np_network", "None", source_id("c", 99)),  # dangling
            processing(3, "web", "np_web", "None", source_id("c", 1)),  # np_web is withheld
            processing(4, "identity", "np_network", source_id("f", 99), source_id("c", 1)),
            processing(5, "endpoint", "np_network", "None", None),
            # ep_threats is in the sheet, but its source is not on the nodes.
            processing(6, "mail", "np_network", source_id("f", 2), source_id("c", 1)),
        ),
    ),
    "DeviceGroups": (
        GROUPS,
        (
            ("64b0c0ffee0000000000e004", "twin", "one", True, None, None),
            ("64b0c0ffee0000000000e005", "twin", "another", True, None, None),
        ),
    ),
    "Device": (
        DEVICE,
        (
            device(1, "fw-01", "192.0.2.10", "linux | no_such_group"),  # goes on without the group
            device(2, "web-01", None, "linux"),
            device(3, "relay-01", "192.0.2.50", None),
            (source_id("b", 4), "dc-01", "192.0.2.30", "Huge", *(["Minor"] * 2), *([None] * 10)),
        ),
    ),
    "DeviceFetcher": (
        FETCHER,
        (
            fetcher("relay-01", "use_as_proxy"),
            fetcher("fw-01", "uses_proxy", source_id("d", 1), "192.0.2.99", "fw-01"),
            fetcher("web-01", "None", source_id("d", 1)),  # its device is withheld
            fetcher("nowhere", "None", source_id("d", 1)),
            fetcher("relay-01", "None", source_id("d", 1)),
        ),
    ),
    "UserDefinedList": (
        LIST,
        (
            values("ADMIN_USERS", "static_list", '["alice"]'),
            values("TOOLS", "static_list", '["tool-a"]', vid="LIST_950"),
            values("SECRET_TOOLS", "static_list", '["tool-b"]', hidden=True),
            values("EMPTY", "static_list", "[]"),
            values("NO_JSON", "static_list", "alice, bob"),
            values("-ODD-", "static_list", '["x"]'),
            values("TABLE", "table", '["x"]'),
            values("OLD_IPS", "dynamic_list", "[]", "a day"),
        ),
    ),
    "Alert": (
        ALERT,
        (
            alert(0, "Many failed logins", '["127.0.0.1:5504/default"]', minute=30),
            alert(1, "Many failed logins", '["127.0.0.1:5504/default"]', minute=60),
            alert(2, "Of an unknown owner", '["127.0.0.1:5504/default"]', minute=30, user="ghost"),
            alert(3, "Two time units", '["127.0.0.1:5504/default"]', minute=30, hour=1),
            alert(4, "Without a repo", "[]", minute=30),
            alert(5, "Without a port", '["127.0.0.1/default"]', minute=30),
            alert(6, "Without a time", '["127.0.0.1:5504/default"]'),
            alert(7, "Of the vendor", '["127.0.0.1:5504/default"]', minute=30, vid="ALERT_950"),
            alert(8, "Much too risky", '["127.0.0.1:5504/default"]', minute=30, risk="extreme"),
            alert(9, "Assigned to nobody", '["127.0.0.1:5504/default"]', minute=30,
                  assigned_to=source_id("8", 99), attack_tag='["T9999"]'),
        ),
    ),
    "User": (USER, USER_ROWS),
}  # fmt: skip


# --- writing --------------------------------------------------------------------------------------


def write(sheets: Sheets, path: Path) -> None:
    """Write the sheets to the workbook `path`."""
    with xlsxwriter.Workbook(str(path)) as workbook:
        workbook.set_properties({"created": dt.datetime(2026, 1, 1, tzinfo=dt.UTC)})
        bold = workbook.add_format({"bold": True})
        for name, (headers, rows) in sheets.items():
            sheet = workbook.add_worksheet(name)
            sheet.write_row(0, 0, headers, bold)
            for number, row in enumerate(rows, start=1):
                for column, cell in enumerate(row):
                    if isinstance(cell, Formula):
                        result = "" if cell.result is None else cell.result
                        sheet.write_formula(number, column, cell.text, None, result)
                    elif isinstance(cell, bool):
                        sheet.write_boolean(number, column, cell)
                    elif isinstance(cell, str):
                        sheet.write_string(number, column, cell)
                    elif cell is not None:
                        sheet.write_number(number, column, cell)
            sheet.freeze_panes(1, 0)
            sheet.autofit()


def main(folder: Path) -> None:
    """Write both workbooks to `folder`."""
    write(GOOD, folder / "tenant-blue.xlsx")
    write(FAULTS, folder / "tenant-blue-faults.xlsx")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "data")
