"""pytd's bulk import against an account: `pytd_witness.py URL FORM`; prints what came of it.

A frame of 25 rows goes into a table in pytd's four ways, and once more where it may not. Run by a
Python that has pytd.
"""

from __future__ import annotations

import json
import sys
import warnings

import pandas as pd
import pytd
import tdclient.bulk_import_model

HOWS = ("error", "append", "ignore", "overwrite", "error")


def main(url: str, form: str) -> None:
    # It sleeps for seconds between looks at a job; the account's jobs are done at once.
    tdclient.bulk_import_model.time.sleep = lambda _seconds: None
    client = pytd.Client(apikey="1/demo", endpoint=url, database="raw_db")
    frame = pd.DataFrame(
        [{"json_response": f'{{"n":{n}}}', "time": 1_700_000_000 + n} for n in range(25)]
    )
    results: list[str] = []
    for how in HOWS:
        try:
            client.load_table_from_dataframe(
                frame, "raw_db.frame", writer="bulk_import", if_exists=how, fmt=form,
                chunk_record_size=10,
            )  # fmt: skip
            (table,) = [one for one in client.list_tables("raw_db") if one.name == "frame"]
            results.append(str(table.count))
        except RuntimeError as refused:
            results.append(type(refused).__name__)
    client.close()
    print(json.dumps(results))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(*sys.argv[1:])
