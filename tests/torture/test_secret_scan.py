"""No secret is ever written: twelve canaries, all that a run leaves behind, all that may happen.

A run is one `dsync` process, or several, with a scenario: a way to log in, a verb, a fault of the
API that may give a secret back, a kill. Afterwards every byte that is left is searched, for each
canary as it is, in pieces of eight characters, and encoded in eleven ways. The scanner itself is
tried on leaks that are planted in each place.
"""

from __future__ import annotations

import base64
import gzip
import html
import io
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import threading
import time
import urllib.parse
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import dsync
from dsync import api as dsync_api
from dsync import emulators
from dsync.emulators import Emulator
from torture.world import KILLED, SRC, Done, Running, Starter, started

pytestmark = pytest.mark.integration

SCALE = float(os.environ.get("DSYNC_TORTURE_SCALE", "1"))
RUNS, IN_ONE = 2500, 5
PIECE = 8

CANARIES = {
    "bearer": "kQ7vZx2mW9-aT4_pLs8.Yd3~Rb6",
    "basic password": 'hJ5<nB8&cV1/xZ4+qW7"eR2%tY9',
    "key in a header": "uM3wG6yC9sK2fP5dX8vN1bH4jL7",
    "key in a query": "zE8tA1oI4rQ7gU2kS5mD9wF3cB6",
    "client secret": "pV2'lN5=xJ8?kH1&gF4+dS7/aZ0",
    "refresh secret": "wR9bY2hT5nU8mI1kO4jP7lA3sD6",
    "password of a database": "fG4vC7xB1nZ8mQ5wL2kE9rJ6tH3",
    "password of a proxy": "sX6dF9gA3hW2jK5lQ8pO1iV4uC7",
    "passphrase of a key": "yT1rE4wQ7uI0oP3aS6dF9gH2jK5",
    "password in a row": "bN7vM0cX3zL6kJ9hG2fD5sA8pQ1",
    "echoed by the server": "oW5iU8yT1rC4eX7qZ0pL3kM6jN9",
    "in a redirect": "dH2gJ5fK8sL1aZ4qX7wC0eV3rB6",
}
ROW = "password in a row"
"""A field of a row is data: it has to stand in the plan, for it is what is to be sent."""


# ---- the scanner ---------------------------------------------------------------------------------


def encodings(secret: str) -> dict[str, bytes]:
    """A secret as it may hide, by the name of the encoding."""
    raw = secret.encode()
    once = urllib.parse.quote(secret, safe="")
    found = {
        "raw": raw,
        "url": once.encode(),
        "url twice": urllib.parse.quote(once, safe="").encode(),
        "base64url": base64.urlsafe_b64encode(raw).rstrip(b"="),
        "hex": raw.hex().encode(),
        "json": "".join(f"\\u{ord(sign):04x}" for sign in secret).encode(),
        "html": html.escape(secret).encode(),
        "html numbers": "".join(f"&#{ord(sign)};" for sign in secret).encode(),
        "utf-16": secret.encode("utf-16-le"),
        "reversed": raw[::-1],
    }
    for offset in range(3):
        # Without the ends, which depend on what stands beside it.
        inner = base64.b64encode(b"\0" * offset + raw)
        found[f"base64 at {offset}"] = inner[4 if offset else 0 : len(inner) // 4 * 4 - 4]
    return found


def needles(canaries: Mapping[str, str]) -> dict[bytes, str]:
    """What to look for -> whose it is, and how."""
    found: dict[bytes, str] = {}
    for name, secret in canaries.items():
        for way, form in encodings(secret).items():
            found[form] = f"{name}, {way}"
        for at in range(len(secret) - PIECE + 1):
            found.setdefault(secret[at : at + PIECE].encode(), f"{name}, a piece at {at}")
    return found


NEEDLES = needles(CANARIES)


def unpacked(data: bytes) -> Iterator[bytes]:
    """The bytes, and what is packed in them."""
    yield data
    if data.startswith(b"\x1f\x8b"):
        yield gzip.decompress(data)
    if data.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            for name in packed.namelist():
                yield packed.read(name)


def leaks(sinks: Mapping[str, bytes], *, allowed: Callable[[str], str | None]) -> list[str]:
    """Which canary is in which sink; `allowed` names the one that a sink may hold."""
    found = []
    for name, content in sinks.items():
        for data in unpacked(content):
            if not data.strip(b"\0"):
                continue
            for form, whose in NEEDLES.items():
                if form in data and whose.partition(",")[0] != allowed(name):
                    found.append(f"{name}: {whose}")
    return found


def may_hold(sink: str) -> str | None:
    """The canary that a place may hold."""
    name = sink.rpartition("/")[2]
    is_plan = name in ("plan.ndjson", "plan.body", "saved.plan", "items.csv") or "/tmp/" in sink  # noqa: S108
    return ROW if is_plan or "/now/" in sink or "/dumped/" in sink else None


# ---- a project full of secrets -------------------------------------------------------------------

SYSTEM = """
version: 1
system: shop
base_path: api
auth: {auth}
limits: {{in_flight_s: 0.1, concurrency: 4}}
paging: {{kind: {paging}, limit: limit, size: 3, total: total{next}}}
resources:
  items:
    key: [name]
    settle_s: 0.02
    list: {{path: items, records: data}}
    create: {{method: POST, path: items, id: id}}
    update: {{method: PUT, path: "items/{{id}}"}}
    delete: {{path: "items/{{id}}"}}
"""
PROFILE = """
version: 1
resource: items
target: {system: shop, resource: items}
source: {csv: {path: items.csv}}
mapping: {name: {col: name}, qty: {col: qty, transform: [to_int]}, password: {col: password}}
prechecks: [{type: max, field: qty, value: 100}]
identity: {natural_key: [name]}
payload: {name: "${name}", qty: "${qty}", password: "${password}"}
"""
AUTHS: dict[str, tuple[str, dict[str, Any], str]] = {
    "bearer": ("{kind: bearer}", {"auth": "bearer", "tokens": [CANARIES["bearer"]]},
               "{token: '${env:SHOP_TOKEN}'}"),
    "basic": ("{kind: basic}", {"auth": "basic", "user": "demo",
                                "password": CANARIES["basic password"]},
              "{username: demo, password: '${env:SHOP_PASSWORD}'}"),
    "header": ("{kind: header, header: X-Api-Key}", {"auth": "header", "header_name": "X-Api-Key",
                                                     "tokens": [CANARIES["key in a header"]]},
               "{token: '${file:key.txt}'}"),
    "exchange": ("{kind: exchange, request: {method: POST, path: auth, body: {client_id: "
                 "'${client_id}', client_secret: '${client_secret}'}}, token: token, expires: "
                 "expires_in}", {"auth": "exchange", "user": "demo",
                                 "password": CANARIES["client secret"]},
                 "{client_id: demo, client_secret: '${env:SHOP_SECRET}', secret_key: "
                 "'${env:SHOP_REFRESH}'}"),
}  # fmt: skip
ENVIRONMENT = {
    "SHOP_TOKEN": CANARIES["bearer"],
    "SHOP_PASSWORD": CANARIES["basic password"],
    "SHOP_SECRET": CANARIES["client secret"],
    "SHOP_REFRESH": CANARIES["refresh secret"],
    "DATABASE_URL": f"postgresql://app:{CANARIES['password of a database']}@192.0.2.5/shop",
    "HTTPS_PROXY": f"http://user:{CANARIES['password of a proxy']}@192.0.2.6:3128",
    "HTTP_PROXY": f"http://user:{CANARIES['password of a proxy']}@192.0.2.6:3128",
    "TLS_KEY_PASSPHRASE": CANARIES["passphrase of a key"],
}
OWN = ("bearer", "basic password", "key in a header", "client secret")


class Vault:
    """A project that knows all canaries, and the API that it writes to."""

    def __init__(self, folder: Path, api: Emulator, auth: str, starter: Starter) -> None:
        self.folder, self.api, self.starter, self.auth = folder, api, starter, auth
        self.printed = folder.with_name(f"{folder.name}-printed")
        self.temporary = folder.with_name(f"{folder.name}-tmp")
        for path in (self.printed, self.temporary, folder / "profiles", folder / "systems"):
            path.mkdir(parents=True)
        text, switches, credentials = AUTHS[auth]
        api.switches(dict.fromkeys(api.switches()))
        api.switches({"paging": "offset", **switches})
        api.faults([])
        api.reset()
        system = SYSTEM.format(auth=text, paging="offset", next="")
        (folder / "systems" / "shop.yml").write_text(system)
        (folder / "profiles" / "items.yml").write_text(PROFILE)
        (folder / "key.txt").write_text(CANARIES["key in a header"])
        (folder / "key.txt").chmod(0o600)
        (folder / "directorsync.yml").write_text(
            f"version: 1\nconnections:\n  shop:\n    system: shop\n    base_url: '{api.url}'\n"
            f"    credentials: {credentials}\n    timeout_s: 2\n"
            "    headers: {X-Trace: '${env:SHOP_TOKEN}'}\n"
        )
        rows = [f"item-{n},{n},{CANARIES[ROW]}" for n in range(6)]
        rows.append(f"bad,999,{CANARIES[ROW]}")
        (folder / "items.csv").write_text("\n".join(["name,qty,password", *rows, ""]))
        api.seed({"collection": "items", "objects": [
            {"name": "item-0", "qty": 9, "password": CANARIES[ROW]}, {"name": "odd", "qty": 1},
        ]})  # fmt: skip
        self.dones: list[Done] = []
        self.seen: dict[str, bytes] = {}

    def run(self, *words: str, failpoint: str = "", kill_s: float = 0, signum: int = 9) -> Done:
        """One `dsync`; what the kernel tells of it while it runs is kept too."""
        running = Running(words, self.printed, len(self.dones))
        environment = {
            **{n: v for n, v in os.environ.items() if not n.startswith(("DSYNC_", "PYTEST_"))},
            **ENVIRONMENT,
            "PYTHONPATH": str(SRC),
            "HOME": str(self.folder),
            "TMPDIR": str(self.temporary),
            **({"DSYNC_FAILPOINT": failpoint} if failpoint else {}),
        }
        running.begin(self.starter, self.folder, environment)
        self.seen[f"cmdline {len(self.dones)}"] = _told(f"/proc/{running.pid}/cmdline")
        if kill_s:
            time.sleep(kill_s)
            running.kill(signum)
        # Where an API fails for long a run waits for it, which is not what is tried here.
        hurry = [threading.Timer(after_s, running.kill, [signal.SIGINT]) for after_s in (3, 6)]
        for timer in hurry:
            timer.start()
        done = running.wait()
        for timer in hurry:
            timer.cancel()
        self.dones.append(done)
        return done

    def sinks(self) -> dict[str, bytes]:
        """All that is left, by its place. What a user has written himself is not among it."""
        own = {"directorsync.yml", "key.txt", "items.csv", "shop.yml", "items.yml"}
        found = dict(self.seen)
        for folder in (self.folder, self.temporary):
            for file in sorted(folder.rglob("*")):
                if file.is_file() and file.name not in own:
                    found[str(file.relative_to(folder.parent))] = file.read_bytes()
        for number, done in enumerate(self.dones):
            found[f"{number}.stdout of {' '.join(done.words)}"] = done.out.encode()
            found[f"{number}.stderr of {' '.join(done.words)}"] = done.err.encode()
        for call in self.api.ledger():
            # What the server was shown beside what it has to be shown.
            headers: Any = call["headers"]
            for name in ("user-agent", "referer", "cookie", "from"):
                found[f"{name} of call {call['seq']}"] = str(headers.get(name, "")).encode()
            found[f"path of call {call['seq']}"] = str(call["path"]).encode()
        return found

    def remove(self) -> None:
        for folder in (self.folder, self.printed, self.temporary):
            shutil.rmtree(folder, ignore_errors=True)


def _told(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError:
        return b""


# ---- scenarios -----------------------------------------------------------------------------------


def echoes(auth: str) -> list[str]:
    """What a server may say that has looked at our call too closely."""
    name = {"bearer": "bearer", "basic": "basic password", "header": "key in a header",
            "exchange": "client secret"}[auth]  # fmt: skip
    secret, own = CANARIES[name], CANARIES["echoed by the server"]
    pair = base64.b64encode(f"demo:{CANARIES['basic password']}".encode()).decode()
    return [
        f"no such user: {secret}", f"token={own} is not known", f"Authorization: Bearer {secret}",
        f"bad header Authorization: Basic {pair}", urllib.parse.quote(secret, safe=""),
        f'{{"password": "{own}"}}', f"https://user:{own}@192.0.2.1/ is gone",
        base64.b64encode(secret.encode()).decode(), repr(secret), html.escape(secret),
        f"trace {CANARIES['bearer']}",
    ]  # fmt: skip


def fault(chance: random.Random, auth: str) -> list[dict[str, Any]]:
    """What goes wrong, if anything does."""
    text = chance.choice(echoes(auth))
    shape = chance.choice([{"error": text}, {"message": text}, text, {"errors": [text]},
                           {"error": {"detail": text}}])  # fmt: skip
    where = f"https://u:{CANARIES['in a redirect']}@192.0.2.9/?token={CANARIES['in a redirect']}"
    refused: list[dict[str, Any]] = [
        {"fault": "status", "status": status, "body": shape}
        for status in (400, 401, 403, 404, 409, 422, 423)
    ]
    others: list[dict[str, Any]] = [
        *({"fault": "status", "status": status, "body": shape} for status in (500, 502, 503)),
        {"fault": "body", "body": shape}, {"fault": "redirect", "status": 307, "location": where},
        {"fault": "redirect", "status": 302, "location": where}, {"fault": "html"},
        {"fault": "reset"}, {"fault": "close"}, {"fault": "truncated_json"}, {"fault": "garbage"},
        {"fault": "content_type"}, {"fault": "deep_json"}, {"fault": "duplicate_keys"},
        {"fault": "too_many", "retry_after": 0},
    ]  # fmt: skip
    often = chance.random() < 0.5
    rule = dict(chance.choice(refused if often else others))
    match: dict[str, Any] = {"method": chance.choice(["GET", "POST", "POST", "POST", "PUT"])}
    if not often or chance.random() < 0.5:
        match["nth"] = chance.choice([1, 1, 2, [1, 2, 3]])
    if rule["fault"] not in ("duplicate_keys", "content_type", "too_many", "garbage"):
        rule["when"] = chance.choice(["before", "after"])
    return [{"match": match, **rule}]


def play(vault: Vault, chance: random.Random) -> int:
    """One scenario; gives how many processes ran."""
    if chance.random() < 0.8:
        vault.api.faults(fault(chance, vault.auth))
    debug = ("--log-level", "debug") if chance.random() < 0.7 else ()
    form = ("--format", chance.choice(["table", "json", "md"]))
    apply = ("apply", "--yes", *debug, *form, "--retries", "1")
    plan = str(vault.folder / "saved.plan")
    kind = chance.choice(["apply", "apply", "plan", "saved", "killed", "signal", "verbs", "bad"])
    if kind == "apply":
        vault.run(*apply)
    elif kind == "plan":
        vault.run("plan", *debug, *form, "--out", plan)
        vault.run("show", plan, *form)
    elif kind == "saved":
        vault.run("plan", *debug, "--out", plan)
        vault.run("apply", "--yes", "--plan", plan, *debug, *form)
    elif kind == "killed":
        point = chance.choice(["sent.after:2", "outcome.before:1", "intent.after:1", "stop.after:1",
                               "outcome.before:2:raise", "report.before:1:raise"])  # fmt: skip
        vault.run(*apply, "--run-id", "one", failpoint=point)
        vault.run("runs", "show", "one", *form)
        vault.run("resume", "one", *debug)
        vault.run("runs", "verify", "one")
    elif kind == "signal":
        signum = chance.choice([signal.SIGINT, signal.SIGTERM, signal.SIGABRT])
        after_s = chance.uniform(0.05, 0.3)
        vault.run(*apply, "--run-id", "one", kill_s=after_s, signum=signum)
        vault.run("runs", *form)
    elif kind == "verbs":
        for words in chance.sample([
            ("doctor", *debug), ("doctor", "--config"), ("validate",), ("profiles",),
            ("dump", "items", "--out", str(vault.temporary / "dumped")), ("runs",),
            ("reconcile", "none"), ("report", "none"), ("plan", "--debug", *debug),
        ], 3):  # fmt: skip
            vault.run(*words)
    else:
        _spoil(vault, chance)
        vault.run(*apply, "--debug")
        vault.run("validate")
    return len(vault.dones)


def _spoil(vault: Vault, chance: random.Random) -> None:
    """A mistake of a user's, beside a secret."""
    file = vault.folder / "directorsync.yml"
    text = file.read_text()
    wrong = chance.choice([
        ("timeout_s: 2", "timeout_s: soon"), ("base_url: '", "base_url: 'ftp://"),
        ("${env:", "${nope:"), ("${env:SHOP_", "${env:SHAP_"), ("version: 1", "version: 7"),
        ("    headers:", "   headers:"), ("system: shop", "system: ship"), ("'}", "' }}"),
    ])  # fmt: skip
    file.write_text(text.replace(*wrong))
    if chance.random() < 0.3:
        (vault.folder / "key.txt").chmod(0o644)


@pytest.fixture(scope="module")
def starter() -> Iterator[Starter]:
    with started() as it:
        yield it


@pytest.fixture(scope="module")
def api() -> Iterator[Emulator]:
    with emulators.start("plain") as it:
        yield it


def scanned(folder: Path, api: Emulator, starter: Starter, seed: int) -> int:
    """One run, and the search through all that it has left; gives how many processes it was."""
    chance = random.Random(seed)  # noqa: S311
    vault = Vault(folder / f"v{seed}", api, chance.choice(list(AUTHS)), starter)
    count = play(vault, chance)
    search(vault, f"seed {seed}")
    return count


def search(vault: Vault, about: str) -> None:
    """There is no canary in what is left."""
    found = leaks(vault.sinks(), allowed=may_hold)
    told = "\n".join(f"{' '.join(d.words)} -> {d.code}\n{d.told[-1500:]}" for d in vault.dones)
    assert not found, f"{about}: {found[:10]}\n{told}"
    vault.remove()


def test_no_secret_is_written(tmp_path: Path, api: Emulator, starter: Starter) -> None:
    """Whatever the server gives back, at DEBUG, no secret is left anywhere; a sample."""
    for auth in AUTHS:
        vault = Vault(tmp_path / auth, api, auth, starter)
        rows = [f"new-{n},{n},{CANARIES[ROW]}" for n in range(len(echoes(auth)))]
        (vault.folder / "items.csv").write_text("\n".join(["name,qty,password", *rows, ""]))
        api.faults([
            {"match": {"method": "POST", "path": "items", "nth": number}, "fault": "status",
             "status": 422, "body": {"error": text}}
            for number, text in enumerate(echoes(auth), 1)
        ])  # fmt: skip
        done = vault.run("apply", "--yes", "--log-level", "debug", "--format", "json")
        assert done.code == 4, done.told
        search(vault, auth)
    for seed in range(6):
        scanned(tmp_path, api, starter, seed)


@pytest.mark.torture
@pytest.mark.parametrize("block", range(max(1, round(RUNS * SCALE / IN_ONE))))
def test_no_secret_is_written_ever(
    tmp_path: Path, api: Emulator, starter: Starter, block: int
) -> None:
    """Whatever happens no secret is left anywhere."""
    for seed in range(1000 + block * IN_ONE, 1000 + (block + 1) * IN_ONE):
        scanned(tmp_path, api, starter, seed)


def test_secrets_reach_the_server(tmp_path: Path, api: Emulator, starter: Starter) -> None:
    """What is hidden from readers is what the server gets: it lets us in, and has the passwords."""
    for number, auth in enumerate(AUTHS):
        vault = Vault(tmp_path / str(number), api, auth, starter)
        done = vault.run("apply", "--yes")
        assert done.code == 0, done.told
        state: Any = api.state()
        held = {item["name"]: item.get("password") for item in state["collections"]["items"]}
        assert len(held) == 7
        assert {held[f"item-{n}"] for n in range(6)} == {CANARIES[ROW]}


# ---- in this process -----------------------------------------------------------------------------


def test_no_object_shows_a_secret(
    tmp_path: Path, api: Emulator, starter: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`repr` of what the public functions give, and the texts of their errors, hold no secret."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    shown: dict[str, bytes] = {}
    for number, auth in enumerate(AUTHS):
        vault = Vault(tmp_path / str(number), api, auth, starter)
        project = dsync_api.open_project(vault.folder)
        ask = dsync_api.Ask(overrides={"token": CANARIES["bearer"]})
        things: list[object] = [project, ask, project.config, dsync]
        with dsync_api.plan(project, dsync_api.Ask()) as plan:
            things += [plan, *plan.findings()]
        for thing in things:
            shown[f"repr {auth} {type(thing).__name__}"] = f"{thing!r} {thing}".encode()
        monkeypatch.delenv("SHOP_TOKEN", raising=False)
        try:
            with dsync_api.plan(dsync_api.open_project(vault.folder), dsync_api.Ask()):
                pass
        except dsync.errors.DsyncError as error:
            shown[f"error {auth}"] = f"{error!r} {error} {error.__cause__!r}".encode()
        monkeypatch.setenv("SHOP_TOKEN", CANARIES["bearer"])
    assert not leaks(shown, allowed=lambda _: None)


# ---- the scanner is tried ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Plant:
    """A leak: where it is planted."""

    sink: str
    put: Callable[[Vault, bytes], None]


def _in_file(pattern: str) -> Callable[[Vault, bytes], None]:
    def put(vault: Vault, secret: bytes) -> None:
        root = vault.temporary if pattern.startswith("tmp:") else vault.folder
        pattern_ = pattern.removeprefix("tmp:")
        found = sorted(root.glob(pattern_))
        file = found[0] if found else root / pattern_
        file.parent.mkdir(parents=True, exist_ok=True)
        kept = file.read_bytes() if found else b""
        if found:
            file.chmod(0o600)
        file.write_bytes(kept[: len(kept) // 2] + secret + kept[len(kept) // 2 :])

    return put


def _in_table(pattern: str, statement: str) -> Callable[[Vault, bytes], None]:
    def put(vault: Vault, secret: bytes) -> None:
        (file, *_) = sorted(vault.folder.glob(pattern))
        with closing(sqlite3.connect(file)) as db:
            db.execute(statement, [secret])
            db.commit()

    return put


def _printed(number: int) -> Callable[[Vault, bytes], None]:
    def put(vault: Vault, secret: bytes) -> None:
        done = vault.dones[-1]
        text = secret.decode("latin-1")
        out, err = (done.out + text, done.err) if number == 1 else (done.out, done.err + text)
        vault.dones[-1] = Done(code=done.code, out=out, err=err, words=done.words)

    return put


def _packed(name: str, pack: Callable[[bytes], bytes]) -> Callable[[Vault, bytes], None]:
    def put(vault: Vault, secret: bytes) -> None:
        (vault.folder / name).write_bytes(pack(b"before " + secret + b" behind"))

    return put


def _zip(data: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("xl/sharedStrings.xml", data)
    return packed.getvalue()


def _seen(name: str) -> Callable[[Vault, bytes], None]:
    def put(vault: Vault, secret: bytes) -> None:
        vault.seen[name] = b"before " + secret

    return put


def _heard(header: str) -> Callable[[Vault, bytes], None]:
    def put(vault: Vault, secret: bytes) -> None:
        import http.client

        connection = http.client.HTTPConnection("127.0.0.1", vault.api.port, timeout=10)
        with closing(connection):
            connection.putrequest("GET", "/api/items", skip_accept_encoding=True)
            connection.putheader(header, secret)
            connection.endheaders()
            connection.getresponse().read()

    return put


_RUN = ".dsync/runs/one"
PLANTS = (
    Plant(sink="stdout", put=_printed(1)),
    Plant(sink="stderr", put=_printed(2)),
    Plant(sink="run log", put=_in_file("logs/*/apply_*.log")),
    Plant(sink="app.log", put=_in_file("logs/app.log")),
    Plant(sink="journal", put=_in_table(
        f"{_RUN}/journal.db", "INSERT INTO run SELECT run_id, plan_sha256, plan_digest, "
        "CAST(? AS TEXT), created FROM run")),
    Plant(sink="journal.db-wal", put=_in_file(f"{_RUN}/journal.db-wal")),
    Plant(sink="journal.head", put=_in_file(f"{_RUN}/journal.head")),
    Plant(sink="registry", put=_in_table(
        ".dsync/targets/*/registry.db", "INSERT INTO open_runs VALUES (CAST(? AS TEXT), 1)")),
    Plant(sink="quota", put=_in_file(".dsync/quota/some.db")),
    Plant(sink="plan", put=_in_file(f"{_RUN}/plan.ndjson")),
    Plant(sink="rows", put=_in_file(f"{_RUN}/rows.jsonl")),
    Plant(sink="rejects", put=_in_file(f"{_RUN}/rejects.jsonl")),
    Plant(sink="report.json", put=_in_file(f"{_RUN}/report.json")),
    Plant(sink="report.html", put=_in_file(f"{_RUN}/report.html")),
    Plant(sink="report.xlsx", put=_packed("report.xlsx", _zip)),
    Plant(sink="report.csv", put=_in_file(f"{_RUN}/report.csv")),
    Plant(sink="a packed log", put=_packed("logs/app.log.1.gz", gzip.compress)),
    Plant(sink="progress", put=_in_file(f"{_RUN}/progress.json")),
    Plant(sink="emergency file", put=_in_file("tmp:dsync-emergency-one.jsonl")),
    Plant(sink="temporary folder", put=_in_file("tmp:sub/left.bin")),
    Plant(sink="lock", put=_in_file(".dsync/targets/*/lock")),
    Plant(sink="command line", put=_seen("cmdline 0")),
    Plant(sink="user agent", put=_heard("User-Agent")),
    Plant(sink="referer", put=_heard("Referer")),
)  # fmt: skip


def test_planted_leaks_are_found(tmp_path: Path, api: Emulator, starter: Starter) -> None:
    """24 of 24 leaks are found, one in each place, each of another canary and encoding."""
    assert len(PLANTS) == len({plant.sink for plant in PLANTS}) == 24
    names = [name for name in CANARIES if name != ROW]
    missed = []
    for number, plant in enumerate(PLANTS):
        vault = Vault(tmp_path / f"v{number}", api, "bearer", starter)
        if number == 0:
            vault.run("apply", "--yes", "--run-id", "one")
            saved = shutil.copytree(vault.folder, tmp_path / "saved")
            kept = vault.dones[0]
        else:
            shutil.rmtree(vault.folder)
            shutil.copytree(saved, vault.folder)
            vault.dones.append(kept)
        assert not leaks(vault.sinks(), allowed=may_hold)
        ways = encodings(CANARIES[names[number % len(names)]])
        is_header = plant.sink in ("user agent", "referer")
        way = list(ways)[0 if is_header else number % len(ways)]
        plant.put(vault, ways[way])
        if not leaks(vault.sinks(), allowed=may_hold):
            missed.append(f"{plant.sink}: {names[number % len(names)]}, {way}")
        vault.remove()
    assert not missed


@pytest.mark.parametrize("way", [*encodings("x" * 24), "a piece"])
def test_each_encoding_is_found(way: str) -> None:
    """Each canary is found in each encoding, also between other text, and in pieces."""
    for name, secret in CANARIES.items():
        form = secret[9:17].encode() if way == "a piece" else encodings(secret)[way]
        for around in (b"%s", b"\x00\xff%s\xfe", b'{"a":"%s"}'):
            sink = {"s": around % form}
            assert any(name in leak for leak in leaks(sink, allowed=lambda _: None))
    assert not leaks({"s": json.dumps(sorted(AUTHS)).encode()}, allowed=lambda _: None)


def test_a_dying_process_leaves_no_core(tmp_path: Path, api: Emulator, starter: Starter) -> None:
    """A process that is killed in the middle leaves nothing that holds a secret."""
    vault = Vault(tmp_path / "v", api, "bearer", starter)
    done = vault.run("apply", "--yes", "--run-id", "one", failpoint="sent.after:2")
    assert done.code == KILLED
    assert not [file for file in vault.folder.rglob("core*") if file.is_file()]
    assert not leaks(vault.sinks(), allowed=may_hold)
    assert not re.search("Traceback", done.told)
