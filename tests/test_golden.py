"""Golden data: for each importer a workbook, what its node holds, and the calls that must come out.

`contract/<importer>/golden/` has expected_statuses.json (one line a row of the sheet, and the calls
in their order are expected_payloads.json) and comparator_rules.yml; `golden_inputs.py` makes the
workbook and the dump of the node. Plans are made without a server. With GOLDEN_WRITE=1 the expected
files are written anew, to be read and checked by a person.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from ruamel.yaml import YAML

import golden_inputs
from call_logs import Kept
from dsync import api, system
from dsync.connectors.rest import Rest
from dsync.model import Change, Finding, Plan, Scope

pytestmark = pytest.mark.contract

GOLDEN = Path(__file__).parent / "contract"
ORDER = "/orders/7f3c2a10-5d1e-4b8f-9a77-0c1d2e3f4a5b"
WORDS = {"create": "CREATED", "update": "UPDATED", "skip": "SKIP", "error": "ERROR"}


# --- the calls ------------------------------------------------------------------------------------


class Node(ThreadingHTTPServer):
    """A node that accepts every order and keeps what it was sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.calls: list[dict[str, Any]] = []
        self.daemon_threads = True


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Node

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._answer({"request": {}, "response": {"success": True, "message": "done"}})

    def do_POST(self) -> None:
        *root, resource = self.path.split("/", 4)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.calls.append({"method": self.command, "path": resource, "body": body})
        place = "/".join(root).replace("configapi", "monitorapi") + ORDER
        self._answer({"status": "Success", "message": place})

    do_PUT = do_POST

    def _answer(self, document: Mapping[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with Node() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def _sent(node: Node, changes: Sequence[Change], scope: Scope) -> list[dict[str, Any]]:
    """Each change with the call that makes it, in the order of the plan."""
    node.calls.clear()

    async def nothing(_: float) -> None:
        """Wait for nothing."""

    async def send() -> None:
        async with Rest(
            system.load("director").system,
            base_url=f"http://127.0.0.1:{node.server_port}",
            credentials={"token": "demo"},
            sleep=nothing,
        ) as director:
            for change in changes:
                outcome = await director.send(change, scope, log=Kept())
                assert outcome.state == "acked", outcome

    asyncio.run(send())
    pairs = zip(changes, node.calls, strict=True)
    return [{"key": "/".join(change.key), **call} for change, call in pairs]


# --- the rows -------------------------------------------------------------------------------------


def _statuses(plan: Plan, expected: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One entry a row and key that the plan speaks of; those that it keeps are as expected."""
    rows: dict[tuple[int, str], dict[str, Any]] = {}
    for change in plan.changes():
        assert change.row is not None
        fields = {"fields": list(change.fields)} if change.action == "update" else {}
        key = "/".join(change.key)
        rows[change.row, key] = {"key": key, "status": WORDS[change.action], **fields}
    for finding in plan.findings():
        assert finding.row is not None
        key = "/".join(finding.key)
        row = rows.setdefault((finding.row, key), {"key": key})
        if finding.severity != "warn":
            row["status"] = max(row.get("status", ""), WORDS[finding.severity], key=_weight)
        row.setdefault("findings", []).append(_told(finding))
    kept = [one for one in expected if one["status"] == "UNCHANGED"]
    (tally,) = plan.tallies
    assert tally.unchanged == len(kept), "rows that are as wanted"
    assert tally.rows == len(rows) + len(kept)
    for one in kept:
        assert (one["row"], one["key"]) not in rows, one
        rows[one["row"], one["key"]] = {name: one[name] for name in one if name != "row"}
    return [{"row": place[0], **rows[place]} for place in sorted(rows)]


def _weight(status: str) -> int:
    return ("", "UNCHANGED", "UPDATED", "CREATED", "SKIP", "ERROR").index(status)


def _told(finding: Finding) -> str:
    cell = finding.place.cell if finding.place else None
    return f"{finding.severity} {finding.code} {cell or '-'}: {finding.message}"


# --- the comparison -------------------------------------------------------------------------------


def _normal(value: Any, rules: Mapping[str, Sequence[str]], name: str = "") -> Any:
    """Without ignored fields, sets in one order, scalars as texts."""
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if key not in rules["ignore_fields"]}
        return {key: _normal(item, rules, key) for key, item in sorted(kept.items())}
    if isinstance(value, list):
        items = [_normal(item, rules) for item in value]
        return sorted(items, key=json.dumps) if name in rules["list_as_sets"] else items
    return json.dumps(value) if isinstance(value, bool | None) else str(value)


def _lines(entries: Sequence[Any]) -> str:
    inner = ",\n".join("  " + json.dumps(entry, ensure_ascii=False) for entry in entries)
    return f"[\n{inner}\n]\n"


@pytest.mark.parametrize("importer", golden_inputs.INPUTS)
def test_golden(importer: str, tmp_path: Path, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row of the workbook has the status, and every call the body, that were written down."""
    for name in [name for name in os.environ if name.startswith(("DSYNC_", "LP_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    golden_inputs.write(importer, tmp_path / "project")
    folder = GOLDEN / importer / "golden"
    rules = YAML(typ="safe").load((folder / "comparator_rules.yml").read_text(encoding="utf-8"))
    statuses = json.loads((folder / "expected_statuses.json").read_text(encoding="utf-8"))
    ask = api.Ask(
        names=(f"director{'_options' * (importer in golden_inputs.OPTIONS)}/{importer}",),
        nodes=(golden_inputs.INPUTS[importer][0],),
        existing=tmp_path / "project" / "dump",
    )
    with api.plan(api.open_project(tmp_path / "project"), ask) as plan:
        found = _statuses(plan, statuses)
        calls = _sent(node, list(plan.changes()), plan.scopes[0])
    if os.environ.get("GOLDEN_WRITE"):
        (folder / "expected_statuses.json").write_text(_lines(found), encoding="utf-8")
        (folder / "expected_payloads.json").write_text(_lines(calls), encoding="utf-8")
    payloads = json.loads((folder / "expected_payloads.json").read_text(encoding="utf-8"))
    assert found == statuses
    assert _normal(calls, rules) == _normal(payloads, rules)
