"""Personal data and secrets: what is found, what is not, and what stands in their place. Nothing here is anybody's."""

import random
import string
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.data.personal import KINDS, find, iban, luhn
from luthier.data.private import Pii, Secrets
from luthier.data.secret_forms import entropy, guessed_secrets, known_secrets
from luthier.data.step import PASS, Row, Surroundings
from luthier.recipe import curate
from luthier.types import Example, Message, Pair

R = random.Random(4)
PUBLIC_4, PUBLIC_6 = "8.8." + "8.8", "2606:4700:" + "4700::1111"
FOUND = [
    ("write to Jo.Doe+x@Mail.Example.co.uk, please", "email", "jo.doe+x@mail.example.co.uk"),
    ("pay 4111 1111 1111 1111 now", "card", "4111111111111111"),
    ("amex 3782-822463-10005.", "card", "378282246310005"),
    ("IBAN DE89 3704 0044 0532 0130 00 BIC", "iban", "DE89370400440532013000"),
    ("GB82WEST12345698765432", "iban", "GB82WEST12345698765432"),
    ("ssn 219-09-9999", "us_ssn", "219-09-9999"),
    ("CPF 529.982.247-25", "br_cpf", "52998224725"),
    ("id 11010519491231002X", "cn_id", "11010519491231002X"),
    ("nir 2 55 08 14 168 025 38", "fr_nir", "255081416802538"),
    ("DNI 12345678Z", "es_dni", "12345678Z"),
    ("NI AB 12 34 56 C", "uk_nino", "AB123456C"),
    (f"from {PUBLIC_4}:53", "ipv4", PUBLIC_4),
    (f"at {PUBLIC_6}, then", "ipv6", PUBLIC_6),
    ("mac 00:1B:44:11:3A:B7", "mac", "001b44113ab7"),
    ("call +49 30 901820-17", "phone", "+493090182017"),
    ("call (212) 555-0187.", "phone", "2125550187"),
    ("call 212-555-0187", "phone", "2125550187"),
    ("ruf 030 1234567 an", "phone", "0301234567"),
]


@pytest.mark.parametrize(("text", "kind", "value"), FOUND, ids=[f"{k}-{v[:8]}" for _, k, v in FOUND])
def test_a_value_is_found_where_it_stands(text: str, kind: str, value: str) -> None:
    assert [(found.kind, found.value) for found in find(text)] == [(kind, value)]


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1112",  # Luhn
        "0000 0000 0000 0000",
        "DE89 3704 0044 0532 0130 01",  # modulo 97
        "GB82WEST1234569876543",  # too short for its country
        "000-12-3456 and 123-45-6789",
        "529.982.247-26",
        "110105194912310021",
        "12345678A",
        "12:30:45, std::vector, a::b, ::1",
        "127.0.0.1, 192.168.1.1, 999.1.1.1, Firefox/3.6.0.1, v 1.2.3",
        "2023-10-12, 12-05-2023, 1,234,567.89, 3.14159265358979",
        "order LA-2061, 555-0187, 100 200 300",
        "user@host, @name, a@b.c",
        "x = 1234567890123456; y = 0.1234567890123",
    ],
)
def test_what_only_looks_like_it_is_left_alone(text: str) -> None:
    assert not find(text)


@given(st.text("0123456789", min_size=2, max_size=18))
def test_luhn_is_broken_by_any_one_digit(digits: str) -> None:
    check = next(c for c in "0123456789" if luhn(digits + c))
    assert sum(luhn(digits + c) for c in "0123456789") == 1
    for i, digit in enumerate(digits):
        other = str((int(digit) + 1) % 10)
        assert not luhn(digits[:i] + other + digits[i + 1 :] + check)


@given(st.text(string.digits, min_size=18, max_size=18))
def test_an_iban_is_valid_for_one_pair_of_check_digits(account: str) -> None:
    valid = [f"{k:02}" for k in range(2, 99) if iban(f"DE{k:02}{account}")]
    assert len(valid) == 1
    assert int("".join(str(int(c, 36)) for c in f"{account}DE{valid[0]}")) % 97 == 1


@given(st.text(max_size=200))
def test_finding_never_fails_and_never_overlaps(text: str) -> None:
    found = find(text) + known_secrets(text)
    for one in found:
        assert 0 <= one.start < one.end <= len(text)
    ends = [(one.start, one.end) for one in find(text)]
    assert all(a[1] <= b[0] for a, b in pairwise(ends))


def chat(*turns: str) -> Row:
    roles = ("user", "assistant")
    return Row(Example("f", 1, tuple(Message(roles[i % 2], text) for i, text in enumerate(turns))))  # type: ignore[arg-type]


def pii(row: Row, **options: Any) -> Any:
    return Pii(curate.Pii(**options), Surroundings()).look(row)


def test_by_default_a_row_is_looked_at_and_its_values_are_not_shown() -> None:
    found = pii(chat("I am jo@mail.org", "Hello jo@mail.org, call 212-555-0187"))
    assert found.fate is None
    assert found.changed is None
    assert found.risk > 0
    assert found.note == "email 2, phone 1"
    assert pii(chat("q", "a")) is PASS


def test_placeholders_are_the_same_for_the_same_value_all_through_a_row() -> None:
    call = {"type": "function", "id": "c", "function": {"name": "mail", "arguments": {"to": "JO@mail.org"}}}
    turns = (Message("user", "I am jo@mail.org"), Message("assistant", "Al? al@mail.org", tool_calls=(call,)))
    found = pii(Row(Example("f", 1, turns)), action="replace")
    user, answer = found.changed.messages
    assert (user.content, answer.content) == ("I am <EMAIL_1>", "Al? <EMAIL_2>")
    assert answer.tool_calls[0]["function"]["arguments"] == {"to": "<EMAIL_1>"}
    assert pii(Row(found.changed), action="replace") is PASS


def test_a_placeholder_that_stands_there_already_is_not_taken_again() -> None:
    found = pii(chat("<EMAIL_1> wrote to jo@mail.org", "ok"), action="replace")
    assert found.changed.messages[0].content == "<EMAIL_1> wrote to <EMAIL_2>"


def test_a_pair_and_a_plain_text_are_changed_too() -> None:
    turn = (Message("assistant", "jo@mail.org"),)
    found = pii(Row(Pair("f", 1, (Message("user", "q"),), turn, (Message("assistant", "no"),))), action="replace")
    assert found.changed.chosen[0].content == "<EMAIL_1>"
    assert pii(Row(Example("f", 1, text=f"{PUBLIC_4}!")), action="replace").changed.text == "<IPV4_1>!"


def test_kinds_can_be_chosen_and_rows_dropped() -> None:
    row = chat("jo@mail.org 212-555-0187", "ok")
    assert pii(row, kinds=["phone"]).note == "phone 1"
    fate = pii(row, action="drop").fate
    assert (fate.name, fate.reason, fate.score) == ("pii", "it holds email 1, phone 1", 2)
    assert set(KINDS) == set(curate.PersonalKind.__args__)  # type: ignore[attr-defined]


def letters(n: int, alphabet: str = string.ascii_letters + string.digits) -> str:
    return "".join(R.choices(alphabet, k=n - 2)) + "q7"


KNOWN = {
    "aws_key": "AK" + "IA" + letters(16, "ABCDEFGH234567")[:14] + "Q7",
    "github_token": "gh" + "p_" + letters(36),
    "gitlab_token": "glp" + "at-" + letters(20),
    "slack_token": "xo" + "xb-" + "1728394056-" + letters(24),
    "stripe_key": "sk_" + "live_" + letters(24),
    "google_key": "AI" + "za" + letters(35),
    "openai_key": "s" + "k-" + letters(20) + "T3Blbk" + "FJ" + letters(20),
    "anthropic_key": "sk-" + "ant-api03-" + letters(80),
    "huggingface_token": "h" + "f_" + letters(34),
    "jwt": "ey" + "J" + letters(20) + ".ey" + "J" + letters(40) + "." + letters(43),
    "private_key": "-----BEGIN RSA " + "PRIVATE KEY-----\n" + letters(64) + "\n-----END RSA " + "PRIVATE KEY-----",
    "telegram_token": "1728394056" + ":A" + "A" + letters(33),
}


@pytest.mark.parametrize("kind", KNOWN)
def test_a_known_secret_drops_the_row_and_is_not_shown(kind: str) -> None:
    value = KNOWN[kind]
    fate = Secrets(curate.Secrets(), Surroundings()).look(chat(f"use {value} there", "ok")).fate
    assert fate is not None
    assert (fate.name, fate.reason) == ("secret", f"it holds {kind} 1")
    assert value not in repr(fate)


def test_an_address_with_a_password_loses_the_password() -> None:
    row = chat("postgres://app:" + "hunter2x@db.example.org/x", "ok")
    found = Secrets(curate.Secrets(known="replace"), Surroundings()).look(row)
    assert found.changed.messages[0].content == "postgres://app:<ADDRESS_WITH_PASSWORD_1>@db.example.org/x"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "text",
    [
        "AK" + "IAIOSFODNN7EXAMPLE",
        "password = correct-horse-battery-staple",
        "api_key: <your key here>, token=${TOKEN}, secret = xxxxxxxxxxxxxxxxxxxx",
        "The secret = 1234567890123456789012345",
        "token_type = application/x-www-form-urlencoded",
        "https://user:password@example.org",
        "hf_hub_download and npm_install_something",
        "password: getUserPasswordFromEnvironment2",
    ],
)
def test_what_stands_in_for_a_secret_is_none(text: str) -> None:
    assert not known_secrets(text)
    assert not guessed_secrets(text)


def test_a_random_value_with_a_telling_name_is_looked_at() -> None:
    row = chat('DB_PASSWORD="' + "g7Kq9ZtR2mXw4LpB8vNc" + '"', "ok")
    found = Secrets(curate.Secrets(), Surroundings()).look(row)
    assert found.fate is None
    assert found.note == "named_value 1"
    assert Secrets(curate.Secrets(guessed="off"), Surroundings()).look(row) is PASS
    assert Secrets(curate.Secrets(guessed="drop"), Surroundings()).look(row).fate is not None


def test_entropy_is_that_of_shannon() -> None:
    assert entropy("aaaa") == 0
    assert entropy("abcd") == 2
    assert entropy("aabb") == 1
