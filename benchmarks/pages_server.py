"""A paged API that costs next to nothing: `python benchmarks/pages_server.py RECORDS LATENCY_S`.

Prints its port. `GET …/customers?page_info=N` answers a page of 100 records of about 1.5 kB after
the record N, with the cursor of the next one; `POST …/access_tokens` a token. Ends with its stdin.
"""

from __future__ import annotations

import asyncio
import re
import sys

PAGE = 100
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
RECORD = (
    b'{"external_id":"cust-%d","email":"person%d@example.test","phone_number":null,"first_name":'
    b'"Ana","last_name":"%b","account_created_at":"2023-04-11T09:15:00Z",'
    b'"loyalty":{"points_balance":420,"vip_tier_name":"Silver"},"custom_properties":{"notes":"'
)
FILL = b"x%d lorem ipsum dolor sit amet consectetur " % 7
CURSOR = re.compile(rb"page_info=(\d+)")


def page(after: int, records: int) -> bytes:
    """The page after so many records."""
    tail = (FILL * 30)[:1230] + b'"}}'
    end = min(after + PAGE, records)
    found = b",".join(
        [RECORD % (n, n, b"Ruiz" if n % 7 else b"Ru\xc3\xadz") + tail for n in range(after, end)]
    )
    following = b'"%d"' % end if end < records else b"null"
    return b'{"customers":[%b],"pagination":{"next_page_info":%b}}' % (found, following)


class Connection(asyncio.Protocol):
    """One client; a call comes in one piece."""

    records, latency_s = 0, 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"POST"):
            body = b'{"access_token":"token"}'
        elif data.startswith(b"GET"):
            cursor = CURSOR.search(data.partition(b"\r\n")[0])
            body = page(int(cursor[1]) if cursor else 0, Connection.records)
        else:
            return  # the body of a call that was answered
        answer = HEAD % len(body) + body
        if Connection.latency_s:
            asyncio.get_running_loop().call_later(
                Connection.latency_s, self.transport.write, answer
            )
        else:
            self.transport.write(answer)


async def main() -> None:
    Connection.records, Connection.latency_s = int(sys.argv[1]), float(sys.argv[2])
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(main())
