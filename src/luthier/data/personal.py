"""Personal data that its form gives away: patterns, and checks that a number of that kind must pass.

A pattern alone finds too much. What has a checksum must meet it (ISO/IEC 7812 for cards, ISO 13616 for IBAN, the
national rules for numbers of persons); addresses of networks must be ones that the internet routes.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator
from datetime import date
from functools import lru_cache
from typing import NamedTuple

from luthier.data.hints import AT, COLONS, IPV4, MAC, NINO, Hints, hints
from luthier.recipe.curate import PersonalKind


class Found(NamedTuple):
    """One value: where it stands, its kind, and the form in which equal values are equal."""

    start: int
    end: int
    kind: str
    value: str


class Kind(NamedTuple):
    """A kind of personal data. `gate` tells what most texts lack; `check` gives the value or None."""

    gate: Callable[[Hints], bool]
    pattern: re.Pattern[str]
    check: Callable[[str], str | None]


def luhn(digits: str) -> bool:
    """The checksum of cards (Luhn 1954): every second digit from the right doubled, the sum a multiple of ten."""
    total = 0
    for i, digit in enumerate(reversed(digits)):
        d = int(digit) * (1 + i % 2)
        total += d - 9 if d > 9 else d
    return total % 10 == 0


CARDS = (
    (r"4\d{12}|4\d{15}|4\d{18}", "Visa"),
    (r"5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}", "Mastercard"),
    (r"3[47]\d{13}", "American Express"),
    (r"3(?:0[0-5]|[689]\d)\d{11}", "Diners Club"),
    (r"6(?:011|5\d\d|4[4-9]\d)\d{12}", "Discover"),
    (r"35(?:2[89]|[3-8]\d)\d{12}", "JCB"),
    (r"62\d{14,17}", "UnionPay"),
)
"""Ranges and lengths of the issuers."""
CARD = re.compile("|".join(f"(?:{pattern})" for pattern, _ in CARDS))


def card(text: str) -> str | None:
    """The digits of a card number."""
    digits = re.sub(r"\D", "", text)
    return digits if CARD.fullmatch(digits) and luhn(digits) and len(set(digits)) > 1 else None


IBAN_LENGTHS = {
    **dict.fromkeys(("NO",), 15),
    **dict.fromkeys(("BE",), 16),
    **dict.fromkeys(("DK", "FO", "FI", "GL", "NL"), 18),
    **dict.fromkeys(("MK", "SI"), 19),
    **dict.fromkeys(("AT", "BA", "EE", "KZ", "LT", "LU", "XK"), 20),
    **dict.fromkeys(("CH", "CR", "HR", "LI", "LV"), 21),
    **dict.fromkeys(("BG", "BH", "DE", "GB", "GE", "IE", "ME", "RS"), 22),
    **dict.fromkeys(("AE", "GI", "IL", "IQ", "TL"), 23),
    **dict.fromkeys(("AD", "CZ", "ES", "MD", "PK", "RO", "SA", "SE", "SK", "TN", "VG"), 24),
    **dict.fromkeys(("PT",), 25),
    **dict.fromkeys(("IS", "TR"), 26),
    **dict.fromkeys(("FR", "GR", "IT", "MC", "MR", "SM"), 27),
    **dict.fromkeys(("AL", "AZ", "CY", "DO", "GT", "HU", "LB", "PL"), 28),
    **dict.fromkeys(("BR", "EG", "PS", "QA", "UA"), 29),
    **dict.fromkeys(("JO", "KW", "MU"), 30),
    **dict.fromkeys(("MT", "SC"), 31),
    **dict.fromkeys(("LC",), 32),
}
"""ISO 13616: letters of an IBAN by country."""


def iban(text: str) -> str | None:
    """An account number: the length of its country, and 1 modulo 97 when the first four letters move to the end."""
    compact = text.replace(" ", "").upper()
    if IBAN_LENGTHS.get(compact[:2]) != len(compact):
        return None
    turned = "".join(str(int(letter, 36)) for letter in compact[4:] + compact[:4])
    return compact if int(turned) % 97 == 1 else None


def ipv4(text: str) -> str | None:
    """An address that the internet routes: private, local and documentation ranges belong to nobody."""
    try:
        found = ipaddress.IPv4Address(text)
    except ValueError:
        return None
    return str(found) if found.is_global and not found.is_multicast else None


_UNICAST = ipaddress.IPv6Network("2000::/3")


def ipv6(text: str) -> str | None:
    """An address in the range given out so far (2000::/3): `a::b` in code is none."""
    try:
        found = ipaddress.IPv6Address(text)
    except ValueError:
        return None
    return str(found) if found in _UNICAST and found.is_global else None


def mac(text: str) -> str | None:
    """The address of a network card, but not the one for all."""
    digits = re.sub(r"[:-]", "", text).lower()
    return digits if len(set(digits)) > 2 else None


def phone(text: str) -> str | None:
    """The digits of a telephone number, 8 to 15 of them (ITU-T E.164)."""
    digits = re.sub(r"\D", "", text)
    if not 8 <= len(digits) <= 15 or len(set(digits)) < 3:
        return None
    return ("+" if text.startswith("+") else "") + digits


def us_ssn(text: str) -> str | None:
    """A social security number of the United States, in the ranges that are given out."""
    area, group, serial = text[:3], text[4:6], text[7:]
    unused = area in ("000", "666") or area[0] == "9" or group == "00" or serial == "0000"
    return None if unused or text in ("123-45-6789", "078-05-1120") else text


def es_dni(text: str) -> str | None:
    """A Spanish identity number: the letter is the number modulo 23."""
    digits, letter = text[:8], text[-1]
    return digits + letter if "TRWAGMYFPDXBNJZSQVHLCKE"[int(digits) % 23] == letter else None


def br_cpf(text: str) -> str | None:
    """A Brazilian tax number: two check digits modulo 11."""
    digits = [int(d) for d in text if d.isdigit()]
    if len(set(digits)) == 1:
        return None
    for n in (9, 10):
        rest = sum(d * (n + 1 - i) for i, d in enumerate(digits[:n])) * 10 % 11 % 10
        if rest != digits[n]:
            return None
    return "".join(map(str, digits))


def cn_id(text: str) -> str | None:
    """A Chinese resident's number (GB 11643): a date of birth, and a check sign modulo 11."""
    try:
        born = date(int(text[6:10]), int(text[10:12]), int(text[12:14]))
    except ValueError:
        return None
    total = sum(int(d) * pow(2, 17 - i, 11) for i, d in enumerate(text[:17]))
    return text.upper() if born.year >= 1900 and "10X98765432"[total % 11] == text[17].upper() else None


def fr_nir(text: str) -> str | None:
    """A French number of social security: 97 minus the number modulo 97 are its last two digits."""
    digits = re.sub(r"\s", "", text)
    number = int(digits[:13].replace("2A", "19").replace("2B", "18"))
    return digits if 97 - number % 97 == int(digits[13:]) else None


def _whole(text: str) -> str:
    return text


def _has(kind: int) -> Callable[[Hints], bool]:
    return lambda hints: bool(hints.kinds & kind)


def _digits(least: int) -> Callable[[Hints], bool]:
    return lambda hints: hints.digits >= least


EMAIL = (
    r"(?<![\w.+%-])[A-Za-z0-9](?:[A-Za-z0-9._%+-]{0,62}[A-Za-z0-9_%+-])?@"
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,24}(?![\w-])"
)
PHONE = (
    r"(?<![\w.,+/=-])(?:\+\d{1,3}(?:[ .()/-]{0,2}\d{1,5}){2,6}"
    r"|\(\d{2,5}\) ?\d{3,4}[ .-]?\d{3,5}|(?<!\d )(?:(?:1[ .-])?\d{3}[ .-]\d{3}[ .-]\d{4}"
    r"|0\d{1,4}[ /-]\d{3,4}[ -]?\d{3,5}(?:[ -]\d{1,4})?))(?![\w/-])(?![. ]\d)"
)
IBAN = r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]{1,4}){3,8}(?![A-Za-z0-9])"
HEX = r"[0-9A-Fa-f]"

KINDS: dict[PersonalKind, Kind] = {
    "email": Kind(_has(AT), re.compile(EMAIL), str.lower),
    "iban": Kind(_digits(7), re.compile(IBAN), iban),
    "card": Kind(_digits(13), re.compile(r"(?<![\w.+-])\d(?:[ -]?\d){12,18}(?![\w-])(?!\.\d)"), card),
    "us_ssn": Kind(_digits(9), re.compile(r"(?<![\w-])\d{3}-\d{2}-\d{4}(?![\w-])"), us_ssn),
    "br_cpf": Kind(_digits(11), re.compile(r"(?<![\w.])\d{3}\.\d{3}\.\d{3}-\d{2}(?![\w-])"), br_cpf),
    "cn_id": Kind(_digits(17), re.compile(r"(?<!\w)[1-8]\d{16}[\dXx](?!\w)"), cn_id),
    "fr_nir": Kind(
        _digits(8),
        re.compile(r"(?<!\w)[12] ?\d\d ?(?:0[1-9]|1[0-2]) ?(?:\d\d|2[AB]) ?\d{3} ?\d{3} ?\d\d(?!\w)"),
        fr_nir,
    ),
    "es_dni": Kind(_digits(8), re.compile(r"(?<!\w)\d{8}-?[A-Z](?!\w)"), es_dni),
    "uk_nino": Kind(
        _has(NINO),
        re.compile(r"(?<!\w)(?!BG|GB|KN|NK|NT|TN|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z](?: ?\d\d){3} ?[A-D](?!\w)"),
        lambda text: text.replace(" ", ""),
    ),
    "ipv4": Kind(_has(IPV4), re.compile(r"(?<![\w.])(?<!\w/)\d{1,3}(?:\.\d{1,3}){3}(?![\w.]|\.\d)(?!-\w)"), ipv4),
    "ipv6": Kind(
        _has(COLONS),
        re.compile(rf"(?<![\w:]){HEX}{{1,4}}(?::{HEX}{{0,4}}){{2,7}}(?![\w:])"),
        ipv6,
    ),
    "mac": Kind(
        _has(MAC),
        re.compile(rf"(?<![\w:-]){HEX}{{2}}(?:(?::{HEX}{{2}}){{5}}|(?:-{HEX}{{2}}){{5}})(?![\w:-])"),
        mac,
    ),
    "phone": Kind(_digits(8), re.compile(PHONE), phone),
}
"""In the order in which they claim letters: a card number is no telephone number."""


@lru_cache  # most texts hint at nothing, and at few digits
def may_hold_any(found: Hints) -> bool:
    """False for most texts: no kind has a chance in them."""
    return any(kind.gate(found) for kind in KINDS.values())


def find(text: str, kinds: tuple[PersonalKind, ...] = tuple(KINDS)) -> list[Found]:
    """The personal data in a text, from left to right, without overlaps."""
    taken: list[Found] = []
    seen = hints(text)
    for name, kind in KINDS.items():
        if name in kinds and kind.gate(seen):
            for found in _matches(name, kind, text):
                if all(found.end <= other.start or found.start >= other.end for other in taken):
                    taken.append(found)
    return sorted(taken)


def _matches(name: str, kind: Kind, text: str) -> Iterator[Found]:
    for match in kind.pattern.finditer(text):
        end = match.end()
        while True:
            if value := kind.check(text[match.start() : end]):
                yield Found(match.start(), end, name, value)
                break
            shorter = text.rfind(" ", match.start(), end) if name == "iban" else -1
            if shorter < 0:
                break
            end = shorter  # an account number may be followed by a word in capitals
