"""An API that costs next to nothing: `python benchmarks/fast_server.py` prints its port.

`POST` creates: 201 and an id. `rate` (calls a second) and `burst` are enforced by a token bucket,
with 429; `latency_s` comes before every answer. `PUT /_set` with JSON of these three sets them, and
begins to count anew; `GET /_counts` tells what was counted. It ends when its stdin closes.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

HEAD = "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {size}\r\n{more}\r\n"


class State:
    """The settings, and what was counted since they were set; times of the monotonic clock."""

    def __init__(self, rate: float = 0, burst: float = 1, latency_s: float = 0) -> None:
        self.rate, self.burst, self.latency_s = rate, burst, latency_s
        self.tokens, self.filled_at = burst, time.monotonic()
        self.created = self.refused = 0
        self.first_at = self.last_at = 0.0

    def create(self) -> bytes:
        """One call: its answer."""
        now = time.monotonic()
        if self.rate:
            filled = self.tokens + (now - self.filled_at) * self.rate
            self.tokens, self.filled_at = min(self.burst, filled), now
            if self.tokens < 1:
                self.refused += 1
                return answer("429 Too Many", b'{"error":"slower"}', "Retry-After: 1\r\n")
            self.tokens -= 1
        self.created += 1
        self.first_at, self.last_at = self.first_at or now, now
        return answer("201 Created", b'{"id":%d}' % self.created)


def answer(status: str, body: bytes, more: str = "") -> bytes:
    return HEAD.format(status=status, size=len(body), more=more).encode() + body


class Connection(asyncio.Protocol):
    """One client; calls may come in pieces, but not two at once."""

    state = State()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.received = transport, b""

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, found, body = self.received.partition(b"\r\n\r\n")
        low = head.lower()
        at = low.find(b"content-length:")
        size = int(low[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if not found or len(body) < size:
            return
        self.received = b""
        if head.startswith(b"POST"):
            given = Connection.state.create()
            if Connection.state.latency_s:
                loop = asyncio.get_running_loop()
                loop.call_later(Connection.state.latency_s, self.transport.write, given)
                return
        else:
            if head.startswith(b"PUT"):
                Connection.state = State(**json.loads(body))
            given = answer("200 OK", json.dumps(vars(Connection.state)).encode())
        self.transport.write(given)


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(main())
