"""A load into the Treasure Data emulator, driven as `loading` drives a warehouse."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dsync.secrets import Secret
from dsync.warehouses import Load, Loaded, Part, Site, Type, Value
from dsync.warehouses.treasure_data import TreasureData, connect

COLUMNS: Mapping[str, Type] = {"json_response": "json", "time": "long"}
NOW = 1_700_000_000

Row = tuple[Value, ...]


def people(count: int, first: int = 0) -> list[Row]:
    """Rows of the two columns; each another person."""
    return [(f'{{"external_id":"cust-{n}"}}', NOW) for n in range(first, first + count)]


def site(folder: Path, url: str, *, key: str = "1/demo", **changes: Any) -> Site:
    """The emulator, seen from a run folder."""
    folder.mkdir(parents=True, exist_ok=True)
    known = {"connection": "warehouse", "credentials": {"key": Secret(key)}, "timeout_s": 2.0}
    return Site(folder=folder, base_url=url, **{**known, **changes})


def load(**changes: Any) -> Load:
    """An append to cdp.yotpo_customers by the run `night`."""
    known = {"run_id": "night", "database": "cdp", "table": "yotpo_customers", "mode": "append"}
    return Load(**{**known, "columns": COLUMNS, **changes})


def written(
    warehouse: TreasureData,
    folder: Path,
    parts: Sequence[Sequence[Row]],
    columns: Mapping[str, Type] = COLUMNS,
) -> list[Part]:
    """Parts on disk, named by what is in them."""
    made = []
    for number, rows in enumerate(parts, start=1):
        file = folder / f"{number}.{warehouse.suffix}"
        writer = warehouse.writer(file, columns)
        writer.add(rows)
        writer.close()
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        name = f"p{number:05}_{digest[:16]}"
        made.append(
            Part(number=number, name=name, file=file, rows=len(rows), sha256=digest,
                 bytes=file.stat().st_size)
        )  # fmt: skip
    return made


def loaded(where: Site, what: Load, parts: Sequence[Sequence[Row]], *, lives: int = 1) -> Loaded:
    """Run a load; each life but the last ends by the first error, as a process would."""

    async def one_life() -> Loaded:
        warehouse = connect(where)
        try:
            await warehouse.begin(what)
            made = written(warehouse, where.folder, parts, what.columns)
            for part in made:
                await warehouse.put(part)
            return await warehouse.finish(made)
        finally:
            await warehouse.close()

    for left in reversed(range(lives)):
        try:
            return asyncio.run(one_life())
        except Exception:
            if not left:
                raise
    raise AssertionError("unreachable")


def rows_of(api: Any, table: str = "yotpo_customers", database: str = "cdp") -> dict[str, Any]:
    """What the emulator says of a table."""
    found: dict[str, Any] = api.state()["databases"][database][table]
    return found
