"""What the N2F emulator holds: companies with their axes, users, roles, profiles."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from .server import SeedError

__all__ = ["PROJECTS", "REFUSALS", "Axis", "Company", "Data", "Refused", "Value", "opaque", "put"]

Value = dict[str, object]

PROJECTS = "projects"
"""The id of the built-in axis: a word, and the same in every company."""
REFUSALS = {
    "in_use": "Value in use",
    "linked": "Value is linked",
    "is_default": "Value is a default",
}
"""Why a DELETE may be refused: the switch, or the key in a seeded value; and what is answered."""

_COMPANY, _AXIS, _USER, _ROLE, _PROFILE, _VALUE = 10_000, 20_000, 30_000, 40_000, 50_000, 60_000


class Refused(Exception):
    """A call that the service declines: the status and the text it answers."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status

    @classmethod
    def field(cls, name: str) -> Refused:
        """A body's field that the service does not take."""
        return cls(400, f"Invalid field: {name}")


def opaque(number: int) -> str:
    """An id as the service has them: a number in Base64."""
    return base64.b64encode(str(number).encode()).decode()


@dataclass(slots=True, kw_only=True)
class Axis:
    """One axis of one company, with its values by code."""

    id: str
    names: list[Value]
    values: dict[str, Value] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Company:
    """A legal entity, with its axes by id, the built-in one among them."""

    value: Value
    axes: dict[str, Axis]

    @property
    def uuid(self) -> str:
        return str(self.value["uuid"])

    @property
    def code(self) -> str:
        return str(self.value["code"])

    def axis(self, word: object) -> Axis | None:
        """The axis of an id, or of a label in any language."""
        if (found := self.axes.get(str(word))) is not None:
            return found
        named = (axis for axis in self.axes.values() if word in _labels(axis.names))
        return next(named, None)


class Data:
    """Everything, in order of creation."""

    def __init__(self) -> None:
        self.companies: dict[str, Company] = {}
        self.users: dict[str, Value] = {}
        """By mail in lower case; also what is never shown."""
        self.roles: list[Value] = []
        self.profiles: list[Value] = []
        self.mails: list[str] = []
        """To whom the service has written that they have an account: creations by the API."""
        self._given: dict[int, int] = {}

    def new_id(self, family: int) -> str:
        """The next id of a family (`_USER` …), never given twice."""
        self._given[family] = self._given.get(family, 0) + 1
        return opaque(family + self._given[family])

    def new_user_id(self) -> str:
        return self.new_id(_USER)

    def new_value_id(self) -> str:
        return self.new_id(_VALUE)

    def company(self, word: object) -> Company | None:
        """The company of an id or a code."""
        if (found := self.companies.get(str(word))) is not None:
            return found
        return next((one for one in self.companies.values() if one.code == word), None)

    def labels(self, kind: str) -> list[Value]:
        """The elements of `role` or `profile`."""
        return self.roles if kind == "role" else self.profiles

    def dump(self) -> Value:
        """All of it, in a form that `put` takes; and the e-mails."""
        return {
            "companies": [dict(company.value) for company in self.companies.values()],
            "axes": [
                {"company": company.code, "uuid": axis.id, "names": axis.names}
                for company, axis in self._axes()
                if axis.id != PROJECTS
            ],
            "roles": self.roles,
            "profiles": self.profiles,
            "users": list(self.users.values()),
            "values": [
                {"company": company.code, "axis": axis.id, **value}
                for company, axis in self._axes()
                for value in axis.values.values()
            ],
            "creation_mails": {"total": len(self.mails), "to": self.mails},
        }

    def _axes(self) -> Iterator[tuple[Company, Axis]]:
        for company in self.companies.values():
            for axis in company.axes.values():
                yield company, axis


# ---- seeds ---------------------------------------------------------------------------------------


def put(data: Data, seed: Value) -> None:
    """Puts and removes what a seed lists; none of the API's own rules apply, nor its e-mails.

    `companies`: {code, name, address, uuid}; `axes`: {company, names, uuid}; `roles`, `profiles`:
    {names, uuid}, each list in place of the former; `users`: any of a user's fields, at least
    `mail`; `values`: {company, axis, code, names, validityDateFrom, validityDateTo}, and
    `in_use`, `linked` or `is_default` for one that cannot be deleted. A company is named by code
    or id, an axis by id, label or `projects` (the default), `names` may be one text for fr and nl.
    What is there with that key is changed. `replace: true` empties users and values first;
    `remove` lists `users` (mails), `values`, `axes` and `companies`.

    Raises: SeedError.
    """
    _known(seed, _KEYS, "a seed")
    if seed.get("replace"):
        data.users.clear()
        for _, axis in data._axes():
            axis.values.clear()
    _remove(data, seed.get("remove", {}))
    for one in _objects(seed, "companies"):
        _put_company(data, one)
    for one in _objects(seed, "axes"):
        _put_axis(data, one)
    for word, family in (("roles", _ROLE), ("profiles", _PROFILE)):
        if word in seed:
            listed = [
                {"uuid": one.get("uuid") or data.new_id(family), "names": _names(one)}
                for one in _objects(seed, word)
            ]
            setattr(data, word, listed)
    for one in _objects(seed, "users"):
        _put_user(data, one)
    for one in _objects(seed, "values"):
        _put_value(data, one)


_KEYS = (
    "companies axes roles profiles users values replace remove revoke_tokens creation_mails".split()
)


def _put_company(data: Data, one: Value) -> None:
    code = one.get("code")
    before = data.company(one.get("uuid")) or data.company(code)
    if before is None and not isinstance(code, str):
        raise SeedError("a company has a `code`")
    if before is not None:
        before.value.update(one)
        return
    uuid = one.get("uuid") or data.new_id(_COMPANY)
    value: Value = {
        "uuid": uuid,
        "code": code,
        "name": code,
        "address": "",
        **one,
    }
    value["uuid"] = uuid
    projects = Axis(id=PROJECTS, names=[])
    data.companies[str(uuid)] = Company(value=value, axes={PROJECTS: projects})


def _put_axis(data: Data, one: Value) -> None:
    company = _company(data, one)
    names = _names(one)
    if not names:
        raise SeedError("an axis has `names`")
    id_ = str(one.get("uuid") or data.new_id(_AXIS))
    before = company.axes.get(id_)
    company.axes[id_] = Axis(id=id_, names=names, values=before.values if before else {})


def _put_user(data: Data, one: Value) -> None:
    mail = one.get("mail")
    if not isinstance(mail, str):
        raise SeedError("a user has a `mail`")
    mail = mail.lower()
    user: Value = {**data.users.get(mail, {}), **one, "mail": mail}
    if not user.get("uuid"):
        user["uuid"] = data.new_user_id()
    if "company" in one:
        user["company"] = _company(data, one).uuid
    data.users[mail] = user


def _put_value(data: Data, one: Value) -> None:
    _, axis = _place(data, one)
    code = one.get("code")
    if not isinstance(code, str):
        raise SeedError("a value has a `code`")
    kept = {key: item for key, item in one.items() if key not in ("company", "axis")}
    value: Value = {"uuid": "", "code": code, "names": []}
    value |= {"validityDateFrom": None, "validityDateTo": None}
    value |= axis.values.get(code, {}) | kept
    if "names" in one:
        value["names"] = _names(one)
    for word in ("validityDateFrom", "validityDateTo"):
        date = value[word]
        value[word] = str(date)[:10] if date else None
    value["uuid"] = value["uuid"] or data.new_value_id()
    axis.values[code] = value


def _remove(data: Data, gone: object) -> None:
    if not isinstance(gone, dict):
        raise SeedError("`remove` is an object of lists")
    _known(gone, ("users", "values", "axes", "companies"), "`remove`")
    for mail in gone.get("users", []):
        data.users.pop(str(mail).lower(), None)
    for one in _objects(gone, "values"):
        _, axis = _place(data, one)
        axis.values.pop(str(one.get("code")), None)
    for one in _objects(gone, "axes"):
        company, axis = _place(data, one)
        del company.axes[axis.id]
    for word in gone.get("companies", []):
        company = _company(data, {"company": word})
        del data.companies[company.uuid]


def _company(data: Data, one: Value) -> Company:
    found = data.company(one.get("company"))
    if found is None:
        known = " ".join(company.code for company in data.companies.values())
        raise SeedError(f"no company {one.get('company')!r}; there are {known or 'none'}")
    return found


def _place(data: Data, one: Value) -> tuple[Company, Axis]:
    company = _company(data, one)
    word = one.get("axis", PROJECTS)
    axis = company.axis(word)
    if axis is None:
        raise SeedError(f"company {company.code} has no axis {word!r}")
    return company, axis


def _objects(seed: Value, word: str) -> list[Value]:
    found = seed.get(word, [])
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise SeedError(f"`{word}` is a list of objects")
    return found


def _known(value: Value, words: Iterable[str], what: str) -> None:
    if unknown := value.keys() - set(words):
        raise SeedError(f"{what} takes no {' '.join(sorted(unknown))}")


def _names(one: Value) -> list[Value]:
    names = one.get("names", [])
    if isinstance(names, str):
        return [{"culture": "fr", "value": names}, {"culture": "nl", "value": names}]
    if not isinstance(names, list) or not all(isinstance(name, dict) for name in names):
        raise SeedError("`names` is a text, or a list of {culture, value}")
    return names


def _labels(names: Iterable[Value]) -> list[object]:
    return [name.get("value") for name in names]
