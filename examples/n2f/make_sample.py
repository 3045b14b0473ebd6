"""Make the sample of an ERP's database: the views v_N2F_User and v_N2F_Analytics, all invented.

    python make_sample.py                               # data/agresso.db, about 30 users
    python make_sample.py --large                       # 2,000 users, 4,000 projects, and more
    python make_sample.py --scenario                    # only the rows of the reference scenario
    python make_sample.py --users 401 --projects 1000
    python make_sample.py --to postgresql://postgres@localhost/agresso     # needs psycopg

In PostgreSQL the views are made in the schema `dbo`; a password comes from PGPASSWORD. The same
words give the same rows: there is no clock and no chance in them.
"""

from __future__ import annotations

import argparse
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

Row = tuple[Any, ...]

# Name, and type as SQL Server and SQLite have it.
USER_COLUMNS = (
    ("AdresseEmail", "NVARCHAR(255)"),
    ("Prenom", "NVARCHAR(80)"),
    ("Nom", "NVARCHAR(80)"),
    ("Entreprise", "NVARCHAR(8)"),
    ("Fonction", "NVARCHAR(80)"),
    ("Role", "NVARCHAR(40)"),
    ("Profil", "NVARCHAR(40)"),
    ("Manager", "NVARCHAR(255)"),
    ("Compte_Auxiliaire_Agresso", "NVARCHAR(20)"),
    ("Moyen_Paiement_Prof", "NVARCHAR(8)"),
    ("Compte_Auxiliaire2", "NVARCHAR(20)"),
    ("Matricule", "NVARCHAR(20)"),
    ("Centre_Cout", "NVARCHAR(20)"),
    ("Creation_Vehicule", "NVARCHAR(20)"),
    ("Appro_Veh_Adm", "BIT"),
    ("Deduction_Distance_TravDom", "NVARCHAR(8)"),
    ("Distance_TravDom", "NUMERIC(8, 2)"),
    ("Devise", "NVARCHAR(3)"),
    ("langue", "NVARCHAR(8)"),
    ("Structure", "NVARCHAR(20)"),
    ("Champs_Liaison_SSO", "NVARCHAR(80)"),
    ("Droit_Relever_Plafond", "BIT"),
    ("Methode_SSO", "NVARCHAR(20)"),
    ("Update_Champs_Perso", "NVARCHAR(8)"),
    ("Nouveau_Email", "NVARCHAR(255)"),
    ("Action", "NVARCHAR(20)"),
    ("CompanyID", "INT"),
    ("LocationID", "INT"),
    ("DivisionID", "INT"),
)
VALUE_COLUMNS = (
    ("typ", "NVARCHAR(20)"),
    ("client", "NVARCHAR(8)"),
    ("code", "NVARCHAR(40)"),
    ("description", "NVARCHAR(255)"),
    ("status", "NVARCHAR(1)"),
    ("date_from", "DATETIME"),
    ("date_to", "DATETIME"),
)
NO_START, NO_END = "1900-01-01 00:00:00", "2099-12-31 00:00:00"


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How many rows there are beside those of the reference scenario."""

    users: int = 0
    projects: int = 0
    plates: int = 0
    subposts: int = 0
    departments: int = 0
    quirks: bool = True


SCENARIO = Size(quirks=False)
SMALL = Size(users=22, projects=53, plates=11, subposts=8, departments=4)
LARGE = Size(users=2_000, projects=4_000, plates=600, subposts=900, departments=40)


def users(size: Size) -> list[Row]:
    """The rows of v_N2F_User, in the order of its columns."""
    return [*_scenario_users(), *_people(size.users), *(_user_quirks() if size.quirks else ())]


def values(size: Size) -> list[Row]:
    """The rows of v_N2F_Analytics, in the order of its columns."""
    return [
        *_scenario_values(),
        *(_project(number) for number in range(1, size.projects + 1)),
        *(_plate(number) for number in range(1, size.plates + 1)),
        *(_plain("SUBPOST", number, f"S{number:05}", "Subpost") for number in _to(size.subposts)),
        *(_plain("DEPARTMENT", n, f"D{n:04}", "Department") for n in _to(size.departments)),
        *(_value_quirks() if size.quirks else ()),
    ]


def _to(count: int) -> range:
    return range(1, count + 1)


# --- the reference scenario -----------------------------------------------------------------------


def _user(mail: str | None, first: str, last: str, number: int, **other: Any) -> Row:
    row: dict[str, Any] = {
        "AdresseEmail": mail,
        "Prenom": first,
        "Nom": last,
        "Entreprise": "ENT1",
        "Fonction": "TECHNICIAN",
        "Role": "Utilisateur",
        "Profil": "Standard",
        "Manager": None,
        "Compte_Auxiliaire_Agresso": f"5{number % 100_000:05}",
        "Moyen_Paiement_Prof": "0",
        "Compte_Auxiliaire2": f"4{number % 100_000:05}",
        "Matricule": f"{number:011}",
        "Centre_Cout": None,
        "Creation_Vehicule": "OnlyCompany",
        "Appro_Veh_Adm": False,
        "Deduction_Distance_TravDom": "0",
        "Distance_TravDom": None,
        "Devise": "EUR",
        "langue": "fr",
        "Structure": None,
        "Champs_Liaison_SSO": None,
        "Droit_Relever_Plafond": False,
        "Methode_SSO": "Saml",
        "Update_Champs_Perso": "No",
        "Nouveau_Email": None,
        "Action": None,
        "CompanyID": 1,
        "LocationID": 10,
        "DivisionID": 100,
    }
    unknown = other.keys() - row.keys()
    assert not unknown, unknown  # noqa: S101 - a slip in this file
    return tuple((row | other).values())


def _value(
    typ: str,
    client: str,
    code: str,
    text: str,
    status: str = "N",
    since: str | None = NO_START,
    until: str | None = NO_END,
) -> Row:
    return (typ, client, code, text, status, since, until)


def _scenario_users() -> Iterator[Row]:
    yield _user("Same.User@example.org", "Sam", "Same", 101)
    yield _user("new.user@example.org", "Nils", "New", 104, Manager="new.boss@example.org")
    yield _user("new.boss@example.org", "Bea", "Boss", 105, Manager="")
    yield _user("chg.user@example.org", "Newname", "Change", 102)
    yield _user("lost.co@example.org", "Lou", "Lost", 106, Entreprise="ZZZ")
    yield _user("loop.a@example.org", "Lena", "Loop", 107, Manager="loop.b@example.org")
    yield _user("loop.b@example.org", "Lars", "Loop", 108, Manager="loop.a@example.org")
    yield _user("", "Emil", "Empty", 109)


def _scenario_values() -> Iterator[Row]:
    start = "2030-01-01 00:00:00"
    yield _value("PROJECT", "ENT1", "P0100", "Depot refit", since=start)
    yield _value("PROJECT", "ENT1", "P0200", "Line upgrade", since=start)
    yield _value("PROJECT", "ENT2", "P0200", "Line upgrade", since=start)
    yield _value("PROJECT", "ENT1", "P0300", "Open end", since=start)
    yield _value("PROJECT", "ENT1", "A/B 1", "Code with a stroke", since=start)
    yield _value("PROJECT", "ENT9", "P0900", "Of no company", since=start)
    yield _value("PLAQUE", "ENT2", "1-AAA-001", "Van 1", since=start)


# --- people ---------------------------------------------------------------------------------------

_FIRST = (
    "Anna Bram Clara Dirk Elise Femke Gilles Hanne Ivo Jana Kobe Lise Marie Noor Oscar Paul "
    "Quinten Romy Stijn Tess Ulla Victor Wout Xandra Yves Zita Amélie Benoît Céline "
    "Désiré Éloïse François"
).split()
_LAST = (
    "Adler Boon Claes Daems Evers Fabry Goos Hens Ingels Jacobs Kempen Lambert Maes Nys Oste "
    "Peeters Quaghe Roels Smets Thys Urbain Vos Willems Xhaard Ysaye Zegers Müller "
    "Lefèvre Noël D'Hondt"
).split()
_JOBS = (
    "TECHNICIAN", "TEAM LEAD", "ACCOUNTANT", "BUYER", "PLANNER", "SITE MANAGER", "DRIVER",
    "ANALYST",
)  # fmt: skip


def _named(number: int) -> tuple[str, str]:
    """First and last name; a pair comes again after all others have been."""
    lap, at = divmod(number - 1, len(_FIRST))
    return _FIRST[at], _LAST[(lap + at) % len(_LAST)]


def _mail(number: int) -> str:
    """The address of a person; the first of a name has no number."""
    first, last = _named(number)
    plain = f"{first}.{last}".lower().translate(str.maketrans("éèëïöüç", "eeeiouc", "'"))
    again = (number - 1) // (len(_FIRST) * len(_LAST))
    return f"{plain}{again + 1 if again else ''}@example.test"


def _manager(number: int) -> int | None:
    """One head, nine below, ten for each of these, and all others below them: three levels up."""
    if number == 1:
        return None
    if number <= 10:
        return 1
    if number <= 100:
        return (number - 11) % 9 + 2
    return (number - 101) % 90 + 11


def _people(count: int) -> Iterator[Row]:
    for number in _to(count):
        first, last = _named(number)
        mail = _mail(number)
        above = _manager(number)
        boss: str | None = _mail(above) if above is not None else None
        if number % 7 == 0:
            mail, first, last = mail.upper(), first.upper(), last.upper()
        if number % 11 == 0:
            mail = f" {mail}  "
        if boss is not None and number % 13 == 0:
            boss = f"{boss.upper()} "
        if boss is None:
            boss = ("", "nan", "none", None)[number % 4]
        missing = number % 17 == 0
        yield _user(
            mail,
            first,
            last,
            1_000 + number,
            Entreprise=("ENT1", "ENT2", "ENT1  ", "ENT2")[number % 4],
            Fonction=_JOBS[number % len(_JOBS)],
            Role="Manager" if number <= 100 else "Comptable" if number % 29 == 0 else "Utilisateur",
            Profil="Étendu" if number % 31 == 0 else "Standard",
            Manager=boss,
            Moyen_Paiement_Prof=None if missing else ("0", "1", "true", "N")[number % 4],
            Centre_Cout=None if number % 3 else f"CC{number % 90:02}",
            Creation_Vehicule="ONLYCOMPANY" if number % 5 == 0 else "OnlyCompany",
            Appro_Veh_Adm=None if missing else number % 3 == 0,
            Deduction_Distance_TravDom=None if missing else ("0", "1", "yes", "")[number % 4],
            Distance_TravDom=None if number % 4 else round(number % 80 + 0.25, 2),
            langue=("fr", "nl", "FR", "fr")[number % 4],
            Structure=(None, "L3", "", "L2", "nan", " ")[number % 6],
            Champs_Liaison_SSO=mail.strip().lower().partition("@")[0],
            Droit_Relever_Plafond=None if missing else number % 23 == 0,
            Methode_SSO="saml" if number % 19 == 0 else "Saml",
            CompanyID=number % 2 + 1,
            LocationID=10 + number % 5,
            DivisionID=100 + number % 7,
        )


def _user_quirks() -> Iterator[Row]:
    """Rows that are wrong on purpose: each is told, and the others go on."""
    first = _mail(2)
    yield _user(first.upper(), "Bram", "Boon", 1_002, Fonction="PLANNER")  # the same key, twice
    yield _user("no.address.at.all", "Nora", "Nowhere", 9_001)


# --- values ---------------------------------------------------------------------------------------

_STATUS = ("N", "N", "N", "C", "N", "P", "N", "T")


def _entity(number: int) -> str:
    return f"ENT{2 - number % 2}"


def _project(number: int) -> Row:
    since = NO_START if number % 3 else f"{2020 + number % 10}-{number % 12 + 1:02}-01 00:00:00"
    until = NO_END if number % 4 else f"{2031 + number % 9}-12-31 00:00:00"
    return _value(
        "project" if number % 41 == 0 else "PROJECT",
        _entity(number) + ("  " if number % 37 == 0 else ""),
        f"P{number + 1000:05}" if number % 10 else f"X{number + 1000:05}",
        f"Project {number}" if number % 9 else f"Réfection n° {number} & façade",
        _STATUS[number % len(_STATUS)],
        None if number % 43 == 0 else since,
        None if number % 47 == 0 else until,
    )


def _plate(number: int) -> Row:
    thousand, rest = divmod(number - 1, 999)
    letter = chr(ord("B") + thousand)
    return _value("PLAQUE", _entity(number), f"1-A{letter}A-{rest + 1:03}", f"Vehicle {number}")


def _plain(typ: str, number: int, code: str, word: str) -> Row:
    return _value(typ, _entity(number), code, f"{word} {number}", _STATUS[number % len(_STATUS)])


def _value_quirks() -> Iterator[Row]:
    """Codes that need care in a path, a key that is there twice, and a type that nobody reads."""
    yield _value("PROJECT", "ENT1", "P 0400", "Code with a blank")
    yield _value("PROJECT", "ENT1", "P#0500", "Code with a hash")
    yield _value("PROJECT", "ENT2", "P+0600", "Code with a plus")
    yield _value("PROJECT", "ENT2", "PÉTÉ-0700", "Code with accents")
    yield _value("PROJECT", "ENT1", "P0800", "There twice", since="2030-01-01 00:00:00")
    yield _value("PROJECT", "ENT1", "P0800", "There twice, and differs")
    yield _value("ACTIVITY", "ENT1", "ACT1", "Of a type that N2F has no axis for")


# --- writing --------------------------------------------------------------------------------------

_Table = tuple[str, str, Sequence[tuple[str, str]]]
_TABLES: tuple[_Table, ...] = (
    ("agr_n2f_user", "v_N2F_User", USER_COLUMNS),
    ("agr_n2f_analytics", "v_N2F_Analytics", VALUE_COLUMNS),
)


def _filled(size: Size) -> list[tuple[_Table, list[Row]]]:
    return list(zip(_TABLES, (users(size), values(size)), strict=True))


def write_sqlite(path: Path, size: Size) -> None:
    """Write the sample to an SQLite file; one that is there is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    con = sqlite3.connect(path)
    try:
        with con:
            for (table, view, columns), rows in zip(
                _TABLES, (users(size), values(size)), strict=True
            ):
                con.execute(f"CREATE TABLE {table} ({_columns(columns)})")
                con.execute(f"CREATE VIEW {view} AS SELECT {_names(columns)} FROM {table}")
                marks = ", ".join("?" * len(columns))
                con.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
        con.execute("VACUUM")
    finally:
        con.close()


def write_postgres(address: str, size: Size) -> None:
    """Write the sample into the schema `dbo` of a PostgreSQL database; one that is there goes."""
    import psycopg

    types = (("NVARCHAR", "varchar"), ("BIT", "boolean"), ("DATETIME", "timestamp"))
    with psycopg.connect(address) as con:
        con.execute("CREATE SCHEMA IF NOT EXISTS dbo")
        for (table, view, columns), rows in _filled(size):
            text = _columns(columns)
            for old, new in types:
                text = text.replace(old, new)
            con.execute(f"DROP TABLE IF EXISTS dbo.{table} CASCADE".encode())
            con.execute(f"CREATE TABLE dbo.{table} ({text})".encode())
            con.execute(
                f"CREATE VIEW dbo.{view} AS SELECT {_names(columns)} FROM dbo.{table}".encode()
            )
            words = f"COPY dbo.{table} FROM STDIN".encode()
            with con.cursor() as cursor, cursor.copy(words) as copy:
                for row in rows:
                    copy.write_row(row)


def _columns(columns: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{name} {type_}" for name, type_ in columns)


def _names(columns: Sequence[tuple[str, str]]) -> str:
    return ", ".join(name for name, _ in columns)


def main(words: Sequence[str]) -> int:
    """Write what the words of the command line ask for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--large", action="store_true", help="2,000 users and 4,000 projects")
    kinds.add_argument("--scenario", action="store_true", help="only the reference scenario")
    for field in ("users", "projects", "plates", "subposts", "departments"):
        parser.add_argument(f"--{field}", type=int, help="so many beside the scenario's")
    here = Path(__file__).parent / "data" / "agresso.db"
    parser.add_argument("--to", default=str(here), help="a file, or postgresql://…")
    chosen = parser.parse_args(words)
    base = LARGE if chosen.large else SCENARIO if chosen.scenario else SMALL
    fields = ("users", "projects", "plates", "subposts", "departments")
    asked = {field: getattr(chosen, field) for field in fields}
    size = replace(base, **{field: count for field, count in asked.items() if count is not None})
    if chosen.to.startswith(("postgresql://", "postgres://")):
        write_postgres(chosen.to, size)
    else:
        write_sqlite(Path(chosen.to), size)
    print(f"{len(users(size))} users, {len(values(size))} values")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
