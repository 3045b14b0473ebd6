"""The switches of the N2F emulator: what nobody knows about the service, made adjustable."""

from __future__ import annotations

from .switches import COMMON, Switch

__all__ = ["FAULTS", "SEEDS", "SWITCHES", "WRITE_ONLY"]

WRITE_ONLY = (
    "defaultCostCenter",
    "ssoLogin",
    "accountingAuxiliaryNotReimbursableAccount",
    "canDefineHisAnalytics",
)
"""Fields that the service takes and never shows."""

SEEDS = ("seed", "users", "projects", "plates", "subposts", "departments")
"""The switches that say what there is at first."""

_QUOTA: dict[str, object] = {
    "zone": "Europe/Paris",
    "windows": [
        {"from": "06:00", "to": "20:00", "read": "60/min", "write": "10/min"},
        {"from": "20:00", "to": "06:00", "read": "200/min", "write": "50/min"},
    ],
}


def _choice(*words: str, doc: str) -> Switch:
    """Of the words the first is the default."""
    return Switch(default=words[0], kind="choice", words=words, doc=doc)


def _more(what: str) -> Switch:
    return Switch(default=0, kind="int", doc=f"so many generated {what} beside those of `seed`")


SWITCHES: dict[str, Switch] = {
    "quota": Switch(
        default=_QUOTA,
        kind="object",
        check=COMMON["quota"].check,
        doc="calls allowed by the hour, as for every emulator; `{}` = no limit",
    ),
    "enforce_quota": Switch(
        default="sliding",
        kind="choice",
        words=COMMON["enforce_quota"].words,
        doc="calls over the quota get a 429, counted so; `off`: they are only counted",
    ),
    "auth_class": _choice("write", "read", doc="what a login counts as in the quota"),
    "seed": _choice(
        "sample",
        "reference",
        "empty",
        "nothing",
        doc="what there is at first: a few users and values, the reference scenario, companies "
        "and axes without users and values, or no company at all",
    ),
    "users": _more("users, each but the first with a manager"),
    "projects": _more("projects over all companies"),
    "plates": _more("values of the axis Plaque"),
    "subposts": _more("values of the axis Subpost"),
    "departments": _more("values of the axis Département"),
    "clients": Switch(
        default=["demo-client:demo-secret"], kind="list", doc="`ID:SECRET` of who may log in"
    ),
    "tokens": Switch(default=[], kind="list", doc="tokens that are valid from now on, unasked"),
    "token_life_s": Switch(default=3600, kind="number", doc="how long a token is valid"),
    "validity_digits": Switch(
        default=7, kind="int", doc="digits of the second's fraction in `validity`; 0 = no fraction"
    ),
    "strict_slashes": Switch(
        default=False, kind="flag", doc="a path with two slashes in a row is a 404"
    ),
    "refuse_concurrent": Switch(
        default=False, kind="flag", doc="a call beside another gets 409 `Concurrent call`"
    ),
    "page_max": Switch(default=200, kind="int", doc="a larger `limit` is silently lowered to this"),
    "paging": _choice(
        "normal",
        "repeats",
        "short",
        doc="`repeats`: every page is the first; `short`: every page has an item less than asked",
    ),
    "empty_data": _choice("absent", "list", "null", doc="`data` where there is nothing to list"),
    "write_answer": _choice("uuid", "empty", doc="what a POST that worked answers"),
    "null_style": _choice(
        "kept",
        "empty",
        "null",
        "absent",
        doc='how a user\'s empty text is read: as it was written, as `""`, as null, or not at all '
        "(then a missing date is not there either)",
    ),
    "label_culture": Switch(
        default="written",
        kind="text",
        doc="language of role and profile in reads: as `written`, the `user`'s own, or `nl` …",
    ),
    "label_case": _choice(
        "ignored", "strict", doc="whether a written role or profile must have the label's own case"
    ),
    "names_order": _choice(
        "written",
        "reversed",
        "shuffled",
        "extra",
        doc="order of `names` in reads; `extra`: reversed, with one more language",
    ),
    "date_style": _choice(
        "z", "no_z", "date", doc="dates in reads: `…T00:00:00Z`, without the `Z`, or the day alone"
    ),
    "write_only": Switch(
        default=list(WRITE_ONLY), kind="list", doc="fields of a user that are kept, never shown"
    ),
    "user_uuid": Switch(default=True, kind="flag", doc="users are read with their `uuid`"),
    "extra_fields": Switch(default=False, kind="flag", doc="all things are read with unknown keys"),
    "unknown_fields": _choice(
        "ignored", "refused", doc="a body's key that the service does not know"
    ),
    "seat_limit": Switch(
        default=0, kind="int", doc="users at most, then 409 `User limit reached`; 0 = any number"
    ),
    "managers": _choice("refused", "accepted", doc="a `managerMail` that belongs to no user"),
    "delete_manager": _choice(
        "cleared",
        "refused",
        "dangling",
        doc="deleting somebody's manager: their `managerMail` is cleared, 409 `User is a manager`, "
        "or it stays",
    ),
    "in_use": Switch(
        default=[],
        kind="list",
        doc="codes or mails whose DELETE gets 409 `Value in use`; a code of one place is "
        "`{company, axis, code}`",
    ),
    "linked": Switch(default=[], kind="list", doc="likewise with `Value is linked`"),
    "is_default": Switch(default=[], kind="list", doc="likewise with `Value is a default`"),
    "twins": Switch(default=[], kind="list", doc="codes or mails that come twice in a listing"),
    "random_seed": Switch(default=1, kind="int", doc="for tokens and shuffled names"),
}

FAULTS: dict[str, str] = {}
"""None of its own: those of the wire say all that is known."""
