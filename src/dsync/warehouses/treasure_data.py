"""Treasure Data: parts into a bulk import session, committed once, or a new table swapped in.

    append                                 replace
    session of the table                   session of a new table beside it
      uploading ─ freeze ─ perform           the same
      ready     ─ counts agree ─ commit      commit, count the new table
      committed ─ delete the session         swap the two names, delete what is now the old table

All names come of the run and the table, so a run that goes on finds what it has left. Whatever is
in doubt is looked up before anything is done again. Three facts cannot be looked up, and are kept
in `treasure_data.json` of the run's folder: that a commit was asked for, what both tables looked
like before the swap, and that all is done.

Source: Treasure Data's API reference and its clients; last seen 2026-11-21, on the emulator only.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import structlog

from dsync.errors import (
    ContractBreach,
    Invalid,
    Refused,
    StorageFault,
    Unauthorized,
    Unavailable,
    Unsettled,
)
from dsync.storage import guarded, sync_folder
from dsync.warehouses import Load, Loaded, Part, Site, Type
from dsync.warehouses.treasure_data_calls import Calls, Declined
from dsync.warehouses.treasure_data_parts import MsgpackWriter, as_ndjson

_log = structlog.get_logger()

STATE_FILE = "treasure_data.json"
REJECTED_FILE = "rejected.ndjson"
REJECTED_BYTES = 64 << 20
NAME_LENGTH = 128
COLUMNS = 4096
STALE_S = 24 * 3600.0
"""An earlier load of this project that nobody has touched for so long loses its session."""
WAITS_S: Final = (0.1, 5.0)
"""Between two looks at work that goes on: the first wait, and the longest."""
WORK_S = 6 * 3600.0
"""The longest that one perform or commit may take; the run can be resumed after that."""
SWAPS = 4
"""So often a swap is asked for, each time under another name."""
COUNT_S = 60.0
"""The longest until a table's count shows what was committed."""
_TYPES: Mapping[Type, str] = {
    "string": "string", "long": "long", "double": "double", "boolean": "string", "json": "string",
}  # fmt: skip
_NAME = re.compile(r"[a-z0-9_]{3,128}")
_COLUMN = re.compile(r"[a-z_][a-z0-9_]*")


class _State(msgspec.Struct, kw_only=True):
    """What no look can tell, and what a look needs to know."""

    session: str
    database: str
    table: str
    mode: Literal["append", "replace"]
    run_id: str
    new_tables: list[str] = []
    """names that the new table has, or had before a swap was tried again"""
    before: int | None = None
    commit_asked: bool = False
    committed: bool = False
    swap: dict[str, dict[str, Any]] | None = None
    """`old` and `new` as they looked before the swap was asked for"""
    swapped: bool = False
    loaded: Loaded | None = None
    left: bool = False
    """all is done, but the session could not be deleted"""


class _Session(msgspec.Struct, kw_only=True):
    """What `bulk_import/show` tells."""

    name: str
    status: str
    database: str | None = None
    table: str | None = None
    upload_frozen: bool = False
    job_id: int | str | None = None
    valid_records: int | None = None
    error_records: int | None = None
    error_parts: int | None = None


def connect(site: Site) -> TreasureData:
    """The account at this site; nothing is asked of it yet. Raises: Invalid."""
    return TreasureData(site)


def session_name(run_id: str, table: str) -> str:
    """`dsync_<run>_<table>`: the idempotency key of a load."""
    return _fitted(f"dsync_{run_id}_{table}", r"[^A-Za-z0-9_-]", 200)


def new_table_name(table: str, run_id: str, attempt: int = 0) -> str:
    """`<table>_dsync_<run>`: where a replacing load collects its rows; at most 128 characters."""
    ending = f"_{attempt + 1}" if attempt else ""
    name = f"{table}_dsync_{run_id.lower()}"
    return _fitted(name, r"[^a-z0-9_]", NAME_LENGTH - len(ending)) + ending


def _fitted(name: str, illegal: str, most: int) -> str:
    """A name that is allowed; one that had to be changed keeps a digest of what it was."""
    plain = re.sub(illegal, "_", name)
    if plain == name and len(name) <= most:
        return name
    return f"{plain[: most - 9]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


class TreasureData:
    """A load into one table of an account."""

    suffix = "msgpack.gz"

    def __init__(self, site: Site) -> None:
        self._site = site
        self._calls = Calls(site)
        self._file = site.folder / STATE_FILE
        self._load: Load | None = None
        self._state = _read(self._file)
        self._mending = asyncio.Lock()  # parts come by several lanes, and mend a session once

    def __repr__(self) -> str:
        return f"TreasureData({self._calls.origin})"

    async def close(self) -> None:
        """Give up all connections."""
        await self._calls.close()

    def writer(self, file: Path, columns: Mapping[str, Type]) -> MsgpackWriter:
        """A writer of a new part file; a file that is there is written over."""
        return MsgpackWriter(file, columns)

    async def probe(self) -> str:
        """Raises: Unauthorized for a key that is not known here; Unavailable."""
        found = await self._calls.see("database/list")
        databases = (found or {}).get("databases")
        if not isinstance(databases, list):
            raise _breach("database/list gives no list")
        return f"{self._calls.origin} takes the key ({len(databases)} databases)"

    # ---- begin ---------------------------------------------------------------------------------

    async def begin(self, load: Load) -> None:
        """Check names, columns and rights, then make database, table and session.

        Raises: Invalid DS-TD-NAME, DS-TD-COLUMN; Refused DS-TD-WRITE-ONLY, DS-TD-SESSION;
        Unauthorized, Unavailable.
        """
        _check(load)
        self._load = load
        is_new = self._state is None
        state = self._state = self._state or _new_state(load)
        if (state.database, state.table, state.mode) != (load.database, load.table, load.mode):
            raise Invalid(
                f"this run has loaded {state.database}.{state.table} ({state.mode}) so far",
                code="DS-TD-SESSION",
                hint="a run keeps its target: resume it unchanged, or start another run",
            )
        if state.committed or state.loaded:
            return
        await self._ensure_database(load.database)
        target = await self._table(load.table)
        if load.mode == "append":
            if target is None:
                await self._create_table(load.table)
            else:
                self._check_columns(target)
        elif target is not None and target.get("permission") == "import_only":
            raise _write_only()
        if is_new:
            state.before = _count(target)
            await self._check_session()
            await self._save()
            await self._clean()
        if not state.commit_asked:
            await self._ensure_session()

    async def _check_session(self) -> None:
        """A new run finds no session of its name, or one that it may have made before it died."""
        session = await self._show()
        if session is not None and (session.status != "uploading" or session.upload_frozen):
            raise self._not_ours()

    def _not_ours(self) -> Refused:
        return Refused(
            f"there is a session {self._known().session} that this run has not made",
            code="DS-TD-SESSION",
            hint="give another --run-id, or delete the session if nobody needs it",
        )

    async def _ensure_database(self, name: str) -> None:
        async def done() -> bool:
            return await self._calls.see("database/show/{db}", db=name) is not None

        if await done():
            return
        try:
            await self._calls.make("database/create/{db}", done=done, db=name)
        except Unauthorized as fault:
            raise _absent(f"the database {name}", fault) from None

    async def _create_table(self, name: str) -> None:
        state = self._known()

        async def done() -> bool:
            return await self._table(name) is not None

        try:
            await self._calls.make(
                "table/create/{db}/{table}/log", done=done, db=state.database, table=name
            )
        except Unauthorized as fault:
            if state.mode == "replace" and fault.code == "DS-TD-FORBIDDEN":
                raise _write_only() from None
            raise _absent(f"the table {state.database}.{name}", fault) from None

    async def _ensure_session(self) -> None:
        """Our session, open for our table; what is there of an earlier life is taken over."""
        state = self._known()
        table = state.new_tables[-1] if state.mode == "replace" else state.table
        if await self._table(table) is None:
            await self._create_table(table)
        if state.mode == "replace":
            await self._ensure_columns(table)
        session = await self._show()
        if session is not None and session.table is None and session.status != "committed":
            await self._delete_session(state.session)  # it lost its table, and holds nothing
            session = None
        if session is None:

            async def done() -> bool:
                return await self._show() is not None

            await self._calls.make(
                "bulk_import/create/{session}/{db}/{table}",
                done=done,
                session=state.session,
                db=state.database,
                table=table,
            )
            session = await self._show()
        if session is None or (session.database, session.table) != (state.database, table):
            raise self._not_ours()

    # ---- columns -------------------------------------------------------------------------------

    def _check_columns(self, target: Mapping[str, Any]) -> None:
        """What does not fit an existing type would silently become null."""
        assert self._load is not None  # noqa: S101 - begin has set it
        there = _schema(target)
        for name, kind in self._load.columns.items():
            if name != "time" and there.get(name, _TYPES[kind]) != _TYPES[kind]:
                raise Invalid(
                    f"the column {name} of {self._load.database}.{self._load.table} has the type"
                    f" {there[name]}, and {_TYPES[kind]} would be loaded",
                    code="DS-TD-COLUMN",
                    hint="values that do not fit become null: give the column this type in"
                    " `load.columns`, load it under another name, or use mode: replace",
                )

    async def _ensure_columns(self, name: str) -> None:
        """Declare our columns: types are guessed from samples otherwise."""
        if self._load is None:
            return
        wanted = {c: _TYPES[kind] for c, kind in self._load.columns.items() if c != "time"}

        async def missing() -> list[tuple[str, str]]:
            there = _schema(await self._table(name) or {})
            return [(column, kind) for column, kind in wanted.items() if column not in there]

        async def done() -> bool:
            return not await missing()

        if columns := await missing():
            await self._calls.make(
                "table/append-schema/{db}/{table}",
                done=done,
                form={"schema": msgspec.json.encode(columns).decode()},
                db=self._load.database,
                table=name,
            )

    # ---- parts ---------------------------------------------------------------------------------

    async def put(self, part: Part) -> None:
        """Upload a part under its name.

        Raises: ContractBreach DS-TD-PART when it is refused; Unavailable, Unauthorized,
        StorageFault.
        """
        state = self._known()
        if state.commit_asked or state.committed:
            return  # it was listed before; what became of it tells `finish`
        content = await asyncio.to_thread(_content, part)
        for last in (False, True):
            try:
                await self._calls.send(
                    "bulk_import/upload_part/{session}/{part}",
                    content,
                    session=state.session,
                    part=part.name,
                )
                return
            except Declined as fault:
                if fault.status >= 500:
                    raise
                session = await self._show()
                if session is None or session.table is None:
                    if not last:
                        # Nothing was committed, so nothing can come twice: parts that went with
                        # the session are missed, and sent again, before the freeze.
                        _log.warning("the session is gone; making it anew", session=state.session)
                        async with self._mending:
                            await self._ensure_session()
                        continue
                elif (session.upload_frozen or session.status != "uploading") and part.name in (
                    await self._parts() or ()
                ):
                    return  # the same name is the same bytes
                raise ContractBreach(
                    f"the part {part.name} was refused: {fault.message}",
                    code="DS-TD-PART",
                    hint="for status 413 load with smaller parts; else see what it says, then"
                    " `dsync resume`",
                ) from None

    async def _parts(self) -> set[str] | None:
        """The names of the parts held; None when there is no session."""
        found = await self._calls.see(
            "bulk_import/list_parts/{session}", session=self._known().session
        )
        if found is None:
            return None
        names = found.get("parts")
        if not isinstance(names, list):
            raise _breach("bulk_import/list_parts has no list of `parts`")
        return {str(name) for name in names}

    # ---- finish --------------------------------------------------------------------------------

    async def finish(self, parts: Sequence[Part]) -> Loaded:
        """Freeze, perform, verify, commit; then swap. Looks where things are, and goes on there.

        Raises: ContractBreach DS-TD-COUNT, DS-TD-PARTS; Unavailable DS-TD-PERFORM, DS-TD-SLOW;
        Unsettled DS-TD-UNSETTLED when nobody can tell whether the rows are there.
        """
        state = self._known()
        if state.loaded is not None:
            return state.loaded
        rows = sum(part.rows for part in parts)
        if parts and not state.committed:
            refused = await self._commit(parts, rows)
            if refused is not None:
                return refused
        state.committed = True
        await self._save()
        if state.mode == "replace":
            await self._replace(rows)
        loaded = Loaded(rows=rows, before=state.before)
        state.left = not await self._went(state.session)
        state.loaded = loaded
        await self._save()
        return loaded

    async def _commit(self, parts: Sequence[Part], rows: int) -> Loaded | None:
        """Bring the session from wherever it is to committed; an answer means records in error."""
        state, patience = self._known(), _Patience(self._calls)
        performed = renewed = False
        while True:
            session = await self._show()
            if session is not None and session.status == "committed":
                if session.valid_records not in (None, rows):
                    raise self._unsettled(f"it was committed with {session.valid_records} records")
                return None
            if session is None or session.table is None:
                if state.commit_asked and await self._was_committed(rows):
                    return None
                if renewed:
                    raise Unavailable(
                        f"the session {state.session} got lost twice",
                        code="DS-TD-SESSION",
                        hint="somebody deletes it, or its table; `dsync resume` uploads again",
                    )
                renewed, performed = True, False
                state.commit_asked = False
                await self._save()
                _log.warning("the session is gone; loading again", session=state.session)
                await self._ensure_session()
                continue
            match session.status, session.upload_frozen:
                case "uploading", False:
                    await self._agree(parts)
                    await self._ensure_columns(session.table)
                    await self._act("freeze", lambda one: one.upload_frozen)
                case "uploading", True:
                    if performed:
                        await self._still_works(session)
                        await patience.wait("performing")
                        continue
                    if await self._parts() != {part.name for part in parts}:
                        raise self._other_parts()
                    await self._act("perform", lambda one: one.status != "uploading")
                    performed = True
                case "performing" | "committing" as status, _:
                    performed = performed or status == "performing"
                    await patience.wait(status)
                case "ready", _:
                    refused = await self._verify(session, rows)
                    if refused is not None:
                        return refused
                    if not state.commit_asked:
                        state.commit_asked = True
                        await self._save()
                    await self._act("commit", lambda one: one.status in _COMMITTED)
                case status, _:
                    raise _breach(f"the session {state.session} has the unknown status {status!r}")

    async def _agree(self, parts: Sequence[Part]) -> None:
        """The session holds exactly these parts; what got lost is sent once more."""
        wanted = {part.name: part for part in parts}
        for last in (False, True):
            held = await self._parts()
            if held is None:
                return  # the next look finds it gone
            if held - wanted.keys():
                raise self._other_parts()
            missing = [part for name, part in wanted.items() if name not in held]
            if not missing:
                return
            if last:
                break
            _log.warning("parts are missing; sending them again", parts=len(missing))
            for part in missing:
                await self.put(part)
        raise ContractBreach(
            f"{len(missing)} parts were accepted twice, and are not listed",
            code="DS-TD-PARTS",
            hint="nothing was committed; `dsync resume` tries again",
        )

    def _other_parts(self) -> ContractBreach:
        return ContractBreach(
            f"the session {self._known().session} holds other parts than this run has sent",
            code="DS-TD-PARTS",
            hint="another run uses its name: nothing was committed; load again under another"
            " --run-id",
        )

    async def _act(self, action: Literal["freeze", "perform", "commit"], is_done: Any) -> None:
        """A step of the session; whether it is done says the session itself."""

        async def done() -> bool:
            session = await self._show()
            return session is None or session.table is None or bool(is_done(session))

        await self._calls.make(
            f"bulk_import/{action}/{{session}}", done=done, session=self._known().session
        )

    async def _still_works(self, session: _Session) -> None:
        """After a perform, a session that is uploading waits for its job, or the job has failed."""
        job: Mapping[str, Any] = {}
        try:
            if session.job_id is not None:
                job = await self._calls.see("job/show/{job}", job=str(session.job_id)) or {}
        except (Unauthorized, Declined):
            job = {}  # this key may not look at jobs; that the session went back says enough
        status = str(job.get("status") or "error")
        if status in ("queued", "booting", "running", "success"):
            return
        debug = job.get("debug")
        said = str(debug.get("stderr") or "") if isinstance(debug, dict) else ""
        raise Unavailable(
            f"the job {session.job_id} of the session {session.name} ended in {status}"
            + (f": {said[:300]}" if said else ""),
            code="DS-TD-PERFORM",
            hint="nothing was committed and the parts are kept: `dsync resume` performs again",
        )

    async def _verify(self, session: _Session, rows: int) -> Loaded | None:
        """Nothing is committed unless each row is valid. Raises: ContractBreach DS-TD-COUNT."""
        bad, valid = session.error_records or 0, session.valid_records
        if bad:
            packed = await self._calls.fetch(
                "bulk_import/error_records/{session}",
                max_bytes=REJECTED_BYTES,
                session=session.name,
            )
            file = self._site.folder / REJECTED_FILE
            kept = await asyncio.to_thread(_keep, file, packed)
            return Loaded(
                rows=0,
                rejected=bad,
                before=self._known().before,
                note=f"nothing was committed; {kept} records in error are in {file.name}, and a"
                f" later load deletes the session {session.name}",
            )
        if valid != rows or session.error_parts:
            raise ContractBreach(
                f"{rows} rows were sent, and {valid} are valid"
                f" ({session.error_parts or 0} parts cannot be read)",
                code="DS-TD-COUNT",
                hint="nothing was committed; load again, as another run",
            )
        return None

    async def _was_committed(self, rows: int) -> bool:
        """Whether a commit took place whose session is gone, by counting.

        Raises: Unsettled DS-TD-UNSETTLED.
        """
        state = self._known()
        if state.mode == "replace":
            if state.swap is not None:
                return True
            count = _count(await self._table(await self._new_table() or state.new_tables[-1])) or 0
            if count in (0, rows):
                return count == rows
            raise self._unsettled(f"the new table has {count} of {rows} rows")
        count = _count(await self._table(state.table)) or 0
        if count == (state.before or 0) + rows:
            _log.warning("the session is gone; the count shows that its rows came", rows=rows)
            return True
        raise self._unsettled(f"the table had {state.before} rows, now it has {count}")

    def _unsettled(self, what: str) -> Unsettled:
        state = self._known()
        return Unsettled(
            f"a commit of {state.session} was asked for, and nobody knows whether it took"
            f" place: {what}",
            code="DS-TD-UNSETTLED",
            hint=f"count the rows of this run in {state.database}.{state.table}; load again, as"
            " another run, only if they are not there",
        )

    # ---- replace -------------------------------------------------------------------------------

    async def _replace(self, rows: int) -> None:
        """Count the new table, put it into the old one's place at once, delete the old one.

        A swap done twice is undone. So before it is asked again the new table gets another name:
        a call that is only late then finds nothing to swap.
        """
        state = self._known()
        attempt = 1
        while not state.swapped and not (state.swap is not None and await self._has_moved()):
            if state.swap is None:
                await self._verify_new(rows)
            elif await self._renamed_away():
                break
            try:
                await self._swap()
                break
            except Unavailable as fault:
                final = isinstance(fault, Declined) and fault.status not in (
                    404,
                    409,
                    500,
                    502,
                    503,
                )
                if final or attempt > SWAPS:
                    raise
                attempt += 1
                await self._calls.wait(WAITS_S[0] * attempt)
        state.swapped = True
        await self._save()
        for name in state.new_tables:
            await self._delete_table(name)

    async def _verify_new(self, rows: int) -> None:
        state = self._known()
        name = await self._new_table() or state.new_tables[-1]
        patience = _Patience(self._calls)
        began = time.monotonic()
        while (count := _count(await self._table(name))) != rows:
            if time.monotonic() - began > COUNT_S:
                raise ContractBreach(
                    f"{rows} rows were committed, and the new table {name} counts {count}",
                    code="DS-TD-COUNT",
                    hint="readers see the old table; `dsync resume` counts again",
                )
            await patience.wait("committed")
        old = await self._table(state.table)
        days = (old or {}).get("expire_days")
        if days:
            await self._calls.make(
                "table/update/{db}/{table}",
                done=_never,
                form={"expire_days": str(days)},
                db=state.database,
                table=name,
            )

    async def _swap(self) -> None:
        """Ask once for the swap, or for the name when there is no old table.

        Raises: Unavailable when it is refused, or when no look finds that it took place.
        """
        state = self._known()
        name = await self._new_table() or state.new_tables[-1]
        new, old = await self._table(name), await self._table(state.table)
        state.swap = {"new": _look(new), "old": _look(old)}
        if state.swap["new"] == state.swap["old"]:
            raise ContractBreach(
                "the old and the new table cannot be told apart, so no look could tell a swap",
                code="DS-TD-CONTRACT",
                hint="Treasure Data gives neither ids nor other marks of its tables; load into"
                " another table",
            )
        await self._save()
        await self._calls.make(
            f"table/{'swap' if old else 'rename'}/{{db}}/{{new}}/{{table}}",
            done=self._has_moved,
            once=True,
            db=state.database,
            new=name,
            table=state.table,
        )

    async def _has_moved(self) -> bool:
        """Whether the target is what the new table was: any mark that tells them apart says so."""
        state = self._known()
        assert state.swap is not None  # noqa: S101 - it was saved before the call
        old, new = state.swap["old"], state.swap["new"]
        now = await self._table(state.table)
        if now is None:
            return False
        if not old:
            return await self._new_table() is None
        seen = _look(now)
        return any(seen.get(k) == new[k] for k in new if new[k] != old.get(k))

    async def _renamed_away(self) -> bool:
        """Give the new table a name that no late call knows; True when the swap came before."""
        state = self._known()
        name = await self._new_table()
        if name is None:
            raise Unsettled(
                f"the new table of {state.database}.{state.table} is gone, and was not swapped in",
                code="DS-TD-UNSETTLED",
                hint="somebody deleted it; readers see the old table: load again, as another run",
            )
        other = new_table_name(state.table, state.run_id, len(state.new_tables))
        state.new_tables.append(other)
        await self._save()

        async def done() -> bool:
            return await self._table(other) is not None and await self._table(name) is None

        await self._calls.make(
            "table/rename/{db}/{first}/{second}",
            done=done,
            db=state.database,
            first=name,
            second=other,
        )
        return await self._has_moved()

    async def _new_table(self) -> str | None:
        """The name that the new table has now."""
        for name in reversed(self._known().new_tables):
            if await self._table(name) is not None:
                return name
        return None

    async def _delete_table(self, name: str) -> None:
        database = self._known().database

        async def done() -> bool:
            return await self._table(name) is None

        if not await done():
            await self._calls.make("table/delete/{db}/{table}", done=done, db=database, table=name)

    # ---- what is over --------------------------------------------------------------------------

    async def abandon(self, load: Load) -> bool:
        """Delete the session, and the new table; not what may be visible already."""
        state = self._state
        if state is None:
            return True
        if state.loaded or state.swap is not None or (load.mode == "append" and state.commit_asked):
            return False
        await self._delete_session(state.session)
        for name in state.new_tables:
            await self._delete_table(name)
        await asyncio.to_thread(_forget, self._file)
        self._state = None
        return True

    async def _clean(self) -> None:
        """Delete sessions that earlier loads of this project have left in this table."""
        ours = self._known()
        for file, state in await asyncio.to_thread(_earlier, self._site.folder):
            same = (state.database, state.table) == (ours.database, ours.table)
            open_ = state.loaded is None and not state.commit_asked
            if not same or state.session == ours.session or not (open_ or state.left):
                continue
            if await self._went(state.session, *(state.new_tables if open_ else ())) and state.left:
                state.left = False
                await asyncio.to_thread(_write, file, msgspec.json.encode(state))

    async def _delete_session(self, name: str) -> None:
        async def done() -> bool:
            return await self._calls.see("bulk_import/show/{session}", session=name) is None

        if not await done():
            await self._calls.make("bulk_import/delete/{session}", done=done, session=name)

    async def _went(self, session: str, *tables: str) -> bool:
        """Delete what nobody needs; where that fails no load does: the next one tries again."""
        try:
            await self._delete_session(session)
            for name in tables:
                await self._delete_table(name)
        except (Unavailable, Unauthorized) as fault:
            _log.warning("a session stays that nobody needs", session=session, why=fault.code)
            return False
        return True

    # ---- looks ---------------------------------------------------------------------------------

    async def _show(self) -> _Session | None:
        found = await self._calls.see("bulk_import/show/{session}", session=self._known().session)
        if found is None:
            return None
        try:
            return msgspec.convert(found, _Session)
        except msgspec.ValidationError as error:
            raise _breach(f"bulk_import/show: {error}") from None

    async def _table(self, name: str) -> dict[str, Any] | None:
        return await self._calls.see(
            "table/show/{db}/{table}", db=self._known().database, table=name
        )

    def _known(self) -> _State:
        if self._state is None:
            raise StorageFault(
                f"{STATE_FILE} is missing, so nobody knows how far this load came",
                code="DS-TD-STATE",
                where=str(self._file),
                hint="start another run",
            )
        return self._state

    async def _save(self) -> None:
        await asyncio.to_thread(_write, self._file, msgspec.json.encode(self._known()))


_COMMITTED = ("committing", "committed")


class _Patience:
    """Waits between looks, longer and longer, but not for ever."""

    def __init__(self, calls: Calls) -> None:
        self._calls, self._what, self._next_s, self._began = calls, "", WAITS_S[0], 0.0

    async def wait(self, what: str) -> None:
        """Raises: Unavailable DS-TD-SLOW when `what` has gone on for too long."""
        now = time.monotonic()
        if what != self._what:
            self._what, self._next_s, self._began = what, WAITS_S[0], now
        if now - self._began > WORK_S:
            raise Unavailable(
                f"Treasure Data has been {what} for {(now - self._began) / 3600:.1f} hours",
                code="DS-TD-SLOW",
                hint="`dsync resume` looks again",
            )
        await self._calls.wait(self._next_s)
        self._next_s = min(1.5 * self._next_s, WAITS_S[1])


# ---- names and columns -------------------------------------------------------------------------


def _check(load: Load) -> None:
    for what, name in (("database", load.database), ("table", load.table)):
        if not _NAME.fullmatch(name):
            raise Invalid(
                f"Treasure Data allows no {what} of the name {name!r}",
                code="DS-TD-NAME",
                hint="3 to 128 characters of a-z, 0-9 and _",
            )
    if load.columns.get("time") != "long":
        raise Invalid(
            "the load has no column `time` of the type long, and each record needs one",
            code="DS-TD-COLUMN",
            hint="add `time: {now: true}` to load.columns",
        )
    if len(load.columns) > COLUMNS:
        raise Invalid(
            f"{len(load.columns)} columns, and a table has {COLUMNS} at most",
            code="DS-TD-COLUMN",
            hint="load the record as one column of JSON",
        )
    for name in load.columns:
        if name == "v" or not _COLUMN.fullmatch(name):
            raise Invalid(
                f"Treasure Data allows no column of the name {name!r}",
                code="DS-TD-COLUMN",
                hint="a-z, 0-9 and _, the first no digit; `v` is reserved",
            )


def _new_state(load: Load) -> _State:
    state = _State(
        session=session_name(load.run_id, load.table),
        database=load.database,
        table=load.table,
        mode=load.mode,
        run_id=load.run_id,
    )
    if load.mode == "replace":
        state.new_tables = [new_table_name(load.table, load.run_id)]
    return state


def _schema(table: Mapping[str, Any]) -> dict[str, str]:
    """Columns and types; the API gives them as a text of JSON, or not at all."""
    found = table.get("schema")
    if isinstance(found, str):
        try:
            found = msgspec.json.decode(found or "[]")
        except msgspec.DecodeError:
            raise _breach("a table's schema is no JSON") from None
    pairs = [c for c in found or [] if isinstance(c, list) and len(c) >= 2]
    return {str(c[0]): str(c[1]) for c in pairs}


def _count(table: Mapping[str, Any] | None) -> int | None:
    found = (table or {}).get("count")
    return found if isinstance(found, int) else None


def _look(table: Mapping[str, Any] | None) -> dict[str, Any]:
    """The marks of a table that move with it when it gets another name."""
    return {k: table.get(k) for k in ("id", "created_at", "count", "schema")} if table else {}


# ---- files -------------------------------------------------------------------------------------


def _content(part: Part) -> bytes:
    with guarded(part.file):
        content = part.file.read_bytes()
    if hashlib.sha256(content).hexdigest() != part.sha256:
        raise StorageFault(
            f"the part {part.name} is not what was written",
            code="DS-STORE-DAMAGED",
            where=str(part.file),
            hint="the disk lost something; load again, as another run",
        )
    return content


def _keep(file: Path, packed: bytes) -> int:
    """Write records in error to a file, for people; how many."""
    try:
        lines, number = as_ndjson(packed)
    except ValueError:
        file = file.with_suffix(".msgpack.gz")
        lines, number = packed, 0
    with guarded(file):
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as out:
            out.write(lines)
    return number


def _read(file: Path) -> _State | None:
    with guarded(file):
        if not file.is_file():
            return None
        content = file.read_bytes()
    try:
        return msgspec.json.decode(content, type=_State)
    except msgspec.DecodeError as error:
        raise StorageFault(
            f"the state of the load cannot be read: {error}",
            code="DS-TD-STATE",
            where=str(file),
            hint="start another run",
        ) from None


def _write(file: Path, content: bytes) -> None:
    """Durable on return; a power cut leaves the old or the new."""
    new = file.with_suffix(".new")
    with guarded(file):
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        os.replace(new, file)
        sync_folder(file.parent)


def _forget(file: Path) -> None:
    with guarded(file):
        file.unlink(missing_ok=True)


def _earlier(folder: Path) -> list[tuple[Path, _State]]:
    """What other runs beside ours know: of loads untouched for a day, and of sessions left."""
    found = []
    for file in folder.parent.glob(f"*/{STATE_FILE}"):
        try:
            state = msgspec.json.decode(file.read_bytes(), type=_State)
            if file.parent != folder and (
                state.left or time.time() - file.stat().st_mtime > STALE_S
            ):
                found.append((file, state))
        except (OSError, msgspec.DecodeError):
            continue
    return found


# ---- words -------------------------------------------------------------------------------------


async def _never() -> bool:
    return False


def _breach(message: str) -> ContractBreach:
    return ContractBreach(
        message, code="DS-TD-CONTRACT", hint="check the base URL; see what the API answers"
    )


def _write_only() -> Refused:
    return Refused(
        "this key is write-only, and a table is replaced by deleting the old one",
        code="DS-TD-WRITE-ONLY",
        hint="use mode: append, or a key with full access; nothing was read or changed",
    )


def _absent(what: str, fault: Unauthorized) -> Unauthorized:
    if fault.code != "DS-TD-FORBIDDEN":
        return fault
    return Unauthorized(
        f"{what} does not exist, and this key may not create it",
        code="DS-TD-FORBIDDEN",
        hint="create it, or use a key with full access",
    )
