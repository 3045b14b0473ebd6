"""A bare download loop: `peer_download.py URL SIZE OUT [RECORDS] [OFFSET] [LIMIT]`.

Gets URL page by page of SIZE records with one connection, one page after the other, until a page is
not full; writes each record as a line to OUT and prints how many there were. RECORDS is the key of
the list in an answer (default: the answer is the list), OFFSET and LIMIT are the names of the query
parameters. It proves nothing and survives nothing: the least that a fetch can cost.
"""

import sys

import httpx2
import msgspec


def main() -> None:
    url, size, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    records, offset, limit = (*sys.argv[4:], *["", "offset", "limit"][len(sys.argv) - 4 :])
    page = msgspec.json.Decoder(dict[str, msgspec.Raw])
    rows = msgspec.json.Decoder(list[msgspec.Raw])
    total = 0
    with httpx2.Client() as client, open(out, "wb") as file:
        while True:
            answer = client.get(url, params={offset: total, limit: size}).raise_for_status().content
            found = rows.decode(page.decode(answer)[records] if records else answer)
            file.writelines(bytes(record) + b"\n" for record in found)
            total += len(found)
            if len(found) < size:
                break
    print(total)


if __name__ == "__main__":
    main()
