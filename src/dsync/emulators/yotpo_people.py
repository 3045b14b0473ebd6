"""The invented customers of the Yotpo emulator: each one follows from its number, none is kept.

A customer is written straight as JSON, from templates and from pools of text that are JSON already;
all after the name is one of a few thousand pieces. So a page of a hundred costs a fraction of a
millisecond, however many customers there are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

__all__ = ["People", "View", "customer_number", "phone_numbers"]


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What a listing asked to see beside the plain fields."""

    loyalty: bool = False
    reviews: bool = False
    properties: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class People:
    """All customers of one store. The same settings give the same customers, byte for byte.

    Numbers count from 1. An `…_every` of 10 strikes the customers 10, 20, 30 …; 0 strikes none.
    """

    seed: int = 1
    record_bytes: int = 1500
    """About so long is a record that shows everything: a custom property fills it up."""
    without_id_every: int = 10
    without_identity_every: int = 0
    without_loyalty_every: int = 4
    shared_email_every: int = 50
    duplicate_every: int = 0
    far_names_every: int = 7
    surrogate_every: int = 0
    odd_texts_every: int = 11
    big_records: frozenset[int] = frozenset()
    big_bytes: int = 5_000_000
    version: int = 0
    changed_every: int = 10
    _tails: dict[tuple[int, View, bool, bool, int, bool], bytes] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def identity(self, number: int) -> str | None:
        """What tells this customer from others: external id, else e-mail in lower case, or None."""
        if _strikes(self.without_identity_every, number):
            return None
        owner = self._owner(number)
        if _strikes(self.without_id_every, owner):
            return self._email(owner).lower()
        return f"cust-{owner}"

    def identities(self, count: int) -> Iterator[str | None]:
        """The identities of the first `count` customers."""
        return map(self.identity, range(1, count + 1))

    def email(self, number: int) -> str | None:
        """As it is shown."""
        if _strikes(self.without_identity_every, number):
            return None
        return self._email(self._owner(number))

    def phone(self, number: int) -> str | None:
        """As it is shown: a number that is reserved for fiction."""
        owner = self._owner(number)
        if _strikes(self.without_identity_every, number) or _strikes(self.without_id_every, owner):
            return None
        return _phone(owner)

    def record(self, number: int, view: View) -> bytes:
        """The JSON of one customer."""
        if _strikes(self.without_identity_every, number):
            head = _NOBODY % self._first_name(number)
            return head.encode() + self._tail(number, view, member=False, known=False)
        owner = self._owner(number)
        if _strikes(self.without_id_every, owner):
            head = _REVIEWER % (self._email(owner), self._first_name(number))
            return head.encode() + self._tail(number, view, member=False, known=False)
        first, last = self._first_name(number), self._last_name(number)
        head = _CUSTOMER % (owner, self._email(owner), _phone(owner), first, last)
        member = not _strikes(self.without_loyalty_every, number)
        return head.encode() + self._tail(number, view, member=member, known=True)

    def _tail(self, number: int, view: View, *, member: bool, known: bool) -> bytes:
        """What follows the name: one of a few thousand, so that a million are quickly written."""
        kind = self._chance(number) % _KINDS
        changed = self.version if _strikes(self.changed_every, number) else 0
        odd = _strikes(self.odd_texts_every, number)
        if number in self.big_records:
            notes = _PROSE * (self.big_bytes // len(_PROSE) + 1)
            return self._made(kind, view, member, known, changed, odd, notes).encode()
        key = (kind, view, member, known, changed, odd)
        tail = self._tails.get(key)
        if tail is None:
            tail = self._tails[key] = self._made(*key, notes="").encode()
        return tail

    def _made(
        self, kind: int, view: View, member: bool, known: bool, changed: int, odd: bool, notes: str
    ) -> str:
        chance = self._chance(kind)
        tail = _plain(chance) if known else ',"tags":null,"address":null'
        if view.reviews:
            tail += _REVIEWS % (kind % 40, 1 + kind % 5, kind % 5, 1 + kind % 5)
        if view.loyalty:
            tail += _loyalty(chance, changed) if member else ',"loyalty":null'
        if view.properties:
            texts = f'"shoe_size":"{34 + kind % 14}","favourite_store":{_STORES[kind & 7]}'
            texts += _ODD_PROPERTIES if odd else ""
            room = self.record_bytes - _NAMED_BYTES - len(tail) - len(texts)
            if not notes and room > 0:
                start = kind * 37 % len(_PROSE)
                notes = (_PROSE * (room // len(_PROSE) + 2))[start : start + room]
            texts += f',"notes":"{notes}"' if notes else ""
            tail += f',"custom_properties":{{{texts}}}'
        return tail + "}"

    def _owner(self, number: int) -> int:
        # One in a row at most is a duplicate, so its owner is never one.
        return (
            number - 1
            if self.duplicate_every > 1 and _strikes(self.duplicate_every, number)
            else number
        )

    def _email(self, number: int) -> str:
        if (
            self.shared_email_every > 1
            and _strikes(self.shared_email_every, number)
            and not _strikes(self.without_id_every, number)
        ):
            number -= 1
        mail = f"{_MAIL_NAMES[number & 31]}.{number}@example.test"
        return mail.capitalize() if _strikes(self.odd_texts_every, number) else mail

    def _first_name(self, number: int) -> str:
        if _strikes(self.surrogate_every, number):
            return '"Ana \\ud83d"'
        if _strikes(self.far_names_every, number):
            return _FAR_FIRST[number & 7]
        return _FIRST[self._chance(number) & 31]

    def _last_name(self, number: int) -> str:
        if _strikes(self.odd_texts_every, number):
            return _ODD_LAST[number & 3]
        if _strikes(self.far_names_every, number):
            return _FAR_LAST[number & 7]
        return _LAST[self._chance(number) >> 5 & 31]

    def _chance(self, number: int) -> int:
        mixed = (number * 0x9E3779B97F4A7C15 + self.seed * 0xD1B54A32D192ED03) & _MASK
        mixed = (mixed ^ mixed >> 29) * 0xBF58476D1CE4E5B9 & _MASK
        return mixed ^ mixed >> 32


def customer_number(text: str) -> int | None:
    """The number that an external id or an e-mail of ours names, if it is one."""
    digits = text.removeprefix("cust-") if text.startswith("cust-") else ""
    if text.lower().endswith("@example.test"):
        digits = text.partition("@")[0].rpartition(".")[2]
    return int(digits) if digits.isdecimal() and len(digits) < 12 else None


def phone_numbers(text: str, count: int) -> range:
    """The customers among the first `count` that may have this phone number."""
    if not _PHONE.fullmatch(text):
        return range(0)
    return range((int(text[2:5]) - 200) * 100 + int(text[-2:]), count + 1, _PHONES)


def _plain(chance: int) -> str:
    return _PLAIN % (
        _GENDERS[chance >> 8 & 7],
        _MOMENTS[chance >> 11 & 1023],
        _MOMENTS[(chance >> 11 & 1023) + 1 + (chance >> 21 & 255)],
        _STATUS[chance >> 29 & 7],
        _LANGUAGES[chance >> 32 & 7],
        _TAGS[chance >> 35 & 7],
        1 + (chance >> 38 & 63),
        _STREETS[chance >> 38 & 7],
        _PLACES[chance >> 41 & 7],
        _FLAGS[chance >> 44 & 1],
        _FLAGS[chance >> 45 & 1],
        _CONSENTS[chance >> 46 & 3],
        _LOCAL_MOMENTS[chance >> 11 & 1023],
        _CONSENTS[chance >> 48 & 3],
        _LOCAL_MOMENTS[chance >> 11 & 1023],
    )


def _loyalty(chance: int, more: int) -> str:
    points = (chance >> 40 & 4095) + more
    spent = chance >> 20 & 8191
    return _LOYALTY % (
        points,
        points + spent,
        _TIERS[chance >> 33 & 7],
        _DATES[chance >> 10 & 1023],
        _DATES[(chance >> 10 & 1023) + 200],
        chance >> 36 & 63,
        chance >> 12 & 7,
        spent,
        chance >> 15 & 3,
        chance >> 17 & 7,
        _FLAGS[chance >> 50 & 1],
        _ANY_DATES[chance >> 20 & 1023],
        _LOCAL_MOMENTS[(chance >> 20 & 1023) + 100],
    )


def _strikes(every: int, number: int) -> bool:
    return every > 0 and number % every == 0


def _phone(number: int) -> str:
    return f"+1{200 + number // 100 % 800}55501{number % 100:02d}"


_PHONES = 80_000
_PHONE = re.compile(r"\+1[2-9]\d\d55501\d\d")

# ---- pools -------------------------------------------------------------------------------------

_MASK = (1 << 64) - 1


def _json(words: str) -> tuple[str, ...]:
    return tuple(json.dumps(word, ensure_ascii=False) for word in words.split("|"))


_FIRST = _json(
    "Ana|Ben|Carla|Dario|Edda|Finn|Greta|Hugo|Ines|Jonas|Katja|Levi|Mira|Nils|Oda|Pablo|Quinn|"
    "Rosa|Sami|Tilda|Ugo|Vera|Wim|Xenia|Yara|Zeno|Alba|Bruno|Cleo|Dora|Emil|Flora"
)
_LAST = _json(
    "Ruiz|Adler|Brandt|Conti|Dubois|Ekman|Fischer|Garner|Holm|Ivers|Jansen|Keller|Lindt|Moreau|"
    "Novak|Olsen|Petit|Quist|Rossi|Sorel|Toth|Urban|Vidal|Weber|Yates|Zeller|Abbot|Bianchi|"
    "Castel|Drake|Egger|Frost"
)
_FAR_FIRST = _json("Zoë 🎁|Łucja|Παναγιώτα|Дарья|美咲|مريم|Nguyễn|👩‍👩‍👧 Kim")
_FAR_LAST = _json("O'Neill-Ångström|Żółć|Παπαδοπούλου|Иванова|佐藤|الحداد|Thị Ánh|García Márquez")
_ODD_LAST = _json("null|NaN|1_000|00123")
_MAIL_NAMES = tuple(
    f"{first}.{last}".lower().replace('"', "") for first, last in zip(_FIRST, _LAST, strict=True)
)
_GENDERS = ('"F"', '"M"', '"F"', '"M"', '"F"', '"M"', '"Other"', "null")
_STATUS = ('"enabled"',) * 6 + ('"disabled"', '"invited"')
_LANGUAGES = tuple(
    f'"default_language":"{language}","default_currency":"{currency}"'
    for language, currency in (
        *(("en", "EUR"), ("en", "USD"), ("de", "EUR"), ("fr", "EUR")),
        *(("es", "EUR"), ("da", "DKK"), ("pl", "PLN"), ("ja", "JPY")),
    )
)
_TAGS = (*_json("newsletter,vip|newsletter,,vip|vip|outlet, newsletter|,|app"), "null", '""')
_STREETS = (
    "Mill Lane|Station Road|Hafenstraße|Rue des Lilas|Calle Mayor|Søndergade|Ulica Polna|Elm Row"
).split("|")
_PLACES = tuple(
    f'"address2":null,"city":{json.dumps(city, ensure_ascii=False)},"company":null,'
    f'"state":"{state}","zip":"{zip_}","province_code":null,"country_code":"{country}"'
    for city, state, zip_, country in (
        ("Northport", "Kent", "00420", "GB"),
        ("Riverside", "Maine", "04001", "US"),
        ("Neustadt", "Hessen", "35279", "DE"),
        ("Villeneuve", "Nord", "07170", "FR"),
        ("Alcalá", "Madrid", "28801", "ES"),
        ("Østerby", "Fyn", "5700", "DK"),
        ("Nowa Wieś", "Łódź", "05-806", "PL"),
        ("Minato", "Tokyo", "0800001", "JP"),
    )
)
_FLAGS = ("true", "false")
_CONSENTS = ('"subscribed"', '"unsubscribed"', '"never_subscribed"', '"subscribed"')
_TIERS = ('"Bronze"', '"Silver"', '"Gold"', '"Silver"', '"Bronze"', "null", "null", "null")
_STORES = _json("Riverside|Old Town|Airport|null|Harbour 7|Ünter den Linden|1_000|00420")
_START = datetime(2021, 3, 1, 6, 5, 4, tzinfo=UTC)
_STAMPS = [_START + timedelta(hours=29 * step, minutes=7 * step) for step in range(1400)]
_MOMENTS = tuple(f"{at:%Y-%m-%dT%H:%M:%S}Z" for at in _STAMPS)
_LOCAL_MOMENTS = tuple(f"{at:%Y-%m-%dT%H:%M:%S}" for at in _STAMPS)
_DATES = tuple(f"{at:%Y-%m-%d}" for at in _STAMPS)
_ANY_DATES = tuple(
    (_DATES, _LOCAL_MOMENTS, _MOMENTS)[step % 3][step] for step in range(len(_STAMPS))
)
_ODD_PROPERTIES = (
    ',"member_no":"00042","spend":"1_000","mood":"NaN","nick":"null","blank":"",'
    '"lines":"one\u2028two\u2029three","quote":"\\"a\\\\b\\"","ratio":0.1,"visits":12,'
    '"opted":true,"none":null'
)
_PROSE = (
    "asked for a call back in the afternoon, likes the blue one better than the green one, "
    "bought two pairs in spring and returned one, prefers letters to messages, wants the parcel "
    "left with the neighbour on the second floor, heard of the shop from a friend at work, "
    "collects points for the summer sale, had a question about washing wool by hand, would like "
    "the catalogue twice a year and no more, speaks two languages, comes by bicycle when it does "
    "not rain, found the size chart hard to read, was pleased with the gift wrapping in December. "
)

_KINDS = 2048
_NAMED_BYTES = 220
"""About so long is what comes before the tail, and the words around the notes."""

# ---- templates ---------------------------------------------------------------------------------

_CUSTOMER = (
    '{"external_id":"cust-%d","email":"%s","phone_number":"%s","first_name":%s,"last_name":%s'
)
_REVIEWER = '{"external_id":null,"email":"%s","phone_number":null,"first_name":%s,"last_name":null'
_NOBODY = '{"external_id":null,"email":null,"phone_number":null,"first_name":%s,"last_name":null'
_PLAIN = (
    ',"gender":%s,"account_created_at":"%s","account_updated_at":"%s","account_status":%s,%s,'
    '"tags":%s,"address":{"address1":"%d %s",%s,"phone_number":null},'
    '"accepts_sms_marketing":%s,"accepts_email_marketing":%s,'
    '"channels":{"sms":{"marketing":{"consent":%s,"timestamp":"%s"}},'
    '"email":{"marketing":{"consent":%s,"timestamp":"%s","suppressions":null}}}'
)
_LOYALTY = (
    ',"loyalty":{"points_balance":%d,"points_earned":%d,"vip_tier_name":%s,"vip_entry_date":"%s",'
    '"vip_expiration_date":null,"points_expire_date":"%s",'
    '"credit_balance":{"amount":"%d.50","customer_currency":"0.0"},"total_redemption":%d,'
    '"total_points_redeemed":%d,"successful_referral":%d,"referrals_made_and_clicked":%d,'
    '"is_referred_by_other_customer":false,"referred_by_customer":null,"has_store_account":true,'
    '"is_opt_in":%s,"opt_in_date":"%s","opt_out_date":null,"last_seen_at":"%s"}'
)
_REVIEWS = (
    ',"yotpo_ugc":{"total_reviews":%d,"avg_product_rating":%d.5,"avg_site_rating":4,'
    '"total_avg_rating":%d.25,"sentiment_avg_product":0.75,"sentiment_avg_site":0.5,'
    '"total_avg_sentiment":0.6,"top_topics":["fit","colour"],"last_star_rating":%d,'
    '"last_review_date":"2024-11-02","last_sentiment":0.75}'
)
