from __future__ import annotations

import unicodedata
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.quality.ordinary import ordinary_replies
from bench.quality.planted import KINDS, planted
from lars_agent.secrets import find_secret, find_secrets, mask_secrets


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
        ("gb29 nwbk 6016 1331 9268 19", "a bank account number"),
        ("FR14-2004-1010-0505-0001-3M02-606", "a bank account number"),
        ("5500.0000.0000.0004", "a card number"),
        ("My social is 219 09 9999", "an identity number"),
        ("811228-9874", "an identity number"),
        ("RSSMRA85T10A562S", "an identity number"),
        ("legal winner thank year wave sausage worth useful legal winner thank yellow", "a seed phrase"),
        ("Recovery phrase: zoo zebra youth wrong wolf winter", "a seed phrase"),
        ("Proxy-Authorization: Basic " + "dXNlcjE6cGFzczI=", "a password"),
        ("A K I A " + "I O S F O D N N 7 E X A M P L E", "an API key"),
        ("ghp" + " _16C7e42F292c6912E 7710c838347Ae178B4a", "an access token"),
        ("p\u200bassword: Orange1984", "a password"),
        ("ｐａｓｓｗｏｒｄ：Ｏｒａｎｇｅ１９８４", "a password"),
        (unicodedata.normalize("NFD", "contraseña: Naranja1984"), "a password"),
        ("Kartımın PIN kodu 3344", "a PIN"),
        ("비밀번호는 hello1234!입니다", "a password"),
        ("- name: DB_PASSWORD\n  value: w8woord", "a password"),
        ("user ann pass Orange1984", "a password"),
        ("https://a.example/?access_token=" + "9b8f2c71e4", "an access token"),
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
        "The commit 9fceb02d0ae598e95dc970b74767f19372d61af8 is the one, not 7d9fce8.",
        "Its id is 123e4567-e89b-12d3-a456-426614174000.",
        "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAUAAAAFCAYAAACNbyblAAAAHElEQVQI12P4",
        "getUserById2FromDatabaseV3 calls readUtf8StringFromBuffer.",
        "password = getpass.getpass('Password: ')",
        'api_key = os.environ["API_KEY"]',
        "export DB_PASSWORD=<your password>",
        "My password manager is Bitwarden2, it is great.",
        "Das Passwort ist abgelaufen.",
        "La clave es la paciencia.",
        "PIN 13 drives the LED; pin 2024 goals to the board.",
        "The prices were 4000, 4500, 5000 and 5500 in 2012 2013 2014 2015.",
        "Basic authentication sends a password in clear text.",
    ],
)
def test_ordinary_text_is_no_secret(text: str) -> None:
    assert find_secret(text) is None


@given(st.text(max_size=200), st.text(max_size=200))
def test_a_secret_is_found_on_a_line_of_its_own_wherever_it_stands(before: str, after: str) -> None:
    assert find_secret(f"{before}\n-----BEGIN EC PRIVATE KEY-----\n{after}") == "a private key"


@pytest.mark.parametrize("piece", ["1 ", "a", "eyJ", "sk-", "A1B2 ", "password is ", "://a:", "-----BEGIN A ", "1"])
def test_long_text_of_any_shape_is_read_through(piece: str) -> None:
    find_secret(piece * 8_000)


@pytest.mark.parametrize(
    "piece", ["token=", "pin ", "ssn ", "DE89 ", "4111 ", "abandon ", "basic aa ", "パスワードは", "a b "]
)
def test_long_text_full_of_names_is_read_through(piece: str) -> None:
    find_secret(piece * 2_000)


@pytest.mark.parametrize("seed", [101, 202])
def test_secrets_of_every_kind_are_found_in_full(seed: int) -> None:
    found = [
        find_secret(one.text) is not None and one.secret not in mask_secrets([one.text])[0][0]
        for one in planted(106, seed)
    ]
    assert sum(found) >= 103
    for kind in KINDS:
        assert any(hit for hit, one in zip(found, planted(106, seed), strict=True) if one.kind == kind)


def test_of_a_thousand_ordinary_replies_at_most_one_is_taken_for_a_secret() -> None:
    replies = ordinary_replies(2_000, seed=303)
    assert sum(find_secret(reply) is not None for reply in replies) <= 2


@pytest.mark.parametrize(
    ("question", "reply", "masked"),
    [
        ("What is my PIN?", "4821.", "[PIN]."),
        ("What's the wifi password?", "It is hunter2blue, as always.", "It is [password], as always."),
        ("Wie lautet mein Passwort?", "Regenbogen77", "[password]"),
        ("Quelle est ma clé API ?", "9f8a7b6c5d4e3f2a", "[API key]"),
    ],
)
def test_the_answer_to_a_question_for_a_secret_is_one(question: str, reply: str, masked: str) -> None:
    assert find_secret(reply) is None
    assert mask_secrets([question, reply])[0] == [question, masked]


@pytest.mark.parametrize("reply", ["At least 12 characters.", "In 1961, at MIT.", "Never!", "Ask the shop on 4 May."])
def test_an_ordinary_answer_to_a_question_about_passwords_is_none(reply: str) -> None:
    assert find_secrets(["How long should a password be, and who invented it?", reply]) == [[], []]


def test_what_is_around_a_secret_stays_as_it_was() -> None:
    text = "Café ☕\u200b: my card 4111.1111.1111.1111, PIN\u200d 4821 – and gh" + "p_" + "a1" * 18 + "!"
    masked, kinds = mask_secrets([text, "nothing"])
    assert masked == ["Café ☕\u200b: my card [card number], PIN\u200d [PIN] – and [access token]!", "nothing"]
    assert kinds == ["a card number", "a PIN", "an access token"]
    key = "-----BEGIN EC " + f"PRIVATE KEY-----\n{'MHcCAQEE' * 8}\n-----END EC PRIVATE KEY-----"
    assert mask_secrets([f"Mine:\n{key}\nbye"])[0] == ["Mine:\n[private key]\nbye"]


@given(st.lists(st.text(max_size=120), min_size=1, max_size=3))
def test_places_are_in_order_and_within_the_text(turns: list[str]) -> None:
    found = find_secrets(turns)
    assert len(found) == len(turns)
    for turn, ones in zip(turns, found, strict=True):
        size = len(unicodedata.normalize("NFC", turn))
        assert all(0 <= one.start < one.end <= size for one in ones)
        assert all(before.end <= after.start for before, after in pairwise(ones))
