"""Secrets: references to them, values that do not show themselves, and masking in any text.

A configuration refers to a secret, as a whole or inside a longer text:

    ${env:NAME}  ${NAME}     a variable of the environment (or of `.env`)
    ${file:path}             the content of a file that nobody else can read
    $${                      the two signs `${` themselves

References are resolved when a value is needed, so that checking files needs no secret.
"""

from __future__ import annotations

import base64
import functools
import json
import re
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote, quote_plus

from dsync.errors import Invalid, Place

MASK = "***"

_REFERENCE = re.compile(r"\$\$\{|\$\{([^{}]*)\}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FILE_LIMIT_BYTES = 64 * 1024


class Secret:
    """A value that shows itself only through `reveal`; everything else gives `***`.

    It cannot be pickled, copied into JSON or compared by accident, and from its birth on it is
    masked in whatever passes `redact`.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value
        register(value)

    def reveal(self) -> str:
        """The value itself; give it to the wire and to nothing else."""
        return self._value

    def __repr__(self) -> str:
        return MASK

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return MASK

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a secret cannot be pickled")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A text of the configuration that may refer to secrets; resolved when asked.

    `base` is the folder that relative paths start from, `where` the place of the text.
    """

    text: str = field(repr=False)
    name: str
    where: Place
    base: Path
    environ: Mapping[str, str] = field(repr=False)

    @property
    def refers(self) -> bool:
        """Whether there is any reference in the text."""
        return refers(self.text)

    def resolve(self) -> Secret:
        """The secret.

        Raises: Invalid `DS-CFG-ENV` (unknown variable), `-FILE`, `-MODE` (readable by others),
        `-LOOP`, `-SECRET` (empty, or with line breaks). No message holds a value.
        """
        value = self.expand()
        if not value.strip():
            raise self.fault(
                f"`{self.name}` is empty",
                "DS-CFG-SECRET",
                "give the variable or the file a value, or remove the line",
            )
        if any(ord(sign) < 32 or ord(sign) == 127 for sign in value):
            raise self.fault(
                f"`{self.name}` holds a line break or another control character",
                "DS-CFG-SECRET",
                "a secret is one line; look for a stray end of line where it is set",
            )
        return Secret(value)

    def expand(self) -> str:
        """The text with its references filled in. Raises as `resolve`, save for `-SECRET`."""
        return self._expand(self.text, ())

    def _expand(self, text: str, path: tuple[str, ...]) -> str:
        def value(found: re.Match[str]) -> str:
            inside = found.group(1)
            return "${" if inside is None else self._look_up(inside.strip(), path)

        return _REFERENCE.sub(value, text)

    def _look_up(self, inside: str, path: tuple[str, ...]) -> str:
        kind, _, rest = inside.partition(":")
        if kind == "file" and rest:
            return self._read(rest.strip())
        name = rest.strip() if kind == "env" else inside
        if not _VARIABLE.fullmatch(name):
            raise self.fault(
                f"`${{{inside[:40]}}}` is no reference",
                "DS-CFG-ENV",
                "write ${env:NAME}, ${NAME} or ${file:path}; $${ stands for the signs themselves",
            )
        if name in path:
            circle = " -> ".join([*path[path.index(name) :], name])
            raise self.fault(
                f"variables refer to one another in a circle: {circle}",
                "DS-CFG-LOOP",
                "give one of them a value",
            )
        if name not in self.environ:
            raise self.fault(
                f"`{self.name}` needs the environment variable `{name}`, which is not set",
                "DS-CFG-ENV",
                f"export {name}=…, or write {name}=… into .env",
            )
        found = self.environ[name]
        # A value is taken as it is, passwords may hold `${`; but a bare reference is followed.
        if (bare := _REFERENCE.fullmatch(found)) and bare.group(1):
            return self._look_up(bare.group(1).strip(), (*path, name))
        return found

    def _read(self, name: str) -> str:
        path = self.base / Path(name).expanduser()
        try:
            about = path.stat()
            if not stat.S_ISREG(about.st_mode):
                raise self.fault(
                    f"`{self.name}` refers to {path}, which is no file",
                    "DS-CFG-FILE",
                    "name a file",
                )
            if hasattr(about, "st_uid") and _others_read(about.st_mode):
                raise self.fault(
                    f"others can read {path}, which holds a secret",
                    "DS-CFG-MODE",
                    f"chmod 600 {path}",
                )
            with path.open("rb") as file:
                data = file.read(_FILE_LIMIT_BYTES + 1)
            if len(data) > _FILE_LIMIT_BYTES:
                raise self.fault(
                    f"{path} is too large for a secret", "DS-CFG-FILE", "name the right file"
                )
            return data.decode("utf-8-sig").rstrip("\r\n")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise self.fault(
                f"`{self.name}` refers to {path}, which cannot be read: {reason}",
                "DS-CFG-FILE",
                "check the path; relative ones start at the file that names them",
            ) from None

    def fault(self, message: str, code: str, hint: str) -> Invalid:
        """A fault of this reference."""
        return Invalid(message, code=code, where=self.where, hint=hint)


def refers(text: str) -> bool:
    """Whether a text holds references, or the escape for none."""
    return "${" in text


def _others_read(mode: int) -> bool:
    import os

    return os.name == "posix" and bool(mode & (stat.S_IRGRP | stat.S_IROTH))


# --- masking -------------------------------------------------------------------------------------

_WORDS = r"api[_-]?key|passw(?:or)?d|secret(?:[_-]?key)?|private[_-]?key|token"
# The words are found inside longer names too (LP_API_TOKEN); what stands before them is not
# matched, for that would take time that grows with the square of the text.
_PATTERNS = (
    # https://user:password@host
    (re.compile(r"(\b[a-z][a-z0-9+.-]{0,20}://)[^/\s@'\"]+@", re.IGNORECASE), rf"\1{MASK}@"),
    # Authorization: Basic …, "authorization": "Bearer …"
    (
        re.compile(
            r"(\bauthorization['\"]?\s*[:=]\s*['\"]?(?:[a-z]+\s+)?)(?!\$\{)[^\s'\",;{}]+",
            re.IGNORECASE,
        ),
        rf"\1{MASK}",
    ),
    (re.compile(r"(\bbearer\s+)(?!\$\{)[a-z0-9._~+/-]{6,}=*", re.IGNORECASE), rf"\1{MASK}"),
    # password=…, X-Api-Key: …; references to secrets may be shown
    (
        re.compile(
            rf"((?:{_WORDS})['\"]?\s*[:=]\s*)(?!['\"]?\$\{{)[^\s,;&{{}}\[\]()'\"]+",
            re.IGNORECASE,
        ),
        rf"\1{MASK}",
    ),
    # "client_secret": "…"
    (
        re.compile(
            rf"((?:{_WORDS})['\"]?\s*[:=]\s*)(?!['\"]\$\{{)(?:(\")(?:[^\"\\]|\\.)*\"|(')[^']*')",
            re.IGNORECASE,
        ),
        rf"\1\2\3{MASK}\2\3",
    ),
)
# Every pattern asks for one of these, and few texts of a log line hold one.
_SIGNS = re.compile(r"[:=\s]")
# Names of fields only: in running text they are words like others.
_FIELDS = r"authorization(?:[_-]?key)?|auth[_-]?(?:pass|value)|community(?:[_-]?string)?|cookie"
_NAME = re.compile(rf"(?:^|[_.-])(?:{_WORDS}|{_FIELDS})$", re.IGNORECASE)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")

# Shorter values are not looked for: they stand in every second word. Up to the second length they
# are looked for as whole words only.
_SHORTEST, _WHOLE_WORD_BELOW = 4, 8
_LONGEST_KEPT, _TEXTS_KEPT = 64, 1024


class Redactor:
    """Masks secrets in texts and in anything made of dicts and lists.

    It knows values (registered), and shapes: authorization headers, `password=…` and its like, the
    user part of URLs, keys that are named like secrets.
    """

    def __init__(self) -> None:
        self._values: set[str] = set()
        self._known: re.Pattern[str] | None = None
        # Names of fields and the like come again with each line of a log.
        self._seen: dict[str, str] = {}

    def register(self, value: str) -> None:
        """Mask this value from now on, also encoded: for URLs, HTML, JSON, in base64, in hex."""
        if len(value) < _SHORTEST or value in self._values:
            return
        self._values.add(value)
        self._known = None
        self._seen.clear()

    def register_basic(self, username: str, password: str) -> None:
        """Mask a password, and the pair as basic authentication sends it."""
        self.register(password)
        self.register(_base64(f"{username}:{password}"))

    def text(self, text: str) -> str:
        """The text without secrets."""
        if (clean := self._seen.get(text)) is not None:
            return clean
        clean = self._masked(text)
        if len(text) <= _LONGEST_KEPT:
            if len(self._seen) >= _TEXTS_KEPT:
                self._seen.clear()
            self._seen[text] = clean
        return clean

    def _masked(self, text: str) -> str:
        if self._values:
            if self._known is None:
                self._known = self._compile()
            text = self._known.sub(MASK, text)
        if _SIGNS.search(text):
            for pattern, masked in _PATTERNS:
                text = pattern.sub(masked, text)
        return text

    def __call__(self, value: Any) -> Any:
        """A copy of a text, mapping or list without secrets; other values as they are."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Secret):
            return MASK
        if isinstance(value, bytes):
            return self.text(value.decode("utf-8", "replace"))
        if isinstance(value, Mapping):
            return {
                self(key): MASK if _is_secret(key, item) else self(item)
                for key, item in value.items()
            }
        if isinstance(value, list | tuple | set | frozenset):
            return [self(item) for item in value]
        if isinstance(value, BaseException):
            return self.text(f"{type(value).__name__}: {value}")
        return value

    def _compile(self) -> re.Pattern[str]:
        forms = {form for value in self._values for form in _forms(value)}
        return re.compile(
            "|".join(
                re.escape(form)
                if len(form) >= _WHOLE_WORD_BELOW
                else rf"(?<![A-Za-z0-9]){re.escape(form)}(?![A-Za-z0-9])"
                for form in sorted(forms, key=len, reverse=True)
            )
        )


def _forms(value: str) -> set[str]:
    forms = {
        value,
        quote(value, safe=""),
        quote(value),
        quote_plus(value),
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
        repr(value)[1:-1],
    }
    if len(value) >= _WHOLE_WORD_BELOW:
        forms |= _disguises(value)
    return forms


def _disguises(value: str) -> set[str]:
    """How an API may give back a value that it has encoded itself, or as a part of something."""
    from html import escape

    raw = value.encode("utf-8")
    forms = {
        quote(quote(value, safe=""), safe=""),
        escape(value),
        escape(value, quote=False),
        escape(value).replace("&#x27;", "&#39;").replace("&quot;", "&#34;"),
        "".join(f"&#{ord(sign)};" for sign in value),
        "".join(f"\\u{ord(sign):04x}" for sign in value),
        raw.hex(),
        raw.hex().upper(),
        value[::-1],
    }
    packed = {_base64(value).rstrip("=")}
    for offset in range(3):
        # The first and the last signs depend on what stands beside it.
        packed.add(base64.b64encode(b"\0" * offset + raw).decode("ascii")[4 if offset else 0 : -4])
    packed |= {form.replace("+", "-").replace("/", "_") for form in packed}
    return forms | {form for form in packed if len(form) >= _WHOLE_WORD_BELOW}


def _base64(text: str) -> str:
    return base64.b64encode(text.encode("utf-8")).decode("ascii")


def veiled(values: Mapping[str, Any], personal: Collection[str] = ()) -> dict[str, Any]:
    """The fields of a record for people to look at: those that are named like secrets are masked,
    and those that are `personal`.

    For output only; what is sent never passes here.
    """
    return {
        name: MASK if _is_secret(name, item) or (name in personal and item not in (None, ""))
        else veiled(item) if isinstance(item, dict) else item
        for name, item in values.items()
    }  # fmt: skip


def _is_secret(key: Any, value: Any) -> bool:
    if not isinstance(key, str) or not isinstance(value, str | bytes | int | float) or value == "":
        return False
    if isinstance(value, bool) or (isinstance(value, str) and value.startswith("${")):
        return False
    return _is_secret_name(key)


@functools.lru_cache(maxsize=4096)
def _is_secret_name(key: str) -> bool:
    return bool(_NAME.search(_CAMEL.sub("_", key)))


_redactor = Redactor()
"""One for the process: whatever is written anywhere must pass the same mask."""


def register(value: str) -> None:
    """Mask this value in everything that passes `redact`, from now on."""
    _redactor.register(value)


def register_basic(username: str, password: str) -> None:
    """Mask these credentials, also as basic authentication sends them."""
    _redactor.register_basic(username, password)


def redact(value: Any) -> Any:
    """A text, mapping or list without secrets; the last step before anything is written."""
    return _redactor(value)
