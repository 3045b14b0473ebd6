"""The model of a system file: facts about an API, nothing about a customer.

`docs/systems.md` is the law of this language; `dsync schema system` prints it as JSON Schema.
What one value can be wrong in is checked by its type (a path, a JMESPath expression, a rate), what
two values can be wrong in together by `_meaning`; all faults of a file are told at once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, LiteralString, NoReturn

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from dsync import yamlfile
from dsync.errors import Faults, Invalid, Place
from dsync.yamlfile import Document, FileFault, Way


def _refuse(code: LiteralString, message: str, hint: str | None = None) -> NoReturn:
    raise PydanticCustomError(code, "{message}", {"message": message, "hint": hint})


_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_CREDENTIAL = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def placeholders(template: str) -> tuple[str, ...]:
    """The names in braces of a path template, in order, each once."""
    return tuple(dict.fromkeys(_PLACEHOLDER.findall(template)))


def _template(text: str) -> str:
    """A path that cannot leave the connection's origin, with nothing but names in braces."""
    rest = _PLACEHOLDER.sub("", text)
    if brace := next((sign for sign in rest if sign in "{}"), None):
        _refuse(
            "DS-TPL",
            f"`{brace}` opens or closes no placeholder in `{text[:80]}`",
            "a placeholder is a name in braces, such as {id}; nothing else may stand in braces",
        )
    path, _, _ = rest.partition("?")
    decoded = path.replace("%2e", ".").replace("%2E", ".").replace("%2f", "/").replace("%2F", "/")
    segments = decoded.split("/")
    wrong = (
        "a scheme or a port" if ":" in segments[0]
        else "`//`" if text.startswith("//")
        else "a backslash" if "\\" in text
        else "`..` or `.`" if {".", ".."} & set(segments)
        else "`@`" if "@" in segments[0]
        else "`#`" if "#" in text
        else "white space or a control character" if re.search(r"[\s\x00-\x1f\x7f]", text)
        else None
    )  # fmt: skip
    if wrong:
        _refuse(
            "DS-URL-ORIGIN",
            f"`{text[:80]}` holds {wrong}, so it could leave the connection's origin",
            "write a path below the connection's base_url, such as users/{id}",
        )
    return text


def _expression(text: str) -> str:
    """A JMESPath expression that compiles, with functions that exist."""
    from dsync import jmes

    try:
        tree = jmes.compiled(text).tree
    except jmes.JMESPathError as error:
        told = str(error).partition("\n")[0].rstrip(":")
        _refuse("DS-JMES", f"`{text[:80]}` is no JMESPath expression: {told}", _JMESPATH_HINT)
    for name in _functions(tree):
        if name not in jmes.NAMES:
            near = yamlfile.nearest(name, jmes.NAMES)
            _refuse("DS-JMES", f"JMESPath has no function `{name}`", near or _JMESPATH_HINT)
    return text


_JMESPATH_HINT = "the language is at jmespath.org; a text value stands in `'…'`"


def _functions(tree: Any) -> Iterator[str]:
    if isinstance(tree, dict):
        if tree.get("type") == "function_expression":
            yield tree["value"]
        for child in tree.get("children", ()):
            yield from _functions(child)


def _pattern(text: str) -> str:
    """A regular expression that compiles and cannot run away."""
    if len(text) > 500:
        _refuse("DS-RE", f"the pattern has {len(text)} characters, 500 are allowed")
    # (a+)+ takes time that doubles with each character; nothing here needs it.
    if re.search(r"\([^()]*[+*][^()]*\)\s*(?:[+*]|\{\d+,)", text):
        _refuse(
            "DS-RE",
            "a repeated group holds a repetition, so a match could take for ever",
            "repeat only once: (ab)+ or [ab]+, not (a+)+",
        )
    try:
        re.compile(_PLACEHOLDER.sub("x", text))
    except re.error as error:
        _refuse("DS-RE", f"`{text[:80]}` is no regular expression: {error}")
    return text


# Kept out of pydantic's own `pattern`: its message would show the expression to people.
_RATE = r"^\d+(\.\d+)?/(s|min|h|d)$"
_TIME = r"^\d\d:\d\d$"


def _rate(text: str) -> str:
    if not re.fullmatch(_RATE, text):
        _refuse("DS-QUOTA", f"`{text[:40]}` is no rate", "write 5/s, 60/min, 1000/h or 10000/d")
    if float(text.partition("/")[0]) == 0:
        _refuse("DS-QUOTA", f"`{text}` allows no call at all", "leave the line out for no limit")
    return text


def _time_zone(text: str) -> str:
    from zoneinfo import ZoneInfo

    try:
        ZoneInfo(text)
    except (KeyError, ValueError, OSError):
        _refuse(
            "DS-QUOTA",
            f"`{text[:60]}` is no time zone",
            "write a name of the IANA table, such as Europe/Brussels or UTC",
        )
    return text


def _time(text: str) -> str:
    if not re.fullmatch(_TIME, text):
        _refuse("DS-QUOTA", f"`{text[:40]}` is no time of the day", "write it as 06:00")
    hours, minutes = int(text[:2]), int(text[3:])
    if minutes > 59 or hours * 60 + minutes > 24 * 60:
        _refuse("DS-QUOTA", f"`{text}` is no time of the day", "write 00:00 to 24:00")
    return text


def _credential_texts(value: Any) -> Any:
    """Texts in which each `${` begins the name of a credential."""
    for text in _texts(value):
        if "${" in _CREDENTIAL.sub("", text):
            _refuse(
                "DS-TPL",
                "`${` opens no name of a credential",
                "write ${client_id}: a name in braces, given in the connection's credentials",
            )
    return value


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


Credentialed = Annotated[Any, AfterValidator(_credential_texts)]

Texts = list[str]  # inside a model that has a field `list`, the name means that field
Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
JMESPath = Annotated[
    str, AfterValidator(_expression), Field(description="a JMESPath expression", min_length=1)
]
Template = Annotated[
    str,
    AfterValidator(_template),
    Field(description="a path with {placeholders}, each one URL segment"),
]
Rate = Annotated[
    str,
    AfterValidator(_rate),
    Field(json_schema_extra={"pattern": _RATE}, examples=["5/s", "60/min"]),
]
Time = Annotated[
    str,
    AfterValidator(_time),
    Field(json_schema_extra={"pattern": _TIME}, examples=["06:00"]),
]
Pattern = Annotated[str, AfterValidator(_pattern)]


class Model(BaseModel):
    """The base of all models of YAML files: frozen, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, defer_build=True)


class Request(Model):
    """One call that is not about a record: a token, a refresh, a job.

    `body` is sent as JSON (`form` as a form); texts in it may hold `${name}` of the connection's
    credentials. The envelope is not applied to it.
    """

    method: Method = "POST"
    path: Template
    body: Credentialed = None
    form: Annotated[dict[str, str] | None, AfterValidator(_credential_texts)] = None
    headers: Annotated[dict[str, str], AfterValidator(_credential_texts)] = {}


class Renewal(Request):
    """How a living token is exchanged for a new one."""

    token: JMESPath
    secret: JMESPath | None = Field(None, description="a new secret, used for the next renewal")
    credential: str = Field("secret_key", description="the credential that `secret` replaces")


class Auth(Model):
    """How calls prove who we are. Credentials come from the connection, never from here."""

    kind: Literal["none", "basic", "bearer", "header", "exchange"] = "none"
    header: str = Field("Authorization", description="the header that carries the token")
    prefix: str | None = Field(None, description="text before the token; default `Bearer `")
    request: Request | None = Field(None, description="exchange: how a token is got")
    token: JMESPath | None = Field(None, description="exchange: the token in the answer")
    expires: JMESPath | None = Field(
        None, description="exchange: life in seconds, epoch seconds or an ISO 8601 time"
    )
    renew: Renewal | None = None
    refused: list[int] = Field(
        [401], description="statuses that mean: this token is not valid (any more)"
    )
    life_s: float | None = Field(None, gt=0, description="life of a token that does not tell it")
    renew_before_s: float = Field(60, ge=0)
    counts_as: Literal["read", "write"] = Field(
        "read", description="which quota the calls for a token use up"
    )


class Envelope(Model):
    """What surrounds payloads and records."""

    request: str | None = Field(None, description="the key under which a write's payload is put")


class Answers(Model):
    """How answers of writes are read."""

    failure: JMESPath | None = Field(
        None, description="true when a 2xx answer is a refusal all the same"
    )
    error: JMESPath = Field(
        "error.message || error || message || errors[0].message || errors[0] || detail || title",
        description="the text of a refusal",
    )
    malformed: Literal["fault", "again"] = Field(
        "fault",
        description="a listing's answer without its list of records: a fault at once, or asked for "
        "again first, as one that is no JSON is",
    )


class Paging(Model):
    """How a listing is walked to its end.

    offset: `offset` and `limit` are query parameters (records are counted);
    page: `page` counts from `first`; cursor: `cursor` is a query parameter, `next` finds its value
    in the answer; link: `next` finds a URL in the answer, or the `Link` header has it.
    A page is the last when it has no `next` (cursor, link), or no records (offset, page).
    `total` finds the number of all records, and is checked when it is there.
    """

    kind: Literal["none", "offset", "page", "cursor", "link"] = "none"
    offset: str = "offset"
    limit: str | None = Field(None, description="query parameter of the page size")
    page: str = "page"
    cursor: str = "cursor"
    first: int = 1
    size: int | None = Field(None, gt=0, description="records asked for in one page")
    next: JMESPath | None = None
    total: JMESPath | None = None
    ends: Literal["empty", "short", "odd"] = Field(
        "empty",
        description="offset, page: which page is the last, the first empty one or one with fewer "
        "records than asked for; `short` only where the API never gives smaller pages; `odd`: as "
        "`short`, but a page with a round number of records, or one less than asked for, may have "
        "been cut, and the next is asked for",
    )
    decode: Literal["none", "percent"] = Field(
        "none", description="cursor: it arrives percent-encoded, and is decoded before it is sent"
    )
    alone: bool = Field(
        False,
        description="cursor: it is sent without the listing's own `query`, which it remembers",
    )
    repeats: bool = Field(
        False,
        description="the listing may show a record twice, which is no fault then; a cursor that "
        "comes twice is one all the same",
    )
    max_pages: int = Field(100_000, gt=0)


class Poll(Model):
    """How long and how often a job is asked for its verdict."""

    interval_s: float = Field(1.0, gt=0)
    factor: float = Field(1.0, ge=1)
    max_interval_s: float = Field(30, gt=0)
    timeout_s: float = Field(180, gt=0)
    missing_grace_s: float = Field(5, ge=0, description="404 just after the start means: not yet")


class Jobs(Model):
    """An answer that only accepts, and the job that is followed to its verdict.

    `location` finds the job's path in the answer of a write; an answer without one is final.
    `pattern` is what such a path must match, whole, after a leading `/` is dropped; `{variables}`
    of the scope are filled in (quoted). First match wins: success, failure; neither: pending.
    """

    location: JMESPath | None = None
    header: str | None = Field(None, description="a header that holds it, such as Location")
    path: Template | None = Field(
        None, description="where the job is read, when `location` finds just its id: `{job}`"
    )
    pattern: Pattern
    success: JMESPath
    failure: JMESPath
    error: JMESPath = "message"
    id: JMESPath | None = Field(None, description="the new record's id in a finished job")
    poll: Poll = Poll()


class Quota(Model):
    """Calls allowed in a window of the day."""

    from_: Time = Field("00:00", alias="from")
    to: Time = "24:00"
    read: Rate | None = None
    write: Rate | None = None


class Limits(Model):
    """What the API allows. `rate` holds for all calls together."""

    sequential: bool = Field(False, description="one call in flight per scope, jobs included")
    concurrency: int = Field(4, gt=0, description="calls in flight, all scopes together")
    in_flight_s: float | None = Field(
        None,
        ge=0,
        description="how long the API may go on with a call whose client has gone; "
        "default 2 x the read time-out, at least 60",
    )
    rate: Rate | None = None
    burst: int = Field(1, gt=0)
    quotas: list[Quota] = []
    time_zone: Annotated[str, AfterValidator(_time_zone)] = "UTC"
    headers: Literal["heed", "ignore"] = Field(
        "heed",
        description="what RateLimit headers of answers are worth: `ignore` where the limits above "
        "are exact and the headers only round them up; a 429 is heeded all the same",
    )
    reset: Literal["seconds", "epoch"] | None = Field(
        None, description="what the API's X-RateLimit-Reset holds; without it those are not read"
    )


class Each(Model):
    """Records that are listed inside others: `of` finds them in one, `with` is taken along.

    `id` names the outer record, so that a page that repeats one is noticed.
    """

    of: JMESPath
    with_: dict[str, JMESPath] = Field({}, alias="with", description="field -> from the outer one")
    id: JMESPath = "id"


class Within(Model):
    """Records that stand below others: `resource` is listed first, and for each of its records one
    call is made. `with` are fields of the outer record: they fill the path, and are taken along
    into each record. `where` leaves outer records out: JMESPath -> a text, or several, one of which
    must be (trimmed, in any case) what is found, or be among it; `{name}` is a parameter.
    """

    resource: str
    with_: dict[str, JMESPath] = Field(alias="with", min_length=1)
    where: dict[JMESPath, str | Texts] = {}


class EmptyIf(Model):
    """An answer that is a refusal by its status, and means that there are no (more) records.

    `contains` must be in its text, in any case.
    """

    status: int = Field(ge=400, le=499)
    contains: str = Field(min_length=1)


class Listed(Model):
    """One call that lists records. `job` means the answer is a job with the rows."""

    method: Method = "GET"
    path: Template
    query: dict[str, Template] = {}
    body: Any = None
    records: JMESPath = Field("@", description="the list of records in the answer")
    empty_if: EmptyIf | None = None
    paging: Paging | None = None
    each: Each | None = None
    within: Within | None = None
    job: bool = False
    job_records: JMESPath = "not_null(response.rows, rows)"


class List(Listed):
    """How the records of a resource are listed. `job` means the answer is a job with the rows.

    Where one call shows only a part of them, `also` has further calls, with the same keys. The
    listing is all of them together; a record whose id was there before is the same one.
    """

    also: list[Listed] = []

    @property
    def calls(self) -> tuple[Listed, ...]:
        """The calls of the listing, in their order."""
        return (self, *self.also)


class Get(Model):
    """How one record is read."""

    path: Template
    record: JMESPath = "@"


class Idempotency(Model):
    """A header whose value makes the API answer a repeated call without doing it again."""

    header: str = Field("Idempotency-Key", pattern=r"^[A-Za-z0-9-]+$")
    life_s: float = Field(86_400, gt=0, description="how long the API remembers a key")


class Write(Model):
    """How one record is created, updated or deleted.

    `send: changed` sends only the fields that differ (updates). `omit` leaves payload fields out,
    `include` adds some (values may hold `{id}`), `keep` sends these fields of the existing record
    back when the payload does not have them. `params` are payload fields that stand in the path,
    as `{field}`, and not in the body.
    """

    method: Method | None = None
    path: Template
    send: Literal["all", "changed"] = "all"
    omit: list[str] = []
    skip_empty: list[str] = Field(
        [], description="payload fields that are not sent when empty, which the API reads as empty"
    )
    params: list[str] = []
    include: dict[str, Any] = {}
    keep: list[str] = []
    id: JMESPath | None = Field(None, description="the record's id in the answer")
    success: list[int] = [200, 201, 202, 204]
    retry: bool = Field(False, description="safe to send again after an unclear answer")
    idempotency: Idempotency | None = None


class Resource(Model):
    """A kind of record: how to list and change it, what names it, how it reads and writes.

    What is not declared cannot be done: without `delete` nothing is ever deleted.
    `read` translates a listed record to the shape that is written: field -> JMESPath over the
    record; its fields are laid over the record's own.
    `protect` is a JMESPath over the record (after `read`): true means that we never touch it.
    """

    key: Texts = Field(min_length=1)
    id: JMESPath = "id"
    list: List | None = None
    get: Get | None = None
    create: Write | None = None
    update: Write | None = None
    delete: Write | None = None
    write: Literal["crud", "upsert"] = "crud"
    refresh: Request | None = None
    read: dict[str, JMESPath] = {}
    protect: JMESPath | None = None
    caseless_key: bool = Field(False, description="the API compares keys without case")
    unknown_if_absent: Texts = Field(
        [], description="fields that a listing may leave out: then they are not compared"
    )
    write_only: Texts = Field([], description="fields that are sent and never read back")
    compare_only: Texts = Field(
        [],
        description="fields that are compared and never sent, as `write_only` ones say the same "
        "in the words of the API",
    )
    settle_s: float = Field(10, ge=0, description="how long a new record may be missing in lists")
    unique_by_server: bool = Field(
        False, description="the API itself refuses a second record with the same key"
    )
    comes_with: str | None = Field(
        None,
        description="a resource whose records bring those of this one into being, such as their "
        "state: that one is there when it is to be created changes nothing",
    )
    cache_s: float | None = Field(
        None,
        gt=0,
        description="how long a listing may be kept and used again by lookups, in seconds; "
        "default: not at all",
    )
    parameters: dict[str, str] = Field(
        {},
        description="name -> what it is: a resource of which each profile has its own kind, "
        "`target: {resource: NAME, like: THIS, with: {parameter: value}}`",
    )
    description: str = ""


class System(Model):
    """A whole system file."""

    version: Literal[1]
    system: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")
    description: str = ""
    scope: list[str] = Field([], description="path variables that a scope must give a value")
    base_path: Template = ""
    headers: dict[str, str] = {}
    auth: Auth = Auth()
    envelope: Envelope = Envelope()
    answers: Answers = Answers()
    limits: Limits = Limits()
    paging: Paging = Paging()
    jobs: Jobs | None = None
    probe: Template | None = Field(None, description="a GET that shows that we are let in")
    resources: dict[str, Resource] = Field(min_length=1)


# --- loading -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedSystem:
    """A system that was read and found right, and where its parts stand.

    `digest` is the SHA-256 of its content (comments and layout do not count).
    """

    name: str
    system: System
    file: str
    digest: str
    document: Document = dataclasses.field(repr=False)

    def place(self, way: Way) -> Place:
        """Where the key at the end of `way` stands in the file."""
        return self.document.place(way)


def shipped_folder() -> Path:
    """The folder of the system files that come with dsync."""
    return Path(str(files("dsync"))) / "systems"


def names(search_paths: Sequence[Path], *, shipped: bool = True) -> list[str]:
    """The names of all systems that can be loaded, sorted."""
    found = {
        path.stem
        for folder in _folders(search_paths, shipped)
        if folder.is_dir()
        for path in folder.iterdir()
        if path.suffix in (".yml", ".yaml") and yamlfile.is_name(path.stem)
    }
    return sorted(found)


def load(name: str, search_paths: Sequence[Path] = (), *, shipped: bool = True) -> LoadedSystem:
    """The system `name`: the first file of that name in the search paths, then the shipped ones.

    Raises: Faults, all of the file at once; Invalid when there is no such file or it is out of
    bounds.
    """
    where = Place(file=name)
    if not yamlfile.is_name(name):
        raise Invalid(
            f"`{name[:80]}` cannot be the name of a system",
            code="DS-SYS-NAME",
            hint="names are a-z, 0-9, - and _, at most 64, beginning with a letter or digit",
        )
    for folder in _folders(search_paths, shipped):
        if path := yamlfile.locate(name, folder, code="DS-SYS", where=where):
            return load_file(path, name=name)
    known = names(search_paths, shipped=shipped)
    looked = ", ".join(yamlfile.display(path) for path in search_paths) or "the shipped ones only"
    near = yamlfile.nearest(name, known) or f"known systems: {', '.join(known) or 'none'}"
    raise Invalid(
        f"there is no system `{name}`", code="DS-SYS-FIND", hint=f"{near}; looked in {looked}"
    )


def load_file(path: Path, *, name: str | None = None) -> LoadedSystem:
    """The system in one file. Raises: Faults, all of the file at once."""
    document = yamlfile.load(path)
    system, unfit = yamlfile.fit_rest(System, document.root, code="DS-SYS")
    faults = [*unfit, *_further(system, unfit, document)]
    if system is not None and name is not None and system.system != name:
        faults.append(
            FileFault(
                f"the file is called `{name}`, and the system in it `{system.system}`",
                code="DS-SYS-NAME",
                where=document.place(("system",)),
                way=("system",),
                hint="give both the same name",
            )
        )
    if system is None or faults:
        raise Faults(sorted(faults, key=yamlfile.order))
    return LoadedSystem(
        name=system.system,
        system=system,
        file=document.file,
        digest=_digest(document.data),
        document=document,
    )


def variant(resource: Resource, values: Mapping[str, str | Texts]) -> Resource:
    """The kind of a resource with parameters that has these values. Raises: Invalid."""
    if unlike := sorted(resource.parameters.keys() ^ values.keys()):
        raise Invalid(
            f"the parameters are {', '.join(sorted(resource.parameters)) or 'none'}, "
            f"and `with` has {', '.join(sorted(values)) or 'none'}",
            code="DS-PROF-WITH",
            hint=f"give each of them one value; it is about {', '.join(unlike)}",
        )

    def narrowed(how: Listed) -> dict[str, Any]:
        within = how.within
        if within is None:
            return {}
        where = {path: _given(of, values) for path, of in within.where.items()}
        return {"within": within.model_copy(update={"where": where})}

    listing = resource.list
    if listing is None:
        return resource.model_copy(update={"parameters": {}})
    also = [how.model_copy(update=narrowed(how)) for how in listing.also]
    narrow = listing.model_copy(update={**narrowed(listing), "also": also})
    return resource.model_copy(update={"parameters": {}, "list": narrow})


def _given(of: str | Texts, values: Mapping[str, str | Texts]) -> str | Texts:
    if isinstance(of, str) and (whole := _PLACEHOLDER.fullmatch(of)):
        return values[whole[1]]
    return of


def credentials(system: System) -> tuple[str, ...]:
    """The names of the credentials that a connection to this system needs, sorted."""
    auth = system.auth
    needed: set[str] = set()
    match auth.kind:
        case "basic":
            needed = {"username", "password"}
        case "bearer" | "header":
            needed = {"token"}
        case "exchange" if auth.request is not None:
            request = auth.request
            for text in _texts([request.body, request.form, request.headers]):
                needed |= set(_CREDENTIAL.findall(text))
    return tuple(sorted(needed))


def _folders(search_paths: Sequence[Path], shipped: bool) -> list[Path]:
    return [*search_paths, *([shipped_folder()] if shipped else [])]


def _digest(data: Any) -> str:
    text = json.dumps(data, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


# --- what several values mean together -----------------------------------------------------------


def _further(
    system: System | None, unfit: list[FileFault], document: Document
) -> Iterator[FileFault]:
    """What else is wrong, as far as it does not follow from what did not fit."""
    if system is None:
        return
    names_in_doubt = any(f.way[:1] == ("scope",) or "key" in f.way for f in unfit)
    for fault in _meaning(system, document):
        below = any(fault.way[: len(f.way)] == f.way or f.way[:-1] == fault.way for f in unfit)
        if not below and not (names_in_doubt and fault.code == "DS-TPL"):
            yield fault


def _meaning(system: System, document: Document) -> Iterator[FileFault]:
    fault = partial(_fault, document)
    yield from _auth_faults(system, fault)
    yield from _paging_faults(system.paging, ("paging",), fault)
    yield from _jobs_faults(system, fault)
    yield from _quota_faults(system.limits.quotas, fault)
    scope = set(system.scope)
    for index, name in enumerate(system.scope):
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or name in ("id", "job"):
            yield fault(
                ("scope", index),
                f"`{name}` cannot be a scope variable",
                "DS-TPL",
                "names are letters, digits and _; `id` and `job` have a meaning of their own",
            )
    yield from _unknown(system.base_path, scope, ("base_path",), fault)
    if system.probe is not None:
        yield from _unknown(system.probe, set(), ("probe",), fault)
    for name, resource in system.resources.items():
        yield from _resource_faults(system, name, resource, scope, fault)


def _fault(document: Document, way: Way, message: str, code: str, hint: str) -> FileFault:
    return FileFault(message, code=code, where=document.place(way), way=way, hint=hint)


_Fault = partial[FileFault]


def _unknown(template: str, known: set[str], way: Way, fault: _Fault) -> Iterator[FileFault]:
    for name in placeholders(template):
        if name not in known:
            listed = ", ".join(f"{{{one}}}" for one in sorted(known)) or "none"
            yield fault(
                way,
                f"`{{{name}}}` is not known here",
                "DS-TPL",
                f"{yamlfile.nearest(name, known) or 'scope variables are declared under `scope`'};"
                f" known here: {listed}",
            )


def _auth_faults(system: System, fault: _Fault) -> Iterator[FileFault]:
    auth = system.auth
    if auth.kind == "exchange":
        for key, value, why in (
            ("request", auth.request, "the call that gets a token"),
            ("token", auth.token, "the JMESPath of the token in the answer"),
        ):
            if value is None:
                yield fault(
                    ("auth",),
                    f"`kind: exchange` needs `{key}`",
                    "DS-SYS-AUTH",
                    f"add auth.{key}: {why}",
                )
    elif auth.request is not None or auth.expires is not None:
        yield fault(
            ("auth", "request" if auth.request is not None else "expires"),
            f"`kind: {auth.kind}` gets no token by a call",
            "DS-SYS-AUTH",
            "write `kind: exchange`, or remove this",
        )
    for key, request in (("request", auth.request), ("renew", auth.renew)):
        if request is not None:
            yield from _unknown(request.path, set(), ("auth", key, "path"), fault)


def _paging_faults(paging: Paging, way: Way, fault: _Fault) -> Iterator[FileFault]:
    needs: dict[str, str | None] = {"cursor": "next", "offset": "size", "link": None, "none": None}
    needed = needs.get(paging.kind)
    if paging.kind == "page" and paging.size is None and paging.next is None:
        needed = "size"
    if needed and getattr(paging, needed) is None:
        why = {
            "next": "the JMESPath of the next cursor in the answer",
            "size": "how many records a full page has: a shorter page is the last one",
        }[needed]
        yield fault(
            way,
            f"`kind: {paging.kind}` needs `{needed}`",
            "DS-SYS-PAGING",
            f"add `{needed}`: {why}",
        )


def _jobs_faults(system: System, fault: _Fault) -> Iterator[FileFault]:
    jobs = system.jobs
    if jobs is None:
        return
    if jobs.location is None and jobs.header is None:
        yield fault(
            ("jobs",),
            "nothing says where a job is found",
            "DS-SYS-JOBS",
            "add `location` (a JMESPath over the answer) or `header`",
        )
    scope = set(system.scope)
    yield from _unknown(jobs.pattern, scope, ("jobs", "pattern"), fault)
    if jobs.path is not None:
        yield from _unknown(jobs.path, scope | {"job"}, ("jobs", "path"), fault)
        if "job" not in placeholders(jobs.path):
            yield fault(
                ("jobs", "path"),
                "the path of a job does not hold `{job}`",
                "DS-TPL",
                "write it where the job's id belongs: orders/{job}",
            )


def _quota_faults(quotas: list[Quota], fault: _Fault) -> Iterator[FileFault]:
    """The windows must cover each minute of the day once; one may pass midnight."""
    if not quotas:
        return
    owner: list[int | None] = [None] * 1440
    for index, quota in enumerate(quotas):
        begin, end = _minutes(quota.from_), _minutes(quota.to)
        if begin == end:
            yield fault(
                ("limits", "quotas", index),
                f"the window {quota.from_} to {quota.to} is empty",
                "DS-QUOTA",
                "a whole day is 00:00 to 24:00",
            )
            return
        minutes = range(begin, end) if begin < end else [*range(begin, 1440), *range(end)]
        for minute in minutes:
            if owner[minute] is not None:
                yield fault(
                    ("limits", "quotas", index),
                    f"two windows hold at {_clock(minute)}",
                    "DS-QUOTA",
                    "let one window end where the next begins",
                )
                return
            owner[minute] = index
    if None in owner:
        begin = owner.index(None)
        yield fault(
            ("limits", "quotas"),
            f"no window holds at {_clock(begin)}",
            "DS-QUOTA",
            "the windows must cover 24 hours without a gap",
        )


def _minutes(text: str) -> int:
    return int(text[:2]) * 60 + int(text[3:])


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


def _resource_faults(
    system: System, name: str, resource: Resource, scope: set[str], fault: _Fault
) -> Iterator[FileFault]:
    way: Way = ("resources", name)
    key = set(resource.key)
    if listing := resource.list:
        ways: list[Way] = [(*way, "list")]
        ways += [(*way, "list", "also", index) for index in range(len(listing.also))]
        for how, at in zip(listing.calls, ways, strict=True):
            yield from _list_faults(system, how, scope, at, fault)
            yield from _within_faults(system, name, how, at, fault)
    if resource.get:
        yield from _unknown(resource.get.path, scope | key | {"id"}, (*way, "get", "path"), fault)
    if resource.refresh:
        yield from _unknown(resource.refresh.path, scope, (*way, "refresh", "path"), fault)
    if resource.create:
        known = scope | key | set(resource.create.params)
        yield from _unknown(resource.create.path, known, (*way, "create", "path"), fault)
    for ability, write in (("update", resource.update), ("delete", resource.delete)):
        if write is None:
            continue
        means = key | {"id"} | set(write.params)
        yield from _unknown(write.path, scope | means, (*way, ability, "path"), fault)
        named = set(placeholders(write.path)) & means
        included = any("{" in text for text in _texts(write.include))
        upsert = ability == "update" and resource.write == "upsert"
        if not (named or included or upsert):
            yield fault(
                (*way, ability, "path"),
                f"this {ability} does not say which record it means",
                "DS-SYS-WRITE",
                f"put {{id}} or {{{resource.key[0]}}} into the path or into `include`"
                + ("; or `write: upsert`, if a key is enough" if ability == "update" else ""),
            )
        # A DELETE has no body, and what a server makes of a query is its own affair: with the
        # record anywhere but at the end of the path, it may mean the whole collection.
        last = write.path.partition("?")[0].rpartition("/")[2]
        ends = bool(set(placeholders(last)) & (key | {"id"}))
        is_delete = ability == "delete" and write.method in (None, "DELETE")
        if is_delete and (named or included) and not ends:
            yield fault(
                (*way, ability, "path"),
                "this DELETE does not end with the record that it means",
                "DS-SYS-WRITE",
                f"end the path with {{id}} or {{{resource.key[0]}}}, or name another `method`",
            )
    for ability, write in _writes(resource):
        for field, value in write.include.items():
            for text in _texts(value):
                yield from _unknown(
                    text, scope | key | {"id"}, (*way, ability, "include", field), fault
                )
    if resource.write == "upsert" and resource.create is None and resource.update is None:
        yield fault(
            (*way, "write"),
            "`write: upsert` without a create or update",
            "DS-SYS-WRITE",
            "add `create`: the call that creates and updates",
        )


def _list_faults(
    system: System, listing: Listed, scope: set[str], way: Way, fault: _Fault
) -> Iterator[FileFault]:
    known = scope | set(listing.within.with_ if listing.within else ())
    yield from _unknown(listing.path, known, (*way, "path"), fault)
    for parameter, value in listing.query.items():
        yield from _unknown(value, known, (*way, "query", parameter), fault)
    if listing.paging is not None:
        yield from _paging_faults(listing.paging, (*way, "paging"), fault)
    if listing.job and system.jobs is None:
        yield fault(
            (*way, "job"),
            "the listing is a job, and the system has no `jobs`",
            "DS-SYS-JOBS",
            "add `jobs` to the system: where a job is found, and how it says its verdict",
        )


def _within_faults(
    system: System, name: str, how: Listed, way: Way, fault: _Fault
) -> Iterator[FileFault]:
    within = how.within
    if within is None:
        return
    at: Way = (*way, "within")
    path, outer = [name], within.resource
    while outer not in path:
        path.append(outer)
        declared = system.resources.get(outer)
        if declared is None or declared.list is None or declared.parameters:
            yield fault(
                (*at, "resource"),
                f"`{outer}` is no resource that can be listed by itself",
                "DS-SYS-WITHIN",
                yamlfile.nearest(outer, system.resources)
                or "name a resource of this file that has a `list` and no `parameters`",
            )
            return
        if declared.list.within is None:
            break
        outer = declared.list.within.resource
    else:
        yield fault(
            (*at, "resource"),
            f"these resources stand within each other in a circle: {' -> '.join([*path, outer])}",
            "DS-SYS-WITHIN",
            "let one of them be listed by itself",
        )
    parameters = set(system.resources[name].parameters)
    for expression, of in within.where.items():
        for text in [of] if isinstance(of, str) else of:
            yield from _unknown(text, parameters, (*at, "where", expression), fault)


def _writes(resource: Resource) -> Iterable[tuple[str, Write]]:
    for ability, write in (
        ("create", resource.create),
        ("update", resource.update),
        ("delete", resource.delete),
    ):
        if write is not None:
            yield ability, write
