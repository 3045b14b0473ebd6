"""What the N2F emulator holds at first: a sample, the reference scenario, or generated rows.

Every seed has two companies, each with the axes Plaque, Subpost and Département under ids of its
own, four roles and two profiles. All names are invented.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .n2f_data import Value, opaque

__all__ = ["first"]


def first(name: str, counts: dict[str, int]) -> Iterator[Value]:
    """The seeds to put for the switch `seed`, and for the switches that ask for generated rows."""
    if name == "nothing":
        return
    yield _frame()
    if name == "sample":
        yield _sample()
    if name == "reference":
        yield _reference()
    yield {
        "users": [_user_of(number) for number in range(1, counts["users"] + 1)],
        "values": [
            value for word, row in _ROWS.items() for value in map(row, range(1, counts[word] + 1))
        ],
    }


def _frame() -> Value:
    companies: list[Value] = []
    axes: list[Value] = []
    labels = (("Plaque", "Nummerplaat"), ("Subpost", "Subpost"), ("Département", "Afdeling"))
    for number, word in enumerate(("One", "Two"), start=1):
        code = f"ENT{number}"
        companies.append(
            {
                "uuid": opaque(10_000 + number),
                "code": code,
                "name": f"Entity {word}",
                "address": f"{number} Example Street, 1000 Sampletown",
            }
        )
        axes += [
            {
                "company": code,
                "uuid": opaque(20_000 + 10 * (number - 1) + place),
                "names": _names(fr=french, nl=dutch),
            }
            for place, (french, dutch) in enumerate(labels, start=1)
        ]
    roles = [
        _names(fr="Utilisateur", nl="Gebruiker"),
        _names(fr="Manager", nl="Manager"),
        _names(fr="Comptable", nl="Boekhouder"),
        _names(fr="Administrateur", nl="Beheerder"),
    ]
    profiles = [_names(fr="Standard", nl="Standaard"), _names(fr="Étendu", nl="Uitgebreid")]
    return {
        "companies": companies,
        "axes": axes,
        "roles": [{"uuid": opaque(40_001 + i), "names": one} for i, one in enumerate(roles)],
        "profiles": [{"uuid": opaque(50_001 + i), "names": one} for i, one in enumerate(profiles)],
    }


def _sample() -> Value:
    boss = "manager.one@example.test"
    return {
        "users": [
            _user(boss, "Mara", "One", "00000000042", role="Manager", jobTitle="TEAM LEAD"),
            _user("user.two@example.test", "Udo", "Two", "00000000043", managerMail=boss),
            _user("user.three@example.test", "Uma", "Three", "00000000044", managerMail=boss),
            _user(
                "user.four@example.test", "Ugo", "Four", "00000000045",
                company="ENT2", culture="nl", role="Gebruiker", profile="Standaard",
            ),
        ],
        "values": [
            _value("ENT1", "projects", "P0100", "Depot refit", since="2030-01-01"),
            _value("ENT1", "projects", "P0200", "Line upgrade", until="2032-06-30"),
            _value("ENT2", "projects", "P0100", "Harbour survey"),
            _value("ENT1", "Plaque", "1-AAA-001", "Van 1"),
            _value("ENT2", "Plaque", "1-BBB-002", "Van 2"),
            _value("ENT1", "Subpost", "S10", "Travel"),
            _value("ENT2", "Subpost", "S10", "Travel"),
            _value("ENT1", "Département", "D1", "Workshop"),
        ],
    }  # fmt: skip


def _reference() -> Value:
    """What N2F holds in the reference scenario: the source then asks for each kind of change."""
    mixed = [*_names(nl="Depot refit", fr="Depot refit"), *_names(en="Depot refit")]
    return {
        "users": [
            _user(
                "same.user@example.org", "Sam", "Same", "00000000101",
                role="Gebruiker", managerMail=None,
            ),
            _user("chg.user@example.org", "Oldname", "Change", "00000000102"),
            _user("gone.user@example.org", "Gil", "Gone", "00000000103"),
        ],
        "values": [
            {**_value("ENT1", "projects", "P0100", "", since="2030-01-01"), "names": mixed},
            _value("ENT1", "projects", "P0200", "Line upgrade", since="2030-01-01"),
            _value("ENT1", "projects", "P0300", "Open end", since="2030-01-01"),
            {**_value("ENT1", "Subpost", "OLD", "Old subpost"), "in_use": True},
        ],
    }  # fmt: skip


def _user_of(number: int) -> Value:
    """User 1 has no manager; the others report to one of a tenth of their number, and so on."""
    return _user(
        f"user.{number:05}@example.test",
        f"First{number}",
        f"Last{number}",
        f"{number:011}",
        company=f"ENT{2 - number % 2}",
        managerMail=f"user.{(number + 8) // 10:05}@example.test" if number > 1 else "",
        culture="fr" if number % 3 else "nl",
        accountingAuxiliaryAccount=f"{500_000 + number % 400_000}",
    )


_ROWS: dict[str, Callable[[int], Value]] = {
    "projects": lambda n: _value(_entity(n), "projects", f"P{n:06}", f"Project {n}"),
    "plates": lambda n: _value(_entity(n), "Plaque", _plate(n), f"Vehicle {n}"),
    "subposts": lambda n: _value(_entity(n), "Subpost", f"S{n:05}", f"Subpost {n}"),
    "departments": lambda n: _value(_entity(n), "Département", f"D{n:05}", f"Department {n}"),
}
"""One generated value each, of the companies by turns."""


def _entity(number: int) -> str:
    return f"ENT{2 - number % 2}"


def _plate(number: int) -> str:
    """`2-AAA-001` and on, 999 to a letter."""
    thousand, rest = divmod(number - 1, 999)
    letters = "".join(chr(65 + thousand // 26**place % 26) for place in (2, 1, 0))
    return f"2-{letters}-{rest + 1:03}"


def _user(mail: str, first_name: str, last_name: str, employee: str, **other: object) -> Value:
    return {
        "mail": mail,
        "firstname": first_name,
        "lastname": last_name,
        "company": "ENT1",
        "role": "Utilisateur",
        "profile": "Standard",
        "managerMail": "",
        "canCreateVehicle": "OnlyCompany",
        "personnalCarHaveToBeApproved": False,
        "removeHomeWorkDistance": False,
        "culture": "fr",
        "currencyIsoCode": "EUR",
        "jobTitle": "TECHNICIAN",
        "employeeNumber": employee,
        "structure": "L3",
        "gotProPayment": False,
        "accountingAuxiliaryAccount": f"5{employee[-5:]}",
        "canRaiseLimits": False,
        "authMode": "Sso",
        **other,
    }


def _value(
    company: str,
    axis: str,
    code: str,
    name: str,
    *,
    since: str | None = None,
    until: str | None = None,
) -> Value:
    return {
        "company": company,
        "axis": axis,
        "code": code,
        "names": _names(fr=name, nl=name),
        "validityDateFrom": since,
        "validityDateTo": until,
    }


def _names(**labels: str) -> list[Value]:
    return [{"culture": culture, "value": label} for culture, label in labels.items()]
