"""Logpoint machines as the Director emulator keeps them: the truth, and what a client is shown."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .switches import Switches

__all__ = ["REPO_PORT", "Node", "Store", "Stored", "View", "objects", "texts"]

Stored = dict[str, object]

REPO_PORT = 5504
"""Where a machine's repos are asked."""


class Store:
    """The objects of one resource on one node: what is true, and what a client is shown."""

    def __init__(self) -> None:
        self.true: dict[str, Stored] = {}
        self._shown: dict[str, Stored] = {}
        self._pending: list[tuple[float | None, str, Stored | None]] = []

    def put(self, id: str, value: Stored | None, *, shown_at: float | None) -> None:  # noqa: A002
        """Sets an object, or removes it; clients see it from `shown_at`, None = after a refresh."""
        if value is None:
            self.true.pop(id, None)
        else:
            self.true[id] = value
        self._pending.append((shown_at, id, value))

    def shown(self, now: float, *, stale_too: bool = False) -> dict[str, Stored]:
        """What a client sees now; `stale_too`: without waiting for refreshes."""
        if self._pending:
            self._settle(lambda at: stale_too if at is None else at <= now)
        return self._shown

    def refresh(self) -> None:
        """From now on clients see the truth."""
        self._settle(lambda _at: True)

    def _settle(self, due: Callable[[float | None], bool]) -> None:
        # Changes of one object stay in order: a later one never shows before an earlier one.
        held: set[str] = set()
        later: list[tuple[float | None, str, Stored | None]] = []
        for at, id_, value in self._pending:
            if id_ in held or not due(at):
                held.add(id_)
                later.append((at, id_, value))
            elif value is None:
                self._shown.pop(id_, None)
            else:
                self._shown[id_] = value
        self._pending = later


@dataclass(slots=True, kw_only=True, eq=False)
class Node:
    """One Logpoint machine of a pool; nothing on it is known to another node."""

    pool: str
    id: str
    name: str
    pool_name: str
    address: str
    """Its private address."""
    stores: dict[str, Store] = field(default_factory=dict)
    pool_nodes: Sequence[Node] = ()
    """All machines of its pool."""
    files: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    """Uploaded files, by pool (`` = for everybody) and resource."""
    _made: int = 0
    _mark: str = ""

    @property
    def scope(self) -> str:
        return f"{self.pool}/{self.id}"

    def store(self, resource: str) -> Store:
        return self.stores.setdefault(resource, Store())

    def new_id(self) -> str:
        """24 hex digits that no other node gives, the same in every run."""
        self._made += 1
        self._mark = self._mark or hashlib.sha256(self.scope.encode()).hexdigest()[:8]
        return f"64b0c0ff{self._mark}{self._made:08x}"

    def new_uuid(self) -> str:
        """32 hex digits that no other node gives, the same in every run."""
        return hashlib.sha256(self.new_id().encode()).hexdigest()[:32]

    def names(self, resource: str, key: str) -> set[str]:
        """The keys of all objects of a resource, as they truly are."""
        return set(texts([value.get(key) for value in self.store(resource).true.values()]))

    def has(self, resource: str, id: object) -> bool:  # noqa: A002
        return isinstance(id, str) and id in self.store(resource).true

    def at(self, address: str) -> Node | None:
        """The machine of its pool at a private address; 127.0.0.1 is this one."""
        if address == "127.0.0.1":
            return self
        return next((one for one in self.pool_nodes if one.address == address), None)

    def file(self, resource: str, body: Stored) -> bytes | None:
        """The uploaded file that an installation names."""
        pool = "" if body.get("file_location") == "public" else self.pool
        return self.files.get((pool, resource), {}).get(str(body.get("file_name")))


@dataclass(slots=True, kw_only=True, eq=False)
class View:
    """A node as one call sees it."""

    node: Node
    switches: Switches
    now: float | None = None
    """None = the truth."""
    _memory: dict[str, dict[object, list[Stored]]] = field(default_factory=dict)

    def objects(self, resource: str) -> dict[str, Stored]:
        """The objects of a resource by their ids."""
        store = self.node.store(resource)
        if self.now is None:
            return store.true
        return store.shown(self.now, stale_too=not self.switches.flag("staleness"))

    def by(self, resource: str, key: str, value: object) -> Sequence[Stored]:
        """The objects of a resource whose `key` holds `value`."""
        memory = self._memory.get(f"{resource}.{key}")
        if memory is None:
            memory = self._memory[f"{resource}.{key}"] = {}
            for one in self.objects(resource).values():
                memory.setdefault(str(one.get(key)), []).append(one)
        return memory.get(str(value), ())

    @property
    def me(self) -> str:
        """The id of the user whose token it is; `` when the node does not know one."""
        name = self.switches.text("token_user")
        users = self.node.store("Users").true.values()
        return str(next((one["id"] for one in users if one.get("username") == name), ""))

    def username(self, id: object) -> str:  # noqa: A002
        """The name of a user, or the id when there is none."""
        user = self.node.store("Users").true.get(str(id), {})
        return str(user.get("username", id))


def texts(value: object) -> list[str]:
    """The texts in a list; nothing when it is no list."""
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def objects(value: object) -> list[Stored]:
    """The objects in a list; nothing when it is no list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
