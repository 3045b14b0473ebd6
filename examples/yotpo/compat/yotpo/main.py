"""The entry points of the older connector, on top of `dsync`.  Deprecated: call `dsync load`.

    python -m yotpo.main                     from the folder that holds the package
    py>: python.yotpo.main.main              in a Digdag workflow

Needs YOTPO_CLIENT_SECRET, YOTPO_STORE_ID and TD_API_KEY, as ever; and TD_DATABASE, which used to
be a constant of the code. YOTPO_BASE_URL, TD_API_SERVER and TD_TABLE may be given. What is loaded
where stands in the folder `yotpo-load` below the working directory (or YOTPO_LOAD_DIR): a project
of `dsync`, which can be used without this package from then on.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from dsync import DsyncError, api
from dsync.http import Client

REQUESTS_PER_SECOND = 4.5
REQUEST_TIMEOUT = 30
MAX_RETRIES = 3
RETRY_DELAY_SEC = 2
BATCH_SIZE = 100_000

REQUIRED = ("YOTPO_CLIENT_SECRET", "YOTPO_STORE_ID", "TD_API_KEY")
if not all(os.environ.get(name) for name in REQUIRED):
    raise ValueError(f"Missing required environment variables: {', '.join(REQUIRED)}")

warnings.warn(
    "the package yotpo is kept for old workflows only: call `dsync load` instead",
    DeprecationWarning,
    stacklevel=1 if __name__ == "__main__" else 2,  # Python shows it of the main module only
)
logger = logging.getLogger("yotpo")


def main() -> None:
    """Load all customers, with the columns `json_response` and `time`. Raises what goes wrong."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s - %(levelname)s - %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # what dsync logs is in the project's `logs`
    try:
        fetch_and_ingest_parallel()
    except Exception:
        logger.exception("the load failed; `dsync resume` in the project goes on with it")
        raise
    finally:
        logger.removeHandler(handler)


def get_access_token() -> str:
    """A token of the store. Not needed any more: a load asks for its own, and renews it."""
    url = f"{_store_url()}/access_tokens"
    status, found = _call("POST", url, {}, {"secret": os.environ["YOTPO_CLIENT_SECRET"]})
    token = found.get("access_token") if isinstance(found, dict) else None
    if status != 200 or not isinstance(token, str):
        raise RuntimeError(f"Yotpo gave no token: status {status}")
    return token


def fetch_and_ingest_parallel(token: str | None = None) -> None:
    """Load all customers into Treasure Data: pages are read while parts are uploaded.

    `token` is not used. A page that fails fails the load: nothing is committed then.
    """
    began = time.monotonic()
    rows = _load("loyalty_profiles", _run_id("yotpo"))
    logger.info("Loaded %d customers in %.1f s", rows, time.monotonic() - began)


def fetch_page_with_retry(url: str, headers: dict[str, str]) -> dict[str, Any] | None:
    """One page, asked for at most four times; None when none came. Loads do not use it."""
    for attempt in range(MAX_RETRIES + 1):
        rate_limit_wait()
        try:
            status, found = _call("GET", url, headers)
        except DsyncError as error:
            logger.warning("page failed: %s", error.code)
            status, found = 0, None
        if status == 200 and isinstance(found, dict):
            return found
        if status == 400 and "no results found" in json.dumps(found).lower():
            return {"customers": []}
        if status in (400, 401, 403, 404):
            return None
        if attempt < MAX_RETRIES:
            time.sleep(RETRY_DELAY_SEC * (attempt + 1))
    return None


def upload_batch_to_td(customers: list[dict[str, Any]], batch_num: int) -> bool:
    """Load these customers as one batch; True, or what went wrong is raised."""
    file = _project() / "batch.ndjson"
    with file.open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(customer) + "\n" for customer in customers)
    try:
        _load("batch", _run_id(f"batch-{batch_num}"))
    finally:
        file.unlink()
    return True


_lock = threading.Lock()
_last = 0.0


def rate_limit_wait() -> None:
    """Wait until another page may be asked for: 4.5 in a second, over all threads."""
    global _last
    with _lock:
        wait_s = _last + 1 / REQUESTS_PER_SECOND - time.monotonic()
        if wait_s > 0:
            time.sleep(wait_s)
        _last = time.monotonic()


# ---- by means of dsync -------------------------------------------------------------------------


def _load(profile: str, run_id: str) -> int:
    """Load one profile of the project; how many rows."""
    project = api.open_project(_project())
    (run,) = api.load(project, api.Ask(names=(profile,)), run_id=run_id)
    return api.load_report(project, run).rows


def _run_id(what: str) -> str:
    return f"{what}-{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}"


def _store_url() -> str:
    base = os.environ.get("YOTPO_BASE_URL", "https://api.yotpo.com/core/v3").rstrip("/")
    return f"{base}/stores/{quote(os.environ['YOTPO_STORE_ID'], safe='')}"


def _project() -> Path:
    """The folder of the project; its files refer to the secrets and hold none."""
    database = os.environ.get("TD_DATABASE", "")
    if not database:
        raise ValueError("Missing required environment variable: TD_DATABASE")
    folder = Path(os.environ.get("YOTPO_LOAD_DIR", "yotpo-load")).resolve()
    (folder / "profiles").mkdir(parents=True, exist_ok=True)
    server = os.environ.get("TD_API_SERVER", "https://api.treasuredata.com/")
    into = {
        "connection": "warehouse",
        "database": database,
        "table": os.environ.get("TD_TABLE", "yotpo_customers"),
    }
    config = {
        "version": 1,
        "connections": {
            "yotpo": {
                "system": "yotpo",
                "base_url": _store_url(),
                "credentials": {"secret": "${env:YOTPO_CLIENT_SECRET}"},
            },
            "warehouse": {
                "warehouse": "treasure_data",
                "base_url": server if "://" in server else f"https://{server}",
                "credentials": {"key": "${env:TD_API_KEY}"},
            },
        },
    }
    sources = {
        "loyalty_profiles": {"api": {"connection": "yotpo", "resource": "customers"}},
        "batch": {"json": {"path": str(folder / "batch.ndjson")}},
    }
    _write(folder / "directorsync.yml", config)
    for name, source in sources.items():
        profile = {"version": 1, "resource": "customers", "source": source}
        load = {"into": into, "mode": "append"}
        _write(folder / "profiles" / f"{name}.yml", {**profile, "load": load})
    return folder


def _write(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")  # JSON is YAML


def _call(
    method: str, url: str, headers: dict[str, str], body: dict[str, Any] | None = None
) -> tuple[int, Any]:
    """One call; its status, and its JSON (None where there is none)."""

    async def call() -> tuple[int, Any]:
        parts = urlsplit(url)
        origin = f"{parts.scheme}://{parts.netloc}"
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        async with Client(origin, read_s=REQUEST_TIMEOUT) as client:
            answer = await client.request(method, path, template="page", headers=headers, body=body)
            try:
                return answer.status, answer.json()
            except DsyncError:
                return answer.status, None

    return asyncio.run(call())


if __name__ == "__main__":
    main()
