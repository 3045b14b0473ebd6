"""Bulk import sessions of the Treasure Data emulator: parts, freeze, perform, commit.

    uploading -> (freeze) -> perform -> performing -> ready -> commit -> committing -> committed

Nothing reaches the table before the commit has ended, and then all of it does, once.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .clock import Clock
from .ledger import Call
from .messages import Answer, Request, json_answer
from .switches import Switches
from .treasure_data_jobs import Job, Jobs, Pace
from .treasure_data_tables import Part, Record, Table, read_part

__all__ = ["Refused", "Session", "Sessions"]


class Refused(Exception):
    """A call that is answered with an error."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(slots=True, kw_only=True, eq=False)
class Session:
    """One bulk import."""

    name: str
    table: Table
    created_s: float
    status: str = "uploading"
    frozen: bool = False
    parts: dict[str, Part] = field(default_factory=dict)
    job: Job | None = None
    counted: bool = False
    invalid: bool = False
    commits: Pace | None = None
    call: Call | None = None
    """The commit."""

    @property
    def lost(self) -> bool:
        """It has no table any more."""
        return self.invalid or self.table.gone

    def to_json(self) -> Record:
        parts = self.parts.values()
        broken = sum(bool(part.broken) for part in parts)
        counted = self.counted
        return {
            "name": self.name,
            "database": None if self.lost else self.table.database,
            "table": None if self.lost else self.table.name,
            "status": self.status,
            "upload_frozen": self.frozen,
            "job_id": self.job.id if self.job else None,
            "valid_records": sum(part.valid for part in parts) if counted else None,
            "error_records": sum(len(part.errors) for part in parts) if counted else None,
            "valid_parts": len(self.parts) - broken if counted else None,
            "error_parts": broken if counted else None,
        }


class Sessions:
    """All sessions of the account, by name."""

    def __init__(
        self, clock: Clock, switches: Switches, jobs: Jobs, file: Callable[[], Path]
    ) -> None:
        self._clock = clock
        self._switches = switches
        self._jobs = jobs
        self._file = file
        self._all: dict[str, Session] = {}

    # ---- what there is -------------------------------------------------------------------------

    def each(self) -> Iterator[Session]:
        """Those that are there now; what is due is done."""
        oldest = self._clock.wall_s() - self._switches.number("session_days") * 86_400
        for session in list(self._all.values()):
            self._settle(session, look=False)
            if session.status != "committed" and session.created_s < oldest:
                del self._all[session.name]
        yield from self._all.values()

    def to_json(self) -> Record:
        return {
            session.name: session.to_json()
            | {"parts": {name: part.to_json() for name, part in session.parts.items()}}
            for session in self.each()
        }

    def create(self, name: str, table: Table, call: Call) -> Answer:
        if len(name) < 3:
            raise Refused(422, "Name is too short (minimum is 3 characters)")
        there = {session.name for session in self.each()}
        if name in there:
            raise Refused(409, f"Bulk import session {name} already exists")
        if len(there) >= self._switches.count("max_sessions"):
            raise Refused(422, "There are too many bulk import sessions")
        self._all[name] = Session(name=name, table=table, created_s=self._clock.wall_s())
        _effect(call, "create", "bulk_import", name, name)
        return _done(name)

    def listed(self) -> Answer:
        return json_answer({"bulk_imports": [session.to_json() for session in self.each()]})

    def handle(self, action: str, name: str, part: str, request: Request, call: Call) -> Answer:
        """A call about one session. Raises: Refused."""
        session = next((one for one in self.each() if one.name == name), None)
        if session and call.has_fault("session_gone"):
            del self._all[name]
            session = None
        if session is None:
            raise Refused(404, f"Couldn't find bulk import session {name}")
        if call.has_fault("session_invalid"):
            session.invalid = True
        if session.lost and action not in ("show", "delete"):
            raise Refused(422, f"Bulk import session {name} is invalid")
        match action:
            case "show":
                self._settle(session, look=True)
                return json_answer(session.to_json())
            case "list_parts":
                return json_answer({"name": name, "bulk_import": name, "parts": [*session.parts]})
            case "upload_part":
                return self._upload(session, part, request, call)
            case "delete_part":
                return self._delete_part(session, part, call)
            case "freeze" | "unfreeze":
                return self._freeze(session, action == "freeze")
            case "perform":
                return self._perform(session, call)
            case "commit":
                return self._commit(session, call)
            case "error_records":
                return self._error_records(session)
            case "delete":
                return self._delete(session, call)
        raise Refused(404, f"there is no call bulk_import/{action}")

    # ---- parts ---------------------------------------------------------------------------------

    def _upload(self, session: Session, name: str, request: Request, call: Call) -> Answer:
        if not name or "/" in name or name.count(".") > 1:
            raise Refused(422, f"{name!r} is no name for a part")
        if session.status != "uploading" or session.frozen:
            raise Refused(422, f"Bulk import session {session.name} is frozen")
        if rule := call.has_fault("storage_full"):
            raise Refused(int(rule.number("status", 500)), "No space left on device")
        if rule := call.has_fault("part_refused"):
            raise Refused(int(rule.number("status", 422)), f"Part {name} was refused")
        most, body = self._switches.count("part_bytes"), request.body
        if most and len(body) > most:
            raise Refused(413, "Request Entity Too Large")
        if not body:
            raise Refused(422, f"Part {name} is empty")
        if call.has_fault("part_lost"):
            return _done(session.name)
        if call.has_fault("part_damaged"):
            body = body[: len(body) // 2]
        before = session.parts.get(name)
        session.parts[name] = read_part(body, self._file())
        if before:
            before.path.unlink(missing_ok=True)
        _effect(call, "update" if before else "create", "part", f"{session.name}/{name}", name)
        return _done(session.name)

    def _delete_part(self, session: Session, name: str, call: Call) -> Answer:
        if session.status != "uploading" or session.frozen:
            raise Refused(422, f"Bulk import session {session.name} is frozen")
        part = session.parts.pop(name, None)
        if part is None:
            raise Refused(404, f"Couldn't find part {name}")
        part.path.unlink(missing_ok=True)
        _effect(call, "delete", "part", f"{session.name}/{name}", name)
        return _done(session.name)

    def _freeze(self, session: Session, wanted: bool) -> Answer:
        if session.frozen == wanted:
            word = "frozen" if wanted else "unfrozen"
            raise Refused(409, f"Bulk import session {session.name} is already {word}")
        if session.status != "uploading":
            raise Refused(422, f"Bulk import session {session.name} is {session.status}")
        session.frozen = wanted
        return _done(session.name)

    # ---- perform -------------------------------------------------------------------------------

    def _perform(self, session: Session, call: Call) -> Answer:
        if session.status not in ("uploading", "ready") or not session.frozen:
            state = session.status if session.frozen else "not frozen"
            raise Refused(422, f"Bulk import session {session.name} is {state}")
        pace, outcome = self._pace("perform"), "success"
        failed = call.has_fault("perform_failed")
        if failed:
            outcome = "error"
        elif call.has_fault("perform_killed"):
            outcome = "killed"
        elif call.has_fault("perform_never"):
            pace.looks = None
        database = session.table.database
        job = self._jobs.add("bulk_import_perform", database, session.name, pace, outcome=outcome)
        job.error = str(failed.args.get("message", "Job failed")) if failed else ""
        session.job, session.status, session.counted = job, "performing", False
        self._spoil(session, call)

        def ended(status: str) -> None:
            good = status == "success"
            session.status, session.counted = ("ready", True) if good else ("uploading", False)

        job.ended = ended
        job.settle(self._clock, look=False)
        return json_answer(
            {"name": session.name, "bulk_import": session.name, "job_id": int(job.id)}
        )

    def _spoil(self, session: Session, call: Call) -> None:
        """What faults say is in error."""
        good = [part for part in session.parts.values() if not part.broken]
        if rule := call.has_fault("error_parts"):
            for part in good[: int(rule.number("count", 1))]:
                part.broken, part.records, part.errors = "fault: error_parts", 0, set()
        if rule := call.has_fault("error_records"):
            left = int(rule.number("count", 1))
            for part in good:
                more = [n for n in range(part.records) if n not in part.errors][:left]
                part.errors.update(more)
                part.digests.clear()
                left -= len(more)

    def _error_records(self, session: Session) -> Answer:
        if not session.counted:
            raise Refused(404, f"Bulk import session {session.name} was not performed")
        bad = [raw for part in session.parts.values() for _, raw, good in part.each() if not good]
        data = gzip.compress(b"".join(bad), mtime=0)
        return Answer(body=data, content_type="application/gzip")

    # ---- commit --------------------------------------------------------------------------------

    def _commit(self, session: Session, call: Call) -> Answer:
        if session.status != "ready":
            raise Refused(422, f"Bulk import session {session.name} is {session.status}")
        if rule := call.has_fault("commit_refused"):
            raise Refused(int(rule.number("status", 500)), "Internal Server Error")
        session.status, session.commits, session.call = "committing", self._pace("commit"), call
        if call.has_fault("commit_never"):
            session.commits.looks = None
        self._settle(session, look=False)
        return _done(session.name)

    def _settle(self, session: Session, *, look: bool) -> None:
        if session.job and session.status == "performing":
            session.job.settle(self._clock, look=look)
        if session.status != "committing" or session.commits is None or session.call is None:
            return
        if not session.commits.due(self._clock.monotonic_s(), look=look):
            return
        parts = [part for part in session.parts.values() if not part.broken]
        count = session.table.add(parts, self._clock.wall_s())
        session.status = "committed"
        table = f"{session.table.database}.{session.table.name}"
        session.call.effect("create", resource="rows", scope=table, id=session.name, key=str(count))

    def _delete(self, session: Session, call: Call) -> Answer:
        if session.status in ("performing", "committing") and not session.lost:
            raise Refused(422, f"Bulk import session {session.name} is {session.status}")
        del self._all[session.name]
        if session.status != "committed":
            for part in session.parts.values():
                part.path.unlink(missing_ok=True)
        _effect(call, "delete", "bulk_import", session.name, session.name)
        return _done(session.name)

    def _pace(self, what: str) -> Pace:
        looks = self._switches.get(f"{what}_polls")
        done_at_s = self._clock.monotonic_s() + self._switches.number(f"{what}_s")
        return Pace(looks=looks if isinstance(looks, int) else None, done_at_s=done_at_s)


def _done(name: str) -> Answer:
    return json_answer({"name": name, "bulk_import": name})


def _effect(call: Call, kind: str, resource: str, id_: str, key: str) -> None:
    call.effect(kind, resource=resource, scope="", id=id_, key=key)
