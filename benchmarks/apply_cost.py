"""Measures what an apply costs: `python benchmarks/apply_cost.py [--quick] [--profile]`.

Beside each other, and in turn, against one fast server on loopback (`fast_server.py`): dsync's
apply with its durable journal; a loop as it is commonly written, one call after the other (with
`http.client`; `requests` would do the same calls, more slowly); and a plain `asyncio.Semaphore`
around httpx2, with eight calls at once. Ratios are medians of the turns. Every run is judged by
what the server has counted; a goal that is missed is marked. Exit code 1 when a count is wrong.

The journal must lie on a disk that syncs: `--state` is a folder for it (not in memory).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, cast

import httpx2

from dsync import applying, logs, secrets
from dsync.connectors import CallLog, Connector
from dsync.connectors.rest import Rest
from dsync.journal import Journal
from dsync.model import Change, Outcome, Plan, Scope, Tally
from dsync.system import System

HERE = Path(__file__).resolve().parent
LANES = 8
RATE = 50
NAMES = (DSYNC, NAIVE, PLAIN) = ("dsync", "loop, one by one", "semaphore + httpx2")
SYSTEM = {
    "version": 1,
    "system": "bench",
    "limits": {"concurrency": LANES},
    "resources": {
        "items": {"key": ["name"], "create": {"path": "items", "id": "id"}},
    },
}


# --- the server ---------------------------------------------------------------------------------


class Server:
    """The fast server, in a process of its own."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def set(self, **settings: float) -> None:
        """Limits from now on; counts begin anew."""
        self._call("PUT", "/_set", json.dumps(settings))

    def counts(self) -> dict[str, Any]:
        """What it has seen since."""
        return self._call("GET", "/_counts")

    def _call(self, method: str, path: str, body: str | None = None) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, body)
            found: dict[str, Any] = json.loads(connection.getresponse().read())
        return found


@contextlib.contextmanager
def served() -> Iterator[Server]:
    """A fast server until the block ends."""
    child = subprocess.Popen(
        [sys.executable, str(HERE / "fast_server.py")], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with child:
        assert child.stdout
        yield Server(int(child.stdout.readline()))


# --- the same calls, made in four ways ----------------------------------------------------------


@dataclass(slots=True)
class Timed:
    """A connector whose calls are watched: what is spent outside of them is the engine's.

    An operation's overhead is what passes between the end of a call and the begin of the next
    one in the same lane, and what its call waits for the journal.
    """

    inner: Rest | Instant
    overhead_s: list[float] = field(default_factory=list)
    ended: deque[float] = field(default_factory=deque)

    async def send(self, change: Change, scope: Scope, *, log: CallLog) -> Outcome:
        begun = time.perf_counter()
        between = begun - self.ended.popleft() if self.ended else 0.0
        watched = _Watched(log)
        try:
            return await self.inner.send(change, scope, log=watched)
        finally:
            self.overhead_s.append(between + watched.waited_s)
            self.ended.append(time.perf_counter())


class Instant:
    """A connector whose calls take no time at all: what is left is the engine."""

    async def send(self, change: Change, scope: Scope, *, log: CallLog) -> Outcome:
        await log.intent("0" * 64)
        log.sent()
        return Outcome(state="acked", status=201, id=1)


def _instant(_rest: Rest, *, overhead_s: list[float]) -> Timed:
    return Timed(Instant(), overhead_s)


class _Watched:
    def __init__(self, log: CallLog) -> None:
        self._log = log
        self.waited_s = 0.0

    async def intent(self, body_sha256: str) -> str:
        begun = time.perf_counter()
        try:
            return await self._log.intent(body_sha256)
        finally:
            self.waited_s += time.perf_counter() - begun

    def sent(self) -> None:
        begun = time.perf_counter()
        self._log.sent()
        self.waited_s += time.perf_counter() - begun

    async def again(self, outcome: Outcome, why: str) -> None:
        await self._log.again(outcome, why)

    def accepted(self, job: str) -> None:
        self._log.accepted(job)


def dsync(
    server: Server,
    calls: int,
    *,
    state: Path,
    lanes: int = LANES,
    burst: int | None = None,
    through: Callable[[Rest], object] = lambda rest: rest,
    log: str = "DEBUG",
) -> float:
    """Seconds of an apply of so many creates; journal and logs are in a new folder below `state`.

    Logs are as the command has them: two files with a line a call. `through` may put something
    before the connector, or in its place.
    """
    system = System.model_validate(SYSTEM)
    rate = None if burst is None else f"{RATE}/s"

    async def main(plan: Plan, journal: Journal) -> float:
        rest = Rest(
            system, base_url=server.url, credentials={}, rate=rate, burst=burst, concurrency=lanes
        )
        async with rest:
            connector = cast("Connector", through(rest))
            begun = time.perf_counter()
            result = await applying.apply(
                plan, journal, connectors={"bench": connector}, systems={"bench": system},
                concurrency=lanes,
            )  # fmt: skip
            spent = time.perf_counter() - begun
        assert result.exit_code == 0, result
        return spent

    with tempfile.TemporaryDirectory(dir=state) as name:
        folder = Path(name)
        logs.configure(folder=folder / "logs", redact=secrets.redact, console="ERROR", file=log)
        plan = planned(folder, calls)
        with (
            logs.run("apply", "bench"),
            Journal.create(folder / "run", plan, run_id="bench") as journal,
        ):
            return asyncio.run(main(plan, journal))


def planned(folder: Path, calls: int) -> Plan:
    """A plan of so many creates."""
    body = folder / "body.ndjson"
    with body.open("w") as file:
        for number in range(calls):
            line = {"kind": "change", "action": "create", "profile": "bench", "system": "bench",
                    "resource": "items", "scope": "", "key": [f"n{number}"], "wave": 0,
                    "row": number + 2, "payload": payload(number)}  # fmt: skip
            file.write(json.dumps(line, separators=(",", ":")) + "\n")
    tally = Tally(
        profile="bench", system="bench", resource="items", rows=calls, create=calls
    )  # fmt: skip
    return Plan(
        tallies=(tally,), scopes=(Scope(),), connections={"bench": "bench"}, inputs={},
        digest="bench", body=body,
    )  # fmt: skip


def payload(number: int) -> dict[str, Any]:
    return {"name": f"n{number}", "qty": number, "note": "some text of a usual length", "on": True}


def naive(server: Server, calls: int) -> float:
    """Seconds of a loop that posts, one call after the other, and waits when it is told to."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    begun = time.perf_counter()
    with contextlib.closing(connection):
        for number in range(calls):
            while True:
                connection.request(
                    "POST", "/items", json.dumps(payload(number)),
                    {"Content-Type": "application/json"},
                )  # fmt: skip
                response = connection.getresponse()
                json.loads(response.read())
                if response.status != 429:
                    break
                time.sleep(float(response.headers["Retry-After"]))
    return time.perf_counter() - begun


def plain(server: Server, calls: int) -> float:
    """Seconds of a semaphore of eight around httpx2, which waits when it is told to."""

    async def main() -> float:
        room = asyncio.Semaphore(LANES)
        limits = httpx2.Limits(max_connections=LANES, max_keepalive_connections=LANES)
        async with httpx2.AsyncClient(base_url=server.url, limits=limits, timeout=30) as client:

            async def one(number: int) -> None:
                async with room:
                    while True:
                        response = await client.post("/items", json=payload(number))
                        response.json()
                        if response.status_code != 429:
                            return
                        await asyncio.sleep(float(response.headers["Retry-After"]))

            begun = time.perf_counter()
            await asyncio.gather(*(one(number) for number in range(calls)))
            return time.perf_counter() - begun

    return asyncio.run(main())


def bare(server: Server, calls: int) -> float:
    """Seconds of eight bare sockets: how fast the server answers, at least."""
    body = json.dumps(payload(0)).encode()
    call = b"POST /items HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    async def one(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for _ in range(number):
            writer.write(call)
            await reader.readuntil(b"}")
        writer.close()
        await writer.wait_closed()

    async def main() -> float:
        begun = time.perf_counter()
        await asyncio.gather(*(one(calls // LANES) for _ in range(LANES)))
        return time.perf_counter() - begun

    return asyncio.run(main())


# --- what is measured ---------------------------------------------------------------------------


class Bench:
    """The server, where journals go, how often; and which counts were wrong."""

    def __init__(self, server: Server, state: Path, *, turns: int, quick: bool) -> None:
        self.server, self.state, self.turns, self.quick = server, state, turns, quick
        self.faults: list[str] = []

    def goal(self, value: float, limit: float, text: str, *, at_most: bool = False) -> str:
        """`value` as `text`, with a mark when it misses its goal."""
        good = value <= limit if at_most else value >= limit
        shown = text.format(value)
        bound = f"{'<=' if at_most else '>='} {text.format(limit)}"
        return f"{shown} [{bound}{'' if good else ': MISSED'}]"

    def counted(self, calls: int) -> dict[str, Any]:
        """What the server has counted, when that is right."""
        counts = self.server.counts()
        if counts["created"] != calls:
            self.faults.append(f"{counts['created']} records created, not {calls}")
        return counts

    def in_turn(
        self,
        calls: int,
        ways: dict[str, Callable[[], float]],
        *,
        turns: int | None = None,
        **settings: float,
    ) -> tuple[dict[str, list[float]], dict[str, list[dict[str, Any]]]]:
        """Seconds of each way, turn by turn, and what the server has counted."""
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        counts: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
        for _ in range(turns or self.turns):
            for name, way in ways.items():
                self.server.set(**settings)
                seconds[name].append(way())
                counts[name].append(self.counted(calls))
        return seconds, counts

    def dsync(self, calls: int, **options: Any) -> Callable[[], float]:
        options = {"state": self.state, **options}
        return lambda: dsync(self.server, calls, **options)

    def ways(self, calls: int, **options: Any) -> dict[str, Callable[[], float]]:
        """The three ways to make the same calls."""
        return {
            DSYNC: self.dsync(calls, **options),
            PLAIN: lambda: plain(self.server, calls),
            NAIVE: lambda: naive(self.server, calls),
        }

    # ---- the tables ------------------------------------------------------------------------

    def no_limits(self) -> None:
        """Calls a second without a limit, and what of an operation is the engine's."""
        calls = 800 if self.quick else 3000
        self.server.set()
        raw = 8000 / bare(self.server, 8000)
        silent = "dsync, no line a call in the logs"
        ways = {**self.ways(calls), silent: self.dsync(calls, log="INFO")}
        seconds, _ = self.in_turn(calls, ways)
        rows = [[f"bare sockets, {LANES} at once", f"{raw:,.0f}", ""]]
        for name in (DSYNC, silent, PLAIN, NAIVE):
            per_s = calls / statistics.median(seconds[name])
            shown = self.goal(per_s, 500, "{:,.0f}") if name == DSYNC else f"{per_s:,.0f}"
            rows.append([name, shown, f"{ratio(seconds[PLAIN], seconds[name]):.2f}"])
        title = f"No limit, no latency, {calls} creates, {LANES} at once"
        table(title, ["", "calls/s", f"x {PLAIN}"], rows)

    def overhead(self) -> None:
        """What of an operation's time is the engine's."""
        calls = 500 if self.quick else 2000
        rows = []
        self.server.set()
        for title, lanes, watched in (
            ("one call at a time", 1, Timed),
            (f"{LANES} at once, calls that take no time", LANES, _instant),
            (f"{LANES} at once, with what they wait for each other's HTTP", LANES, Timed),
        ):
            found: list[float] = []
            seconds: list[float] = []
            for _ in range(self.turns):
                through = partial(watched, overhead_s=found)
                seconds.append(dsync(self.server, calls, state=self.state, lanes=lanes,
                                     through=through))  # fmt: skip
            cuts = [1000 * cut for cut in statistics.quantiles(found, n=100)]
            # The last of them is shown and not judged: it is mostly the cost of the calls.
            judged = lanes == 1 or watched is _instant
            last = self.goal(cuts[98], 5, "{:.2f}", at_most=True) if judged else f"{cuts[98]:.2f}"
            per_s = f"{calls / statistics.median(seconds):,.0f}"
            rows.append([title, f"{cuts[49]:.2f}", last, f"{1000 * max(found):.1f}", per_s])
        head = ["", "p50 ms", "p99 ms", "most ms", "operations/s"]
        table("The engine's part of an operation, no latency", head, rows)

    def limited(self) -> None:
        """How much of an enforced rate is used, and how often it is overstepped."""
        calls = 150 if self.quick else 500
        for burst, share, others in ((10, 0.99, 40), (1, 0.85, 15)):
            settings = {"rate": RATE, "burst": burst}
            own = {DSYNC: self.dsync(calls, burst=burst)}
            _, counts = self.in_turn(calls, own, turns=1 if self.quick else 3, **settings)
            peers = self.ways(others)
            del peers[DSYNC]
            if not (self.quick and burst == 1):
                # Once: they spend their time waiting, and differ by nothing but that.
                counts |= self.in_turn(others, peers, turns=1, **settings)[1]
            rows = []
            for name, found in counts.items():
                used = statistics.median(_used(one, burst) for one in found)
                refused = max(one["refused"] for one in found)
                told = [f"{used:.1%}", f"{refused}"]
                if name == DSYNC:
                    told = [self.goal(used, share, "{:.1%}"),
                            self.goal(refused, 0, "{:.0f}", at_most=True)]  # fmt: skip
                rows.append([name, f"{found[0]['created']}", *told])
            title = f"{RATE} calls/s allowed, burst {burst}"
            table(title, ["", "creates", "share of the allowed rate", "429s (worst turn)"], rows)

    def latency(self) -> None:
        """How well eight lanes fill the time that answers take."""
        calls, latency_s = (240 if self.quick else 800), 0.05
        ways = self.ways(calls)
        del ways[NAIVE]
        seconds, _ = self.in_turn(calls, ways, latency_s=latency_s)
        few = calls // LANES
        alone = {NAIVE: lambda: naive(self.server, few)}
        rows = []
        for name, found in seconds.items():
            share = calls / LANES * latency_s / statistics.median(found)
            shown = self.goal(share, 0.85, "{:.1%}") if name == DSYNC else f"{share:.1%}"
            rows.append([name, shown, f"{calls / statistics.median(found):.1f}"])
        (spent,) = self.in_turn(few, alone, turns=1, latency_s=latency_s)[0][NAIVE]
        rows.append([NAIVE, f"{few / LANES * latency_s / spent:.1%}", f"{few / spent:.1f}"])
        title = f"{1000 * latency_s:.0f} ms an answer, {LANES} lanes, {calls} creates"
        table(title, ["", "share of ideal", "calls/s"], rows)

    def journal(self) -> None:
        """What it costs that the journal is durable: beside one in memory, turn by turn."""
        memory = Path("/dev/shm")  # noqa: S108 - a file system that has nothing to sync
        if not memory.is_dir():
            print("No file system in memory here: the journal's part is not measured.\n")
            return
        cases = [
            (f"no latency, {LANES} lanes", 0.0, LANES),
            (f"8 ms, {LANES} lanes: 1,000 calls/s at most", 0.008, LANES),
            (f"50 ms, {LANES} lanes", 0.05, LANES),
            ("50 ms, one lane", 0.05, 1),
        ]
        rows = []
        for title, latency_s, lanes in cases[:3] if self.quick else cases:
            seconds_s = 1 if self.quick else 3
            calls = int(min(800 * seconds_s, seconds_s * lanes / max(latency_s, 0.001)))
            ways = {
                "durable": self.dsync(calls, lanes=lanes),
                "in memory": self.dsync(calls, lanes=lanes, state=memory),
            }
            seconds, _ = self.in_turn(calls, ways, latency_s=latency_s)
            more = ratio(seconds["durable"], seconds["in memory"]) - 1
            per_s = calls / statistics.median(seconds["durable"])
            # Without latency it is not judged: there a call takes hardly longer than the disk.
            shown = self.goal(more, 0.05, "{:+.1%}", at_most=True) if latency_s else f"{more:+.1%}"
            rows.append([title, f"{per_s:,.0f}", shown])
        table("A durable journal beside one in memory", ["", "calls/s", "time more"], rows)

    def profile(self) -> None:
        """Where the time of an operation goes."""
        calls = 6000
        for lanes in (LANES, 1):
            self.server.set()
            before = resource.getrusage(resource.RUSAGE_SELF)
            with sampled() as samples:
                spent = dsync(self.server, calls, state=self.state, lanes=lanes)
            after = resource.getrusage(resource.RUSAGE_SELF)
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            total = sum(samples.values())
            rows = [
                [place, f"{1e6 * spent / calls * number / total:,.0f}", f"{number / total:.0%}"]
                for place, number in samples.most_common(14)
            ]
            title = (f"Where an operation's {1e6 * spent / calls:,.0f} us go, {lanes} at once "
                     f"({1e6 * cpu / calls:,.0f} us of CPU)")  # fmt: skip
            table(title, ["", "us", "share"], rows)


def _used(counts: dict[str, Any], burst: int) -> float:
    """Calls that came through, of those that were allowed until the last of them."""
    allowed = burst + RATE * (counts["last_at"] - counts["first_at"])
    return float(counts["created"] / allowed)


def ratio(one: list[float], other: list[float]) -> float:
    """The median of the ratios within a turn."""
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


@contextlib.contextmanager
def sampled() -> Iterator[Counter[str]]:
    """Counts, three hundred times a second, what the innermost known module at work is."""
    found: Counter[str] = Counter()

    def look(_number: int, frame: FrameType | None) -> None:
        found[_place(frame)] += 1

    signal.signal(signal.SIGALRM, look)
    signal.siginterrupt(signal.SIGALRM, False)
    signal.setitimer(signal.ITIMER_REAL, 0.003, 0.003)
    try:
        yield found
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _place(frame: FrameType | None) -> str:
    """The innermost module of dsync or of the HTTP library, and the function of dsync."""
    outer = ""
    while frame is not None:
        path = frame.f_code.co_filename
        if "/dsync/" in path:
            name = f"{Path(path).stem}.{frame.f_code.co_name}"
            return f"{name} > {outer}" if outer else name
        for library in ("httpcore2", "httpx2", "h11", "anyio", "structlog", "selectors", "asyncio"):
            if f"/{library}/" in path or path.endswith(f"/{library}.py"):
                outer = library
        frame = frame.f_back
    return outer or "other"


def table(title: str, head: list[str], rows: list[list[str]]) -> None:
    print(f"**{title}**\n\n| {' | '.join(head)} |\n|---{'|---:' * (len(head) - 1)}|")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    print(flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer calls: under a minute")
    parser.add_argument("--turns", type=int, help="how often each way is measured")
    parser.add_argument("--state", type=Path, default=HERE / "data", help="where journals go")
    parser.add_argument("--profile", action="store_true", help="also where the time goes")
    parser.add_argument(
        "--only", help="one of no_limits, overhead, limited, latency, journal, profile"
    )
    options = parser.parse_args()
    options.state.mkdir(parents=True, exist_ok=True)
    turns = options.turns or (3 if options.quick else 5)
    parts = ["no_limits", "overhead", "limited", "latency", "journal"]
    parts += ["profile"] * options.profile
    with served() as server:
        bench = Bench(server, options.state, turns=turns, quick=options.quick)
        for part in [options.only] if options.only else parts:
            getattr(bench, part)()
    for fault in bench.faults:
        print(f"wrong: {fault}", file=sys.stderr)
    return 1 if bench.faults else 0


if __name__ == "__main__":
    sys.exit(main())
