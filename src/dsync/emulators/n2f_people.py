"""Users of the N2F emulator: what a body may say, what is kept, and how it is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from .n2f_data import Data, Refused, Value
from .switches import Switches

__all__ = ["People"]

_TEXTS = (
    "firstname lastname jobTitle employeeNumber structure accountingAuxiliaryAccount "
    "defaultCostCenter ssoLogin accountingAuxiliaryNotReimbursableAccount"
).split()
_FLAGS = "personnalCarHaveToBeApproved removeHomeWorkDistance gotProPayment canRaiseLimits".split()
_ENUMS = {"canCreateVehicle": ("OnlyCompany",), "authMode": ("Sso", "Integrated")}
"""The values that are known; another is kept as it came."""
_ORDER = (
    "mail firstname lastname company role profile managerMail canCreateVehicle "
    "personnalCarHaveToBeApproved removeHomeWorkDistance culture currencyIsoCode jobTitle "
    "employeeNumber structure gotProPayment accountingAuxiliaryAccount canRaiseLimits authMode "
    "defaultCostCenter ssoLogin accountingAuxiliaryNotReimbursableAccount canDefineHisAnalytics"
).split()
_MAIL = re.compile(r"[^@\s]+@[^@\s]+")
_CULTURE = re.compile(r"[A-Za-z]{2}")
_CURRENCY = re.compile(r"[A-Za-z]{3}")


class People:
    """The users, as the API sees them."""

    def __init__(self, data: Data, switches: Switches) -> None:
        self._data, self._switches = data, switches

    def listed(self) -> list[Value]:
        """All users as they are kept; `shown` makes of one what is read."""
        return list(self._data.users.values())

    def upsert(self, body: Value) -> tuple[bool, Value]:
        """Creates or changes the user of a body's `mail`: whether it is new, and the user.

        Raises: Refused.
        """
        mail = body.get("mail")
        if not isinstance(mail, str) or not _MAIL.fullmatch(mail):
            raise Refused.field("mail")
        mail = mail.lower()
        if self._switches.text("unknown_fields") == "refused":
            for name in body.keys() - set(_ORDER):
                raise Refused.field(name)
        before = self._data.users.get(mail)
        if before is None and "company" not in body:
            raise Refused.field("company")
        changes = {name: self._taken(name, body[name]) for name in _ORDER[1:] if name in body}
        if before is not None:
            before |= changes
            return False, before
        seats = self._switches.count("seat_limit")
        if seats and len(self._data.users) >= seats:
            raise Refused(409, "User limit reached")
        user = {"uuid": self._data.new_user_id(), "mail": mail, **self._blank(), **changes}
        self._data.users[mail] = user
        self._data.mails.append(mail)
        return True, user

    def delete(self, mail: str) -> Value:
        """Removes a user. Raises: Refused."""
        user = self._data.users.get(mail.lower())
        if user is None:
            raise Refused(404, f"Unknown user: {mail}")
        style = self._switches.text("delete_manager")
        team = [one for one in self.listed() if one.get("managerMail") == user["mail"]]
        if team and style == "refused":
            raise Refused(409, "User is a manager")
        del self._data.users[str(user["mail"])]
        if style == "cleared":
            for one in team:
                one["managerMail"] = ""
        return user

    # ---- what a body says ------------------------------------------------------------------------

    def _taken(self, name: str, value: object) -> object:
        """A field as it is kept. Raises: Refused."""
        if name == "company":
            if not isinstance(value, str) or value not in self._data.companies:
                raise Refused.field(name)
            return value
        if value is None:
            return None
        if name in _FLAGS:
            if not isinstance(value, bool):
                raise Refused.field(name)
            return value
        if name == "canDefineHisAnalytics" and isinstance(value, bool):
            return value
        if not isinstance(value, str):
            raise Refused.field(name)
        return self._text(name, value)

    def _text(self, name: str, value: str) -> str:
        match name:
            case "role" | "profile":
                return self._label(name, value)
            case "managerMail":
                return self._manager(value)
            case "culture" if not _CULTURE.fullmatch(value):
                raise Refused.field(name)
            case "currencyIsoCode" if not _CURRENCY.fullmatch(value):
                raise Refused.field(name)
        known = {word.lower(): word for word in _ENUMS.get(name, ())}
        return known.get(value.lower(), value)

    def _label(self, name: str, value: str) -> str:
        strict = self._switches.text("label_case") == "strict"
        for _, label in _labels(self._data.labels(name)):
            if value == label or (not strict and value.lower() == label.lower()):
                return label
        raise Refused.field(name)

    def _manager(self, mail: str) -> str:
        mail = mail.lower()
        refuse = self._switches.text("managers") == "refused"
        if mail and refuse and mail not in self._data.users:
            raise Refused.field("managerMail")
        return mail

    def _blank(self) -> Value:
        """A new user before its body is looked at: the first role and profile, nothing else."""
        blank: Value = {name: False if name in _FLAGS else "" for name in _ORDER[1:]}
        for name in ("role", "profile"):
            blank[name] = next((label for _, label in _labels(self._data.labels(name))), "")
        return blank

    # ---- what is read ----------------------------------------------------------------------------

    def shown(self) -> Callable[[Value], Value]:
        """A function that makes of a user what is read; as the switches stand now."""
        switches, hidden = self._switches, set(self._switches.names("write_only"))
        names = [name for name in _ORDER if name not in hidden]
        style, culture = switches.text("null_style"), switches.text("label_culture")
        with_uuid, extra = switches.flag("user_uuid"), switches.flag("extra_fields")
        translations = {kind: _translations(self._data.labels(kind)) for kind in _LABELLED}

        def show(user: Value) -> Value:
            read: Value = {"uuid": user.get("uuid")} if with_uuid else {}
            for name in names:
                value = user.get(name)
                if name in _FLAGS:
                    read[name] = bool(value)
                    continue
                if value and name in translations and culture != "written":
                    wanted = user.get("culture") if culture == "user" else culture
                    value = translations[name].get((str(value), str(wanted)), value)
                if value is None or value == "":
                    if style == "absent":
                        continue
                    value = {"empty": "", "null": None}.get(style, value)
                read[name] = value
            if extra:
                read |= {"id": user.get("uuid"), "state": {"active": True}}
            return read

        return show


_LABELLED = ("role", "profile")


def _labels(elements: list[Value]) -> Iterator[tuple[str, str]]:
    """Language and label, of all elements."""
    for element in elements:
        for name in _named(element):
            yield str(name.get("culture")), str(name.get("value"))


def _translations(elements: list[Value]) -> Mapping[tuple[str, str], str]:
    """The label of an element by any of its labels, and a language."""
    return {
        (str(one.get("value")), str(other.get("culture"))): str(other.get("value"))
        for element in elements
        for one in _named(element)
        for other in _named(element)
    }


def _named(element: Value) -> list[Value]:
    names = element.get("names")
    return names if isinstance(names, list) else []
