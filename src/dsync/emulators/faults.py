"""Faults: what a misbehaving server does, told byte by byte.

A fault is a function from an answer to the steps that the connection takes instead of sending it.
Whether the call has its effect first is the argument `when`: `before` (no effect) or `after` (the
effect is there, only the answer suffers). A client cannot tell one from the other: that is the
point.
"""

from __future__ import annotations

import gzip
import json
import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import cast

from .clock import Clock
from .messages import Answer, Request, encode

__all__ = [
    "FAULTS",
    "Close",
    "Fault",
    "FaultError",
    "Hang",
    "Reset",
    "Rule",
    "Rules",
    "Send",
    "Step",
    "Wait",
    "answer_steps",
    "mixed",
]


class FaultError(ValueError):
    """A rule that names no fault, or carries arguments that it does not take."""


# ---- steps -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Send:
    """Write these bytes."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing for so many real seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Hang:
    """Say nothing until the client goes away, or so many real seconds have passed; then close."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Reset:
    """Cut the connection with RST: the client sees a reset, not an end."""


@dataclass(frozen=True, slots=True)
class Close:
    """End the connection with FIN."""


Step = Send | Wait | Hang | Reset | Close
Json = dict[str, object]


def answer_steps(answer: Answer, *, head_only: bool, keep_alive: bool, date: str) -> list[Step]:
    """The steps of an honest answer."""
    extra = [("Date", date)] if date else []
    if not keep_alive:
        extra.append(("Connection", "close"))
    head = answer.head(*extra)
    steps: list[Step] = [Send(head if head_only else head + answer.body)]
    return steps if keep_alive else [*steps, Close()]


# ---- rules -------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True, eq=False)
class Rule:
    """When which fault is shown. Counters make it stateful."""

    fault: str
    args: dict[str, object]
    match: dict[str, object]
    seen: int = 0
    """Calls that fitted method, path and `reused`."""
    shown: int = 0
    """Times the fault was shown."""
    _chance: random.Random = field(default_factory=random.Random)
    _path: re.Pattern[str] | None = None

    @classmethod
    def of(cls, value: object, own_faults: Mapping[str, str], number: int = 0) -> Rule:
        """A rule from its JSON form; `own_faults` are those that the emulator itself knows.

        `number` is its place in the list: it seeds chance, so that rules strike different calls.

        Raises: FaultError.
        """
        if not isinstance(value, dict) or not isinstance(value.get("fault"), str):
            raise FaultError('a rule is an object like {"match": {...}, "fault": "reset"}')
        name = cast("str", value["fault"])
        match = value.get("match", {})
        args = {key: item for key, item in value.items() if key not in ("fault", "match")}
        if not isinstance(match, dict) or not match.keys() <= _MATCH:
            raise FaultError(f"`match` takes {' '.join(sorted(_MATCH))}")
        if name in FAULTS:
            unknown = args.keys() - FAULTS[name].args.keys() - {"when"}
            if unknown:
                raise FaultError(f"fault {name} takes no {' '.join(sorted(unknown))}")
            when = args.get("when", FAULTS[name].when[0])
            if when not in FAULTS[name].when:
                raise FaultError(f"`when` of fault {name} is one of {' '.join(FAULTS[name].when)}")
        elif name not in own_faults:
            known = " ".join(sorted([*FAULTS, *own_faults]))
            raise FaultError(f"no fault is named {name}; there are {known}")
        try:
            pattern = re.compile(str(match["path"])) if "path" in match else None
        except re.error as error:
            raise FaultError(f"`match.path` is no regular expression: {error}") from error
        chance = random.Random(f"{match.get('seed', 0)}/{number}")
        return cls(fault=name, args=args, match=match, _chance=chance, _path=pattern)

    @property
    def when(self) -> str:
        """`before_read`, `before` or `after` the effect."""
        fault = FAULTS.get(self.fault)
        return str(self.args.get("when", fault.when[0] if fault else "before"))

    def number(self, name: str, default: float) -> float:
        """A numeric argument."""
        value = self.args.get(name, default)
        return value if isinstance(value, int | float) else default

    def hits(self, request: Request) -> bool:
        """Whether this call is one that gets the fault; counts the calls that fit."""
        if not self._fits(request):
            return False
        self.seen += 1
        times = self.match.get("times")
        return self._due() and not (isinstance(times, int) and self.shown >= times)

    def _fits(self, request: Request) -> bool:
        methods = self.match.get("method")
        if methods is not None:
            wanted = methods if isinstance(methods, list) else [methods]
            if request.method not in [str(method).upper() for method in wanted]:
                return False
        if self._path and not self._path.search(request.target):
            return False
        reused = self.match.get("reused")
        return reused is None or reused == (request.on_connection > 1)

    def _due(self) -> bool:
        nth = self.match.get("nth")
        if nth is not None:
            return self.seen in (nth if isinstance(nth, list) else [nth])
        first = self.match.get("from")
        if isinstance(first, int) and self.seen < first:
            return False
        every = self.match.get("every")
        if isinstance(every, int) and every > 0 and self.seen % every:
            return False
        probability = self.match.get("probability")
        if isinstance(probability, int | float):
            return self._chance.random() < probability
        return True

    def to_json(self) -> dict[str, object]:
        return {
            "match": self.match,
            "fault": self.fault,
            **self.args,
            "seen": self.seen,
            "shown": self.shown,
        }


MIXED: tuple[dict[str, object], ...] = (
    {"fault": "reset", "when": "before"},
    {"fault": "reset", "when": "after"},
    {"fault": "close", "when": "after"},
    {"fault": "timeout", "when": "before"},
    {"fault": "timeout", "when": "after"},
    {"fault": "cut_body"},
    {"fault": "truncated_json"},
    {"fault": "html", "status": 200, "when": "after"},
    {"fault": "html", "status": 502, "when": "before"},
    {"fault": "status", "status": 500, "when": "before"},
    {"fault": "status", "status": 500, "when": "after"},
    {"fault": "status", "status": 502, "when": "after"},
    {"fault": "status", "status": 503, "when": "before", "retry_after": 1},
    {"fault": "status", "status": 503, "when": "after"},
    {"fault": "status", "status": 401, "when": "before"},
    {"fault": "too_many", "retry_after": 1},
)
"""The kinds that a mix has, in equal parts: no effect, an effect, and a refusal to act."""


def mixed(share: float, *, seed: int = 1, match: Mapping[str, object] | None = None) -> list[Json]:
    """Rules that hit `share` (0 to 1) of all calls that fit `match`, with faults of all kinds."""
    # A call that an earlier rule took is lost to the later ones; so their chance is larger.
    rules: list[Json] = []
    each = share / len(MIXED)
    for number, fault in enumerate(MIXED):
        chance = {"probability": each / (1.0 - number * each), "seed": seed}
        rules.append({"match": {**(match or {}), **chance}, **fault})
    return rules


def _unmixed(value: object) -> list[Json] | list[object]:
    if not isinstance(value, dict) or "mixed" not in value:
        return [value]
    share, seed, match = value["mixed"], value.get("seed", 1), value.get("match", {})
    good = isinstance(share, int | float) and 0 <= share <= 1 and value.keys() <= _MIX
    if not good or not isinstance(seed, int) or not isinstance(match, dict):
        raise FaultError('a mix is {"mixed": SHARE, "seed": NUMBER, "match": {...}}, 0.05 is 5 %')
    return mixed(float(share), seed=seed, match=match)


_MIX = {"mixed", "seed", "match"}
_MATCH = {"method", "path", "nth", "from", "every", "probability", "seed", "times", "reused"}


class Rules:
    """The rules in force, in order."""

    def __init__(self, own_faults: Mapping[str, str]) -> None:
        self._own = own_faults
        self.rules: list[Rule] = []

    def set(self, values: object) -> None:
        """Replaces all rules. Raises: FaultError, and nothing has changed."""
        if not isinstance(values, list):
            raise FaultError("faults are a list of rules")
        plain: list[object] = []
        for value in values:
            plain += _unmixed(value)
        self.rules = [Rule.of(value, self._own, number) for number, value in enumerate(plain)]

    def hit(self, request: Request) -> tuple[Rule | None, tuple[Rule, ...]]:
        """The first rule of the wire that hits this call, and all of the emulator's own."""
        wire: Rule | None = None
        own: list[Rule] = []
        for rule in self.rules:
            of_wire = rule.fault in FAULTS
            if not rule.hits(request) or (of_wire and wire):
                continue
            rule.shown += 1
            if of_wire:
                wire = rule
            else:
                own.append(rule)
        return wire, tuple(own)


# ---- the catalogue -----------------------------------------------------------------------------

Shown = tuple[int | None, list[Step]]
"""The status on the wire (None when no status line was), and the steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One misbehaviour: how it shows, when it may strike, and its arguments with their defaults."""

    show: Callable[[Rule, Answer, Clock], Shown]
    when: tuple[str, ...]
    """Moments it may be given; the first is the default."""
    args: dict[str, object] = field(default_factory=dict)
    doc: str


def _arg(rule: Rule, name: str) -> object:
    return rule.args.get(name, FAULTS[rule.fault].args[name])


def _size(rule: Rule, name: str) -> int:
    value = _arg(rule, name)
    return int(value) if isinstance(value, int | float) else 0


def _seconds(rule: Rule, name: str) -> float:
    value = _arg(rule, name)
    return float(value) if isinstance(value, int | float) else 0.0


def _part(rule: Rule, data: bytes) -> bytes:
    """So much of `data` as `keep` says: a share below 1, or a number of bytes; never all of it."""
    keep = _seconds(rule, "keep")
    length = int(len(data) * keep) if keep < 1 else int(keep)
    return data[: max(0, min(length, len(data) - 1))]


def _whole(answer: Answer, clock: Clock) -> Shown:
    return answer.status, [Send(answer.head(("Date", clock.http_date())) + answer.body)]


def _reset(_rule: Rule, _answer: Answer, _clock: Clock) -> Shown:
    return None, [Reset()]


def _close(_rule: Rule, _answer: Answer, _clock: Clock) -> Shown:
    return None, [Close()]


def _timeout(rule: Rule, _answer: Answer, _clock: Clock) -> Shown:
    return None, [Hang(_seconds(rule, "hang_s"))]


def _delay(rule: Rule, answer: Answer, clock: Clock) -> Shown:
    status, steps = _whole(answer, clock)
    return status, [Wait(_seconds(rule, "delay_s")), *steps]


def _drip(rule: Rule, answer: Answer, clock: Clock) -> Shown:
    size, pause = max(1, _size(rule, "bytes")), Wait(_seconds(rule, "every_s"))
    data = answer.head(("Date", clock.http_date())) + answer.body
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    return answer.status, [step for piece in pieces for step in (Send(piece), pause)]


def _cut_body(rule: Rule, answer: Answer, _clock: Clock) -> Shown:
    answer = _with_body(answer, answer.body or b"{}")
    return answer.status, [Send(answer.head() + _part(rule, answer.body)), Close()]


def _cut_chunk(rule: Rule, answer: Answer, _clock: Clock) -> Shown:
    answer = _with_body(answer, answer.body or b"{}")
    head = answer.head(("Transfer-Encoding", "chunked"))
    size = f"{len(answer.body):x}\r\n".encode()
    return answer.status, [Send(head + size + _part(rule, answer.body)), Close()]


def _truncated_json(rule: Rule, answer: Answer, clock: Clock) -> Shown:
    return _whole(_with_body(answer, _part(rule, answer.body or b"{}")), clock)


def _body(rule: Rule, answer: Answer, clock: Clock) -> Shown:
    text = _arg(rule, "body")
    data = text.encode() if isinstance(text, str) else encode(text)
    return _whole(_with_body(answer, data), clock)


def _html(rule: Rule, answer: Answer, clock: Clock) -> Shown:
    page = b"<!DOCTYPE html><html><head><title>Gateway</title></head><body>Sign in</body></html>"
    status = _size(rule, "status")
    html = Answer(status=status, body=page, content_type="text/html; charset=utf-8")
    return _whole(html, clock)


def _empty(_rule: Rule, answer: Answer, clock: Clock) -> Shown:
    return _whole(_with_body(answer, b""), clock)


def _no_content(_rule: Rule, _answer: Answer, clock: Clock) -> Shown:
    return _whole(Answer(status=204), clock)


def _content_type(rule: Rule, answer: Answer, clock: Clock) -> Shown:
    shown = _with_body(answer, answer.body)
    shown.content_type = str(_arg(rule, "type"))
    return _whole(shown, clock)


def _bad_gzip(_rule: Rule, answer: Answer, clock: Clock) -> Shown:
    bad = _with_body(answer, b"\x1f\x8b\x08\x00" + answer.body)
    bad.headers = [*answer.headers, ("Content-Encoding", "gzip")]
    return _whole(bad, clock)


def _gzip_bomb(rule: Rule, answer: Answer, clock: Clock) -> Shown:
    packed = gzip.compress(b" " * (_size(rule, "size_mb") << 20), 9)
    bomb = _with_body(answer, packed)
    bomb.headers = [*answer.headers, ("Content-Encoding", "gzip")]
    return _whole(bomb, clock)


def _big_body(rule: Rule, answer: Answer, clock: Clock) -> Shown:
    count = _size(rule, "size_mb")
    head = _with_body(answer, b" ").head(("Date", clock.http_date()), length=count << 20)
    piece = Send(b" " * (1 << 20))
    return answer.status, [Send(head), *[piece] * count]


def _headers(rule: Rule, answer: Answer, clock: Clock) -> Shown:
    text = "x" * _size(rule, "size")
    many = [(f"X-Filler-{number}", text) for number in range(_size(rule, "count"))]
    shown = Answer(
        status=answer.status,
        body=answer.body,
        content_type=answer.content_type,
        headers=[*answer.headers, *many],
    )
    return _whole(shown, clock)


def _garbage(_rule: Rule, _answer: Answer, _clock: Clock) -> Shown:
    return None, [Send(b"HTTZ/0.9 oops\x00\xff nothing here\r\n\r\n"), Close()]


def _info_flood(rule: Rule, answer: Answer, clock: Clock) -> Shown:
    status, steps = _whole(answer, clock)
    flood = b"HTTP/1.1 103 Early Hints\r\n\r\n" * _size(rule, "count")
    return status, [Send(flood), *steps]


def _deep_json(rule: Rule, answer: Answer, clock: Clock) -> Shown:
    depth = _size(rule, "depth")
    return _whole(_with_body(answer, b"[" * depth + b"]" * depth), clock)


def _duplicate_keys(_rule: Rule, answer: Answer, clock: Clock) -> Shown:
    if answer.body[:1] == b"{":
        first = next(iter(json.loads(answer.body)), "id")
        twice = b"{" + encode(first) + b":null," + answer.body[1:]
    else:
        twice = b'{"id":1,"id":2}'
    return _whole(_with_body(answer, twice), clock)


def _nan(_rule: Rule, answer: Answer, clock: Clock) -> Shown:
    rest = answer.body[1:] if answer.body[:1] == b"{" and answer.body != b"{}" else b"}"
    return _whole(
        _with_body(answer, b'{"ratio":NaN' + (b"," if rest != b"}" else b"") + rest), clock
    )


def _slow(_rule: Rule, answer: Answer, clock: Clock) -> Shown:
    return _whole(answer, clock)  # the server waits, before it does anything


def _utf16(_rule: Rule, answer: Answer, clock: Clock) -> Shown:
    return _whole(_with_body(answer, answer.body.decode().encode("utf-16")), clock)


def _redirect(rule: Rule, _answer: Answer, clock: Clock) -> Shown:
    headers = [("Location", str(_arg(rule, "location")))]
    return _whole(Answer(status=_size(rule, "status"), headers=headers), clock)


def _status(rule: Rule, _answer: Answer, clock: Clock) -> Shown:
    status = _size(rule, "status")
    body = _arg(rule, "body")
    if body is None:
        body = {"status": "Failed", "error": f"fault: {status}"}
    headers = _arg(rule, "headers")
    shown = Answer(
        status=status,
        body=body.encode() if isinstance(body, str) else encode(body),
        headers=list(headers.items()) if isinstance(headers, dict) else [],
    )
    asked = _arg(rule, "retry_after")
    if asked is not None:
        shown.headers.append(("Retry-After", retry_after(asked, clock)))
    return _whole(shown, clock)


def retry_after(value: object, clock: Clock) -> str:
    """The header's text: `5` is seconds, `date:5` the date 5 seconds from now, else as it is."""
    text = str(value)
    kind, _, rest = text.partition(":")
    return clock.http_date(float(rest)) if kind == "date" and rest else text


def _with_body(answer: Answer, body: bytes) -> Answer:
    # A 204 can carry none: its bytes would be taken for the next answer.
    status = 200 if answer.status in (204, 304) else answer.status
    kind = answer.content_type
    return Answer(status=status, body=body, content_type=kind, headers=list(answer.headers))


_BOTH = ("after", "before")
_ALL = ("after", "before", "before_read")
_AT_FIRST = ("before", "after", "before_read")

FAULTS: dict[str, Fault] = {
    "reset": Fault(
        show=_reset,
        when=_ALL,
        doc="the connection is reset; `before_read`: even before the body was read",
    ),
    "close": Fault(show=_close, when=_ALL, doc="the connection ends without an answer"),
    "timeout": Fault(
        show=_timeout,
        when=_ALL,
        args={"hang_s": 600},
        doc="no answer until the client goes away, `hang_s` at most; `before_read`: nor is the "
        "body read",
    ),
    "late_commit": Fault(
        show=_timeout,
        when=("before",),
        args={"after_s": 1, "hang_s": 600},
        doc="no answer; the effect happens `after_s` later, whether or not the client still waits",
    ),
    "delay": Fault(
        show=_delay, when=("after",), args={"delay_s": 1}, doc="the answer comes `delay_s` late"
    ),
    "slow": Fault(
        show=_slow,
        when=("before",),
        args={"delay_s": 1},
        doc="effect and answer both come `delay_s` late, whether or not the client still waits",
    ),
    "drip": Fault(
        show=_drip,
        when=_BOTH,
        args={"bytes": 1, "every_s": 0.05},
        doc="the answer comes `bytes` at a time, one piece `every_s`",
    ),
    "cut_body": Fault(
        show=_cut_body,
        when=_BOTH,
        args={"keep": 0.5},
        doc="the body ends before Content-Length; `keep`: a share below 1, or bytes",
    ),
    "cut_chunk": Fault(
        show=_cut_chunk, when=_BOTH, args={"keep": 0.5}, doc="a chunked body ends in a chunk"
    ),
    "truncated_json": Fault(
        show=_truncated_json,
        when=_BOTH,
        args={"keep": 0.5},
        doc="half of the JSON, with a Content-Length that fits it",
    ),
    "body": Fault(
        show=_body,
        when=_BOTH,
        args={"body": "{not json"},
        doc="another body: a text as it is, anything else as JSON",
    ),
    "html": Fault(
        show=_html,
        when=_BOTH,
        args={"status": 200},
        doc="a page of HTML instead of the answer, with this `status`",
    ),
    "empty": Fault(show=_empty, when=_BOTH, doc="the right status with an empty body"),
    "no_content": Fault(show=_no_content, when=_BOTH, doc="204 where a body is due"),
    "content_type": Fault(
        show=_content_type,
        when=_BOTH,
        args={"type": "text/plain"},
        doc="the right body with a wrong Content-Type",
    ),
    "bad_gzip": Fault(
        show=_bad_gzip, when=_BOTH, doc="says gzip, and the bytes cannot be unpacked"
    ),
    "gzip_bomb": Fault(
        show=_gzip_bomb, when=_BOTH, args={"size_mb": 64}, doc="blanks, packed 1000 to 1"
    ),
    "big_body": Fault(show=_big_body, when=_BOTH, args={"size_mb": 100}, doc="a body of blanks"),
    "headers": Fault(
        show=_headers,
        when=_BOTH,
        args={"count": 5000, "size": 8},
        doc="`count` more headers of `size` characters",
    ),
    "garbage": Fault(show=_garbage, when=_ALL, doc="a status line that is none, then the end"),
    "info_flood": Fault(
        show=_info_flood, when=_BOTH, args={"count": 1000}, doc="1xx answers before the real"
    ),
    "deep_json": Fault(
        show=_deep_json, when=_BOTH, args={"depth": 10_000}, doc="lists within lists"
    ),
    "duplicate_keys": Fault(
        show=_duplicate_keys, when=("after",), doc="the body's first key comes twice"
    ),
    "nan": Fault(show=_nan, when=_BOTH, doc="the body has a NaN, which JSON has not"),
    "utf16": Fault(show=_utf16, when=("after",), doc="the body in UTF-16 under the same type"),
    "redirect": Fault(
        show=_redirect,
        when=_AT_FIRST,
        args={"status": 307, "location": "/"},
        doc="a redirect to `location`, with this `status`",
    ),
    "status": Fault(
        show=_status,
        when=_AT_FIRST,
        args={"status": 500, "body": None, "headers": None, "retry_after": None},
        doc="another status; `retry_after`: seconds, `date:SECONDS`, or any text",
    ),
    "too_many": Fault(
        show=_status,
        when=("before", "before_read"),
        args={"status": 429, "body": None, "headers": None, "retry_after": 1},
        doc="429; `retry_after` as for `status`",
    ),
}
"""The faults of the wire, known to every emulator, by name."""


def words() -> Iterator[tuple[str, str, str, str]]:
    """Name, moments, arguments with defaults, and meaning of each fault, for the documentation."""
    for name, fault in FAULTS.items():
        args = ", ".join(f"{key}={value}" for key, value in fault.args.items())
        yield name, " ".join(fault.when), args, fault.doc
