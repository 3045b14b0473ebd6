"""Bugs to plant: each takes one promise away, and the tests named beside it must notice.

A sabotage is an edit of the source as text: `old` stands there exactly once. Where the code has
moved on, the edit is renewed, never dropped. Numbers are those of a list that was made before the
code; two of its lines concern bulk sessions, and until there are any, two mistakes that are as
dangerous stand in their place (12, 13).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Sabotage:
    """One planted bug. `file` is below the package; one of `tests` at least must fail."""

    number: int
    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


SABOTAGES = (
    Sabotage(
        number=1,
        name="no sync before a call is sent",
        file="journal.py",
        old="""        finally:
            with guarded(self.folder):
                self._db.execute("PRAGMA synchronous=FULL")
""",
        new="""        finally:
            with guarded(self.folder):
                self._db.execute("PRAGMA synchronous=OFF")
""",
        tests=(
            "tests/test_journal.py::test_synced",
            "tests/test_order.py::test_an_intent_is_durable_before_its_call[create]",
        ),
    ),
    Sabotage(
        number=2,
        name="the journal opens with synchronous=NORMAL",
        file="journal.py",
        old="""        db.execute("PRAGMA synchronous=FULL")
        db.execute("PRAGMA foreign_keys=ON")
""",
        new="""        db.execute("PRAGMA synchronous=NORMAL")
        db.execute("PRAGMA foreign_keys=ON")
""",
        tests=(
            "tests/test_journal.py::test_synced",
            "tests/test_order.py::test_an_intent_is_durable_before_its_call[create]",
        ),
    ),
    Sabotage(
        number=3,
        name="sent is marked before the intent is written",
        file="applying.py",
        old="""        await self._run.writer.durable(*([why] if why else []), intent)
""",
        new="""        self._run.journal.mark(Record.sent(self._op, self.attempt))
        await self._run.writer.durable(*([why] if why else []), intent)
""",
        tests=("tests/test_applying.py::test_read_back",),
    ),
    Sabotage(
        number=4,
        name="a POST is sent again after a 502",
        file="connectors/rest.py",
        old="""            may_help = again.is_safe and (answer.status in _READ_AGAIN or keyed)
""",
        new="""            may_help = answer.status == 502 or (
                again.is_safe and (answer.status in _READ_AGAIN or keyed)
            )
""",
        tests=("tests/test_rest.py::test_what_a_status_means_for_a_write",),
    ),
    Sabotage(
        number=5,
        name="a write whose answer was lost is sent again",
        file="connectors/rest.py",
        old="""                if not again.is_safe or not self._may_retry(call, attempt, True):
""",
        new="""                if not self._may_retry(call, attempt, True):
""",
        tests=("tests/test_rest.py::test_a_write_whose_answer_was_lost_is_unknown",),
    ),
    Sabotage(
        number=6,
        name="a page of HTML with status 200 is a success",
        file="connectors/rest.py",
        old="if needed or says_json or answer.is_html or breach.code",
        new="if needed or says_json or breach.code",
        tests=("tests/test_old_mistakes.py::test_R10_html_success",),
    ),
    Sabotage(
        number=7,
        name="one look proves that nothing has happened",
        file="applying.py",
        old="""outcome = _verdict(doubt, now, is_last=look == 2)
""",
        new="""outcome = _verdict(doubt, now, is_last=look == 1)
""",
        tests=("tests/test_applying.py::test_read_back",),
    ),
    Sabotage(
        number=8,
        name="how long the API may go on with a call is ignored",
        file="applying.py",
        old="return max((min(most, max(0.0, known.at_s + most - now)) for known in unknown),",
        new="return max((0.0 for known in unknown),",
        tests=("tests/test_applying.py::test_waits_for_the_api_to_end",),
    ),
    Sabotage(
        number=9,
        name="each attempt has its own idempotency key",
        file="applying.py",
        old="""        return idempotency_key(target, self._op, body_sha256)
""",
        new="""        return idempotency_key(target, f"{self._op} {self.attempt}", body_sha256)
""",
        tests=("tests/test_resume.py::test_one_key_in_all_lives",),
    ),
    Sabotage(
        number=10,
        name="an idempotency key is used beyond its life",
        file="connectors/rest.py",
        old="fresh = keyed is not None and self._clock() - self._began < 0.9 * keyed.life_s",
        new="fresh = keyed is not None",
        tests=("tests/test_rest.py::test_an_idempotency_key_near_the_end_of_its_life",),
    ),
    Sabotage(
        number=11,
        name="a job's place is stored after it was asked",
        file="connectors/rest.py",
        old="""            log.accepted(path)
            verdict = await self._poll(path, scope, _about(change, "job"))
            return self._outcome(verdict, path, write.id, id_)
""",
        new="""            verdict = await self._poll(path, scope, _about(change, "job"))
            log.accepted(path)
            return self._outcome(verdict, path, write.id, id_)
""",
        tests=(
            "tests/test_rest.py::test_a_job_is_told_before_it_is_asked",
            "tests/test_order.py::test_an_intent_is_durable_before_its_call[job]",
        ),
    ),
    Sabotage(
        number=12,
        name="a resume gives operations new names (for: a new bulk session name on resume)",
        file="journal.py",
        old="""    parts = (run_id, system, resource, scope, key, action)
""",
        new="""    parts = (run_id, os.getpid(), system, resource, scope, key, action)
""",
        tests=("tests/test_resume.py::test_the_rows_that_were_approved",),
    ),
    Sabotage(
        number=13,
        name="a job's word is believed (for: a commit in spite of error records)",
        file="applying.py",
        old="""return outcome.state == "acked" and outcome.job is not None and change.action""",
        new="""return False and change.action""",
        tests=("tests/test_applying.py::test_read_back",),
    ),
    Sabotage(
        number=14,
        name="the last page of a listing is dropped",
        file="connectors/rest.py",
        old="""                if batch.count:
                    yield batch
""",
        new="""                if batch.count and following is not None:
                    yield batch
""",
        tests=("tests/test_rest.py::test_every_paging_is_walked_to_its_end",),
    ),
    Sabotage(
        number=15,
        name="of two records with one key the last one wins",
        file="diff.py",
        old="""    if not count(con, "FROM twins"):
        return
    ids = """,
        new="""    if not count(con, "FROM twins"):
        return
    con.execute(
        f"DELETE FROM {matched} WHERE rid IN (SELECT rid FROM twins) AND id NOT IN "
        f"(SELECT max(id) FROM {matched} GROUP BY rid)"
    )
    return
    ids = """,
        tests=("tests/test_old_mistakes.py::test_R5_dup_remote_key",),
    ),
    Sabotage(
        number=16,
        name="a lock is taken over after a minute",
        file="registry.py",
        old="""                raise _locked(name, descriptor)
""",
        new="""                if time.time() - os.fstat(descriptor).st_mtime < 60:
                    raise _locked(name, descriptor)
""",
        tests=("tests/test_registry.py::test_old_lock",),
    ),
    Sabotage(
        number=17,
        name="a resume takes no lock",
        file="runs.py",
        old="""        with _held(project, targets, book.plan, run_id) as lanes:
            check_settled(project, history(project, lanes), but=run_id, alone=True)
""",
        new="""        with contextlib.nullcontext(projects.lanes_of(targets, book.plan)) as lanes:
            check_settled(project, history(project, lanes), but=run_id, alone=True)
""",
        tests=("tests/test_resume.py::test_a_resume_holds_the_lock",),
    ),
    Sabotage(
        number=18,
        name="a resume reads the source again",
        file="runs.py",
        old="""    with Journal.open(folder(project, run_id)) as book:
        targets = projects.targets_of(project, ask, book.plan)
        with _held(project, targets, book.plan, run_id) as lanes:
            check_settled(""",
        new="""    from dsync import api

    with Journal.open(folder(project, run_id)) as book, api.plan(project, ask) as fresh:
        book.plan = fresh
        targets = projects.targets_of(project, ask, book.plan)
        with _held(project, targets, book.plan, run_id) as lanes:
            check_settled(""",
        tests=("tests/test_resume.py::test_the_rows_that_were_approved",),
    ),
    Sabotage(
        number=19,
        name="each process has a quota of its own",
        file="pace.py",
        old="""        self._slots = SlotLog(shared, wall=wall()) if limited else None
""",
        new="""        self._slots = SlotLog(None, wall=wall()) if limited else None
""",
        tests=("tests/test_quota.py::test_real_processes_share_a_rate_and_a_quota",),
    ),
    Sabotage(
        number=20,
        name="the hour of a quota is that of our own clock",
        file="quota.py",
        old="offsets = {moment.astimezone(self._zone).utcoffset() for moment",
        new="offsets = {moment.astimezone().utcoffset() for moment",
        tests=("tests/test_quota.py::test_edges_of_the_day",),
    ),
    Sabotage(
        number=21,
        name="what is masked in logs is masked in what is sent",
        file="connectors/rest.py",
        old="""            body = msgspec.json.encode({envelope: payload} if envelope else payload)
""",
        new="""            from dsync.secrets import redact

            payload = redact(payload)
            body = msgspec.json.encode({envelope: payload} if envelope else payload)
""",
        tests=("tests/test_old_mistakes.py::test_R9_redact_payload",),
    ),
    Sabotage(
        number=22,
        name="headers are logged at debug",
        file="http.py",
        old="""            path=template,
            status=answer.status,
            ms=""",
        new="""            path=template,
            headers=dict(request.headers),
            status=answer.status,
            ms=""",
        tests=("tests/test_rest.py::test_nothing_secret_is_logged",),
    ),
    Sabotage(
        number=23,
        name="redirects are followed",
        file="http.py",
        old="""        _log.debug(
            "called",
""",
        new="""        if 300 <= answer.status < 400 and "location" in fields:
            parts = urlsplit(urljoin(self._origin + target, fields["location"]))
            self._url = httpx2.URL(f"{parts.scheme}://{parts.netloc}")
            return await self.request("GET", parts.path, template=template, headers=headers)
        _log.debug(
            "called",
""",
        tests=(
            "tests/test_http.py::test_redirects_are_not_followed",
            "tests/test_http.py::test_a_redirect_to_another_host_gets_no_token",
        ),
    ),
    Sabotage(
        number=24,
        name="guards are asked only when it is planned",
        file="safety.py",
        old="""    verdicts = judge(measures, approvals=approvals, history=history)
    refuse(verdicts)
    return replace(plan, verdicts=verdicts)
""",
        new="""    return plan
""",
        tests=("tests/test_guards.py::test_saved_plan_is_judged_again",),
    ),
)
