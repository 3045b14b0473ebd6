"""The least that reading all pages can cost: `peer_pages.py URL TOKEN`; records are thrown away.

One connection of the HTTP client that dsync uses, one page after the other, each looked at only for
its next cursor.
"""

from __future__ import annotations

import asyncio
import sys
from urllib.parse import unquote

import httpx2
import msgspec


class Pagination(msgspec.Struct):
    next_page_info: str | None = None


class Page(msgspec.Struct):
    pagination: Pagination


async def main(url: str, token: str) -> None:
    decoder, cursor, pages = msgspec.json.Decoder(Page), None, 0
    async with httpx2.AsyncClient(headers={"X-Yotpo-Token": token}) as client:
        while True:
            params = {"include_custom_properties": "true", "expand": "loyalty", "limit": "100"}
            if cursor is not None:
                params["page_info"] = unquote(cursor)
            answer = await client.get(f"{url}/customers", params=params)
            cursor = decoder.decode(answer.content).pagination.next_page_info
            pages += 1
            if cursor is None:
                break
    print(pages)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
