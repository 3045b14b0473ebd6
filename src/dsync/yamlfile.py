"""One YAML file, read as data: positions kept, code and bombs refused.

YAML 1.2 core, strictly: `NO`, `on` and `12:30` are text; tags, directives and second documents are
refused; a number that people read in two ways (`012`) is refused. Keys are always text, exactly as
written. The parser's events are counted as they come, before anything is built from them, so that
alias and merge-key bombs cost nothing.
"""

from __future__ import annotations

import contextlib
import difflib
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, get_args, get_origin

from dsync.errors import Faults, Invalid, Place

if TYPE_CHECKING:
    from pydantic import BaseModel

M = TypeVar("M", bound="BaseModel")

Scalar: TypeAlias = str | int | float | bool | None
Way: TypeAlias = tuple[str | int, ...]
"""The way to a value: keys of maps and indexes of lists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a file may cost. `expansion` is nodes after aliases over nodes written."""

    size_bytes: int = 1 << 20
    nodes: int = 100_000
    depth: int = 50
    aliases: int = 50
    expansion: int = 10


DEFAULT_LIMITS = Limits()


class FileFault(Invalid):
    """A fault of one value of a YAML file; `way` leads to that value.

    `kind` is `unknown` (a key), `missing`, `type` or `value` for what a model has to say.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str,
        where: Place,
        way: Way = (),
        kind: str = "",
        hint: str | None = None,
    ) -> None:
        super().__init__(message, code=code, where=where, hint=hint)
        self.way = way
        self.kind = kind


@dataclass(slots=True)
class Node:
    """A value and where it stands. Maps hold the places of their keys in `keys`."""

    value: Scalar | dict[str, Node] | list[Node]
    place: Place
    keys: dict[str, Place] = field(default_factory=dict)

    @property
    def map(self) -> dict[str, Node]:
        """The entries, or none when this is not a map."""
        return self.value if isinstance(self.value, dict) else {}

    def plain(self) -> Any:
        """The value as plain dicts, lists and scalars, nothing shared."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def find(self, way: Way) -> tuple[Node, Way]:
        """The deepest node on `way`, and the part of the way that exists.

        Steps that do not exist at their level are passed over (validators put the names of union
        members into their paths).
        """
        node, done = self, list[str | int]()
        for step in way:
            below = _below(node, step)
            if below is not None:
                node = below
                done.append(step)
        return node, tuple(done)

    def spot(self, way: Way) -> Place:
        """Where the key (in maps) or the item (in lists) at the end of `way` stands."""
        node, place = self, self.place
        for step in way:
            below = _below(node, step)
            if below is not None:
                place = node.keys.get(str(step), below.place)
                node = below
        return place

    def copy(self) -> Node:
        """A map of its own, with the same entries; aliases share nodes, so change only copies."""
        return Node(dict(self.map), self.place, dict(self.keys))

    def put(self, key: str, node: Node, place: Place | None = None) -> None:
        """Set an entry of this map."""
        self.map[key] = node
        self.keys[key] = place or node.place

    def take(self, key: str) -> Node | None:
        """Remove an entry of this map and give it back."""
        return self.map.pop(key, None)


def _below(node: Node, step: str | int) -> Node | None:
    if isinstance(node.value, dict):
        return node.value.get(str(step))
    if isinstance(node.value, list) and isinstance(step, int) and 0 <= step < len(node.value):
        return node.value[step]
    return None


@dataclass(frozen=True, slots=True)
class Document:
    """A file that was read: `data` is plain, `place` says where each part of it stands."""

    file: str
    root: Node

    @property
    def data(self) -> dict[str, Any]:
        """The whole content as plain dicts, lists and scalars; a fresh copy at each call."""
        plain: dict[str, Any] = self.root.plain()
        return plain

    def place(self, way: Way, *, value: bool = False) -> Place:
        """The place of the key at the end of `way` (or of its value); the nearest that exists."""
        return self.root.find(way)[0].place if value else self.root.spot(way)


def load(
    path: Path, *, limits: Limits = DEFAULT_LIMITS, shown: str | None = None, quotes: bool = True
) -> Document:
    """The one map in the file `path`; `shown` is its name in messages.

    Without `quotes` no message quotes a value of the file: it may hold secrets.

    Raises: Faults of FileFault, `DS-YAML` and below.
    """
    name = shown if shown is not None else display(path)
    return parse(_text(path, name, limits), name, limits=limits, quotes=quotes)


def parse(
    text: str, shown: str, *, limits: Limits = DEFAULT_LIMITS, quotes: bool = True
) -> Document:
    """The one map in `text`. Raises as `load` does."""
    faults: list[Invalid] = []
    try:
        root = _Composer(text, shown, limits, faults, quotes).document()
    except FileFault as fault:
        raise Faults([*faults, fault]) from None
    if faults:
        raise Faults(sorted(faults, key=order))
    return Document(file=shown, root=root)


def merge(base: Node, over: Node) -> Node:
    """`over` laid on `base`: maps merge, lists and scalars replace. Neither is changed."""
    if not (isinstance(base.value, dict) and isinstance(over.value, dict)):
        return over
    entries = dict(base.value)
    for key, node in over.value.items():
        entries[key] = merge(entries[key], node) if key in entries else node
    return Node(entries, over.place, {**base.keys, **over.keys})


def graft(plain: Any, place: Place) -> Node:
    """Plain data as a node, all of it standing at one place: a variable, a flag."""
    if isinstance(plain, Mapping):
        entries = {str(key): graft(value, place) for key, value in plain.items()}
        return Node(entries, place, dict.fromkeys(entries, place))
    if isinstance(plain, list | tuple):
        return Node([graft(value, place) for value in plain], place)
    return Node(plain, place)


def at(way: Way) -> str:
    """A way as people write it: `mapping.name.transform[0]`."""
    text = ""
    for step in way:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def display(path: Path) -> str:
    """A path as messages show it: relative when it lies in the working folder."""
    with contextlib.suppress(ValueError, OSError):
        return path.absolute().relative_to(Path.cwd()).as_posix()
    return str(path)


def nearest(word: str, known: Iterable[str]) -> str:
    """` (did you mean …?)` when one of the `known` words is near; else nothing."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean `{near[0]}`?" if near else ""


# --- finding a file by its name ------------------------------------------------------------------

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
# Names that are devices on Windows, whatever their suffix.
_DEVICES = frozenset(
    ["con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))]
)


def locate(name: str, folder: Path, *, code: str, where: Place) -> Path | None:
    """The file `name.yml` (or `.yaml`) in `folder`, which `name` must not leave; None without one.

    `name` is one or two parts of `[a-z0-9_-]`. Nothing is opened.

    Raises: FileFault `<code>-PATH` when the file is not in the folder, but a link to elsewhere.
    """
    for suffix in (".yml", ".yaml"):
        path = folder / f"{name}{suffix}"
        if not path.exists() and not path.is_symlink():
            continue
        if not path.resolve().is_relative_to(folder.resolve()):
            raise FileFault(
                f"`{display(path)}` is a link that leaves the search path",
                code=f"{code}-PATH",
                where=where,
                hint="copy the file into the search path, or add its folder to the search paths",
            )
        return path
    return None


def is_name(text: str) -> bool:
    """Whether `text` may be the name of a file of ours, on every system."""
    return bool(NAME.fullmatch(text)) and text not in _DEVICES


# --- fitting a model -----------------------------------------------------------------------------


def fit(model: type[M], root: Node, *, code: str, quotes: bool = True) -> M:
    """The content of `root` as a `model`.

    Raises: Faults of FileFault: all that is wrong, each with its place and what to do. Codes are
    `<code>-UNKNOWN` for keys, `<code>-SCHEMA` for values, `DS-YAML-TYPE` for a text that YAML reads
    as something else, and the codes of the models' own validators.
    """
    fitted, faults = fit_rest(model, root, code=code, quotes=quotes)
    if fitted is None or faults:
        raise Faults(faults)
    return fitted


def fit_rest(
    model: type[M], root: Node, *, code: str, quotes: bool = True
) -> tuple[M | None, list[FileFault]]:
    """What of `root` fits, with its faults left out, and the faults; so that more can be told.

    None when what is left does not make a model.
    """
    from pydantic import ValidationError

    try:
        return model.model_validate(root.plain()), []
    except ValidationError as error:
        told = error.errors(include_url=False, include_input=False)
    faults = sorted(_Fitting(model, root, code, quotes).faults(told), key=order)
    rest = root.plain()
    for way in sorted((fault.way for fault in faults), key=_later_first):
        _drop(rest, way)
    try:
        return model.model_validate(rest), faults
    except ValidationError:
        return None, faults


def _later_first(way: Way) -> tuple[int, tuple[int, ...]]:
    # Items of one list go from its end, so that the places of the others hold.
    return -len(way), tuple(-step if isinstance(step, int) else 0 for step in way)


def _drop(plain: Any, way: Way) -> None:
    for step in way[:-1]:
        try:
            plain = plain[step]
        except (KeyError, IndexError, TypeError):
            return
    if isinstance(plain, dict):
        plain.pop(way[-1], None)
    elif isinstance(plain, list) and isinstance(way[-1], int) and way[-1] < len(plain):
        del plain[way[-1]]


_KINDS = {
    "string_type": "a text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "dict_type": "a map",
    "model_type": "a map",
    "model_attributes_type": "a map",
    "list_type": "a list",
}


@dataclass(frozen=True, slots=True)
class _Fitting:
    """What pydantic says about a document, said about the file."""

    model: type[BaseModel]
    root: Node
    code: str
    quotes: bool

    def faults(self, told: Iterable[Any]) -> Iterator[FileFault]:
        groups: dict[Way, list[Any]] = {}
        for error in told:
            groups.setdefault(self.way(error), []).append(error)
        for way, errors in groups.items():
            others = [error for error in errors if error["type"] not in _KINDS]
            if others:
                yield from (self.other(way, error) for error in others)
            elif not any(len(other) > len(way) and other[: len(way)] == way for other in groups):
                # Deeper faults come from the member of a union that does fit this value.
                yield self.kind(way, [_KINDS[error["type"]] for error in errors])

    def way(self, error: Any) -> Way:
        loc: Way = error["loc"]
        if error["type"] == "missing":
            return (*self.root.find(loc[:-1])[1], loc[-1])
        return self.root.find(loc)[1]

    def kind(self, way: Way, due: list[str]) -> FileFault:
        node = self.root.find(way)[0]
        number = isinstance(node.value, int | float)
        code, hint = f"{self.code}-SCHEMA", None
        if "a text" in due and number:
            code, hint = "DS-YAML-TYPE", "put it in quotes"
        elif "a list" in due and not isinstance(node.value, dict):
            hint = "write it as a list: [one, two]"
        wanted = " or ".join(dict.fromkeys(due))
        return FileFault(
            f"`{at(way)}` must be {wanted}, and this is {self.shown(node)}",
            code=code,
            where=self.place(way),
            way=way,
            kind="type",
            hint=hint,
        )

    def other(self, way: Way, error: Any) -> FileFault:
        context = error.get("ctx", {})
        code, hint, kind = f"{self.code}-SCHEMA", context.get("hint"), "value"
        name = at(way) or "the file"
        match error["type"]:
            case "extra_forbidden":
                code, kind = f"{self.code}-UNKNOWN", "unknown"
                known = [key for m in _models(self.model, way[:-1]) for key in _keys(m)]
                message = f"unknown key `{way[-1]}`" + _inside(way)
                hint = nearest(str(way[-1]), known) or f"known keys: {', '.join(known)}"
            case "missing":
                kind, message = "missing", f"`{name}` is missing"
                hint = self.description(way)
            case "literal_error":
                node = self.root.find(way)[0]
                message = f"`{name}` must be {context['expected']}, and this is {self.shown(node)}"
            case "string_pattern_mismatch":
                message = f"`{name}` does not have the form `{context['pattern']}`"
            case str() as own if own.startswith("DS-"):
                code, message = own, f"`{name}`: {error['msg']}"
            case _:
                message = f"`{name}`: {error['msg'][:1].lower()}{error['msg'][1:]}"
        place = self.place(way, key=kind in ("unknown", "missing"))
        return FileFault(message, code=code, where=place, way=way, kind=kind, hint=hint)

    def place(self, way: Way, *, key: bool = False) -> Place:
        node = self.root.find(way)[0]
        return self.root.spot(way) if key or isinstance(node.value, dict | list) else node.place

    def shown(self, node: Node) -> str:
        match node.value:
            case None:
                return "empty"
            case dict():
                return "a map"
            case list():
                return "a list"
            case bool():
                return "true" if node.value else "false"
            case int() | float():
                return f"the number {node.value}" if self.quotes else "a number"
            case text:
                return f"the text `{text[:40]}`" if self.quotes else "a text"

    def description(self, way: Way) -> str | None:
        for model in _models(self.model, way[:-1]):
            for name, info in model.model_fields.items():
                if way[-1] in (name, info.alias) and info.description:
                    return f"{way[-1]}: {info.description}"
        return None


def _inside(way: Way) -> str:
    return f" in `{at(way[:-1])}`" if len(way) > 1 else ""


def _keys(model: type[BaseModel]) -> list[str]:
    return [info.alias or name for name, info in model.model_fields.items()]


def _models(kind: Any, way: Way) -> list[type[BaseModel]]:
    """The models that may stand at the end of `way`, from an annotation."""
    from pydantic import BaseModel

    arguments = get_args(kind)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        if not way:
            return [kind]
        for name, info in kind.model_fields.items():
            if way[0] in (name, info.alias):
                return _models(info.annotation, way[1:])
        return []
    if get_origin(kind) in (dict, list, tuple):
        return _models(arguments[0 if get_origin(kind) is not dict else 1], way[1:]) if way else []
    return [model for argument in arguments for model in _models(argument, way)]


# --- the text ------------------------------------------------------------------------------------

_ENCODING_HINT = "save the file as UTF-8 text"
_BAD_CHARACTER = re.compile("[^\t\n\r -~\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_RESERVED_CHARACTER = re.compile("[\ue000\ue001]")


def _text(path: Path, shown: str, limits: Limits) -> str:
    data = _bytes(path, shown, limits)
    where = Place(file=shown)
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\x00" in data[:4]:
        raise _alone("this is UTF-16 or UTF-32, not UTF-8", "DS-YAML-ENC", where, _ENCODING_HINT)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        raise _alone(
            f"byte 0x{data[error.start]:02x} is not UTF-8 text",
            "DS-YAML-ENC",
            Place(file=shown, line=line, column=column),
            _ENCODING_HINT,
        ) from None


def _bytes(path: Path, shown: str, limits: Limits) -> bytes:
    where = Place(file=shown)
    try:
        # Asked before it is opened: a device or a pipe may never end.
        about = path.stat()
        if stat.S_ISDIR(about.st_mode):
            raise _alone("this is a folder", "DS-YAML-FILE", where, "name a file")
        if not stat.S_ISREG(about.st_mode):
            raise _alone("this is not a regular file", "DS-YAML-FILE", where, "name a file")
        with path.open("rb") as file:
            data = file.read(limits.size_bytes + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise _alone(
            f"the file cannot be read: {reason}", "DS-YAML-FILE", where, "check its name and rights"
        ) from None
    if len(data) > limits.size_bytes:
        raise _alone(
            f"the file is larger than {limits.size_bytes // 1024} KiB",
            "DS-YAML-SIZE",
            where,
            "split it; data belongs in a source, not in YAML",
        )
    return data


def _alone(message: str, code: str, where: Place, hint: str) -> Faults:
    return Faults([FileFault(message, code=code, where=where, hint=hint)])


def order(fault: Invalid) -> tuple[str, int, int]:
    """Where a fault stands, for sorting: file, line and column."""
    where = fault.where
    if not isinstance(where, Place):
        return "", 0, 0
    return where.file or "", where.line or 0, where.column or 0


# --- from events to nodes ------------------------------------------------------------------------


@dataclass(slots=True)
class _Open:
    """A map or list that is not closed yet."""

    node: Node
    anchor: str | None
    start: int
    """how many nodes there were before it; with its end, its weight"""
    key: str | None = None
    key_place: Place | None = None
    merging: bool = False
    merges: list[Node] = field(default_factory=list)


class _Composer:
    """Events in, nodes out; not recursive, so depth costs no stack."""

    def __init__(
        self, text: str, shown: str, limits: Limits, faults: list[Invalid], quotes: bool
    ) -> None:
        self.text = text
        self.quotes = quotes
        self.shown = shown
        self.limits = limits
        self.faults = faults
        self.nodes = 0
        self.expanded = 0
        self.aliases = 0
        self.anchors: dict[str, tuple[Node, int] | None] = {}
        """name -> node and its expanded weight; None while it is still open"""

    def document(self) -> Node:
        root: Node | None = None
        stack: list[_Open] = []
        documents = 0
        for event in self.events():
            kind = type(event).__name__
            if kind == "DocumentStartEvent":
                documents += 1
                self.directives(event, documents)
            elif kind in ("MappingStartEvent", "SequenceStartEvent"):
                self.open(event, kind == "MappingStartEvent", stack)
            elif kind in ("MappingEndEvent", "SequenceEndEvent"):
                node = self.close(stack)
                root = self.place_in(stack, node, root)
            elif kind == "ScalarEvent":
                root = self.scalar(event, stack, root)
            elif kind == "AliasEvent":
                root = self.place_in(stack, self.alias(event), root)
        if root is None:
            raise self.fault(
                "the file is empty", "DS-YAML-DOC", self.spot(1, 1), "write `key: value` lines"
            )
        if not isinstance(root.value, dict):
            what = "a list" if isinstance(root.value, list) else "a single value"
            raise self.fault(
                f"the file holds {what} where a map is due",
                "DS-YAML-DOC",
                root.place,
                "begin with a key such as `version: 1`",
            )
        self.check_expansion()
        return root

    def events(self) -> Iterator[Any]:
        from ruamel.yaml import YAML
        from ruamel.yaml.error import MarkedYAMLError, YAMLError

        self.check_characters()
        try:
            yield from YAML(typ="safe", pure=True).parse(self.text)
        except MarkedYAMLError as error:
            raise self.syntax(error) from None
        except YAMLError as error:
            raise self.fault(str(error).split("\n")[0], "DS-YAML", self.spot(1, 1), None) from None

    def check_characters(self) -> None:
        for pattern, why in (
            (_BAD_CHARACTER, "is a control character"),
            (_RESERVED_CHARACTER, "is reserved for references inside plans"),
        ):
            if found := pattern.search(self.text):
                start = found.start()
                line = self.text.count("\n", 0, start) + 1
                column = start - self.text.rfind("\n", 0, start)
                raise self.fault(
                    f"U+{ord(found.group()):04X} {why}",
                    "DS-YAML-ENC",
                    self.spot(line, column),
                    _ENCODING_HINT,
                )

    def directives(self, event: Any, documents: int) -> None:
        if documents > 1:
            raise self.fault(
                "a second document begins here",
                "DS-YAML-DOC",
                self.mark(event),
                "one file holds one document: remove the `---` and what follows it",
            )
        if event.tags or (event.version and event.version != (1, 2)):
            raise self.fault(
                "directives (`%YAML`, `%TAG`) are not read",
                "DS-YAML-DOC",
                self.spot(1, 1),
                "remove the line; all files are YAML 1.2",
            )

    def open(self, event: Any, is_map: bool, stack: list[_Open]) -> None:
        self.check_tag(event)
        place = self.mark(event)
        if len(stack) >= self.limits.depth:
            raise self.fault(
                f"more than {self.limits.depth} levels deep",
                "DS-YAML-DEPTH",
                place,
                "nothing that dsync reads is nested so deep",
            )
        if stack and isinstance(stack[-1].node.value, dict) and stack[-1].key is None:
            raise self.fault(
                "a map or list cannot be a key",
                "DS-YAML",
                place,
                'quote it if a text such as "{name}" is meant',
            )
        self.count(event)
        if event.anchor:
            self.anchors[event.anchor] = None
        stack.append(_Open(Node({} if is_map else [], place), event.anchor, self.expanded - 1))

    def close(self, stack: list[_Open]) -> Node:
        done = stack.pop()
        for source in done.merges:
            for key, node in source.map.items():
                if key not in done.node.map:
                    done.node.put(key, node, source.keys[key])
        if done.anchor:
            self.anchors[done.anchor] = (done.node, self.expanded - done.start)
        return done.node

    def scalar(self, event: Any, stack: list[_Open], root: Node | None) -> Node | None:
        self.check_tag(event)
        self.count(event)
        place = self.mark(event)
        top = stack[-1] if stack else None
        if top is not None and isinstance(top.node.value, dict) and top.key is None:
            # A quoted "<<" is a key like any other; only the plain one merges.
            self.key(top, event.value, place, merge=event.style is None and event.value == "<<")
            return root
        value = event.value if event.style is not None else self.plain(event.value, place)
        node = Node(value, place)
        if event.anchor:
            self.anchors[event.anchor] = (node, 1)
        return self.place_in(stack, node, root)

    def key(self, top: _Open, key: str, place: Place, *, merge: bool) -> None:
        top.key, top.key_place, top.merging = key, place, merge
        if not merge and key in top.node.map:
            first = top.node.keys[key]
            self.faults.append(
                self.fault(
                    f"the key `{key}` stands twice in this map, first in line {first.line}",
                    "DS-YAML-DUPKEY",
                    place,
                    "keep one of the two",
                )
            )

    def place_in(self, stack: list[_Open], node: Node, root: Node | None) -> Node:
        if not stack:
            return node
        top = stack[-1]
        if isinstance(top.node.value, list):
            top.node.value.append(node)
        elif top.key is None:
            raise self.fault(
                "an alias cannot be a key",
                "DS-YAML",
                node.place,
                "write the key out",
            )
        else:
            if top.merging:
                self.merge(top, node)
            elif top.key not in top.node.map:
                top.node.put(top.key, node, top.key_place)
            top.key = top.key_place = None
            top.merging = False
        return root if root is not None else stack[0].node

    def merge(self, top: _Open, node: Node) -> None:
        """Note the maps of `<<: node`; they are laid under the map when it closes."""
        maps = node.value if isinstance(node.value, list) else [node]
        if not all(isinstance(one.value, dict) for one in maps):
            raise self.fault(
                "`<<` merges maps, and this is none",
                "DS-YAML",
                node.place,
                'write `"<<"` when a key of that name is meant',
            )
        top.merges.extend(maps)

    def alias(self, event: Any) -> Node:
        place = self.mark(event)
        self.aliases += 1
        if self.aliases > self.limits.aliases:
            raise self.fault(
                f"more than {self.limits.aliases} aliases",
                "DS-YAML-ALIAS",
                place,
                "write the values out, or move what is shared to a base profile (`extends`)",
            )
        name = event.anchor if self.quotes else "…"
        if event.anchor not in self.anchors:
            raise self.fault(
                f"nothing is marked `&{name}` above this line",
                "DS-YAML-ALIAS",
                place,
                "put it in quotes if a text that begins with `*` is meant",
            )
        anchored = self.anchors[event.anchor]
        if anchored is None:
            raise self.fault(
                f"`*{name}` stands inside what it names, so it would never end",
                "DS-YAML-ALIAS",
                place,
                "move the alias out of it",
            )
        node, weight = anchored
        self.nodes += 1
        self.expanded += weight
        return node

    def count(self, event: Any) -> None:
        self.nodes += 1
        self.expanded += 1
        if self.nodes > self.limits.nodes:
            raise self.fault(
                f"more than {self.limits.nodes} values",
                "DS-YAML-SIZE",
                self.mark(event),
                "split the file; data belongs in a source, not in YAML",
            )

    def check_expansion(self) -> None:
        # Small files may repeat themselves as they like: a hundred nodes cost nothing.
        allowed = max(self.nodes, 100) * self.limits.expansion
        if self.expanded > allowed:
            raise self.fault(
                f"aliases make {self.nodes} values into {self.expanded}",
                "DS-YAML-ALIAS",
                self.spot(1, 1),
                f"at most {self.limits.expansion} times as many are read; write fewer aliases",
            )

    def check_tag(self, event: Any) -> None:
        if event.tag is not None:
            place = self.mark(event)
            tag = str(event.tag).replace("tag:yaml.org,2002:", "!!") if self.quotes else "!"
            raise self.fault(
                f"the tag `{tag[:60]}` is refused: these files are data, never code",
                "DS-YAML-TAG",
                place,
                "remove the tag; put text in quotes",
            )

    def plain(self, text: str, place: Place) -> Scalar:
        """A scalar without quotes, by the core schema of YAML 1.2."""
        if text in _WORDS:
            return _WORDS[text]
        first = text[0]
        if not (first.isdigit() or first in "+-."):
            return text
        shown = f"`{text[:40]}`" if self.quotes else "this"
        quoted = "put it in quotes if it is a text"
        if _LEADING_ZERO.fullmatch(text):
            raise self.fault(
                f"{shown} can be read as a number and as a text of digits",
                "DS-YAML-NUM",
                place,
                f"{quoted}; drop the zero if it is a number",
            )
        for pattern, base in _INTEGERS:
            if pattern.fullmatch(text):
                if len(text) > 24 or not -(2**63) <= (number := int(text, base)) < 2**63:
                    raise self.fault(
                        f"a whole number of {len(text)} characters is beyond 64 bits",
                        "DS-YAML-NUM",
                        place,
                        quoted,
                    )
                return number
        if _FLOAT.fullmatch(text):
            number_ = float(text)
            if number_ in (float("inf"), float("-inf")):
                raise self.fault(
                    f"{shown} is beyond the range of numbers",
                    "DS-YAML-NUM",
                    place,
                    quoted,
                )
            return number_
        if _NO_NUMBER.fullmatch(text):
            raise self.fault(
                f"{shown} is a number that JSON does not know", "DS-YAML-NUM", place, quoted
            )
        return text

    def mark(self, event: Any) -> Place:
        return self.spot(event.start_mark.line + 1, event.start_mark.column + 1)

    def spot(self, line: int, column: int) -> Place:
        return Place(file=self.shown, line=line, column=column)

    def syntax(self, error: Any) -> FileFault:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        began = error.context_mark
        text = self.line(line) if self.quotes else "key"
        message, hint = _explain(str(error.problem or error.context or error), text)
        # The parser notices an open bracket or quote only later: point to where it was opened.
        if began is not None and "not closed" in message:
            line, column = began.line + 1, began.column + 1
        excerpt = self.caret(line, column) if self.quotes else ""
        return self.fault(f"{message}{excerpt}", "DS-YAML", self.spot(line, column), hint)

    def line(self, line: int) -> str:
        lines = self.text.split("\n", line)
        return lines[line - 1].rstrip("\r") if len(lines) >= line else ""

    def caret(self, line: int, column: int) -> str:
        text = self.line(line).expandtabs(1)
        start = max(0, column - 60)
        if not text:
            return ""
        return f"\n    {text[start : start + 80]}\n    {' ' * (column - 1 - start)}^"

    def fault(self, message: str, code: str, place: Place, hint: str | None) -> FileFault:
        return FileFault(message, code=code, where=place, hint=hint)


_WORDS: dict[str, Scalar] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True,
    "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?")
_INTEGERS = (
    (re.compile(r"[-+]?[0-9]+"), 10),
    (re.compile(r"0o[0-7]+"), 8),
    (re.compile(r"0x[0-9a-fA-F]+"), 16),
)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NO_NUMBER = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


def _explain(problem: str, line: str) -> tuple[str, str | None]:
    """The parser's words in ours, and what to do."""
    if "'\\t'" in problem:
        return "a tab stands here", "indent with spaces, two a level"
    if "mapping values are not allowed" in problem:
        return (
            "a `:` is not expected here",
            'quote a text that holds ": ", and check the indentation of this line',
        )
    if "stream end" in problem or "end of stream" in problem:
        return "a bracket or quote that opens here is not closed", "close it"
    if problem.startswith("expected ',' or"):
        return "a bracket that opens here is not closed, or a comma is missing", "close it"
    if "expected <block end>" in problem:
        return (
            "this line does not fit the lines above",
            "indent it like its neighbours, with spaces",
        )
    if "cannot start any token" in problem:
        sign = problem.partition("'")[2].partition("'")[0]
        return f"a value cannot begin with `{sign}`", "put the value in quotes"
    if "unknown escape" in problem:
        return (
            f"{problem.removeprefix('found ')}",
            "double the backslash, or use single quotes",
        )
    if "could not find expected ':'" in problem:
        return "a `:` is missing after this key", f"write `{line.strip()[:40]}: value`"
    return problem, None
