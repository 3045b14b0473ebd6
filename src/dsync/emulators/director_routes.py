"""The endpoints of the Director emulator below a node: they follow from its table of resources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .director_kinds import Resource

__all__ = ["Route", "Routes"]

ID = "{id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """What one method at one path asks for."""

    what: str
    """`list get face create edit trash refresh action shared_action fetch`."""
    resource: str
    word: str = ""
    """The form, action, fetch or face."""


class Routes:
    """Every endpoint of some resources."""

    def __init__(self, resources: Mapping[str, Resource]) -> None:
        self._paths: dict[tuple[str, ...], dict[str, Route]] = {}
        below = {name for one in resources.values() for name in one.parts.values()}
        for name, resource in resources.items():
            if name not in below:
                self._add_resource(resources, name, resource)

    def find(self, method: str, path: Sequence[str]) -> tuple[Route | int, str]:
        """The route, or the status of a refusal; and the path with its ids named."""
        candidates = [tuple(path)]
        for place in (1, 2):
            if len(path) > place:
                candidates.append((*path[:place], ID, *path[place + 1 :]))
        exact = True
        for candidate in candidates:
            if (methods := self._paths.get(candidate)) is not None:
                if method in methods:
                    return methods[method], "/".join(candidate)
                if exact or method != "POST":
                    return 405, "/".join(candidate)
            exact = False
        return 404, "…"

    def _add(self, method: str, *path: str, what: str, resource: str, word: str = "") -> None:
        at = tuple(part for part in path if part)
        self._paths.setdefault(at, {})[method] = Route(what=what, resource=resource, word=word)

    def _add_resource(
        self, resources: Mapping[str, Resource], name: str, resource: Resource
    ) -> None:
        if "list" in resource.reads:
            self._add("GET", name, what="list", resource=name)
        if "get" in resource.reads:
            self._add("GET", name, ID, what="get", resource=name)
        for word in resource.creates:
            self._add("POST", name, word, what="create", resource=name, word=word)
        for word in resource.edits:
            self._add("PUT", name, word, ID, what="edit", resource=name, word=word)
        if resource.trash:
            self._add("DELETE", name, ID, what="trash", resource=name)
        if resource.stale:
            self._add("POST", name, "refreshlist", what="refresh", resource=name)
        for word in resource.faces:
            self._add("GET", name, ID, word, what="face", resource=name, word=word)
        for word in resource.actions:
            self._add("POST", name, ID, word, what="action", resource=name, word=word)
        for word in resource.shared_actions:
            self._add("POST", name, word, what="shared_action", resource=name, word=word)
        for word in resource.fetches:
            self._add("POST", name, word, "fetch", what="fetch", resource=name, word=word)
        for word, part in resource.parts.items():
            self._add_part(name, word, part, resources[part])

    def _add_part(self, name: str, word: str, part: str, resource: Resource) -> None:
        self._add("GET", name, word, what="list", resource=part)
        if resource.creates:
            self._add("POST", name, word, what="create", resource=part)
        if resource.trash:
            self._add("DELETE", name, ID, word, what="trash", resource=part)
        if resource.stale:
            at = resource.refresh_word or word
            self._add("POST", name, at, "refreshlist", what="refresh", resource=part)
