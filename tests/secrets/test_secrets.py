from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lars_agent.secrets import find_secret


# Written in two parts, so that no scanner takes this file for a leak.
@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("-----BEGIN RSA " + "PRIVATE KEY-----\nMIIE", "a private key"),
        ("-----BEGIN " + "PRIVATE KEY-----", "a private key"),
        ("-----BEGIN PGP " + "PRIVATE KEY BLOCK-----", "a private key"),
        ("AGE-SECRET-" + "KEY-1" + "Q" * 58, "a private key"),
        ("use sk-" + "proj-" + "aB3_" * 10, "an API key"),
        ("sk-" + "ant-api03-" + "x" * 30, "an API key"),
        ("sk_" + "live_" + "4eC39HqLyjWDarjtT1zdp7dc", "an API key"),
        ("AI" + "za" + "S" * 35, "an API key"),
        ("AK" + "IA" + "IOSFODNN7EXAMPLE", "an API key"),
        ("gh" + "p_" + "a1" * 18, "an access token"),
        ("github_" + "pat_" + "a1" * 15, "an access token"),
        ("glpat" + "-" + "a1" * 10, "an access token"),
        ("xoxb" + "-123456789012-abcdef", "an access token"),
        ("hf" + "_" + "aB" * 17, "an access token"),
        ("eyJ" + "hbGciOiJIUzI1NiJ9.eyJ" + "zdWIiOiIxMjM0NTY3.SflKxwRJSMeKKF2QT4", "an access token"),
        ("postgres://ann:hunter2@db/x", "a password"),
        ("My wifi password is hunter2hunter2", "a password"),
        ("password: 'correct4horse'", "a password"),
        ("4111111111111111", "a card number"),
        ("it is 4111-1111-1111-1111, expires 12/27", "a card number"),
        ("on 12 4111 1111 1111 1111 9", "a card number"),
        ("amex 3782 822463 10005", "a card number"),
        ("5555555555554444", "a card number"),
        ("2223003122003222", "a card number"),
        ("IBAN DE89 3704 0044 0532 0130 00", "a bank account number"),
        ("GB82WEST12345698765432", "a bank account number"),
    ],
)
def test_a_secret_is_found_and_named(text: str, kind: str) -> None:
    assert find_secret(text) == kind


@pytest.mark.parametrize(
    "text",
    [
        "",
        "My dog is called Rex and my phone number is +49 30 1234567.",
        "4111 1111 1111 1112",  # Luhn disagrees
        "0000 0000 0000 0000",  # Luhn agrees, no such card
        "order 1234567890123456789012345678901234567890",
        "π = 3.14159 26535 89793 23846",
        "The meeting is on 2026-11-24 at 12:30:00.",
        "I forgot my password and the password is case sensitive.",
        "What does 'BEGIN PRIVATE KEY' mean in a PEM file?",
        "-----BEGIN PUBLIC KEY-----",
        "the task-sk-short of eyJ",
        "DE89 3704 0044 0532 0130 01",  # check digits disagree
        "https://example.org:8080/path?at=@home",
    ],
)
def test_ordinary_text_is_no_secret(text: str) -> None:
    assert find_secret(text) is None


@given(st.text(max_size=200), st.text(max_size=200))
def test_a_secret_is_found_on_a_line_of_its_own_wherever_it_stands(before: str, after: str) -> None:
    assert find_secret(f"{before}\n-----BEGIN EC PRIVATE KEY-----\n{after}") == "a private key"


@pytest.mark.parametrize("piece", ["1 ", "a", "eyJ", "sk-", "A1B2 ", "password is ", "://a:", "-----BEGIN A ", "1"])
def test_long_text_of_any_shape_is_read_through(piece: str) -> None:
    find_secret(piece * 20_000)
