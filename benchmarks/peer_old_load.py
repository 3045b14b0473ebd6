"""The way that loads were written before: `peer_old_load.py API_URL TOKEN ACCOUNT_URL`.

All pages into a list, a text for each record, a data frame, and pytd's bulk writer, 100,000 records
at a time. Run by a Python that has pytd (it brings pandas and urllib3).
"""

from __future__ import annotations

import json
import sys
import time
from urllib.parse import unquote, urlencode

import pandas as pd
import pytd
import tdclient
import urllib3

BATCH = 100_000


def bring(customers: list[dict[str, object]], endpoint: str) -> None:
    """Append a batch."""
    now = int(time.time())
    texts = [json.dumps(one, separators=(",", ":")) for one in customers]
    frame = pd.DataFrame({"json_response": texts, "time": [now] * len(texts)})
    client = pytd.Client(apikey="1/demo", endpoint=endpoint, database="cdp")
    client.load_table_from_dataframe(
        frame, "cdp.people_old", writer="bulk_import", if_exists="append"
    )
    client.close()


def main(api: str, token: str, endpoint: str) -> None:
    with tdclient.Client(apikey="1/demo", endpoint=endpoint) as account:
        account.create_database("cdp")
    http = urllib3.PoolManager()
    cursor, batch = None, list[dict[str, object]]()
    while True:
        params = {"include_custom_properties": "true", "expand": "loyalty", "limit": "100"}
        if cursor is not None:
            params["page_info"] = unquote(cursor)
        url = f"{api}/customers?{urlencode(params)}"
        page = json.loads(http.request("GET", url, headers={"X-Yotpo-Token": token}).data)
        batch += page["customers"]
        if len(batch) >= BATCH:
            bring(batch, endpoint)
            batch = []
        cursor = page["pagination"]["next_page_info"]
        if cursor is None:
            break
    if batch:
        bring(batch, endpoint)


if __name__ == "__main__":
    main(*sys.argv[1:])
