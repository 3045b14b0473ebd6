"""Intents are durable before their first byte leaves, seen at the system calls of the real program.

One traced run for each kind of operation. A call is known by the SHA-256 of its body, which its
intent holds too; so the trace alone tells which page of the journal had to be on the disk before
which bytes may have gone to the socket.
"""

from __future__ import annotations

import codecs
import contextlib
import functools
import hashlib
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import commands
import dsync
from dsync import emulators
from dsync.emulators import Emulator

pytestmark = pytest.mark.integration

SRC = Path(dsync.__file__).resolve().parent.parent
EXAMPLES = Path(__file__).parent.parent / "examples"

SYSTEM = """
version: 1
system: shop
base_path: api
limits: {in_flight_s: 0.1, concurrency: 4}
resources:
  items:
    key: [name]
    settle_s: 0.05
    list: {path: items, records: data}
    create: {method: POST, path: items, id: id}
    update: {method: PUT, path: "items/{id}"}
    delete: {path: "items/{id}"}
  groups:
    key: [name]
    settle_s: 0.05
    list: {path: groups, records: data}
    create: {method: POST, path: groups, id: id}
"""
PROFILE = """
version: 1
resource: items
target: {system: shop, resource: items}
source: {csv: {path: items.csv}}
mapping: {name: {col: name}, qty: {col: qty, transform: [to_int]}}
identity: {natural_key: [name]}
payload: {name: "${name}", qty: "${qty}"}
"""
GROUPS = """
version: 1
resource: groups
target: {system: shop, resource: groups}
source: {csv: {path: items.csv}}
mapping: {name: {col: name}}
identity: {natural_key: [name]}
payload: {name: "${name}"}
"""
MEMBERS = PROFILE.replace('qty: "${qty}"', 'qty: "${group}"') + (
    'resolve: {group: {from: groups, lookup: {by: name, using: "${name}"}}}\n'
)
AUTH = """
auth:
  kind: exchange
  request:
    method: POST
    path: auth
    body: {client_id: "${client_id}", client_secret: "${client_secret}"}
  token: token
  expires: expires_in
"""
JOBS = """
jobs:
  location: job
  pattern: 'jobs/j-[0-9]{6}'
  success: status == 'done'
  failure: status == 'failed'
  id: result.id
  poll: {interval_s: 0.02, timeout_s: 20}
"""
DELETES = ("--delete", "--allow-delete", "--max-deletes", "10", "--i-approve-deleting")


# --- a project and its API ----------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class World:
    """A project, the API that it writes to, and the words that apply it."""

    folder: Path
    url: str
    words: list[str] = field(default_factory=lambda: ["apply", "--yes"])
    environment: dict[str, str] = field(default_factory=dict)
    said: str = ""

    def write(self, name: str, text: str) -> None:
        """A file of the project."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def shop(self, *changes: tuple[str, str], more: str = "", credentials: str = "{}") -> None:
        """The project of a shop; in its system file the first texts are replaced by the others."""
        text = SYSTEM + more
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        self.write("systems/shop.yml", text)
        self.write("profiles/items.yml", PROFILE)
        self.write(
            "directorsync.yml",
            f"version: 1\nconnections:\n  shop: {{system: shop, base_url: '{self.url}', "
            f"credentials: {credentials}}}\n",
        )
        self.rows("a", "b", "c")

    def rows(self, *names: str, qty: int = 1) -> None:
        """What is wanted."""
        self.write("items.csv", "\n".join(["name,qty", *(f"{n},{qty}" for n in names), ""]))

    def run(self, *words: str, before: Sequence[str] = (), **environment: str) -> int:
        """Run the command below `before`; gives its exit code."""
        env = {**os.environ, "PYTHONPATH": str(SRC), "HOME": str(self.folder), **environment}
        if before:
            done = subprocess.run(
                [*before, sys.executable, "-m", "dsync", *words], cwd=self.folder, env=env,
                capture_output=True, text=True, timeout=60,
            )  # fmt: skip
        else:
            done = commands.run(*words, cwd=self.folder, env=env)
        assert "Traceback" not in done.stderr, done.stderr
        self.said = done.stdout + done.stderr
        return done.returncode


@pytest.fixture(scope="module")
def plain() -> Iterator[Emulator]:
    with emulators.start("plain") as running:
        yield running


# --- what strace saw ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One system call. `began` and `ended` are places in the order of all that was seen."""

    name: str
    path: str
    data: bytes
    result: int
    began: int
    ended: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """One HTTP request as it went to a socket; `at` is where its first byte left."""

    method: str
    target: str
    body: str
    at: int


Known = tuple[str, str, int, str]
"""an event of the journal: its kind, operation, attempt, and the SHA-256 of the call's body"""

_SYSCALLS = "pwrite64,pwritev,write,writev,fdatasync,fsync,sendto,sendmsg"
_LINE = re.compile(r"(\d+) +(?:(\w+)\((.*)|<\.\.\. \w+ resumed>(.*))")
_TEXT = re.compile(r'"((?:[^"\\]|\\.)*)"')
_WAL = "journal.db-wal"
_EVENT = re.compile(
    rb"(intent|sent|job|outcome|resolve)([0-9a-f]{64})([\x02-\x1f]?)([0-9a-f]{64})?"
)
WRITES = ("POST", "PUT", "PATCH", "DELETE")


def traced(file: Path) -> list[Call]:
    """The system calls of a trace, in the order in which they began."""
    calls: list[Call] = []
    open_: dict[str, tuple[int, str, str]] = {}
    for at, line in enumerate(file.read_text(encoding="latin-1").splitlines()):
        match = _LINE.match(line)
        if match is None:
            continue
        thread, name, rest, resumed = match.groups()
        if name is None:
            began, name, rest = open_.pop(thread)
            rest += resumed
        elif rest.endswith("<unfinished ...>"):
            open_[thread] = (at, name, rest)
            continue
        else:
            began = at
        path = rest.partition("<")[2].partition(">")[0]
        texts = [codecs.escape_decode(text)[0] for text in _TEXT.findall(rest)]
        result = re.search(r"= (-?\d+)[^=]*$", rest)
        calls.append(
            Call(
                name=name, path=path, data=b"".join(texts),
                result=int(result[1]) if result else -1, began=began, ended=at,
            )
        )  # fmt: skip
    return sorted(calls, key=lambda call: call.began)


def durable(calls: Iterable[Call]) -> dict[Known, int]:
    """Each event -> where it had reached the disk."""
    waiting: dict[Known, int] = {}
    found: dict[Known, int] = {}
    for call in calls:
        if not call.path.endswith(_WAL):
            continue
        if call.name in ("fdatasync", "fsync"):
            assert call.result == 0
            for event, written in list(waiting.items()):
                if written < call.began:
                    found[event] = call.ended
                    del waiting[event]
            continue
        for event in _events(call.data):
            if event not in found:
                waiting.setdefault(event, call.ended)
    return found


def _events(data: bytes) -> Iterator[Known]:
    for kind, op, number, body in _EVENT.findall(data):
        yield kind.decode(), op.decode(), number[0] if number else 1, body.decode()


def written(calls: Iterable[Call], kind: str) -> dict[tuple[str, int], int]:
    """Operation and attempt of each event of this kind -> where it was written, synced or not."""
    found: dict[tuple[str, int], int] = {}
    for call in calls:
        if call.path.endswith(_WAL) and call.name.startswith("pwrite"):
            for name, op, number, _ in _EVENT.findall(call.data):
                if name.decode() == kind:
                    found.setdefault((op.decode(), number[0] if number else 1), call.ended)
    return found


def requests(calls: Iterable[Call]) -> list[Sent]:
    """All HTTP requests, in the order in which they began to leave."""
    found: list[Sent] = []
    halves: dict[str, tuple[int, bytes]] = {}
    for call in calls:
        if "socket:" not in call.path and "TCP" not in call.path:
            continue
        began, before = halves.pop(call.path, (call.began, b""))
        text = before + call.data
        head, end, body = text.partition(b"\r\n\r\n")
        if not re.match(rb"[A-Z]+ [^ ]+ HTTP/1\.1\r\n", text):
            continue
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
        if not end or len(body) < (int(length[1]) if length else 0):
            halves[call.path] = (began, text)
            continue
        method, target, _ = head.split(b" ", 2)
        digest = hashlib.sha256(body).hexdigest()
        found.append(Sent(method=method.decode(), target=target.decode(), body=digest, at=began))
    return sorted(found, key=lambda one: one.at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One traced run."""

    calls: list[Call]
    events: dict[Known, int]
    """those that were not in the journal before"""
    sent: list[Sent]

    def writes(self, to: str) -> list[Sent]:
        """The calls to `to` that ask for a change."""
        return [one for one in self.sent if one.method in WRITES and re.search(to, one.target)]

    def prove(self, to: str) -> list[Sent]:
        """Each of those calls has an intent of its own on the disk, and its mark, before it."""
        writes = self.writes(to)
        intents = {e: at for e, at in self.events.items() if e[0] == "intent"}
        marks = {mark: at for mark, at in written(self.calls, "sent").items()
                 if any(mark == (op, attempt) for _, op, attempt, _ in intents)}  # fmt: skip
        assert len(writes) == len(intents) == len(marks)
        assert Counter(one.body for one in writes) == Counter(body for *_, body in intents)
        for number, one in enumerate(writes):
            # Calls with one body are alike: as many intents as calls have to be there.
            alike = sum(other.body == one.body for other in writes[: number + 1])
            ready = [at for (*_, body), at in intents.items() if body == one.body and at < one.at]
            assert len(ready) >= alike, f"{one} left before its intent was durable"
            marked = [
                at for (_, op, attempt, body) in intents if body == one.body
                and (at := marks[op, attempt]) < one.at
            ]  # fmt: skip
            assert len(marked) >= alike, f"{one} left before its mark was written"
        return writes


def trace(world: World, folder: Path) -> Trace:
    """Run the world's words under strace."""
    file = folder / "trace"
    old = {event for wal in world.folder.rglob(_WAL) for event in _events(wal.read_bytes())}
    before = [_strace(), "-f", "-y", "-qq", "--seccomp-bpf", "-s", "20000", "-o", str(file)]
    before += ["-e", f"trace={_SYSCALLS}", "-e", "signal=none"]
    code = world.run(*world.words, before=before, **world.environment)
    assert code == 0, world.said
    calls = traced(file)
    events = {event: at for event, at in durable(calls).items() if event not in old}
    return Trace(calls=calls, events=events, sent=requests(calls))


@functools.cache
def _strace() -> str:
    path = shutil.which("strace")
    if path is None:
        pytest.skip("strace is not installed: the order of system calls cannot be seen")
    tried = subprocess.run([path, "-qq", "--seccomp-bpf", "-f", "-e", "trace=fsync", "true"],
                           capture_output=True)  # fmt: skip
    if tried.returncode:
        pytest.skip("strace may not trace here: the order of system calls cannot be seen")
    return path


# --- the kinds of operations --------------------------------------------------------------------

ITEMS = r"/items"
Prepare = Callable[[World, Emulator], str]
"""makes the project and the state of the API; gives what the writes go to"""


def create(world: World, api: Emulator) -> str:
    """Creates, several at once."""
    world.shop()
    return ITEMS


def keyed_create(world: World, api: Emulator) -> str:
    """Creates with an idempotency key."""
    api.switches({"idempotency": True})
    world.shop(("id: id}", "id: id, idempotency: {}}"))
    return ITEMS


def keyed_create_again(world: World, api: Emulator) -> str:
    """A keyed create that is sent again at once, as its answer was lost."""
    keyed_create(world, api)
    api.faults([{"match": {"method": "POST", "nth": 1}, "fault": "reset", "when": "after"}])
    return ITEMS


def unique_create(world: World, api: Emulator) -> str:
    """Creates where the API itself refuses a second record with the key."""
    world.shop(("settle_s", "unique_by_server: true\n    settle_s"))
    return ITEMS


def create_with_reference(world: World, api: Emulator) -> str:
    """Creates whose bodies are made when the ids of the wave before them are known."""
    world.shop()
    world.write("profiles/groups.yml", GROUPS)
    world.write("profiles/items.yml", MEMBERS)
    return r"/(items|groups)"


def put(world: World, api: Emulator) -> str:
    """Updates by PUT."""
    world.shop()
    _seed(api, "a", "b")
    world.rows("a", "b", qty=5)
    return ITEMS


def patch(world: World, api: Emulator) -> str:
    """Updates by PATCH, with what has changed."""
    put(world, api)
    world.shop(('{method: PUT, path: "items/{id}"}',
                '{method: PATCH, path: "items/{id}", send: changed}'))  # fmt: skip
    world.rows("a", "b", qty=5)
    return ITEMS


def delete(world: World, api: Emulator) -> str:
    """Deletes alone, all with the same empty body."""
    world.shop()
    _seed(api, "a", "x", "y")
    world.rows("a")
    world.words += [*DELETES, "2-of-3", "--target", "shop"]
    return ITEMS


def delete_wave(world: World, api: Emulator) -> str:
    """Deletes in the wave behind creates and updates."""
    world.shop()
    _seed(api, "b", "x")
    world.rows("a", "b", qty=5)
    world.words += [*DELETES, "1-of-2", "--target", "shop"]
    return ITEMS


def upsert(world: World, api: Emulator) -> str:
    """Creates and updates by one call that does either."""
    api.switches({"post_upsert": True})
    world.shop(('update: {method: PUT, path: "items/{id}"}',
                "write: upsert\n    update: {method: POST, path: items}"))  # fmt: skip
    _seed(api, "b")
    world.rows("a", "b", qty=5)
    return ITEMS


def job(world: World, api: Emulator) -> str:
    """Creates that are only accepted, and followed as jobs."""
    api.switches({"jobs": True})
    world.shop((", id: id}", "}"), more=JOBS)
    return ITEMS


def sent_again(world: World, api: Emulator) -> str:
    """A create that was proved by reading back to have had no effect, and goes again."""
    world.shop()
    world.rows("a")
    api.faults([{"match": {"method": "POST", "nth": 1}, "fault": "reset", "when": "before"}])
    return ITEMS


def throttled(world: World, api: Emulator) -> str:
    """A create that goes again after 429."""
    world.shop()
    rule = {"fault": "status", "status": 429, "headers": {"Retry-After": "0"}}
    api.faults([{"match": {"method": "POST", "path": "items", "nth": [1, 2]}, **rule}])
    return ITEMS


def renewed(world: World, api: Emulator) -> str:
    """A create that goes again with a new token, as the old one was refused in the run."""
    api.switches({"auth": "exchange"})
    world.shop(more=AUTH, credentials="{client_id: demo, client_secret: '${env:SHOP_SECRET}'}")
    world.environment = {"SHOP_SECRET": "demo-secret"}
    rule = {"match": {"method": "POST", "path": "items", "nth": 2}, "fault": "status"}
    api.faults([{**rule, "status": 401, "when": "before"}])
    return ITEMS


def resumed(world: World, api: Emulator) -> str:
    """The first writes of a process that goes on with a run which was killed."""
    world.shop()
    words = ("apply", "--yes", "--run-id", "one", "--concurrency", "1")
    assert world.run(*words, DSYNC_FAILPOINT="intent.after:2") == -9
    world.words = ["resume", "one"]
    return ITEMS


KINDS: list[Prepare] = [
    create, keyed_create, keyed_create_again, unique_create, create_with_reference, put, patch,
    delete, delete_wave, upsert, job, sent_again, throttled, renewed, resumed,
]  # fmt: skip


def _seed(api: Emulator, *names: str) -> None:
    objects: list[Mapping[str, Any]] = [{"name": name, "qty": 1} for name in names]
    api.seed({"collection": "items", "objects": objects})


@pytest.fixture
def api(plain: Emulator) -> Iterator[Emulator]:
    """The emulator as it was when it began."""
    changed = plain.switches()
    yield plain
    plain.switches(dict.fromkeys(changed))
    plain.reset()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_intent_is_durable_before_its_call(kind: Prepare, api: Emulator, tmp_path: Path) -> None:
    """Between the write that carries an intent and the first byte of its call lies an fdatasync."""
    _strace()
    world = World(folder=tmp_path / "project", url=api.url)
    to = kind(world, api)
    before = len(_heard(api))
    seen = trace(world, tmp_path)
    writes = seen.prove(to)
    # The API is the witness that the trace has lost none.
    heard = [(call["method"], call["path"]) for call in _heard(api)[before:]]
    assert sorted(heard) == sorted((one.method, one.target) for one in writes)
    assert len(writes) >= 2, world.said
    FURTHER.get(kind, _nothing_more)(seen, writes)


def _heard(api: Emulator) -> list[dict[str, Any]]:
    return [c for c in api.ledger() if c["method"] in WRITES and "auth" not in str(c["path"])]


def _nothing_more(seen: Trace, writes: list[Sent]) -> None:
    pass


def _waves(seen: Trace, writes: list[Sent]) -> None:
    """What the first wave has come to is durable before the second begins."""
    is_last = (lambda one: one.method == "DELETE") if _has_delete(writes) else (
        lambda one: "/items" in one.target)  # fmt: skip
    first = min(one.at for one in writes if is_last(one))
    before = sum(not is_last(one) for one in writes)
    told = [at for (kind, *_), at in seen.events.items() if kind == "outcome" and at < first]
    assert len(told) == before
    assert all(one.at < first for one in writes if not is_last(one))


def _has_delete(writes: list[Sent]) -> bool:
    return any(one.method == "DELETE" for one in writes)


def _resolved(seen: Trace, writes: list[Sent]) -> None:
    """What was found out is durable before the same bytes leave once more."""
    (again,) = [one for number, one in enumerate(writes)
                if any(one.body == other.body for other in writes[:number])]  # fmt: skip
    (at,) = [at for (kind, *_), at in seen.events.items() if kind == "resolve"]
    assert at < again.at


def _accepted(seen: Trace, writes: list[Sent]) -> None:
    """Which job does it is durable before the first poll."""
    jobs = sorted(at for (kind, *_), at in seen.events.items() if kind == "job")
    polls: dict[str, int] = {}
    for one in seen.sent:
        if re.search("/(jobs|orders)/", one.target):
            polls.setdefault(one.target, one.at)
    assert len(jobs) == len(polls) == len(writes)
    for number, at in enumerate(sorted(polls.values())):
        assert jobs[number] < at


FURTHER: dict[Prepare, Callable[[Trace, list[Sent]], None]] = {
    create_with_reference: _waves, delete_wave: _waves, sent_again: _resolved,
    keyed_create_again: _resolved, job: _accepted,
}  # fmt: skip


def test_the_orders_of_director(tmp_path: Path) -> None:
    """On Director too: intent, call, order in the journal, poll; one write after the other."""
    _strace()
    with emulators.start("director", switches={"order_polls": 1}) as api:
        folder = tmp_path / "project"
        shutil.copytree(EXAMPLES / "director", folder, ignore=shutil.ignore_patterns(".*", "logs"))
        world = World(folder=folder, url=api.url)
        world.words += ["--profile", "repos", "--base-url", api.url]
        seen = trace(world, tmp_path)
        writes = seen.prove("/Repos$")
        assert len(writes) == len(api.effects()) >= 3
        _accepted(seen, writes)


# --- without strace -----------------------------------------------------------------------------


class _Witness(BaseHTTPRequestHandler):
    """An API that looks into the journal whenever it is asked to write."""

    protocol_version = "HTTP/1.1"
    runs: Path
    seen: list[tuple[str, list[tuple[Any, ...]]]]

    def do_GET(self) -> None:
        self._answer(b'{"data": []}')

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        (run,) = self.runs.iterdir()
        with contextlib.ExitStack() as stack:
            # A copy, for the writer keeps the original to itself.
            below = tempfile.TemporaryDirectory(dir=self.runs.parent)
            copy = Path(stack.enter_context(below))
            for name in ("journal.db", _WAL):
                shutil.copy(run / name, copy / name)
            db = stack.enter_context(contextlib.closing(sqlite3.connect(copy / "journal.db")))
            rows = db.execute("SELECT kind, op, data FROM events WHERE op NOT NULL ORDER BY seq")
            self.seen.append((hashlib.sha256(body).hexdigest(), rows.fetchall()))
        self._answer(b'{"id": 1}')

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


def test_the_server_finds_the_intent_in_the_journal(tmp_path: Path) -> None:
    """When a call comes to the API, its intent and its mark can be read in the journal's files."""
    folder = tmp_path / "project"
    seen: list[tuple[str, list[tuple[Any, ...]]]] = []
    handler = type("Handler", (_Witness,), {"runs": folder / ".dsync" / "runs", "seen": seen})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            world = World(folder=folder, url=f"http://127.0.0.1:{server.server_port}")
            world.shop()
            assert world.run("apply", "--yes") == 0, world.said
        finally:
            server.shutdown()
            thread.join()
    assert len(seen) == 3
    for body, rows in seen:
        (op,) = [op for kind, op, data in rows if kind == "intent" and data == body]
        assert [kind for kind, of, _ in rows if of == op] == ["intent", "sent"]
