"""A world: a project, the API that it writes to, and `dsync` as a process that can be killed.

    with started() as starter, personality("bare").api() as api:
        world = World(folder, api, "bare", starter)
        world.hold({"a": 1, "b": 1})              # what the API has
        world.want({"b": 2, "c": 1})              # what the source says: no a, another b, a c
        world.apply("first", failpoint="sent.after:2")      # killed at the second passage
        done = world.finish("first")              # resume, or apply where no run was begun
        oracle.judge(world, "first", done)

A record is a name and a number, whatever the API makes of it. Starter and emulator may serve many
worlds, one after the other: a world begins by putting the emulator back to its first state.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import dsync
from dsync import emulators
from dsync.emulators import Emulator

SRC = Path(dsync.__file__).resolve().parent.parent
"""Where the dsync under test is; PYTHONPATH decides."""
SECRET = "Sesame-7e19-canary-open"
"""The token that every call shows, and that nothing may ever write down."""
CONNECTION = "shop"
KILLED = -int(signal.SIGKILL)
GENEROUS = {"read": "100000/min", "write": "50000/min"}
"""A quota that no case reaches, so that it is kept and counted in all of them."""
IN_FLIGHT_S, SETTLE_S = 0.4, 0.1


# ---- personalities -----------------------------------------------------------------------------

_QUOTAS = "  quotas: [{read: 100000/min, write: 50000/min}]\n"
_PLAIN = """
version: 1
system: shop
base_path: api
auth: {{kind: bearer}}
limits:
  in_flight_s: {in_flight_s}
  concurrency: {concurrency}
{quotas}paging: {{kind: offset, offset: offset, limit: limit, size: 200, total: total}}
{jobs}
resources:
  items:
    key: [name]
    settle_s: {settle_s}
    list: {{path: items, records: data}}
    {create}
    delete: {{path: "items/{{id}}"}}
    {more}
"""
_PROFILE = """
version: 1
resource: items
target: {system: shop, resource: items}
source: {csv: {path: items.csv}}
mapping:
  name: {col: name}
  qty: {col: qty, transform: [to_int]}
identity: {natural_key: [name]}
payload: {name: "${name}", qty: "${qty}"}
"""
_REPOS = """
version: 1
resource: items
target: {system: shop, resource: Repos}
source: {csv: {path: items.csv}}
mapping:
  name: {col: name}
  paths: {col: paths, transform: [{fn: split, sep: "|"}]}
  days: {col: qty, transform: [{fn: split, sep: "|"}, to_int]}
  hiddenrepopath: {zip: {path: paths, retention: days}}
identity: {natural_key: [name]}
payload: {name: "${name}", hiddenrepopath: "${hiddenrepopath}"}
diff: {list_as_sets: [hiddenrepopath]}
"""
_ALLOWED = """
apply: {delete: true}
safety:
  {max_delete_share: 1, max_delete_count: 1000000, max_update_share: 1, max_create_count: 1000000,
   min_existing: 1000000, shrink_share: 0, column_share: 1}
"""
_STORAGE = "/opt/immune/storage/"
_POOL, _NODE = "b0b0b0b0b0b0b0b0b0b0b0b0b0b00009", "c0ffee00c0ffee00c0ffee00c0ffee99"
_TWO_CALLS = """create: {method: POST, path: items}
    update: {method: PUT, path: "items/{id}"}"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Personality:
    """An API, and how a project speaks of it."""

    name: str
    switches: Mapping[str, object] = field(default_factory=dict)
    system: str = ""
    emulator: str = "plain"
    has_key: bool = True
    """the API itself keeps a create that comes twice from having two effects"""
    has_jobs: bool = False

    @contextlib.contextmanager
    def api(self, **more: object) -> Iterator[Emulator]:
        """Such an API, in a process of its own."""
        with emulators.start(self.emulator, switches={**self.switches, **more}) as api:
            yield api

    def seed(self, records: Mapping[str, int]) -> Any:
        """What the emulator takes to hold these records."""
        if self.emulator == "plain":
            objects = [{"name": name, "qty": number} for name, number in records.items()]
            return {"collection": "items", "objects": objects}
        objects = [
            {"name": n, "hiddenrepopath": [{"path": _STORAGE, "retention": q}], "repoha": []}
            for n, q in records.items()
        ]
        return {"resource": "Repos", "objects": objects}

    def records(self, state: Any) -> Iterator[tuple[str, Any]]:
        """Name and number of each record that an emulator holds; two with one name come twice."""
        if self.emulator == "plain":
            for record in state["collections"].get("items", []):
                yield record["name"], record.get("qty")
            return
        for node in state["nodes"].values():
            for record in node["resources"]["Repos"]:
                if record["name"] != "default" and not record["name"].startswith("_"):
                    tiers = record["repopath"]
                    yield record["name"], tiers[0]["retention"] if len(tiers) == 1 else tiers


def _plain(create: str = _TWO_CALLS, more: str = "", jobs: str = "", concurrency: int = 4) -> str:
    return _PLAIN.format(
        create=create, more=more, jobs=jobs, concurrency=concurrency,
        in_flight_s=IN_FLIGHT_S, settle_s=SETTLE_S, quotas=_QUOTAS,
    )  # fmt: skip


def _siem() -> str:
    text = (SRC / "dsync" / "systems" / "director.yml").read_text(encoding="utf-8")
    for old, new in (
        ("system: director\n", "system: shop\n"),
        ("limits:\n", f"limits:\n  in_flight_s: {IN_FLIGHT_S}\n{_QUOTAS}"),
        ("  Repos:\n", f"  Repos:\n    settle_s: {SETTLE_S}\n"),
        ("missing_grace_s: 5", "missing_grace_s: 0.5"),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


_BASE: dict[str, object] = {
    "auth": "bearer", "tokens": [SECRET], "paging": "offset", "quota": GENEROUS,
}  # fmt: skip
_JOBS = """jobs: {location: job, pattern: "jobs/j-[0-9]{6}", success: "status == 'done'",
  failure: "status == 'failed'", id: result.id, poll: {interval_s: 0.05, missing_grace_s: 0.5}}"""

PERSONALITIES = {
    one.name: one
    for one in (
        Personality(
            name="unique",
            switches=_BASE,
            system=_plain(more="unique_by_server: true"),
        ),
        Personality(
            name="idempotent",
            switches={**_BASE, "unique": False, "idempotency": True},
            system=_plain(
                'create: {method: POST, path: items, idempotency: {life_s: 86400}}\n'
                '    update: {method: PUT, path: "items/{id}"}'
            ),
        ),
        Personality(
            name="bare",
            switches={**_BASE, "unique": False},
            system=_plain(),
            has_key=False,
        ),
        Personality(
            name="director",
            emulator="director",
            switches={"tokens": [SECRET], "nodes": [f"{_POOL}/{_NODE}"], "order_polls": 0,
                      "order_max_s": 0.3, "quota": GENEROUS},
            system=_siem(),
            has_jobs=True,
        ),
        Personality(
            name="jobs",
            switches={**_BASE, "jobs": True, "job_polls": 1, "job_max_s": 0.3},
            system=_plain(jobs=_JOBS, more="unique_by_server: true"),
            has_jobs=True,
        ),
        Personality(
            name="upsert",
            switches={**_BASE, "post_upsert": True},
            system=_plain(
                "create: {method: POST, path: items}\n"
                "    update: {method: POST, path: items}\n    write: upsert"
            ),
        ),
    )
}  # fmt: skip


def personality(name: str) -> Personality:
    """One of `PERSONALITIES`."""
    return PERSONALITIES[name]


# ---- processes ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A `dsync` that has ended. `code` is its exit code, or minus the signal that killed it."""

    code: int
    out: str
    err: str
    words: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def told(self) -> str:
        """All that it printed."""
        return self.out + self.err

    @property
    def killed(self) -> bool:
        return self.code == KILLED


class Running:
    """A `dsync` at work; `wait` ends it."""

    def __init__(self, words: tuple[str, ...], folder: Path, number: int) -> None:
        self.words = words
        self.pid = 0
        self._out, self._err = (folder / f"{number:04}.{name}" for name in ("out", "err"))
        for file in (self._out, self._err):
            file.touch()  # a kill may come before it has opened them
        self._began = time.monotonic()
        self._channel: socket.socket | None = None
        self._heard = b""
        self._process: subprocess.Popen[bytes] | None = None

    def begin(self, starter: Starter, cwd: Path, env: Mapping[str, str]) -> None:
        """As a child of the starter."""
        self._channel = socket.socket(socket.AF_UNIX)
        self._channel.connect(starter.path)
        words = {
            "argv": self.words, "cwd": str(cwd), "env": dict(env),
            "out": str(self._out), "err": str(self._err),
        }  # fmt: skip
        self._channel.sendall(json.dumps(words).encode() + b"\n")
        self.pid = int(self._line(30))

    def begin_fresh(self, before: tuple[str, ...], cwd: Path, env: Mapping[str, str]) -> None:
        """As an interpreter of its own; `before` are words of another program that runs it."""
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(
                [*before, sys.executable, "-m", "dsync", *self.words],
                cwd=cwd, env=dict(env), stdin=subprocess.DEVNULL, stdout=out, stderr=err,
            )  # fmt: skip
        self.pid = self._process.pid

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """Send a signal; one that has ended already does not mind."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signum)

    def wait(self, timeout_s: float = 60) -> Done:
        """Its end. Raises: AssertionError when it does not end in time; then it is killed."""
        try:
            if self._process is not None:
                code = self._process.wait(timeout_s)
            else:
                code = int(self._line(timeout_s))
        except (TimeoutError, subprocess.TimeoutExpired):
            self.kill()
            raise AssertionError(f"dsync {' '.join(self.words)} hangs: {timeout_s} s") from None
        finally:
            if self._channel is not None:
                self._channel.close()
        out, err = (file.read_text(errors="replace") for file in (self._out, self._err))
        seconds = time.monotonic() - self._began
        return Done(code=code, out=out, err=err, words=self.words, seconds=seconds)

    def _line(self, timeout_s: float) -> bytes:
        assert self._channel is not None
        self._channel.settimeout(timeout_s)
        line = b""
        while not line.endswith(b"\n"):
            # One by one: of a short life the status may follow at once.
            more = self._channel.recv(1)
            assert more, "the starter has gone"
            line += more
        return line


@dataclass(frozen=True, slots=True)
class Starter:
    """The warm interpreter of `starter.py`."""

    path: str
    process: subprocess.Popen[bytes]


def can_fork() -> bool:
    """Whether there are warm interpreters on this system."""
    return hasattr(os, "fork") and hasattr(socket, "AF_UNIX")


@contextlib.contextmanager
def started(src: Path = SRC) -> Iterator[Starter]:
    """A starter of the dsync in `src`; skips the test where processes cannot be forked."""
    if not can_fork():
        pytest.skip("no fork on this system: processes cannot be started from a warm one")
    with tempfile.TemporaryDirectory(prefix="dsync-") as folder:
        path = f"{folder}/s"
        process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("starter.py")), path],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(src)},
        )  # fmt: skip
        try:
            assert process.stdout is not None
            assert process.stdin is not None
            assert process.stdout.readline() == b"ready\n"
            yield Starter(path, process)
        finally:
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


# ---- the world ---------------------------------------------------------------------------------


class World:
    """A project folder and its API; see the module."""

    def __init__(
        self,
        folder: Path,
        api: Emulator,
        kind: str | Personality,
        starter: Starter | None = None,
        *,
        state: Path | None = None,
        timeout_s: float = 10,
        more: Mapping[str, str] | None = None,
    ) -> None:
        """A new project; the emulator goes back to its first state, without faults.

        `state` is where runs are kept (default: the project's `.dsync`), `timeout_s` what a call
        may take, `more` further lines of the connection. Without a starter every `dsync` is an
        interpreter of its own.
        """
        self.folder, self.api, self.starter = folder, api, starter
        self.kind = PERSONALITIES[kind] if isinstance(kind, str) else kind
        self.state = state or folder / ".dsync"
        self.held_at_first: dict[str, int] = {}
        self.wanted: dict[str, int] = {}
        self.dones: list[Done] = []
        self._numbers = itertools.count(1)
        self._printed = folder.with_name(f"{folder.name}-printed")
        self._printed.mkdir(parents=True)
        for name in ("profiles", "systems"):
            (folder / name).mkdir(parents=True)
        (folder / "systems" / "shop.yml").write_text(self.kind.system)
        profile = _REPOS if self.kind.emulator == "director" else _PROFILE
        (folder / "profiles" / "items.yml").write_text(profile + _ALLOWED)
        lines = {
            "system": "shop",
            "base_url": api.url,
            "timeout_s": str(timeout_s),
            "credentials": "{token: '${env:SHOP_TOKEN}'}",
            **(more or {}),
        }
        if self.kind.emulator == "director":
            lines["job_interval_s"] = "0.05"
            lines["scopes"] = f"[{{name: n1, values: {{pool_uuid: {_POOL}, node_id: {_NODE}}}}}]"
        text = f"version: 1\nconnections:\n  {CONNECTION}:\n"
        text += "".join(f"    {name}: {value}\n" for name, value in lines.items())
        if state is not None:
            text += f"state_dir: {state}\n"
        (folder / "directorsync.yml").write_text(text)
        api.faults([])
        api.reset()
        self.want({})

    def hold(self, records: Mapping[str, int]) -> None:
        """The API holds these records besides what it has."""
        self.api.seed(self.kind.seed(records))
        self.held_at_first |= records

    def want(self, records: Mapping[str, int]) -> None:
        """The source says so."""
        self.wanted = dict(records)
        lines = [f"{name},{number},{_STORAGE}" for name, number in records.items()]
        (self.folder / "items.csv").write_text("\n".join(["name,qty,paths", *lines, ""]))

    def held(self) -> list[tuple[str, Any]]:
        """Name and number of each record that the API holds now; sorted."""
        return sorted(self.kind.records(self.api.state()))

    def mixed_plan(self, each: int = 2, kept: int = 2) -> None:
        """`each` creates, updates and deletes, and `kept` records that are as wanted."""
        keep = {f"keep-{n:03}": 7 for n in range(kept)}
        old = {f"old-{n:03}": 1 for n in range(each)}
        self.hold({**keep, **old, **{f"gone-{n:03}": 3 for n in range(each)}})
        self.want({**keep, **dict.fromkeys(old, 2), **{f"new-{n:03}": 5 for n in range(each)}})

    # ---- dsync -------------------------------------------------------------------------------

    def start(
        self,
        *words: str,
        failpoint: str | None = None,
        env: Mapping[str, str] | None = None,
        before: tuple[str, ...] = (),
    ) -> Running:
        """`dsync` with these words, at work.

        `failpoint`: see `dsync.failpoints`. `before`: words of a program that runs it, such as
        strace's; then, and without a starter, it is an interpreter of its own.
        """
        running = Running(words, self._printed, next(self._numbers))
        environment = {
            **{n: v for n, v in os.environ.items() if not n.startswith(("DSYNC_", "PYTEST_"))},
            "PYTHONPATH": str(SRC),
            "PYTHONDONTWRITEBYTECODE": "1",
            "SHOP_TOKEN": SECRET,
            "HOME": str(self.folder),
            **({"DSYNC_FAILPOINT": failpoint} if failpoint else {}),
            **(env or {}),
        }
        if self.starter is None or before:
            running.begin_fresh(before, self.folder, environment)
        else:
            running.begin(self.starter, self.folder, environment)
        return running

    def dsync(
        self,
        *words: str,
        failpoint: str | None = None,
        env: Mapping[str, str] | None = None,
        before: tuple[str, ...] = (),
        timeout_s: float = 60,
    ) -> Done:
        """`dsync` with these words, to its end; see `start`."""
        running = self.start(*words, failpoint=failpoint, env=env, before=before)
        return self.ended(running, timeout_s)

    def ended(self, running: Running, timeout_s: float = 60) -> Done:
        """The end of one that was started; kept in `dones`."""
        done = running.wait(timeout_s)
        self.dones.append(done)
        return done

    def apply(self, run: str, *words: str, **how: Any) -> Done:
        """Apply without a question, deletes allowed; a run that was begun is resumed."""
        return self.dsync(*self.apply_words(run), *words, **how)

    @staticmethod
    def apply_words(run: str) -> tuple[str, ...]:
        """The words of `apply`."""
        return ("apply", "--yes", "--allow-delete", "--run-id", run)

    def resume(self, run: str, **how: Any) -> Done:
        """Go on with a run."""
        return self.dsync("resume", run, **how)

    def finish(self, run: str, **how: Any) -> Done:
        """What a user does after a crash: resume, or apply again where no run was begun."""
        done = self.resume(run, **how)
        if done.code == 1 and "DS-RUN-MISSING" in done.err:
            done = self.apply(run, **how)
        return done

    def run_folder(self, run: str) -> Path:
        """Where a run is kept."""
        return self.state / "runs" / run

    def writes(self) -> list[dict[str, Any]]:
        """The calls that asked the API for a change."""
        return [call for call in self.api.ledger() if call["write"]]

    def remove(self) -> None:
        """Its files are not needed any more."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self._printed, ignore_errors=True)


class Apis:
    """One emulator of each personality, started when it is first asked for."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self._apis: dict[str, Emulator] = {}

    def __getitem__(self, kind: str) -> Emulator:
        if kind not in self._apis:
            self._apis[kind] = self._stack.enter_context(PERSONALITIES[kind].api())
        return self._apis[kind]


@contextlib.contextmanager
def all_apis() -> Iterator[Apis]:
    """Emulators that end with the block."""
    with contextlib.ExitStack() as stack:
        yield Apis(stack)
