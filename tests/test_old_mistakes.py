"""What the tools before this one did wrong, each as a test that it does not come back.

A test is named by its number in the list of old mistakes (`R1`, `R2`, …). The judge is the ledger
of an API on loopback wherever the mistake was one of calls.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from zoneinfo import ZoneInfo

import pytest

import commands
import dsync
from call_logs import Kept
from dsync import emulators
from dsync.connectors.rest import Rest
from dsync.emulators import Emulator
from dsync.model import Change, Scope
from dsync.pace import Kind, Pace
from dsync.system import Limits, System

pytestmark = pytest.mark.integration

SRC = Path(dsync.__file__).resolve().parent.parent
TOKEN = "Sesame-41c7-open"
SYSTEM = """
version: 1
system: shop
base_path: api
auth: {kind: bearer}
limits: {in_flight_s: 0.1}
paging: {kind: offset, offset: offset, limit: limit, size: 3, total: total}
resources:
  items:
    key: [name]
    settle_s: 0.05
    list: {path: items, records: data}
    create: {method: POST, path: items}
    update: {method: PUT, path: "items/{id}"}
    delete: {path: "items/{id}"}
"""
PROFILE = """
version: 1
resource: items
target: {system: shop, resource: items}
source: {csv: {path: items.csv}}
mapping:
  name: {col: name}
  qty: {col: qty, transform: [to_int]}
  password: {col: password}
prechecks: [{type: max, field: qty, value: 100}]
identity: {natural_key: [name]}
payload: {name: "${name}", qty: "${qty}", password: "${password}"}
apply: {delete: true}
"""
ITEMS = "name,qty,password\na,1,p\nb,2,p\nc,3,p\nd,4,p\n"
WRITES = ("POST", "PUT", "PATCH", "DELETE")
ALLOWED = ("--allow-delete", "--max-deletes", "100")


class World:
    """A project, and the API that it writes to."""

    def __init__(self, folder: Path, api: Emulator) -> None:
        self.folder, self.api = folder, api
        (folder / "profiles").mkdir(parents=True)
        (folder / "systems").mkdir()
        self.system()
        self.profile()
        self.rows(ITEMS)
        self.connection()

    def system(self, **changes: str) -> None:
        """The system file, with the line of each name replaced."""
        text = SYSTEM
        for name, line in changes.items():
            text = re.sub(rf"(?m)^( *){name}: .*$", rf"\g<1>{name}: {line}", text)
            assert line in text, name
        (self.folder / "systems" / "shop.yml").write_text(text)

    def profile(self, text: str = PROFILE, name: str = "items") -> None:
        """A profile."""
        (self.folder / "profiles" / f"{name}.yml").write_text(text)

    def rows(self, text: str) -> None:
        """What is wanted."""
        (self.folder / "items.csv").write_text(text)

    def connection(
        self, url: str = "", timeout_s: float = 5, credentials: str = "token: '${env:SHOP_TOKEN}'"
    ) -> None:
        """Where the API is, how long an answer may take, and who we are."""
        (self.folder / "directorsync.yml").write_text(
            f"version: 1\nconnections:\n  shop: {{system: shop, base_url: '{url or self.api.url}', "
            f"credentials: {{{credentials}}}, timeout_s: {timeout_s}}}\n"
        )

    def run(self, *words: str, code: int = 0, **environment: str) -> str:
        """Run the command; gives what it printed, both ways."""
        done = commands.run(
            *words,
            cwd=self.folder,
            env={
                **os.environ,
                "PYTHONPATH": str(SRC),
                "SHOP_TOKEN": TOKEN,
                "HOME": str(self.folder),
                **environment,
            },
            timeout=60,
        )
        assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    def apply(self, *words: str, code: int = 0, **environment: str) -> str:
        """Apply without a question."""
        return self.run("apply", "--yes", *words, code=code, **environment)

    def sent(self, *methods: str) -> list[dict[str, Any]]:
        """The calls that the API saw with these methods (all writes without any)."""
        return [c for c in self.api.ledger() if c["method"] in (methods or WRITES)]

    def held(self) -> list[dict[str, Any]]:
        """The items that the API holds."""
        collections: Any = self.api.state()
        return [
            record
            for name, records in collections.get("collections", collections).items()
            if name.endswith("items")
            for record in records
        ]

    def seed(self, *objects: Mapping[str, Any]) -> None:
        """Put items into the API behind our back."""
        self.api.seed({"collection": "items", "objects": list(objects)})

    def report(self, run: str) -> dict[str, Any]:
        """The JSON report of a run."""
        text = (self.folder / ".dsync" / "runs" / run / "report.json").read_text()
        return dict(json.loads(text))

    def written(self, folder: str = "") -> bytes:
        """All bytes of all files that the project's folder has, or one folder of it."""
        files = sorted((self.folder / folder).rglob("*"))
        return b"\n".join(file.read_bytes() for file in files if file.is_file())


@contextlib.contextmanager
def made(folder: Path, **switches: object) -> Iterator[World]:
    """A project and its API, which has these switches too."""
    shown = {"auth": "bearer", "paging": "offset", "tokens": [TOKEN], **switches}
    with emulators.start("plain", switches=shown) as api:
        yield World(folder / "project", api)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A project and its API."""
    with made(tmp_path) as world:
        yield world


@pytest.fixture
def elsewhere() -> Iterator[Emulator]:
    """Another host, which must never hear of us."""
    with emulators.start("plain") as api:
        yield api
        assert api.ledger() == []


def test_R1_post_retry(tmp_path: Path) -> None:
    """A create whose answer was lost is looked for, and not just posted again."""
    with made(tmp_path, unique=False) as world:
        world.connection(timeout_s=0.5)
        world.api.faults([
            {"match": {"method": "POST", "nth": 1}, "fault": "status", "status": 502,
             "when": "after"},
            {"match": {"method": "POST", "nth": 2}, "fault": "reset", "when": "after"},
            {"match": {"method": "POST", "nth": 3}, "fault": "timeout", "when": "after"},
            {"match": {"method": "POST", "nth": 4}, "fault": "close", "when": "after"},
        ])  # fmt: skip
        told = world.apply("--retries", "5")
        assert "CREATED=4" in told
        assert len(world.sent("POST")) == 4
        assert sorted(item["name"] for item in world.held()) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("where", ["system", "include", "inline", "next", "job"])
def test_R2_abs_url(world: World, elsewhere: Emulator, where: str) -> None:
    """No URL of a profile, a system file or an answer takes a call, or a token, to another host."""
    there = f"{elsewhere.url}/api/items"
    code, expected = 1, "DS-URL-ORIGIN"
    if where == "system":
        world.system(list=f"{{path: '{there}', records: data}}")
    elif where == "include":
        world.system(create=f"{{method: POST, path: '//127.0.0.1:{elsewhere.port}/api/items'}}")
    elif where == "inline":
        lines = [line for line in PROFILE.splitlines() if not line.startswith("target:")]
        endpoint = f"endpoint: {{list: '{there}', create: '{there}'}}"
        world.profile("\n".join([*lines, endpoint, ""]))
    elif where == "next":
        world.system(paging="{kind: link, next: next}")
        page = {"data": [{"id": 1, "name": "a"}], "next": f"{there}?offset=1"}
        world.api.faults([{"match": {"method": "GET"}, "fault": "body", "body": page}])
        code = 10
    else:
        world.api.switches({"jobs": True})
        jobs = "jobs: {location: job, pattern: 'jobs/j-[0-9]{6}', success: ok, failure: bad}\n"
        (world.folder / "systems" / "shop.yml").write_text(SYSTEM + jobs)
        rule = {"match": {"method": "POST"}, "fault": "job_hostile", "url": there}
        world.api.faults([rule])
        code, expected = 4, "it does not stay at"
    told = world.apply(code=code)
    assert expected in told
    assert where == "job" or not world.sent()
    assert not world.held()


def test_R3_redirect_token(world: World, elsewhere: Emulator) -> None:
    """A redirect is not followed, by no method, so that no token travels with it."""
    there = f"{elsewhere.url}/api/items"
    for status in (301, 302, 303, 307, 308):
        fault = {"fault": "redirect", "status": status, "location": there}
        world.api.faults([{"match": {"method": "GET"}, **fault}])
        assert "DS-HTTP-REDIRECT" in world.run("plan", code=10)
    world.api.faults([{"match": {"method": "POST", "nth": [1, 2]}, "fault": "redirect",
                       "status": 307, "location": there}])  # fmt: skip
    assert "CREATED=4" in world.apply()
    assert len(world.held()) == 4


def test_R4_empty_placeholder(tmp_path: Path) -> None:
    """A path is sent only with every placeholder filled by one non-empty, encoded segment."""
    odd = ["a/b", "../x", "x?y=1", "100%", "ü#1"]
    bad = ["..", "."]
    with made(tmp_path) as world:
        world.system(delete='{path: "items/by-key/{nobody}"}')
        world.seed({"name": "old"})
        assert "nobody" in world.apply(*ALLOWED, code=1)
        world.system(delete='{path: "items/by-key/{tag}"}', key="[tag]")
        assert not world.sent()

        world.system(delete='{path: "items/by-key/{name}"}')
        world.seed(*({"name": name} for name in [*odd, *bad]))
        world.apply(*ALLOWED, "--i-approve-deleting", "8-of-8", "--target", "shop", code=4)
        paths = [call["path"] for call in world.sent("DELETE")]
        assert all(path.count("/") == 4 and "?" not in path for path in paths)
        assert sorted(unquote(path.rpartition("/")[2]) for path in paths) == sorted([*odd, "old"])
        assert {item["name"] for item in world.held()} == {*bad, "a", "b", "c", "d"}


def test_R4_unknown_placeholder(world: World) -> None:
    """A placeholder that nothing fills is refused where the call is made, too."""
    text: dict[str, Any] = {
        "version": 1, "system": "shop", "base_path": "api",
        "resources": {"items": {"key": ["name"], "delete": {"path": "items/{nobody}"}}},
    }  # fmt: skip

    async def main() -> str:
        system = System.model_validate(text)
        async with Rest(system, base_url=world.api.url, credentials={}) as rest:
            change = Change(
                action="delete", profile="p", system="shop", resource="items", key=("a",), id=7
            )
            return (await rest.send(change, Scope(), log=Kept())).code

    assert asyncio.run(main()) == "DS-TPL"
    assert world.api.ledger() == []


def test_R4_empty_id(world: World) -> None:
    """A record without an id is never addressed, for the path would be that of all records."""
    world.system(key="[name]\n    id: code")
    world.seed({"name": "a", "code": ""}, {"name": "x"})
    world.apply(*ALLOWED, "--i-approve-deleting", "1-of-2", "--target", "shop", code=4)
    assert not world.sent("DELETE", "PUT")
    assert {"a", "x"} <= {item["name"] for item in world.held()}


def test_R5_dup_remote_key(tmp_path: Path) -> None:
    """Two records with one key, on whatever pages, are told, and neither is touched."""
    with made(tmp_path, unique=False, page_size=3) as world:
        twins = [{"name": name, "qty": 0} for name in ("a", "b", "gone", "c", "a", "gone", "d")]
        world.seed(*twins)
        told = world.apply("--run-id", "twins", *ALLOWED, "--max-updates", "9", code=4)
        assert "a" in [row["key"][0] for row in world.report("twins")["rows"]]
        assert not world.sent("DELETE", "POST")
        touched = {call["path"].rpartition("/")[2] for call in world.sent("PUT")}
        assert touched == {"2", "4", "7"}
        assert "DS-" in told


HOOKS = {
    "hook": ("hooks: {preprocess_row: 'evil:run', post_apply: 'evil:run'}", ""),
    "transform": ("", "qty: {col: qty, transform: ['evil:run']}"),
    "transform_fn": ("", "qty: {col: qty, transform: [{fn: 'evil.run'}]}"),
    "expression": ("", "qty: {sql: \"__import__('evil').run()\"}"),
    "sql": ("", "qty: {sql: \"read_text('evil.py')\"}"),
    "tag": ("", "qty: !!python/object/apply:evil.run {}"),
}


@pytest.mark.parametrize("where", HOOKS)
def test_R6_hook_import(world: World, where: str) -> None:
    """Nothing that a profile says is imported or run."""
    text, field = HOOKS[where]
    (world.folder / "evil.py").write_text("def run(*a):\n    open('ran', 'w').close()\nrun()\n")
    field = field or "qty: {col: qty, transform: [to_int]}"
    world.profile(PROFILE.replace("qty: {col: qty, transform: [to_int]}", field) + text)
    for words in (("validate",), ("plan",), ("apply", "--yes")):
        told = world.run(*words, code=1, PYTHONPATH=f"{SRC}{os.pathsep}{world.folder}")
        assert "DS-" in told
    assert not (world.folder / "ran").exists()
    assert not world.sent()


@pytest.mark.parametrize("name", ["../../outside", "/outside", "..%2foutside", "link"])
def test_R7_profile_traversal(world: World, name: str) -> None:
    """A name in `extends`, or of a profile, finds nothing outside the search paths."""
    outside = world.folder.parent / "outside.yml"
    outside.write_text(PROFILE)
    (world.folder / "profiles" / "link.yml").symlink_to(outside)
    named = str(outside.with_suffix("")) if name == "/outside" else name
    assert "DS-" in world.run("plan", "--profile", named, code=1)
    world.profile(f"version: 1\nextends: '{named}'\nresource: other\n", name="other")
    assert "DS-" in world.run("plan", "--profile", "other", code=1)
    assert "DS-" in world.run("validate", "other", code=1)
    assert world.api.ledger() == []


def test_R8_row_identity(world: World) -> None:
    """A row that failed is found again: its key and its row are in the report and on the screen."""
    world.rows(ITEMS + "late,999,p\n")
    rule = {"match": {"method": "POST", "nth": 2}, "fault": "status", "status": 422}
    world.api.faults([rule])
    told = world.apply("--run-id", "rows", "--concurrency", "1", code=4)
    rows = {tuple(row["key"]): row for row in world.report("rows")["rows"]}
    assert {key: (row["status"], row["row"]) for key, row in rows.items()} == {
        ("a",): ("CREATED", 2), ("b",): ("ERROR", 3), ("c",): ("CREATED", 4),
        ("d",): ("CREATED", 5), ("late",): ("SKIP", 6),
    }  # fmt: skip
    assert "ERROR create items b" in told
    assert re.search(r"(?m)^skip .*\blate\b|SKIP .*\blate\b", told, re.IGNORECASE)


def test_R9_redact_payload(world: World) -> None:
    """What is masked in messages is sent as it is: the API gets the real passwords."""
    words = ["hunter2-9f", "***", TOKEN, "Bearer abc.def"]
    lines = [f"{name},1,{word}" for name, word in zip("abcd", words, strict=True)]
    world.rows("\n".join(["name,qty,password", *lines, ""]))
    world.apply()
    assert [item["password"] for item in sorted(world.held(), key=lambda i: i["name"])] == words


def test_R10_html_success(world: World) -> None:
    """A 2xx that is no answer of the API is no success: a record is reported once it is there."""
    html = {"fault": "html", "status": 200}
    world.api.faults([
        {"match": {"method": "POST", "nth": 1}, **html, "when": "before"},
        {"match": {"method": "POST", "nth": 2}, **html, "when": "after"},
    ])  # fmt: skip
    assert "CREATED=4" in world.apply()
    assert len(world.sent("POST")) == 5
    assert len(world.held()) == 4
    world.rows(ITEMS + "e,5,p\n")
    world.api.faults([{"match": {"method": "POST"}, **html, "when": "before"}])
    assert "CREATED=0" in world.apply(code=4)
    assert len(world.held()) == 4


def test_R11_unbound(world: World) -> None:
    """A network that fails, at whatever moment, is told as that, and is no crash."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        world.connection(url=f"http://127.0.0.1:{free.getsockname()[1]}")
        assert "DS-HTTP-CONNECT" in world.run("plan", "--retries", "0", code=10)
    world.connection()
    fault: dict[str, Any]
    for fault in ({"fault": "close"}, {"fault": "reset"}, {"fault": "garbage"}):
        world.api.faults([{"match": {"method": "POST"}, **fault, "when": "before_read"}])
        told = world.apply("--retries", "0", code=4)
        assert "CREATED=0" in told
        assert "UnboundLocalError" not in told


JOBS = """jobs:
  location: job
  pattern: 'jobs/j-[0-9]{6}'
  success: status == 'done'
  failure: status == 'failed'
  error: error
  id: result.id
  poll: {interval_s: 0.02, timeout_s: 0.2}
"""


def test_R12_monitor_timeout(tmp_path: Path) -> None:
    """A job that takes longer than we wait has not failed: it stays open, and is taken up again."""
    with made(tmp_path, jobs=True, job_polls=10**6, job_max_s=3600) as world:
        (world.folder / "systems" / "shop.yml").write_text(SYSTEM + JOBS)
        told = world.apply("--run-id", "slow", code=3)
        assert "CREATED=0" in told
        assert "ERROR=0" in told
        world.api.advance(7200)
        assert "CREATED=4" in world.run("resume", "slow")
        assert len(world.sent("POST")) == len(world.held()) == 4


def test_R12_wall_clock(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wall clock that jumps ends no wait for a job."""
    world.api.switches({"jobs": True, "job_polls": 3, "auth": "none"})
    text: dict[str, Any] = {
        "version": 1, "system": "shop", "base_path": "api",
        "jobs": {"location": "job", "pattern": "jobs/j-[0-9]{6}", "success": "status == 'done'",
                 "failure": "status == 'failed'", "poll": {"interval_s": 0.01, "timeout_s": 20}},
        "resources": {"items": {"key": ["name"], "create": {"path": "items"}}},
    }  # fmt: skip
    real, hours = time.time, iter(range(0, 10**9, 3600))
    monkeypatch.setattr(time, "time", lambda: real() + next(hours))

    async def main() -> str:
        system = System.model_validate(text)
        async with Rest(system, base_url=world.api.url, credentials={}) as rest:
            change = Change(
                action="create", profile="p", system="shop", resource="items", key=("a",),
                payload={"name": "a"},
            )  # fmt: skip
            return (await rest.send(change, Scope(), log=Kept())).state

    assert asyncio.run(main()) == "acked"


def test_R13_empty_source(world: World) -> None:
    """An empty source with deletes on: exit 8, one message, and nothing is sent."""
    world.apply()
    before = len(world.api.ledger())
    world.rows("name,qty,password\n")
    for words in (("plan",), ("apply", "--yes", "--allow-delete"), ("apply", "--yes", *ALLOWED)):
        assert world.run(*words, code=8).count("DS-SAFE-G4") == 1
    assert len(world.api.ledger()) == before
    assert len(world.held()) == 4


class Clock:
    """Time that passes only where somebody sleeps."""

    def __init__(self, start: datetime) -> None:
        self.start, self.now = start, 0.0

    def wall(self) -> datetime:
        return self.start + timedelta(seconds=self.now)

    async def sleep(self, seconds: float) -> None:
        self.now += max(seconds, 1e-3)
        await asyncio.sleep(0)


NIGHTS = {
    "time_zone": "Europe/Brussels",
    "quotas": [
        {"from": "06:00", "to": "20:00", "write": "10/min"},
        {"from": "20:00", "to": "06:00", "write": "50/min"},
    ],
}
BRUSSELS = ZoneInfo("Europe/Brussels")


def _moments(start: datetime, seconds: float) -> list[datetime]:
    """When writes go, of somebody who always wants to write, for so long."""
    clock = Clock(start.astimezone(UTC))
    kind: Kind = "write"
    found: list[datetime] = []

    async def main() -> None:
        pace = Pace(
            Limits.model_validate(NIGHTS), clock=lambda: clock.now, sleep=clock.sleep,
            wall=clock.wall, chance=lambda: 0.5,
        )  # fmt: skip
        while clock.now < seconds:
            async with pace.slot(kind):
                found.append(clock.wall())

    asyncio.run(main())
    return found


def _most(moments: list[datetime]) -> int:
    """The most of them in any minute."""
    minute = timedelta(minutes=1)
    return max(sum(one <= other < one + minute for other in moments) for one in moments)


@pytest.mark.parametrize(
    ("hour", "minute", "seconds", "most"),
    [
        (5, 56, 150, 50),  # the night
        (5, 59, 300, 10),  # around the change the lower holds, and they do not add up
        (19, 58, 120, 10),
        (20, 5, 180, 50),  # 20:05 is night
        (12, 0, 180, 10),
    ],
)
def test_R14_quota_edges(hour: int, minute: int, seconds: float, most: int) -> None:
    """The quota of the hour holds in any minute, in the API's zone, also where the hour changes."""
    for day in (datetime(2030, 1, 15, tzinfo=BRUSSELS), datetime(2030, 7, 15, tzinfo=BRUSSELS)):
        found = _moments(day.replace(hour=hour, minute=minute), seconds)
        assert _most(found) == most


def test_R15_token_expiry(tmp_path: Path) -> None:
    """A token that dies in the middle of a run is renewed, and the run goes on."""
    with made(tmp_path, auth="exchange", user="me", password="p4ss-0rd") as world:
        world.system(
            auth="{kind: exchange, request: {path: auth, body: {client_id: '${client_id}', "
            "client_secret: '${client_secret}'}}, token: token, life_s: 100000}"
        )
        world.connection(credentials="client_id: me, client_secret: '${env:SHOP_SECRET}'")
        world.api.faults([{"match": {"path": "items", "nth": [3, 5]}, "fault": "status",
                           "status": 401}])  # fmt: skip
        told = world.apply("--concurrency", "1", SHOP_SECRET="p4ss-0rd")
        assert "CREATED=4" in told
        logins = [call for call in world.api.ledger() if str(call["path"]).startswith("/auth")]
        assert len(logins) == 1 + 2, "one for plan and apply together, one after each 401"
        assert len(world.held()) == 4


def test_R15_path_escape(tmp_path: Path) -> None:
    """An id goes into a path as one encoded segment, whatever it holds."""
    mails = ["a/../b@x.example.test", "c?all=1@x.example.test", "d%2f@x.example.test"]
    with made(tmp_path, key="mail") as world:
        world.system(key="[mail]\n    id: mail", delete='{path: "items/by-key/{id}"}')
        world.profile(PROFILE.replace("name", "mail"))
        world.rows("mail,qty,password\nz@x.example.test,1,p\n")
        world.seed(*({"mail": mail} for mail in mails))
        world.apply(*ALLOWED, "--i-approve-deleting", "3-of-3", "--target", "shop")
        found = [call["path"].removeprefix("/api/items/by-key/") for call in world.sent("DELETE")]
        assert not any("/" in path or "?" in path for path in found)
        assert sorted(map(unquote, found)) == sorted(mails)
        assert [item["mail"] for item in world.held()] == ["z@x.example.test"]


CODE_FROM_DATA = {"pickle", "cPickle", "marshal", "shelve", "dill", "joblib", "jsonpickle"}


def test_R16_pickle(world: World) -> None:
    """No module can unpickle, and what the state folder holds is JSON, SQLite or plain marks."""
    for path in (SRC / "dsync").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or "", *(alias.name for alias in node.names)]
            assert not {name.partition(".")[0] for name in names} & CODE_FROM_DATA, path
    world.apply("--run-id", "state")
    for path in (world.folder / ".dsync").rglob("*"):
        if path.is_file() and path.name not in ("journal.head", "ballast", ".gitignore"):
            assert _is_data(path.read_bytes()), path


def _is_data(content: bytes) -> bool:
    if not content or content.startswith(b"SQLite format 3\0"):
        return True
    lines = content.decode().splitlines()
    try:
        json.loads(content)
    except ValueError:
        return all(isinstance(json.loads(line), dict) for line in lines)
    return True


def test_R16_planted_pickle(world: World) -> None:
    """A pickle in the place of a file of the state folder is refused or ignored, and never run."""
    ran = world.folder / "ran"
    planted = f"cos\nsystem\n(S'touch {ran}'\ntR.".encode()
    world.apply("--run-id", "state")
    for path in sorted((world.folder / ".dsync").rglob("*")):
        if not path.is_file():
            continue
        kept, mode = path.read_bytes(), path.stat().st_mode
        path.chmod(0o600)
        path.write_bytes(planted)
        path.chmod(mode)
        for words in (["runs"], ["resume", "state"]):
            done = commands.run(
                *words, cwd=world.folder,
                timeout=60, env={**os.environ, "PYTHONPATH": str(SRC), "SHOP_TOKEN": TOKEN},
            )  # fmt: skip
            assert "Traceback" not in done.stderr, path
        path.chmod(0o600)
        path.write_bytes(kept)
        path.chmod(mode)
    assert not ran.exists()
    assert len(world.sent()) == 4


def test_R17_payload_log(world: World) -> None:
    """What is logged of a row that failed is its own key, and never what the row holds."""
    lines = [f"{name},{number},born-{number}-in-Sampleton" for number, name in enumerate("abcd")]
    world.rows("\n".join(["name,qty,born", *lines, ""]))
    world.profile(PROFILE.replace("password", "born"))
    world.api.faults([
        {"match": {"method": "POST", "nth": 1}, "fault": "status", "status": 422},
        {"match": {"method": "POST", "nth": 2}, "fault": "reset", "when": "before"},
        {"match": {"method": "POST", "nth": 3}, "fault": "status", "status": 500},
    ])  # fmt: skip
    world.apply("--run-id", "log", "--concurrency", "1", "--log-level", "debug", "--quiet", code=4)
    logged = world.written("logs")
    assert b"log" in logged
    assert b"Sampleton" not in logged
    journal = b"".join(
        path.read_bytes() for path in (world.folder / ".dsync/runs/log").glob("journal.db*")
    )
    assert b"Sampleton" not in journal
    failed = [row for row in world.report("log")["rows"] if row["status"] == "ERROR"]
    assert [(row["key"], row["row"]) for row in failed] == [(["a"], 2)]
    assert "Sampleton" not in json.dumps(failed)


@pytest.mark.parametrize(
    "fault",
    [
        {"fault": "status", "status": 500}, {"fault": "status", "status": 404},
        {"fault": "html"}, {"fault": "truncated_json"}, {"fault": "cut_body"},
        {"fault": "empty"}, {"fault": "body", "body": {"data": None}},
        {"fault": "body", "body": {}},
    ],
    ids=lambda fault: "-".join(str(part) for part in fault.values()),
)  # fmt: skip
def test_R18_partial_read_ok(world: World, fault: dict[str, Any]) -> None:
    """A listing of which a page fails is no listing: no plan, no dump, and no exit code 0."""
    world.seed(*({"name": f"n{number}"} for number in range(8)))
    world.api.faults([{"match": {"method": "GET", "path": "offset=3"}, **fault}])
    out = world.folder / "dumped"
    for words in (("plan", "--out", "plan.ndjson"), ("apply", "--yes", *ALLOWED),
                  ("dump", "--out", str(out))):  # fmt: skip
        world.run(*words, "--retries", "0", code=10)
    assert not (world.folder / "plan.ndjson").exists()
    assert not [path for path in out.rglob("*") if path.is_file()]
    assert not world.sent()


@pytest.mark.parametrize("form", ["1", "date:1", "0.5", "Thu, 99 Foo 2030"])
def test_R19_retry_after_date(world: World, form: str) -> None:
    """Every spelling of `Retry-After` is waited for or ignored, and no run dies of it."""
    world.api.faults([{"match": {"method": method, "nth": 1}, "fault": "too_many",
                       "retry_after": form} for method in ("GET", "POST")])  # fmt: skip
    assert "CREATED=4" in world.apply("--concurrency", "1")
    if form in ("1", "date:1"):
        for method in ("GET", "POST"):
            calls = world.sent(method)
            first = next(c for c in calls if c["status"] == 429)
            after = [c["monotonic_s"] for c in calls if c["seq"] > first["seq"]]
            # A date has whole seconds, so up to one of them may be over already.
            assert min(after) - first["monotonic_s"] >= (1.0 if form == "1" else 0.0)


NAMES = """
import sys
from dsync.journal import idempotency_key, operation
op = operation("run-1", "shop", "items", "", ("a",), "create")
print(op, idempotency_key("t", op, "00"))
"""


def test_R20_bulk_session(tmp_path: Path) -> None:
    """What a call is named by comes from the run, so a process that takes it up uses it again."""
    told = {
        subprocess.run(
            [sys.executable, "-c", NAMES], capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONPATH": str(SRC), "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(told) == 1
    with made(tmp_path, idempotency=True, unique=False) as world:
        world.system(create="{method: POST, path: items, idempotency: {header: Idempotency-Key}}")
        world.apply("--run-id", "first", code=-9, DSYNC_FAILPOINT="answer.after:2")
        world.run("resume", "first")
        keys: dict[str, set[str]] = {}
        for call in world.sent("POST"):
            name = call["body"]["name"]
            keys.setdefault(name, set()).add(call["headers"]["idempotency-key"])
        assert sorted(keys) == ["a", "b", "c", "d"]
        assert all(len(found) == 1 for found in keys.values())
        assert len(set.union(*keys.values())) == len(world.held()) == 4


def test_R21_debug_key(tmp_path: Path) -> None:
    """At the most talkative level no header of a call, and no key, is written anywhere."""
    secret = "1234/" + hashlib.sha256(b"x").hexdigest()[:40]
    with made(tmp_path, auth="header", header_name="Authorization", tokens=[secret]) as world:
        world.system(auth="{kind: header, header: Authorization, prefix: ''}")
        world.api.faults([{"match": {"method": "POST", "nth": 1}, "fault": "status",
                           "status": 400, "body": f"bad key TD1 {secret}"}])  # fmt: skip
        told = world.apply("--log-level", "debug", "--debug", code=4, SHOP_TOKEN=secret)
        told += world.run("plan", "--log-level", "debug", SHOP_TOKEN=secret)
        told += world.run("doctor", "--config", SHOP_TOKEN=secret)
        assert secret not in told
        assert secret[5:] not in told
        assert "authorization:" not in told.lower()
        assert b"authorization" not in world.written("logs").lower()
        assert secret[5:].encode() not in world.written()


def test_all_old_mistakes_have_a_test() -> None:
    """Each of the twenty-one old mistakes has a test that is named by it."""
    found = {int(match[1]) for match in map(re.compile(r"test_R(\d+)_").match, globals()) if match}
    assert found == set(range(1, 22))
