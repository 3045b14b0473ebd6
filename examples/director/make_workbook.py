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
GROUPS = ("group_id", "name", "description", "active", "device_ids", "tags")

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


# --- rows that are good ---------------------------------------------------------------------------

GROUP_ROWS: Sequence[Row] = (
    ("64b0c0ffee0000000000e001", "windows", "Windows servers", True, None, None),
    ("64b0c0ffee0000000000e002", "linux", "Linux servers", True, None, None),
)
ENRICHMENT_ROWS: Sequence[Row] = (
    (source_id("f", 1), "ep_hosts", 0, "host_owners", "Adds owner of the host", None, True),
    (source_id("f", 2), "ep_threats", 0, "threat_feed", "Marks known bad addresses", None, True),
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
    # Nothing reads these two, nor the columns active, used_size, tags, …
    "DeviceGroups": (GROUPS, GROUP_ROWS),
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
    "EnrichmentPolicy": (ENRICHMENT, ENRICHMENT_ROWS),
    "ProcessingPolicy": (
        PROCESSING,
        (
            processing(1, "system", "None", "None", source_id("c", 1)),
            processing(2, "network", "np_network", "None", source_id("c", 99)),  # dangling
            processing(3, "web", "np_web", "None", source_id("c", 1)),  # np_web is withheld
            processing(4, "identity", "np_network", source_id("f", 99), source_id("c", 1)),
            processing(5, "endpoint", "np_network", "None", None),
            # ep_threats is in the sheet, but the nodes do not have it.
            processing(6, "mail", "np_network", source_id("f", 2), source_id("c", 1)),
        ),
    ),
    "DeviceGroups": (GROUPS, GROUP_ROWS),
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
