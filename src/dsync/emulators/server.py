"""The server under every emulator: HTTP/1.1 on asyncio streams, written by hand.

By hand, because faults act on bytes: a framework would finish the answer that we want to cut.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import math
import os
import re
import signal
import socket
import struct
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Protocol

from .clock import Clock
from .faults import (
    FAULTS,
    Close,
    FaultError,
    Hang,
    Reset,
    Rule,
    Rules,
    Send,
    Step,
    Wait,
    answer_steps,
    retry_after,
)
from .ledger import Call, Ledger
from .messages import Answer, BadJson, Request, json_answer
from .quotas import Quotas
from .switches import SwitchError, Switches

__all__ = ["App", "Server", "World", "personality", "serve"]

NAMES: tuple[str, ...] = ("director", "n2f", "plain", "treasure_data", "yotpo")
"""The emulators, each a module of this package."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What the server lends to the API that it imitates."""

    clock: Clock
    switches: Switches


class SeedError(ValueError):
    """Objects that cannot be put: the message says why."""


class App(Protocol):
    """One API. Nothing here waits: what takes time is told by the clock."""

    def handle(self, request: Request, call: Call) -> Answer:
        """Answers a call and tells `call` its template, whether it writes, and its effects."""

    def state(self) -> object:
        """Everything held, as JSON, in the shape a client reads."""

    def seed(self, value: object) -> object:
        """Puts or removes objects behind the client's back. Raises: SeedError."""

    def reset(self) -> None:
        """Back to the first state; switches stay."""

    def switched(self, names: Sequence[str]) -> None:
        """These switches have new values."""

    def place(self, request: Request) -> tuple[str, bool]:
        """The scope of a call, and whether it asks for a change: known before it is handled."""


def personality(name: str) -> ModuleType:
    """The module of an emulator: it has `SWITCHES`, `FAULTS` and a class `App`.

    It may have `TOO_MANY`, the body of a 429.

    Raises: ValueError for a name that is not in `NAMES`.
    """
    if name not in NAMES:
        raise ValueError(f"no emulator is named {name}; there are {' '.join(NAMES)}")
    return importlib.import_module(f".{name}", __package__)


class Server:
    """One API with its ledger, faults, switches and clock, behind one listening socket."""

    def __init__(
        self, name: str, *, switches: Mapping[str, object] | None = None, ledger: Path | None = None
    ) -> None:
        module = personality(name)
        self.name = name
        self.clock = Clock()
        self.ledger = Ledger(self.clock, ledger)
        self.switches = Switches(module.SWITCHES)
        self.switches.set(switches or {})
        self.rules = Rules(module.FAULTS)
        self.app: App = module.App(World(clock=self.clock, switches=self.switches))
        self.quotas = Quotas(self.clock)
        self.quotas.set(self.switches.get("quota"))
        self._too_many_body: object = getattr(module, "TOO_MANY", _TOO_MANY)
        self._wind(("clock_start", "clock_speed"))
        self._connections = 0
        self._recent: deque[float] = deque()
        self._late: set[asyncio.TimerHandle] = set()

    # ---- one connection ------------------------------------------------------------------------

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers the calls of one connection, one after the other, until either side ends it."""
        self._connections += 1
        number, count = self._connections, 0
        try:
            while True:
                count += 1
                request = await _read_head(reader, number, count)
                if request is None or not await self._exchange(request, reader, writer):
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            return  # the client went away in mid-call: its own affair
        except _Malformed as error:
            answer = json_answer({"error": str(error)}, error.status, ("Connection", "close"))
            writer.write(answer.head() + answer.body)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _exchange(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """One call and its answer; whether the connection goes on."""
        if request.segments[0] == "_emulator":
            request.body = await _read_body(request, reader, writer)
            steps = self._steps(request, self._control(request))
            return await _run(steps, reader, writer)
        wire, own = self.rules.hit(request)
        if not (wire and wire.when == "before_read"):
            request.body = await _read_body(request, reader, writer)
        call = self._open(request, own)
        try:
            steps = await self._answer(request, call, wire)
            self.ledger.close(call)
            return await _run(steps, reader, writer)
        finally:
            self.ledger.answered(call)

    def _open(self, request: Request, own: tuple[Rule, ...]) -> Call:
        scope, write = self.app.place(request)
        call = self.ledger.open(request, own, scope=scope, write=write)
        kind = "write" if write else "read"
        call.kind = kind
        call.over_quota = self.quotas.breaches(kind)
        enforced = self.switches.text("enforce_quota")
        if not any(breach.counting == enforced for breach in call.over_quota):
            self.quotas.count(kind)
        return call

    async def _answer(self, request: Request, call: Call, wire: Rule | None) -> list[Step]:
        """What the connection does for a call, which has its effect on the way."""
        if wire and wire.when == "before_read":
            # Its body is still on the wire: nothing after it could be read as a call.
            return [*self._shown(wire, Answer(body=b"{}"), call), Close()]
        if latency_s := self.switches.number("latency_s"):
            await asyncio.sleep(latency_s)
        if wire and wire.fault == "slow":
            await asyncio.sleep(wire.number("delay_s", 1.0))
        elif wire and wire.when == "before":
            if wire.fault == "late_commit":
                self._later(request, call, wire.number("after_s", 1.0))
            return self._shown(wire, Answer(body=b"{}"), call)
        answer = self._limited(call) or self._handle(request, call)
        if wire:
            return self._shown(wire, answer, call)
        call.status = answer.status
        return self._steps(request, answer)

    def _shown(self, rule: Rule, answer: Answer, call: Call) -> list[Step]:
        call.fault = rule.fault
        call.status, steps = FAULTS[rule.fault].show(rule, answer, self.clock)
        return steps if self._keeps_alive(call.request) else [*steps, Close()]

    def _steps(self, request: Request, answer: Answer) -> list[Step]:
        return answer_steps(
            answer,
            head_only=request.method == "HEAD",
            keep_alive=self._keeps_alive(request),
            date=self.clock.http_date(),
        )

    def _keeps_alive(self, request: Request) -> bool:
        wish = request.headers.get("connection", "").lower()
        if request.version == "HTTP/1.0":
            return "keep-alive" in wish and self.switches.flag("keep_alive")
        return "close" not in wish and self.switches.flag("keep_alive")

    def _later(self, request: Request, call: Call, after_s: float) -> None:
        def commit() -> None:
            self._late.discard(handle)
            self._handle(request, call)

        handle = asyncio.get_running_loop().call_later(after_s, commit)
        self._late.add(handle)

    def _limited(self, call: Call) -> Answer | None:
        """A 429 when this second, or the quota, has had its calls."""
        enforced = self.switches.text("enforce_quota")
        waits = [breach.wait_s for breach in call.over_quota if breach.counting == enforced]
        if waits:
            return self._too_many(math.ceil(max(waits)))
        limit = self.switches.count("rate_per_s")
        if not limit:
            return None
        now = self.clock.monotonic_s()
        while self._recent and self._recent[0] <= now - 1.0:
            self._recent.popleft()
        if len(self._recent) < limit:
            self._recent.append(now)
            return None
        return self._too_many(self.switches.count("retry_after_s"))

    def _too_many(self, wait_s: int) -> Answer:
        answer = json_answer(self._too_many_body, 429)
        form = self.switches.text("retry_after")
        if form != "none":
            asked = f"date:{wait_s}" if form == "date" else wait_s
            answer.headers.append(("Retry-After", retry_after(asked, self.clock)))
        return answer

    def _handle(self, request: Request, call: Call) -> Answer:
        call.write = False
        try:
            return self.app.handle(request, call)
        except Exception as error:  # a bug of the emulator must not look like a lost connection
            call.error = f"{type(error).__name__}: {error}"
            traceback.print_exc(file=sys.stderr)
            return json_answer({"error": f"the emulator failed: {call.error}"}, 500)

    # ---- the control API -----------------------------------------------------------------------

    def _control(self, request: Request) -> Answer:
        verb = f"{request.method} {'/'.join(request.segments[1:])}"
        action = _CONTROLS.get(verb)
        if action is None:
            known = ", ".join(f"{name.replace(' ', ' /_emulator/', 1)}" for name in _CONTROLS)
            return json_answer({"error": f"no control call {verb}; there are {known}"}, 404)
        try:
            return json_answer(action(self, request))
        except (BadJson, SwitchError, FaultError, SeedError, ValueError) as error:
            return json_answer({"error": str(error)}, 400)

    def _get_state(self, _request: Request) -> object:
        return self.app.state()

    def _get_ledger(self, request: Request) -> object:
        since = int(request.query.get("since", "0"))
        return [call.to_json() for call in self.ledger.since(since)]

    def _get_effects(self, request: Request) -> object:
        since = int(request.query.get("since", "0"))
        return [
            {"seq": call.seq, **effect.to_json()}
            for call in self.ledger.since(since)
            for effect in call.effects
        ]

    def _get_counts(self, _request: Request) -> object:
        return self.ledger.counts()

    def _get_clock(self, _request: Request) -> object:
        return {
            "now": self.clock.text(),
            "offset_s": self.clock.offset_s,
            "speed": self.clock.speed,
            "monotonic_s": self.clock.monotonic_s(),
        }

    def _get_switches(self, _request: Request) -> object:
        return dict(self.switches.items())

    def _get_faults(self, _request: Request) -> object:
        return [rule.to_json() for rule in self.rules.rules]

    def _post_reset(self, _request: Request) -> object:
        for handle in self._late:
            handle.cancel()
        self._late.clear()
        self._recent.clear()
        self.quotas.clear()
        self.rules.set([])
        self.clock.reset()
        self._wind(("clock_start", "clock_speed"))
        self.app.reset()
        self.ledger.clear()
        return {}

    def _post_seed(self, request: Request) -> object:
        return self.app.seed(request.json)

    def _post_switches(self, request: Request) -> object:
        values = request.json
        if not isinstance(values, dict):
            raise SwitchError("switches are an object of names and values")
        self.switches.set(values)
        self.quotas.set(self.switches.get("quota"))
        self._wind(values)
        self.app.switched(list(values))
        return dict(self.switches.items())

    def _post_faults(self, request: Request) -> object:
        self.rules.set(request.json)
        return [rule.to_json() for rule in self.rules.rules]

    def _post_clock(self, request: Request) -> object:
        values = request.json
        match values:
            case {"advance_s": int() | float() as seconds}:
                self.clock.advance(seconds)
            case {"to": str() as moment}:
                self.clock.until(moment, self.quotas.zone)
            case _:
                raise ValueError('the clock takes {"advance_s": SECONDS} or {"to": "06:00"}')
        return self._get_clock(request)

    def _wind(self, names: Iterable[str]) -> None:
        """These switches of the clock have new values."""
        if "clock_speed" in names:
            self.clock.run_at(self.switches.number("clock_speed"))
        if "clock_start" in names and (moment := self.switches.text("clock_start")):
            self.clock.until(moment, self.quotas.zone)


_TOO_MANY = {"status": "Failed", "error": "Too many requests"}

_CONTROLS: dict[str, Callable[[Server, Request], object]] = {
    "GET state": Server._get_state,
    "GET ledger": Server._get_ledger,
    "GET effects": Server._get_effects,
    "GET counts": Server._get_counts,
    "GET clock": Server._get_clock,
    "GET switches": Server._get_switches,
    "GET faults": Server._get_faults,
    "POST reset": Server._post_reset,
    "POST seed": Server._post_seed,
    "POST switches": Server._post_switches,
    "POST faults": Server._post_faults,
    "POST clock": Server._post_clock,
}


# ---- running -----------------------------------------------------------------------------------


def serve(
    name: str,
    host: str = "127.0.0.1",
    port: int = 0,
    switches: Mapping[str, object] | None = None,
    *,
    ledger: Path | None = None,
    faults: object = None,
    seed: object = None,
    until_stdin_closes: bool = False,
) -> None:
    """Serves an emulator until SIGTERM or SIGINT; blocks.

    Prints one line, `listening on http://HOST:PORT`, as soon as calls are answered; `port` 0 picks
    a free one. `ledger` is appended to, one line of JSON a call and an effect. `faults` and `seed`
    are what `POST /_emulator/faults` and `/_emulator/seed` take.

    Raises: ValueError for a wrong name, switch, fault or seed; OSError when the port is taken.
    """
    server = Server(name, switches=switches, ledger=ledger)
    if faults is not None:
        server.rules.set(faults)
    if seed is not None:
        server.app.seed(seed)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(server, host, port, until_stdin_closes))


async def _serve(server: Server, host: str, port: int, until_stdin_closes: bool) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(number, stop.set)
    if until_stdin_closes:
        threading.Thread(target=_await_end, args=(loop, stop), daemon=True).start()
    tasks: set[asyncio.Task[None]] = set()

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task:
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        with contextlib.suppress(asyncio.CancelledError):
            await server.connection(reader, writer)

    listener = await asyncio.start_server(connection, host, port, limit=_HEAD_LIMIT, backlog=512)
    bound = listener.sockets[0].getsockname()[1]
    print(f"listening on http://{f'[{host}]' if ':' in host else host}:{bound}", flush=True)
    await stop.wait()
    listener.close()
    for task in list(tasks):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _await_end(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    # The parent holds the other end of the pipe: however it dies, the pipe closes.
    with contextlib.suppress(OSError, ValueError):
        while os.read(sys.stdin.fileno(), 4096):
            pass
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(stop.set)


# ---- bytes -------------------------------------------------------------------------------------

_HEAD_LIMIT = 1 << 20
_REQUEST_LINE = re.compile(r"([A-Za-z]+) (\S+) (HTTP/1\.[01])")


class _Malformed(Exception):
    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


async def _read_head(reader: asyncio.StreamReader, connection: int, count: int) -> Request | None:
    """The next call's line and headers; None when the client is done."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial.strip():
            raise
        return None
    except asyncio.LimitOverrunError as error:
        raise _Malformed("the headers are too long", 431) from error
    line, *rest = head.decode("latin-1").strip("\r\n").split("\r\n")
    parts = _REQUEST_LINE.fullmatch(line)
    if not parts:
        raise _Malformed(f"not a request line: {line[:80]!r}")
    method, target, version = parts.groups()
    headers: dict[str, str] = {}
    for text in rest:
        name, colon, value = text.partition(":")
        if not colon or name != name.strip():
            raise _Malformed(f"not a header: {text[:80]!r}")
        name, value = name.lower(), value.strip()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    if target.startswith("http://"):
        target = "/" + target.removeprefix("http://").partition("/")[2]
    return Request(
        method=method.upper(),
        target=target,
        version=version,
        headers=headers,
        connection=connection,
        on_connection=count,
    )


async def _read_body(
    request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> bytes:
    if request.headers.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    if "chunked" in request.headers.get("transfer-encoding", "").lower():
        return await _read_chunks(reader)
    text = request.headers.get("content-length", "0")
    if not text.isdecimal():
        raise _Malformed(f"not a Content-Length: {text[:40]!r}")
    return await reader.readexactly(int(text)) if text != "0" else b""


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    pieces: list[bytes] = []
    while True:
        line = await reader.readline()
        try:
            size = int(line.partition(b";")[0].strip(), 16)
        except ValueError as error:
            raise _Malformed("not a chunk") from error
        if size == 0:
            while (await reader.readline()).strip():
                pass  # trailers
            return b"".join(pieces)
        pieces.append(await reader.readexactly(size))
        await reader.readexactly(2)


async def _run(
    steps: Sequence[Step], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> bool:
    """Takes the steps of one answer; whether the connection goes on."""
    for step in steps:
        match step:
            case Send(data):
                writer.write(data)
                await writer.drain()
            case Wait(seconds):
                await asyncio.sleep(seconds)
            case Hang(seconds):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        while await reader.read(65_536):
                            pass
                return False
            case Reset():
                _reset(writer)
                return False
            case Close():
                return False
    return True


def _reset(writer: asyncio.StreamWriter) -> None:
    connected = writer.get_extra_info("socket")
    if connected is not None:
        # Lingering for no time makes the kernel send RST instead of FIN.
        linger = struct.pack("ii", 1, 0)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()
