"""The kernel's database: its settings, its memory, and what it may reach."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dsync.errors import Invalid

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """Limits of the kernel's database. `memory_limit` such as `512MB`; None for its default."""

    memory_limit: str | None = None
    threads: int | None = None


_THREAD_BYTES = 256 << 20
# Below this, threads cost more than they bring.
_SMALL_BYTES = 2 << 20


@contextlib.contextmanager
def opened(workdir: Path, engine: Engine, size: int) -> Iterator[duckdb.DuckDBPyConnection]:
    """One database for one decision about `size` bytes of inputs; it spills below `workdir`."""
    import duckdb

    settings: dict[str, str | bool | int | float | list[str]] = {
        "temp_directory": str(workdir / "spill"),
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        # A long IN list would become a join, and a join may change the order of rows.
        # Joins run as written: the right side is held in memory, the left one streams by.
        "disabled_optimizers": "in_clause,join_order,build_side_probe_side",
        "partitioned_write_flush_threshold": 32_768,
    }
    if engine.memory_limit:
        settings["memory_limit"] = engine.memory_limit
    if engine.threads:
        settings["threads"] = engine.threads
    try:
        # On disk when a limit is set: then even what a table holds can leave the memory.
        file = str(workdir / "kernel.duckdb") if engine.memory_limit else ":memory:"
        con = duckdb.connect(file, config=settings)
    except duckdb.Error as fault:
        raise Invalid(
            f"the engine does not take these settings: {fault}",
            code="DS-CFG-ENGINE",
            hint="memory_limit is a size such as 512MB, threads a number above 0",
        ) from None
    if is_small(engine, size):
        con.execute("SET threads = 1")
    elif engine.memory_limit and not engine.threads:
        # Each thread has reading and writing buffers of its own.
        fitting = max(1, round(_memory_bytes(con) / _THREAD_BYTES))
        con.execute(f"SET threads = {min(fitting, os.cpu_count() or 1)}")
    try:
        yield con
    except duckdb.OutOfMemoryException as fault:
        raise Invalid(
            f"the memory limit is too small: {str(fault).partition(chr(10))[0]}",
            code="DS-MEMORY",
            hint="raise engine.memory_limit (or --memory-limit)",
        ) from None
    finally:
        con.close()


def is_small(engine: Engine, size: int) -> bool:
    """True when one thread decides inputs of `size` bytes."""
    return not engine.threads and size < _SMALL_BYTES


def lock(con: duckdb.DuckDBPyConnection, workdir: Path, files: Sequence[Path]) -> None:
    """From here on the database can reach its inputs and its work directory, and nothing else."""
    from dsync.sql import literal

    allowed = [str(path) for file in files for path in (file, file.resolve())]
    con.execute(f"SET allowed_paths = {literal(allowed)}")
    con.execute(f"SET allowed_directories = {literal([f'{workdir}/'])}")
    con.execute("SET enable_external_access = false")
    con.execute("SET lock_configuration = true")


def bucket_count(con: duckdb.DuckDBPyConnection, files: Sequence[str | Path | None]) -> int:
    """Into how many buckets the work is cut: one for each time that the files fill the memory."""
    size = sum(Path(file).stat().st_size for file in files if file is not None)
    return size // _memory_bytes(con) + 1


def _memory_bytes(con: duckdb.DuckDBPyConnection) -> int:
    """The memory limit in force."""
    rows: list[tuple[str]] = con.execute("SELECT current_setting('memory_limit')").fetchall()
    number, _, unit = rows[0][0].partition(" ")
    return int(float(number) * 1024 ** _UNITS.index(unit))


_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")
