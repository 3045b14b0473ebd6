"""What a resource of the Director emulator is made of: words to declare one with.

A `Resource` names its key, the bodies of its writes (`Form`), what these refer to (`Ref`), its
actions and fetches, and how it reads. What no word can say is a small function among them. From
the references follows also what may not be deleted because another object needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from .director_nodes import Node, Stored, View, texts
from .ledger import Call
from .shapes import Field, Object, Problem, Text

__all__ = [
    "NOTHING", "READS", "Action", "Desk", "Fetch", "Form", "Mirror", "Ref", "Refused", "Resource",
    "filled", "given", "installation", "ledger_name", "unknown", "used_by",
]  # fmt: skip

NOTHING = Object(())


class Refused(Exception):
    """The node cannot do it; the text says why, and the order fails with it."""


# ---- bodies ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Ref:
    """A value of a body that names another object."""

    path: str
    """`key`, `list[]`, `list[].key`, or `key,` for names joined by commas."""
    to: str
    by: str = "id"
    what: str
    """The other object, in the words of a failure."""
    free: tuple[str, ...] = ()
    """Values that name nothing."""
    holds: bool = True
    """What it names cannot be deleted."""
    check: str = "unknown_reference"
    text: str = ""
    """The failure's whole text, where the vendor's is known."""

    def values(self, value: Stored) -> Iterator[object]:
        """What an object names here."""
        first, _, rest = self.path.partition("[]")
        if first == self.path:
            if first.endswith(","):
                yield from _parts(value.get(first[:-1]))
            elif first in value:
                yield value[first]
            return
        items = value.get(first)
        for item in items if isinstance(items, list) else []:
            if not rest:
                yield item
            elif isinstance(item, dict) and rest[1:] in item:
                yield item[rest[1:]]

    def problems(self, node: Node, body: Stored) -> Iterator[Problem]:
        """The names in a body that the node does not have."""
        wanted = [one for one in self.values(body) if one not in self.free]
        known = node.names(self.to, self.by) if wanted else ()
        for one in wanted:
            if one not in known:
                yield Problem(self.check, self.text or f"{self.what} not found: {one}")


def _parts(value: object) -> list[str]:
    # A list, where a switch lets it pass, names its items.
    if isinstance(value, str):
        return [part for part in value.split(",") if part]
    return texts(value)


def unknown(what: str, name: object) -> Problem:
    return Problem("unknown_reference", f"{what} not found: {name}")


def _as_given(_view: View, body: Stored) -> Stored:
    return body


def _no_check(_view: View, _body: Stored, _before: Stored | None) -> Iterable[Problem]:
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """The body of a create or an edit."""

    shape: Object
    key: str = ""
    """Where the body has the natural key; `` = under the resource's own name for it."""
    kept: Callable[[View, Stored], Stored] = _as_given
    """A body as it is kept."""
    check: Callable[[View, Stored, Stored | None], Iterable[Problem]] = _no_check
    """What neither shape nor references say; also given: the object before an edit."""
    only: tuple[str, str] | None = None
    """It edits only objects that hold this value under this key."""
    instead: Callable[[Desk, Stored], None] | None = None
    """What a create does, where it does not simply put one object."""


def filled(shape: Object, body: Stored) -> Stored:
    """The known keys of a body; what it omits is blank, where an edit clears it."""
    blanks = {one.name: one.blank() for one in shape.fields if one.cleared and not one.must}
    return {**blanks, **given(shape, body)}


def given(shape: Object, body: Stored) -> Stored:
    """The known keys of a body."""
    if shape.open:
        return {key: item for key, item in body.items() if key != "id"}
    return {one.name: body[one.name] for one in shape.fields if one.name in body}


# ---- what is done with objects -----------------------------------------------------------------


@dataclass(slots=True, kw_only=True, eq=False)
class Desk:
    """Where a finished order changes its node: every change is in the ledger."""

    view: View
    call: Call
    resources: Mapping[str, Resource]
    shown_at: Callable[[Resource], float | None]

    @property
    def node(self) -> Node:
        return self.view.node

    def put(self, resource: str, value: Stored) -> None:
        """Creates or replaces the object with the `id` in `value`."""
        before = self._set(resource, str(value["id"]), value)
        self._note("update" if before else "create", resource, value)
        self._mirror(resource, value, before)

    def remove(self, resource: str, id: str) -> Stored | None:  # noqa: A002
        """Deletes an object with all that it owns; returns what it was."""
        before = self._set(resource, id, None)
        if before is None:
            return None
        kind = self.resources[resource]
        self._mirror(resource, {**before, **{one.mine: [] for one in kind.mirrors}}, before)
        self._note("delete", resource, before)
        for other, key in kind.owns:
            for twin in list(self.node.store(other).true.values()):
                if twin.get(key) == id:
                    self.remove(other, str(twin["id"]))
        return before

    def _set(self, resource: str, id_: str, value: Stored | None) -> Stored | None:
        store = self.node.store(resource)
        before = store.true.get(id_)
        store.put(id_, value, shown_at=self.shown_at(self.resources[resource]))
        return before

    def _note(self, kind: str, resource: str, value: Stored) -> None:
        key = ledger_name(self.resources, self.node, resource, value)
        self.call.effect(
            kind, resource=resource, scope=self.node.scope, id=str(value["id"]), key=key
        )

    def _mirror(self, resource: str, value: Stored, before: Stored | None) -> None:
        if self.view.switches.text("membership") != "both":
            return
        me = str(value["id"])
        for mirror in self.resources[resource].mirrors:
            now = set(texts(value.get(mirror.mine)))
            was = set(texts(before.get(mirror.mine))) if before else set()
            store = self.node.store(mirror.other)
            for id_ in sorted(now ^ was):
                if (twin := store.true.get(id_)) is not None:
                    members = [one for one in texts(twin.get(mirror.theirs)) if one != me]
                    members += [me] if id_ in now else []
                    self._set(mirror.other, id_, {**twin, mirror.theirs: members})


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirror:
    """A membership that shows on both sides: `mine` lists their ids, `theirs` lists ours."""

    mine: str
    other: str
    theirs: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """A POST that changes something, beside create and edit; its order says `done`."""

    body: Object = NOTHING
    refs: tuple[Ref, ...] = ()
    check: Callable[[View, Stored, Stored | None], Iterable[Problem]] = _no_check
    act: Callable[[Desk, Stored, Stored], Stored | None]
    """Changes the node, given the object (`{}` where there is none) and the body; what it returns
    stands in the order's response. Raises: Refused."""
    done: str
    writes: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch:
    """A POST whose order has rows."""

    body: Object = NOTHING
    rows: Callable[[View, Stored], Iterable[Stored]]
    of: str = ""
    """The rows are objects of this resource, and read like them."""


def _no_effect(_desk: Desk, _target: Stored, _body: Stored) -> Stored | None:
    return None


def installation(
    resource: str,
    *fields: Field,
    refs: tuple[Ref, ...] = (),
    act: Callable[[Desk, Stored, Stored], Stored | None] = _no_effect,
) -> Action:
    """An installation of an uploaded file. By default it is only checked that the file is there:
    what is in one is the vendor's affair."""

    def there(view: View, body: Stored, _target: Stored | None) -> Iterator[Problem]:
        if view.node.file(resource, body) is None:
            yield Problem("unknown_reference", f"File not found: {body.get('file_name')}")

    where = Field(name="file_location", shape=Text(choices=("private", "public")), must=True)
    name = Field(name="file_name", shape=Text(), must=True)
    return Action(
        body=Object((where, name, *fields)), refs=refs, check=there, act=act, done="installed"
    )


# ---- the resource ------------------------------------------------------------------------------


def _same(_view: View, value: Stored, _listed: bool) -> Stored:
    return dict(value)


def _nothing(_view: View) -> Stored:
    return {}


def _node_id(node: Node) -> str:
    return node.new_id()


READS = frozenset({"list", "get"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """One kind of object."""

    key: str
    """Its natural key, unique on the node."""
    creates: Mapping[str, Form] = field(default_factory=dict)
    """By the word that follows in the path, `` for none."""
    edits: Mapping[str, Form] = field(default_factory=dict)
    reads: frozenset[str] = READS
    trash: bool = True
    refs: tuple[Ref, ...] = ()
    """Of its bodies, and of what is kept of them."""
    mirrors: tuple[Mirror, ...] = ()
    owns: tuple[tuple[str, str], ...] = ()
    """Resources whose objects go with it, and their keys that hold its id."""
    stale: bool = False
    """Changes show only after its refreshlist."""
    parts: Mapping[str, str] = field(default_factory=dict)
    """Resources that stand below this one in paths, by their word there."""
    refresh_word: str = ""
    """Of such a resource: the word before `refreshlist`, where it is another one."""
    actions: Mapping[str, Action] = field(default_factory=dict)
    """`POST …/{id}/WORD`."""
    shared_actions: Mapping[str, Action] = field(default_factory=dict)
    """`POST …/WORD`, of no object."""
    fetches: Mapping[str, Fetch] = field(default_factory=dict)
    """`POST …/WORD/fetch`; `` is `POST …/fetch`."""
    faces: Mapping[str, Callable[[View, Stored], object]] = field(default_factory=dict)
    """`GET …/{id}/WORD`."""
    fixed: bool = False
    """The same on every node and for ever: no part of its state."""
    files: bool = False
    """Files of it can be uploaded, for a pool or for everybody."""
    new_id: Callable[[Node], str] = _node_id
    born: Callable[[View], Stored] = _nothing
    """What the node itself puts into a new object."""
    read: Callable[[View, Stored, bool], Stored] = _same
    """The read shape; True: as an element of the list, else as Get."""
    listing: Callable[[View, list[Stored]], object] | None = None
    """The list's answer, where it is no plain list of objects."""
    identity: Callable[[Stored], object] | None = None
    """What must be unique, where it is not the key; None: nothing."""
    label: Callable[[Node, Stored], str] | None = None
    """How the ledger names an object, where not by its key."""
    trash_check: Callable[[View, Stored, Stored], Iterable[Problem]] = lambda _v, _o, _b: ()
    """Why an object may not be deleted, given the body of the call."""
    before_trash: Callable[[Desk, Stored, Stored], None] = lambda _desk, _value, _body: None
    response: Callable[[Stored], Stored] = lambda _value: {}
    """What a finished delete has to say."""
    body_id: bool = False
    """An edit must carry the id in its body too."""
    read_names: Mapping[str, str] = field(default_factory=dict)
    """Names of the read shape, and what they are called in bodies; for seeds."""
    planted: Callable[[Node, Stored], Stored] = lambda _node, value: value
    """A seed as it is kept."""

    def identity_of(self, value: Stored) -> object:
        return self.identity(value) if self.identity else value.get(self.key)


def ledger_name(resources: Mapping[str, Resource], node: Node, name: str, value: Stored) -> str:
    """How an object is called in the ledger."""
    label = resources[name].label
    return label(node, value) if label else str(value.get(resources[name].key, ""))


def used_by(resources: Mapping[str, Resource], node: Node, name: str, value: Stored) -> str | None:
    """The first object that needs this one, in words."""
    for other, resource in resources.items():
        for ref in resource.refs:
            if ref.to != name or not ref.holds:
                continue
            for one in node.store(other).true.values():
                if one is not value and value.get(ref.by) in list(ref.values(one)):
                    return f"{other} {one.get(resource.key, one['id'])}"
    return None
