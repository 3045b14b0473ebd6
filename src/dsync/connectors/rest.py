"""REST as a system file declares it: list, create, update, delete, and follow jobs.

    Rest.fetch      one page after the other, the next under way while this one is used
    Rest.send       one change; the table in `_judge` says what each answer means for a write
    Rest.follow     a job to its verdict, also one that an earlier process has started

A read is asked again when that may help. A write is sent again only where it surely had no effect,
or where the system file says that it may be (`retry`).
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections import Counter
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Mapping,
    Sequence,
)
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Literal, Self, TypeVar
from urllib.parse import unquote

import msgspec
import structlog

from dsync.auth import Auth
from dsync.calls import ERROR_CHARS, About, Purpose, Record, Tries
from dsync.calls import Call as Made
from dsync.connectors import CallLog, Page, Position
from dsync.errors import ContractBreach, DsyncError, Invalid, Unauthorized, Unavailable
from dsync.http import (
    BODY_BYTES,
    LIST_BYTES,
    Answer,
    Client,
    NotSent,
    Unclear,
    Untrusted,
    excerpt,
    render_path,
)
from dsync.listing import Batch, Shape, Step, Walk, search
from dsync.model import Change, Outcome, OutcomeState, Scope
from dsync.pace import Pace
from dsync.quota import Kind, boot_clock
from dsync.system import EmptyIf, Listed, Request, Resource, System, Within, Write

_log = structlog.get_logger()

T = TypeVar("T")

THROTTLED_TRIES = 10
"""A throttled call surely had no effect, so it may go again, but not for ever."""
LOCKED_TRIES = 5

BAD_BODY_TRIES = 2
FORBIDDEN_IN_A_ROW = 3
METHODS = {"create": "POST", "update": "PUT", "delete": "DELETE"}
_PROBE = About(action="probe")


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What a probe saw: which call, its status, how long it took."""

    what: str
    status: int
    elapsed_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """One call, ready to be sent any number of times."""

    method: str
    path: str
    template: str
    kind: Kind = "read"
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = field(default=None, repr=False)
    form: Mapping[str, str] | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    max_bytes: int = BODY_BYTES
    proved: bool = True
    """False for a login, which carries no proof of who we are."""
    counted: bool = True
    """False for a poll, whose repetitions do not count as retries."""
    about: About = _PROBE
    """what it is for, for the list of calls"""
    tries: Tries = field(default_factory=Tries, repr=False)
    log: CallLog | None = field(default=None, repr=False)
    """who is told of each attempt, for a write"""
    key_header: str | None = None
    """the header of the idempotency key"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verdict:
    """How a job ended. `answer` is the last one seen."""

    state: Literal["success", "failure", "unknown", "pending"]
    message: str = ""
    code: str = ""
    answer: Answer | None = None
    document: Any = None


class _NoProof(Unavailable):
    """We could not say who we are, so the call was not made (or was refused for it: 401)."""


class Rest:
    """A connector of one system at one base URL.

    `credentials`: name to text, or to a value with `reveal()`. `timeout_s` is the time between two
    pieces of an answer; a whole call gets twice that. `retries` is for reads, and for writes that
    did not leave. `rate`, `burst` and `concurrency` override the system file's limits. `redact`
    is applied to every text of the API before it goes into a message. `shared` is a file by which
    processes share the API's limits. `patient`: wait for an API that fails to recover.
    `record` hears of every call that has ended.
    `list_once`: resources that are listed by the same call share its answers, as a plan wants it.

    Raises: Invalid when base URL, credentials, headers or limits are not good.
    """

    def __init__(
        self,
        system: System,
        *,
        base_url: str,
        credentials: Mapping[str, object],
        verify_tls: bool = True,
        ca_file: str | None = None,
        timeout_s: float = 30.0,
        retries: int = 3,
        rate: str | None = None,
        burst: int | None = None,
        concurrency: int | None = None,
        headers: Mapping[str, str] | None = None,
        redact: Callable[[str], str] | None = None,
        shared: Path | None = None,
        patient: bool = True,
        list_once: bool = False,
        record: Record | None = None,
        clock: Callable[[], float] = boot_clock,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._system, self._retries, self._redact, self._clock = system, retries, redact, clock
        self._record = record
        self._pace = Pace(
            system.limits,
            rate=rate,
            burst=burst,
            concurrency=concurrency,
            shared=shared,
            patient=patient,
            call_s=2 * timeout_s,
            clock=clock,
            sleep=sleep,
        )
        self._client = Client(
            base_url,
            verify_tls=verify_tls,
            ca_file=ca_file,
            headers={**system.headers, **(headers or {})},
            connections=concurrency or system.limits.concurrency,
            read_s=timeout_s,
        )
        self._auth = Auth(system.auth, credentials, self._log_in, clock=clock, place=base_url)
        self._once_only = _alike(system) if list_once else frozenset()
        self._answers: dict[tuple[str, ...], Answer] = {}
        self._asking: dict[tuple[str, ...], asyncio.Lock] = {}
        self._forbidden = 0
        self._let_in = False

    def __repr__(self) -> str:
        return f"Rest({self._system.system} at {self._client!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Give up all connections."""
        self._pace.close()
        await self._client.close()

    # ---- reading ---------------------------------------------------------------------------

    async def fetch(
        self,
        resource: str,
        scope: Scope,
        *,
        at: Position | None = None,
        met: Sequence[str] = (),
        query: Mapping[str, str] | None = None,
        halves: bool = False,
    ) -> AsyncGenerator[Page]:
        """All records of `resource` in this scope, page by page; see `connectors.Connector`.

        `at` is where an earlier process stopped (the last page's `after`), `met` the marks of all
        its pages; then only what follows is listed. `query` are further parameters of the listing;
        where a cursor or link leads on, it remembers them. `halves`: texts may hold half a
        character, for a reader that passes records on as they are.

        Raises: Invalid DS-CANNOT where the system file declares no `list`; Unavailable;
        ContractBreach (DS-PAGE-* where the listing is not proved complete); Unauthorized.
        """
        declared = self._resource(resource)
        if declared.list is None:
            raise Invalid(
                f"{self._system.system} does not say how {resource} are listed",
                code="DS-CANNOT",
                hint="declare `list` for this resource in the system file",
            )
        joined = _Joined(declared.id) if declared.list.also else None
        for number, how in enumerate(declared.list.calls):
            if at is not None and number < at.call:
                continue
            begin = at if at is not None and number == at.call else None
            course = _Course(
                call=number, at=begin, met=met if begin else (), query=query, halves=halves
            )
            one = self._listed(resource, how, declared, scope, course=course)
            if how.within is not None:
                one = self._within(resource, how, declared, scope, how.within)
                course = _Course()
            async with aclosing(one) as batches:
                async for batch in batches:
                    page = _page(batch if joined is None else joined.fresh(batch))
                    after, marks = course.taken()
                    if course.ended:
                        after = Position(call=number + 1)
                    yield replace(page, after=after, marks=marks)

    async def _within(
        self, resource: str, how: Listed, declared: Resource, scope: Scope, within: Within
    ) -> AsyncGenerator[Batch]:
        """What is listed below each record of another resource, one after the other."""
        async with aclosing(self.fetch(within.resource, scope)) as pages:
            # All of them first: no page of the outer listing waits while inner ones are read.
            lines = [line async for page in pages for line in page.ndjson.splitlines()]
        for line in lines:
            outer = msgspec.json.decode(line)
            if not all(_is_among(search(path, outer), of) for path, of in within.where.items()):
                continue
            values = {name: search(path, outer) for name, path in within.with_.items()}
            async with aclosing(self._listed(resource, how, declared, scope, values)) as batches:
                async for batch in batches:
                    yield batch

    async def _listed(
        self,
        resource: str,
        how: Listed,
        declared: Resource,
        scope: Scope,
        beside: Mapping[str, Any] | None = None,
        *,
        course: _Course | None = None,
    ) -> AsyncGenerator[Batch]:
        """What one call lists, page by page; `beside` are fields of the record it is below.

        `course` says where to begin, and is told of each page where it goes on.
        """
        shared = _call_of(how) in self._once_only
        call = self._list_call(resource, how, scope, beside)
        if how.job:
            answer = await self._list_by_job(call, scope, shared=shared)
            shape = Shape(
                records=how.job_records, identity=declared.id, each=how.each, beside=beside
            )
            yield shape.read(answer)
            return
        paging = how.paging or self._system.paging
        course = course or _Course()
        shape = Shape(
            records=how.records, identity=declared.id, paging=paging, each=how.each, beside=beside,
            halves=course.halves,
        )  # fmt: skip
        walk = Walk(paging, f"{self._system.system} {resource} {scope.name}".rstrip())
        first = course.begin(walk) or walk.first()
        following: asyncio.Task[tuple[Batch, Answer] | None] | None = None
        try:
            if paging.kind in ("cursor", "link"):
                if course.at is None:
                    first = replace(first, query={**first.query, **course.query})
            else:
                call = replace(call, query={**call.query, **course.query})
            ask = partial(
                self._page, call, shape=shape, scope=scope, shared=shared, empty_if=how.empty_if
            )
            got = await ask(first, None)
            while got is not None:
                batch, answer = got
                step = walk.next(batch, answer)
                course.passed(walk, step)
                if step is not None:
                    # The next page travels while the caller works on this one.
                    following = asyncio.create_task(ask(step, answer))
                    await asyncio.sleep(0)
                if batch.count:
                    yield batch
                if following is None:
                    return
                got, following = await following, None
            walk.end()
        finally:
            if following is not None:
                following.cancel()
                with suppress(asyncio.CancelledError, DsyncError):
                    await following

    async def refresh(self, resource: str, scope: Scope) -> None:
        """Ask the API to renew its cache of `resource`, where its system file says how.

        Raises: Unavailable, also when the refresh fails; Unauthorized.
        """
        request = self._resource(resource).refresh
        if request is None:
            return
        about = About(action="refresh", scope=scope.name, resource=resource)
        call = replace(self._request_call(request, scope), about=about)
        async with self._pace.lane(scope.name):
            job = await self._ask(call, lambda answer: self._job_in(answer, scope))
            if job is None:
                return
            verdict = await self._poll(job, scope, replace(about, action="job"))
        if verdict.state != "success":
            raise Unavailable(
                f"{call.template}: the refresh did not succeed: {verdict.message}",
                code=verdict.code,
                hint="try again; without it, listings may be old",
            )

    async def probe(self) -> Probe:
        """Show that we are let in: the system's `probe`, or else just a login.

        Raises: Unavailable, Unauthorized.
        """
        if self._system.probe is None:
            began = self._clock()
            await self._auth.headers()
            return Probe(what="login", status=200, elapsed_s=self._clock() - began)
        path = self._system.probe
        call = _Call(method="GET", path=render_path(path, {}).lstrip("/"), template=path)
        answer = await self._ask(call, self._probed)
        return Probe(what=answer.what, status=answer.status, elapsed_s=answer.elapsed_s)

    def _probed(self, answer: Answer) -> Answer:
        answer.json()
        if answer.status == 206:
            raise self._read_fault(answer)
        return answer

    # ---- writing ---------------------------------------------------------------------------

    async def send(self, change: Change, scope: Scope, *, log: CallLog) -> Outcome:
        """Make one change and follow it to its verdict; see `connectors.Connector`.

        Raises: Unauthorized, Unavailable DS-PACE-WAIT and DS-TLS; Halted and StorageFault of `log`.
        """
        resource = self._resource(change.resource)
        write = _write_of(resource, change.action)
        if write is None:
            return Outcome(
                state="rejected",
                code="DS-CANNOT",
                message=f"{change.resource}: the system file declares no {change.action}",
            )
        try:
            call = self._write_call(write, resource, change, scope)
        except Invalid as fault:
            return Outcome(state="rejected", code=fault.code, message=fault.message)
        call = replace(call, log=log, about=_about(change, change.action))
        async with self._pace.lane(scope.name):
            answer = await self._tell(call, write, change, log)
            if isinstance(answer, Outcome):
                return answer
            return await self._read_verdict(answer, write, change, scope, log)

    async def follow(self, job: str, scope: Scope) -> Outcome:
        """Follow a job, as `send` told its place, to its verdict; never sends a write."""
        try:
            path = self._job_path(job, scope)
        except ContractBreach as breach:
            return Outcome(state="unknown", code=breach.code, message=breach.message, job=job)
        async with self._pace.lane(scope.name):
            about = About(action="job", scope=scope.name)
            return self._outcome(await self._poll(path, scope, about), path, None, None)

    # ---- calls -----------------------------------------------------------------------------

    async def _once(self, call: _Call) -> Answer:
        """One paced call; after a 401 (`auth.refused`), once more with a new token, or one that was
        good so far."""
        for last in (False, True):
            proof, generation = await self._proof(call)
            asked = time.monotonic()
            async with self._pace.slot(call.kind):
                own = await self._announced(call)
                waited_s = time.monotonic() - asked
                answer = await self._exchange(call, {**call.headers, **proof, **own}, waited_s)
            refused = answer.status in self._system.auth.refused
            if not refused or not call.proved or last:
                self._let_in = self._let_in or (call.proved and answer.status < 400)
                break
            # Such a refusal proves that nothing was done, so even a write may go again.
            call.tries.again(f"status {answer.status}")
            if not await self._renewed(generation) and not self._let_in:
                break
            if call.log is not None:
                outcome = Outcome(state="not_sent", status=answer.status, code="DS-AUTH-REFUSED")
                await call.log.again(outcome, f"refused at the door ({answer.status})")
        if answer.status == 401 and call.proved:
            raise _unauthorized(answer)
        return answer

    async def _exchange(self, call: _Call, headers: Mapping[str, str], waited_s: float) -> Answer:
        """The bytes of one call, and what they tell of the API's health and limits."""
        began, at = time.monotonic(), time.time()
        call.tries.attempt += 1
        try:
            answer = await self._client.request(
                call.method,
                call.path,
                template=call.template,
                query=call.query,
                body=call.body,
                form=call.form,
                headers=headers,
                max_bytes=call.max_bytes,
                on_send=partial(self._leaving, call),
            )
        except (NotSent, Unclear) as fault:
            self._made(call, at, time.monotonic() - began, waited_s, fault)
            self._pace.failed()
            raise
        except asyncio.CancelledError:
            self._made(call, at, time.monotonic() - began, waited_s, None)
            raise
        self._made(call, at, answer.elapsed_s, waited_s, answer)
        self._pace.heard(answer.headers, answer.sent_at)
        if answer.status >= 500 and answer.status not in _NOT_ILL and not _is_throttling(answer):
            self._pace.failed()
        else:
            self._pace.worked()
        return answer

    def _made(
        self,
        call: _Call,
        at: float,
        took_s: float,
        waited_s: float,
        end: Answer | Unavailable | None,
    ) -> None:
        """Tell the list of calls that this one has ended."""
        if self._record is None:
            return
        about, tries = call.about, call.tries
        status, error_type, error = None, "", ""
        if isinstance(end, Answer):
            status = end.status
            if status >= 300:
                error_type = f"status {status}"
                error = self._masked(end)
        elif end is not None:
            error_type, error = end.code, end.message
        else:
            error_type, error = "cancelled", "ended before the answer came"
        self._record(
            Made(
                at=round(at, 4), action=about.action, method=call.method, path=call.template,
                profile=about.profile, scope=about.scope, resource=about.resource, key=about.key,
                status=status, ms=round(1000 * took_s, 2), wait_ms=round(1000 * waited_s, 2),
                attempt=tries.attempt, reason=tries.reason, delay_ms=round(1000 * tries.delay_s, 2),
                error_type=error_type, sent=not isinstance(end, NotSent),
                error=error and excerpt(error, limit=ERROR_CHARS, redact=self._redact),
            )
        )  # fmt: skip
        tries.again("")

    def _masked(self, answer: Answer) -> str:
        """The body of an answer; in JSON each text is masked as it was before escapes."""
        body = answer.body[: 1 << 16]
        try:
            document = msgspec.json.decode(body)
        except (msgspec.DecodeError, ValueError, RecursionError):
            return body.decode("utf-8", "replace")
        redact = self._redact or str

        def masked(value: Any) -> Any:
            match value:
                case str():
                    return redact(value)
                case list():
                    return [masked(item) for item in value]
                case dict():
                    return {redact(key): masked(item) for key, item in value.items()}
                case _:
                    return value

        return msgspec.json.encode(masked(document)).decode()

    def _leaving(self, call: _Call) -> None:
        if call.log is not None:
            call.log.sent()
        self._pace.left()

    async def _announced(self, call: _Call) -> dict[str, str]:
        """Tell the log of a write that it is about to leave; gives the headers that come of it."""
        if call.log is None:
            return {}
        key = await call.log.intent(hashlib.sha256(call.body or b"").hexdigest())
        return {call.key_header: key} if call.key_header else {}

    async def _proof(self, call: _Call) -> tuple[dict[str, str], int]:
        if not call.proved:
            return {}, 0
        try:
            return await self._auth.headers()
        except Unavailable as fault:
            if _ends_the_run(fault):
                raise
            raise _NoProof(fault.message, code=fault.code, hint=fault.hint) from None

    async def _renewed(self, generation: int) -> bool:
        try:
            return await self._auth.renew(generation)
        except Unavailable as fault:
            if _ends_the_run(fault):
                raise
            raise _NoProof(fault.message, code=fault.code, hint=fault.hint) from None

    async def _ask(
        self, call: _Call, read: Callable[[Answer], T], also: frozenset[int] = frozenset()
    ) -> T:
        """A safe call, asked again where that may help. `read` gets a 2xx, or a status in `also`.

        Raises: Unavailable, ContractBreach, Unauthorized.
        """
        throttled = bad = 0
        call = replace(call, tries=Tries())
        for asked in count(1):
            attempt = asked - throttled  # waiting for a rate is no failed attempt
            try:
                answer = await self._once(call)
            except (NotSent, Unclear) as fault:
                again = not isinstance(fault, Unclear) or fault.again
                timed_out = fault.code == "DS-HTTP-TIMEOUT"
                if not again or not self._may_retry(call, attempt, timed_out):
                    raise
                await self._back_off(call, attempt, fault.code)
                continue
            if _is_throttling(answer) and self._retries and throttled < THROTTLED_TRIES:
                throttled += 1
                call.tries.again(f"status {answer.status}")
                self._pace.throttled(answer.headers, answer.sent_at, throttled)
                continue
            if answer.status in also or 200 <= answer.status < 300:
                try:
                    result = read(answer)
                except ContractBreach as breach:
                    bad += 1
                    poor = self._may_be_transient(breach, answer) and bad <= BAD_BODY_TRIES
                    if not poor or not self._may_retry(call, attempt, False):
                        raise
                    await self._back_off(call, attempt, breach.code)
                    continue
                self._pace.succeeded()
                return result
            may_help = answer.status in _READ_AGAIN and not _is_throttling(answer)
            if may_help and self._may_retry(call, attempt, False):
                await self._back_off(call, attempt, f"status {answer.status}")
                continue
            raise self._read_fault(answer)
        raise AssertionError("unreachable")

    async def _tell(
        self, call: _Call, write: Write, change: Change, log: CallLog
    ) -> Answer | Outcome:
        """A write: its answer when the status is one of success, else what became of it."""
        throttled = 0
        was_unclear = False
        call = replace(call, tries=Tries())

        def ended(outcome: Outcome) -> Outcome:
            # An earlier attempt may have done what a later one is refused for.
            doubtful = was_unclear and outcome.state != "acked"
            return replace(outcome, state="unknown") if doubtful else outcome

        again = _Again(write, self._clock)
        for asked in count(1):
            attempt = asked - throttled  # waiting for a rate is no failed attempt
            try:
                answer = await self._once(call)
            except NotSent as fault:
                outcome = Outcome(state="not_sent", code=fault.code, message=fault.message)
                if not self._may_retry(call, attempt, False):
                    return ended(outcome)
                await log.again(outcome, "no byte of it left")
                await self._back_off(call, attempt, fault.code)
                continue
            except Unclear as fault:
                outcome = Outcome(state="unknown", code=fault.code, message=fault.message)
                if not again.is_safe or not self._may_retry(call, attempt, True):
                    return outcome
                await log.again(outcome, again.why)
                was_unclear = True
                await self._back_off(call, attempt, fault.code)
                continue
            except _NoProof as fault:
                return ended(Outcome(state="not_sent", code=fault.code, message=fault.message))
            verdict = _judge(answer, write, change.action)
            self._forbidden = self._forbidden + 1 if answer.status == 403 else 0
            if self._forbidden >= FORBIDDEN_IN_A_ROW:
                raise _forbidden(answer)
            if verdict == "success":
                self._pace.succeeded()
                return answer
            outcome = self._no_success(verdict, answer)
            tries = LOCKED_TRIES if answer.status == 423 else THROTTLED_TRIES
            if verdict == "throttled" and self._retries and throttled < tries:
                throttled += 1
                await log.again(outcome, f"refused for now ({answer.status})")
                call.tries.again(f"status {answer.status}")
                self._pace.throttled(answer.headers, answer.sent_at, throttled)
                continue
            keyed = answer.status == 409 and write.idempotency is not None
            may_help = again.is_safe and (answer.status in _READ_AGAIN or keyed)
            doubtful = verdict == "unknown" or keyed
            if doubtful and may_help and self._may_retry(call, attempt, False):
                await log.again(replace(outcome, state="unknown"), again.why)
                was_unclear = True
                await self._back_off(call, attempt, f"status {answer.status}")
                continue
            return ended(outcome)
        raise AssertionError("unreachable")

    def _may_be_transient(self, breach: ContractBreach, answer: Answer) -> bool:
        """Whether an answer that cannot be read may be a good one when it is asked for again."""
        if breach.code == "DS-TGT-SHAPE":
            return self._system.answers.malformed == "again"
        if breach.code == "DS-HTTP-STATUS":  # a part of an answer may be whole next time
            return 200 <= answer.status < 300
        return breach.code.startswith("DS-HTTP-")

    def _may_retry(self, call: _Call, attempt: int, timed_out: bool) -> bool:
        if attempt > self._retries:
            return False
        return not call.counted or self._pace.budget.spend(timed_out=timed_out)

    async def _back_off(self, call: _Call, attempt: int, why: str) -> None:
        wait_s = self._pace.backoff(attempt)
        call.tries.again(why, wait_s)
        _log.warning(
            "trying again",
            method=call.method,
            path=call.template,
            attempt=attempt + 1,
            why=why,
            wait_s=round(wait_s, 2),
        )
        await self._pace.wait(wait_s)

    async def _log_in(
        self,
        method: str,
        path: str,
        *,
        body: Any,
        form: Mapping[str, str] | None,
        headers: Mapping[str, str],
    ) -> Answer:
        call = _Call(
            method=method,
            path=render_path(path, {}).lstrip("/"),
            template=path,
            body=body,
            form=form,
            headers=headers,
            kind=self._system.auth.counts_as,
            proved=False,
            about=About(action="login"),
        )
        # A refused login is read by auth; what may pass is asked again like any read.
        return await self._ask(call, _login_json, also=frozenset(range(400, 500)) - _READ_AGAIN)

    # ---- listings --------------------------------------------------------------------------

    async def _page(
        self,
        call: _Call,
        step: Step,
        seen_at: Answer | None,
        *,
        shape: Shape,
        scope: Scope,
        shared: bool,
        empty_if: EmptyIf | None,
    ) -> tuple[Batch, Answer] | None:
        """One page; None where the page after a short one does not exist, or where the API says
        with a refusal that there is nothing (more)."""
        if step.link is not None:
            target = self._client.locate(step.link, seen_at=seen_at)
            call = replace(call, path=target, query={})
        else:
            call = replace(call, query={**({} if step.alone else call.query), **step.query})
        beyond = _BEYOND_THE_END if step.beyond else frozenset()
        asked = beyond if empty_if is None else beyond | {empty_if.status}

        def read(answer: Answer) -> tuple[Batch, Answer] | None:
            if answer.status in beyond:
                return None
            if empty_if is not None and answer.status == empty_if.status:
                text = answer.body[: 1 << 16].decode("utf-8", "replace").casefold()
                if empty_if.contains.casefold() in text:
                    return None
                raise self._read_fault(answer)
            return shape.read(answer), answer

        async with self._once_for(call, shared) as kept:
            if kept is not None:
                return read(kept)
            async with self._pace.lane(scope.name):
                got = await self._ask(call, read, also=asked)
            if shared and got is not None:
                self._answers[_identity(call)] = got[1]
            return got

    @asynccontextmanager
    async def _once_for(self, call: _Call, shared: bool) -> AsyncIterator[Answer | None]:
        """The answer of a call that was made before, where answers are shared; else nobody else
        makes it meanwhile."""
        if not shared:
            yield None
            return
        key = _identity(call)
        async with self._asking.setdefault(key, asyncio.Lock()):
            yield self._answers.get(key)

    async def _list_by_job(self, call: _Call, scope: Scope, *, shared: bool) -> Answer:
        async with self._once_for(call, shared) as kept:
            if kept is None:
                kept = _answer_of(await self._job_listing(call, scope))
                if shared:
                    self._answers[_identity(call)] = kept
            return kept

    async def _job_listing(self, call: _Call, scope: Scope) -> _Verdict:
        async with self._pace.lane(scope.name):
            job = await self._ask(call, lambda answer: self._job_in(answer, scope))
            if job is None:
                raise ContractBreach(
                    f"{call.method} {call.template}: the answer names no job",
                    code="DS-JOB-LOCATION",
                    hint="check `jobs.location` in the system file",
                )
            about = replace(call.about, action="job")
            verdict = await self._poll(job, scope, about, max_bytes=LIST_BYTES)
        if verdict.state != "success":
            raise Unavailable(
                f"{call.method} {call.template}: the listing did not succeed: {verdict.message}",
                code=verdict.code,
                hint="try again later",
            )
        return verdict

    def _list_call(
        self, resource: str, how: Listed, scope: Scope, beside: Mapping[str, Any] | None
    ) -> _Call:
        values = {**scope.values, **(beside or {})}
        path, template = self._path(how.path, values)
        return _Call(
            about=About(action="list", scope=scope.name, resource=resource),
            method=how.method,
            path=path,
            template=template,
            query={name: str(_filled(text, values)) for name, text in how.query.items()},
            body=how.body,
            max_bytes=LIST_BYTES,
        )

    def _request_call(self, request: Request, scope: Scope) -> _Call:
        path, template = self._path(request.path, scope.values)
        return _Call(
            method=request.method,
            path=path,
            template=template,
            body=request.body,
            form=request.form,
            headers=request.headers,
        )

    # ---- writes ----------------------------------------------------------------------------

    def _write_call(self, write: Write, resource: Resource, change: Change, scope: Scope) -> _Call:
        values: dict[str, Any] = {
            **scope.values,
            **dict(zip(resource.key, change.key, strict=False)),
        }
        if change.id is not None:
            values["id"] = change.id
        values |= {name: (change.payload or {}).get(name) for name in write.params}
        path, template = self._path(write.path, values)
        action = "create" if write is resource.create else change.action
        method = write.method or METHODS[action]
        if method == "DELETE":
            self._check_single(path, resource, values, scope)
        body: bytes | None = None
        if method != "DELETE":
            left_out = {*write.omit, *write.params, *resource.compare_only}
            payload = {
                k: v
                for k, v in (change.payload or {}).items()
                if k not in left_out and not (k in write.skip_empty and v in _EMPTY)
            }
            payload |= {name: _filled(item, values) for name, item in write.include.items()}
            envelope = self._system.envelope.request
            # Encoded once: these bytes are what is sent, in every attempt.
            body = msgspec.json.encode({envelope: payload} if envelope else payload)
        return _Call(
            method=method,
            path=path,
            template=template,
            kind="write",
            body=body,
            key_header=write.idempotency.header if write.idempotency else None,
        )

    def _check_single(
        self, path: str, resource: Resource, values: Mapping[str, Any], scope: Scope
    ) -> None:
        """A DELETE must never go where the whole collection is: an id can look like a path."""
        known = values if resource.list and resource.list.within else scope.values
        listed = resource.list and self._path(resource.list.path, known)[0]
        made = resource.create and self._path(resource.create.path, values)[0]
        place = path.strip("/").casefold()
        if place in [whole.strip("/").casefold() for whole in (listed, made) if whole]:
            raise Invalid(
                f"DELETE {path} would mean all of the collection, not one record",
                code="DS-URL-COLLECTION",
                hint="see the record's id: it is part of another path of this API",
            )

    def _no_success(self, verdict: str, answer: Answer) -> Outcome:
        text = self._refusal(answer)
        status = answer.status
        match verdict:
            case "absent":
                return Outcome(
                    state="acked", status=status, code="DS-ABSENT", message="already absent"
                )
            case "throttled":
                return Outcome(
                    state="not_sent", status=status, code="DS-HTTP-THROTTLED", message=text
                )
            case "stale":
                return Outcome(state="stale", status=status, code="DS-APPLY-STALE", message=text)
            case "rejected":
                code = "DS-CONFLICT" if status == 409 else "DS-REJECTED"
                return Outcome(state="rejected", status=status, code=code, message=text)
        return Outcome(
            state="unknown",
            status=status,
            code="DS-HTTP-STATUS",
            message=f"status {status} does not tell whether it was done: {text}",
        )

    async def _read_verdict(
        self,
        answer: Answer,
        write: Write,
        change: Change,
        scope: Scope,
        log: CallLog,
    ) -> Outcome:
        """What a successful status really says: refusal inside, a job to follow, an id."""
        jobs = self._system.jobs
        wants_id = write.id is not None and change.action == "create"
        asked = bool(jobs and jobs.location) or self._system.answers.failure is not None
        needed = wants_id or (asked and answer.status != 204)
        document: Any = None
        try:
            if needed or answer.body:
                document = answer.json()
            path = self._job_in(answer, scope, document)
        except ContractBreach as breach:
            # A text such as "OK" is no harm where nothing is to be read from it.
            says_json = "json" in answer.headers.get("content-type", "")
            if needed or says_json or answer.is_html or breach.code == "DS-JOB-LOCATION":
                return Outcome(
                    state="unknown",
                    status=answer.status,
                    code=breach.code,
                    message=breach.message,
                )
            return Outcome(state="acked", status=answer.status)
        failure = self._system.answers.failure
        if failure is not None and _holds(search(failure, document)):
            return Outcome(
                state="rejected",
                status=answer.status,
                code="DS-REJECTED",
                message=self._refusal(answer),
            )
        id_ = search(write.id, document) if write.id else None
        if path is not None:
            log.accepted(path)
            verdict = await self._poll(path, scope, _about(change, "job"))
            return self._outcome(verdict, path, write.id, id_)
        if jobs is not None and answer.status == 202:
            return Outcome(
                state="unknown",
                status=answer.status,
                code="DS-JOB-LOCATION",
                message="the answer says that a job does it, and names none",
            )
        if wants_id and id_ is None:
            return Outcome(
                state="unknown",
                status=answer.status,
                code="DS-WRITE-ID",
                message="the answer to a create holds no id",
            )
        return Outcome(state="acked", status=answer.status, id=id_)

    def _refusal(self, answer: Answer) -> str:
        if answer.is_html:
            return f"status {answer.status}, a page of HTML"
        try:
            text = _text(search(self._system.answers.error, answer.json()))
        except ContractBreach:
            text = answer.body[:2000].decode("utf-8", "replace")
        return self._said(text) or f"status {answer.status}"

    # ---- jobs ------------------------------------------------------------------------------

    def _job_in(self, answer: Answer, scope: Scope, document: Any = None) -> str | None:
        """The path of the job that an answer names; None where it names none.

        Raises: ContractBreach DS-JOB-LOCATION for a place that we do not follow; DS-HTTP-*.
        """
        jobs = self._system.jobs
        if jobs is None:
            return None
        place: Any = answer.headers.get(jobs.header.lower()) if jobs.header else None
        if place is None and jobs.location:
            if document is None and answer.body:
                document = answer.json()
            place = search(jobs.location, document)
        return None if place is None else self._job_path(place, scope)

    def _job_path(self, place: Any, scope: Scope) -> str:
        jobs = self._system.jobs
        try:
            if jobs is None or isinstance(place, bool) or not isinstance(place, str | int):
                raise ContractBreach("it is no text", code="DS-JOB-LOCATION")
            path = found = str(place)
            if jobs.path is not None:
                # A place out of a journal is a path already; one out of an answer is an id.
                found = _job_id(path, jobs.path, scope) or found
                path = render_path(jobs.path, {**scope.values, "job": found})
            path = self._client.locate(path).removeprefix(self._client.prefix).lstrip("/")
            pattern = _job_pattern(jobs.pattern, scope)
            known = re.fullmatch(pattern, path) or (jobs.path and re.fullmatch(pattern, found))
            if "?" in path or not known:
                raise ContractBreach("it does not match `jobs.pattern`", code="DS-JOB-LOCATION")
        except (ContractBreach, Invalid) as fault:
            raise ContractBreach(
                f"the answer points to a job that we do not follow: {fault.message}",
                code="DS-JOB-LOCATION",
                hint="check `jobs.location` and `jobs.pattern` in the system file",
            ) from None
        return path

    async def _poll(
        self, path: str, scope: Scope, about: About, *, max_bytes: int = BODY_BYTES
    ) -> _Verdict:
        """Ask a job until it has a verdict or its time is over. The caller holds the lane."""
        jobs = self._system.jobs
        assert jobs is not None  # noqa: S101 - a path comes from `jobs` only
        poll = jobs.poll
        template = _job_template(path, scope)
        call = _Call(
            method="GET", path=path, template=template, max_bytes=max_bytes, counted=False,
            about=about,
        )  # fmt: skip
        began = self._clock()
        wait_s = poll.interval_s
        trouble = f"no verdict after {poll.timeout_s:g} s"
        missing = False
        while True:
            try:
                verdict = await self._ask(call, self._job_verdict, also=frozenset({404}))
                missing = verdict is not None and verdict.code == "DS-JOB-MISSING"
                if verdict is not None and not missing:
                    return verdict
            except (Unavailable, Unauthorized) as fault:
                # Whoever started the job must not take this for a call without effect.
                final = isinstance(fault, Unauthorized)
                if final or (isinstance(fault, Unavailable) and _ends_the_run(fault)):
                    return _Verdict(state="pending", code=fault.code, message=fault.message)
                trouble = fault.message
            now = self._clock()
            if missing and now - began >= poll.missing_grace_s:
                return _Verdict(
                    state="unknown", code="DS-JOB-MISSING", message="the job is not to be found"
                )
            if now + wait_s - began > poll.timeout_s:
                return _Verdict(state="pending", code="DS-JOB-TIMEOUT", message=trouble)
            await self._pace.wait(wait_s)
            wait_s = min(wait_s * poll.factor, max(poll.max_interval_s, poll.interval_s))

    def _job_verdict(self, answer: Answer) -> _Verdict | None:
        """None while it is pending."""
        jobs = self._system.jobs
        assert jobs is not None  # noqa: S101 - a path comes from `jobs` only
        if answer.status == 404:
            return _Verdict(state="unknown", code="DS-JOB-MISSING")
        if answer.status in (202, 204):
            return None
        document = answer.json()
        if _holds(search(jobs.success, document)):
            return _Verdict(state="success", answer=answer, document=document)
        if _holds(search(jobs.failure, document)):
            text = self._said(_text(search(jobs.error, document))) or "no detail"
            return _Verdict(state="failure", code="DS-JOB-FAILED", message=text, answer=answer)
        return None

    def _outcome(self, verdict: _Verdict, job: str, id_in: str | None, id_: Any) -> Outcome:
        jobs = self._system.jobs
        status = verdict.answer.status if verdict.answer else None
        if verdict.state == "success":
            found = search(jobs.id, verdict.document) if jobs and jobs.id else None
            if found is None and id_ is None and id_in is not None:
                found = search(id_in, verdict.document)
            return Outcome(
                state="acked", status=status, id=id_ if found is None else found, job=job
            )
        states: dict[str, OutcomeState] = {"failure": "rejected", "pending": "accepted"}
        return Outcome(
            state=states.get(verdict.state, "unknown"),
            status=status,
            code=verdict.code,
            message=verdict.message,
            job=job,
        )

    # ---- small things ----------------------------------------------------------------------

    def _resource(self, name: str) -> Resource:
        try:
            return self._system.resources[name]
        except KeyError:
            known = ", ".join(sorted(self._system.resources))
            raise Invalid(
                f"{self._system.system} has no resource {name!r}",
                code="DS-RESOURCE",
                hint=f"it has: {known}",
            ) from None

    def _path(self, template: str, values: Mapping[str, Any]) -> tuple[str, str]:
        """A resource's path, below `base_path`, and its whole template."""
        parts = (self._system.base_path.strip("/"), template.lstrip("/"))
        whole = "/".join(part for part in parts if part)
        return render_path(whole, values), whole

    def _said(self, text: str) -> str:
        return excerpt(text, redact=self._redact)

    def _read_fault(self, answer: Answer) -> DsyncError:
        text = self._refusal(answer)
        status, what = answer.status, answer.what
        if status == 401:
            return _unauthorized(answer)
        if status == 403:
            return _forbidden(answer)
        if status in (429, 503) or status >= 500:
            return Unavailable(
                f"{what}: {status} after all retries: {text}",
                code="DS-HTTP-THROTTLED" if status == 429 else "DS-HTTP-5XX",
                hint="try again later",
            )
        if 300 <= status < 400:
            return ContractBreach(
                f"{what}: the API redirects ({status}), and redirects are not followed",
                code="DS-HTTP-REDIRECT",
                hint="write the final address as the connection's base URL",
            )
        return ContractBreach(
            f"{what}: {status}: {text}",
            code="DS-HTTP-STATUS",
            hint="check base URL, scope and the paths in the system file",
        )


# ---- what answers mean -------------------------------------------------------------------------

_READ_AGAIN = frozenset({408, 421, 423, 425, 429, 500, 502, 503, 504, 507, 508, 511}) | frozenset(
    range(520, 528)
)
_EMPTY: tuple[Any, ...] = (None, "", [], {})
_NOT_ILL = frozenset({501, 505})
"""An API that answers so is well: it only does not do this."""
_BEYOND_THE_END = frozenset({400, 404, 416})

_Judgement = Literal["success", "absent", "stale", "throttled", "rejected", "unknown"]


class _Again:
    """Whether a write may be sent again though nobody knows what became of it, and why."""

    def __init__(self, write: Write, clock: Callable[[], float]) -> None:
        self._write, self._clock, self._began = write, clock, clock()

    @property
    def is_safe(self) -> bool:
        keyed = self._write.idempotency
        # Near the end of its life the API may have forgotten the key already.
        fresh = keyed is not None and self._clock() - self._began < 0.9 * keyed.life_s
        return self._write.retry or fresh

    @property
    def why(self) -> str:
        return "declared safe to send again" if self._write.retry else "the same idempotency key"


def _about(change: Change, action: Purpose) -> About:
    return About(
        action=action, profile=change.profile, scope=change.scope, resource=change.resource,
        key=change.key,
    )  # fmt: skip


def _ends_the_run(fault: Unavailable) -> bool:
    """Whether no other call can do better: it is not about one change."""
    return isinstance(fault, Untrusted) or fault.code.startswith("DS-PACE-")


def _is_throttling(answer: Answer) -> bool:
    return answer.status == 429 or (answer.status == 503 and "retry-after" in answer.headers)


def _judge(answer: Answer, write: Write, action: str) -> _Judgement:
    """What a status means for a write; 401 is dealt with before.

    `throttled`: surely nothing was done, and it may go again. `unknown`: it may have been done.
    """
    status = answer.status
    if status in write.success:
        return "success"
    if status in (421, 423, 425, 429):
        return "throttled"
    if status == 503 and write.retry and "retry-after" in answer.headers:
        return "throttled"
    if status == 404 and action == "delete":
        return "absent"
    if status in (412, 428) or (status == 404 and action == "update"):
        return "stale"
    if status == 408:  # proxies send it for what they have passed on
        return "unknown"
    if 400 <= status < 500 or status in (501, 505):
        return "rejected"
    return "unknown"


def _holds(value: Any) -> bool:
    """Truth as JMESPath has it: 0 is true, empty things are not."""
    return value is not None and value is not False and value not in ("", [], {})


def _text(value: Any) -> str:
    """The text in whatever an API calls its error: a text, an object with one, a list of these."""
    match value:
        case None:
            return ""
        case str():
            return value
        case list():
            return "; ".join(text for item in value if (text := _text(item)))
        case dict():
            return _text(value.get("message") or value.get("error") or list(value.values()))
    return str(value)


def _write_of(resource: Resource, action: str) -> Write | None:
    match action:
        case "create":
            return resource.create
        case "update":
            upserted = resource.create if resource.write == "upsert" else None
            return resource.update or upserted
    return resource.delete


_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


def _filled(value: Any, values: Mapping[str, Any]) -> Any:
    """`value` with its `{placeholders}` filled; a text that is just one keeps the value's type."""

    def known(name: str) -> Any:
        if name not in values:
            raise Invalid(f"nothing fills {{{name}}}", code="DS-TPL")
        return values[name]

    if isinstance(value, str):
        if whole := _PLACEHOLDER.fullmatch(value):
            return known(whole[1])
        return _PLACEHOLDER.sub(lambda match: str(known(match[1])), value)
    if isinstance(value, dict):
        return {name: _filled(item, values) for name, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, values) for item in value]
    return value


def _alike(system: System) -> frozenset[str]:
    """The calls that serve more than one listing: of two resources, or of what stands within."""
    listings = [one.list for one in system.resources.values() if one.list is not None]
    often = Counter(call for one in listings for call in {_call_of(how) for how in one.calls})
    outer = {how.within.resource for one in listings for how in one.calls if how.within}
    for name in outer:
        if (above := system.resources[name].list) is not None:
            often.update(_call_of(how) for how in above.calls)
    return frozenset(call for call, times in often.items() if times > 1)


def _is_among(found: Any, of: str | Sequence[str]) -> bool:
    """Whether what was found in a record is one of these texts, or has one of them in it."""
    wanted = {text.strip().casefold() for text in ([of] if isinstance(of, str) else of)}
    there = found if isinstance(found, list) else [found]
    return not wanted.isdisjoint(one.strip().casefold() for one in there if isinstance(one, str))


def _call_of(how: Listed) -> str:
    return repr((how.method, how.path, how.query, how.body, how.paging, how.job))


class _Joined:
    """What several calls list, without the records that an earlier one has listed."""

    def __init__(self, identity: str) -> None:
        self._identity = identity
        self._seen: set[str] = set()

    def fresh(self, batch: Batch) -> Batch:
        """The batch without records whose id was there before; one without an id stays."""
        lines, here = [], set[str]()
        for line in batch.ndjson.splitlines():
            id_ = search(self._identity, msgspec.json.decode(line))
            named = msgspec.json.encode(id_).decode()
            if id_ is None or named not in self._seen:
                lines.append(line)
            here.add(named)
        self._seen |= here
        ndjson = b"".join(line + b"\n" for line in lines)
        return replace(batch, ndjson=ndjson, count=len(lines), total=None)


class _Course:
    """Where one call's listing begins, and where it stands after the last page taken in."""

    def __init__(
        self,
        *,
        call: int | None = None,
        at: Position | None = None,
        met: Sequence[str] = (),
        query: Mapping[str, str] | None = None,
        halves: bool = False,
    ) -> None:
        """Without `call` it cannot be taken up again. `query` goes with the first page, and with
        all where pages are counted."""
        self._call, self.at, self._met = call, at, met
        self.query = query or {}
        self.ended, self.halves = False, halves
        self._after: Position | None = None
        self._marks: tuple[str, ...] = ()

    def taken(self) -> tuple[Position | None, tuple[str, ...]]:
        """Where the listing goes on, and the marks of the pages since this was asked last."""
        marks, self._marks = self._marks, ()
        return self._after, marks

    def begin(self, walk: Walk) -> Step | None:
        at = self.at
        if at is None:
            return None
        walk.resume(pages=at.pages, count=at.count, full=at.full, short=at.short, met=self._met)
        return Step(query=at.query, link=at.link, beyond=at.beyond, alone=at.alone)

    def passed(self, walk: Walk, step: Step | None) -> None:
        self._marks += walk.marks
        self._after, self.ended = None, step is None and self._call is not None
        if step is not None and self._call is not None:
            self._after = Position(
                call=self._call, query=step.query, link=step.link, beyond=step.beyond,
                alone=step.alone, **walk.tally(),
            )  # fmt: skip


def _identity(call: _Call) -> tuple[str, ...]:
    return (call.method, call.path, repr(sorted(call.query.items())), repr(call.body))


def _page(batch: Batch) -> Page:
    return Page(ndjson=batch.ndjson, count=batch.count, total=batch.total)


def _login_json(answer: Answer) -> Answer:
    if 200 <= answer.status < 300:
        answer.json()  # one that cannot be read is asked for again
    return answer


def _answer_of(verdict: _Verdict) -> Answer:
    assert verdict.answer is not None  # noqa: S101 - a success has one
    return verdict.answer


def _job_pattern(pattern: str, scope: Scope) -> str:
    """The pattern with the scope's values filled in as they are; `{8}` stays a quantifier."""

    def fill(match: re.Match[str]) -> str:
        return re.escape(scope.values[match[1]]) if match[1] in scope.values else match[0]

    return _PLACEHOLDER.sub(fill, pattern)


def _job_id(path: str, template: str, scope: Scope) -> str | None:
    """What stands for `{job}` in a path of this template; None when it is none of it."""
    before, _, after = template.partition("{job}")
    before, after = (re.escape(render_path(part, scope.values)) for part in (before, after))
    match = re.fullmatch(f"{before}([^/?]+){after}", path)
    return unquote(match[1]) if match else None


def _job_template(path: str, scope: Scope) -> str:
    """A job's path for logs: its last segment, and what the scope names, left out."""
    for name, value in scope.values.items():
        if value:
            path = path.replace(value, f"{{{name}}}")
    return path.rpartition("/")[0] + "/{job}"


def _unauthorized(answer: Answer) -> Unauthorized:
    return Unauthorized(
        f"{answer.what}: the API does not know us (401)",
        code="DS-AUTH-REFUSED",
        hint="check the connection's credentials, and that the token has not expired",
    )


def _forbidden(answer: Answer) -> Unauthorized:
    return Unauthorized(
        f"{answer.what}: the API does not let us (403)",
        code="DS-AUTH-FORBIDDEN",
        hint="ask for the right to do this, or use other credentials",
    )
