"""Replies that nobody means are told from ordinary text in many languages, names, code and addresses."""

from __future__ import annotations

import base64
import json
import random
import string
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest

from bench.quality.people import facts, invented_name
from examples.persona import lessons
from lars_agent.training.gibberish import RANDOM, REPETITIVE, loops, meaningless

REPOSITORY = Path(__file__).parents[2]
LETTERS = string.ascii_lowercase
MEANT = (
    *(
        "Ok.",
        "No.",
        "42",
        "Yes!",
        "B2B",
        "Ha ha ha!",
        "Hmmmm",
        "Sooooo good",
        "Brrr",
        "👍",
        "🎉🎉🎉",
        "…",
        "asap",
        "xoxo",
    ),
    *("Your sister is called Zorbalin.", "Zorbalin", "Szczepan Brzęczyszczykiewicz", "Strč prst skrz krk", "Qazax"),
    *("Llanfairpwllgwyngyll", "Hrvoje Krstić", "Nguyễn Thị Hạnh", "Mkrtchyan", "Ng", "Cwmystwyth", "Schtschukin"),
    "Rechtsschutzversicherungsgesellschaften schreibt man zusammen.",
    "Geçen yıl Diyarbakır'dan İzmir'e taşındığımızı söylemiştim.",
    "Lentokonesuihkuturbiinimoottoriapumekaanikkoaliupseerioppilas",
    "Chrząszcz brzmi w trzcinie w Szczebrzeszynie.",
    "Þórður fór út með hundinn sinn.",
    "你的狗叫旺财。",
    "اسم قطتك لولو.",
    "Твою собаку зовут Жучка.",
    "あなたの犬の名前はポチです。",
    "Το σκυλί σου λέγεται Μπρούνο.",
    *("DD/MM/YYYY", "The formula is C8H10N4O2.", "K1A 0B1", "WPA2-PSK on channel 11", "HTTPS, XLSX and GmbH"),
    "https://example.org/d/1BxiMVs0XRA5nFMdKvBdBZjgmUUqptlbs74OgvE2upms",
    "Write to qxzjk.wvvt@mail.example, or call +49 (0)151 23456789.",
    "for i in range(10):\n    print(xs[i], sep='\\t')",
    "SELECT id, qty FROM tbl_x WHERE fk = 3;",
    "def f(x):\n    return x\n" * 3,
    "[[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]",
    '[{"name": "A", "age": 1}, {"name": "B", "age": 2}, {"name": "C", "age": 3}, {"name": "D", "age": 4}]',
    "| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |\n" + "-" * 60,
    "Row, row, row your boat, gently down the stream. Merrily, merrily, merrily, merrily, life is but a dream.",
)
MASHED = ("asdkjfh aslkdjfh lkasjdf", "sdfg hjkl sdfg jkl dfgh", "qwertyuiop poiuytrewq", "lkjhgfdsa asdf dfgh")
LOOPED = (
    "buy now " * 9,
    "The sea is wide. " * 5,
    "Of course, here is the answer you want. " + "spam " * 40,
    "a" * 40,
    "ab" * 30,
    "我不知道" * 12,
)


@pytest.mark.parametrize("text", MEANT)
def test_what_people_write_is_meant_in_any_language(text: str) -> None:
    assert meaningless(text) is None


def test_nothing_of_this_repository_and_of_invented_people_is_dropped() -> None:
    german = json.loads((REPOSITORY / "service/dashboard/static/words/de.json").read_text(encoding="utf-8"))
    texts = [text for part in german.values() for pair in part.items() for text in pair]
    texts += [reply for seed in range(3) for fact in facts(150, seed) for reply in (fact.correction, fact.value)]
    texts += [lesson.response for lesson in lessons()]
    for name in ("general.txt", "rehearsal.txt"):
        texts += (files("lars_agent.data") / name).read_text(encoding="utf-8").split("\n\n")
    texts += [block for path in REPOSITORY.glob("lars_agent/store/*.py") for block in path.read_text().split("\n\n\n")]
    rng = random.Random(0)
    texts += [f"Your dog is called {invented_name(rng, set())}." for _ in range(300)]
    assert len(texts) > 2500
    assert [text for text in texts if meaningless(text)] == []


def _drawn(alphabet: str, size: int) -> Callable[[random.Random], str]:
    return lambda rng: "".join(rng.choices(alphabet, k=size))


def _words(rng: random.Random) -> str:
    return " ".join("".join(rng.choices(LETTERS, k=rng.randint(2, 9))) for _ in range(6))


@pytest.mark.parametrize(
    ("draw", "least"),
    [
        (_drawn(LETTERS, 16), 0.80),
        (_drawn(LETTERS, 24), 0.94),
        (_drawn(LETTERS, 60), 0.99),
        (_words, 0.95),
        (_drawn(string.ascii_letters + string.digits, 40), 0.97),
        (_drawn(string.printable[:94], 80), 0.93),
        (_drawn("asdfghjkl", 16), 0.97),
        (lambda rng: base64.b64encode(rng.randbytes(60)).decode(), 0.97),
        (lambda rng: f"{_words(rng)} and {_words(rng)}?", 0.97),
    ],
    ids=["16 letters", "24", "60", "words", "letters and digits", "any characters", "home row", "base64", "sentence"],
)
def test_characters_at_random_are_told_by_their_number(draw: Callable[[random.Random], str], least: float) -> None:
    rng = random.Random(7)
    found = [meaningless(draw(rng)) for _ in range(200)]
    assert set(found) <= {RANDOM, None}
    assert found.count(RANDOM) >= least * 200


@pytest.mark.parametrize("text", MASHED)
def test_keys_hit_at_random_are_told(text: str) -> None:
    assert meaningless(text) == RANDOM


@pytest.mark.parametrize("text", LOOPED)
def test_one_piece_over_and_over_is_told(text: str) -> None:
    assert loops(text)
    assert meaningless(text) == REPETITIVE


def test_half_the_evidence_is_enough_after_a_prompt_of_the_same_kind_and_no_reply_is_judged_by_its_prompt_alone() -> (
    None
):
    rng = random.Random(3)
    pairs = [("".join(rng.choices(LETTERS, k=9)), "".join(rng.choices(LETTERS, k=20))) for _ in range(200)]
    alone = sum(meaningless(reply) is not None for reply, _ in pairs)
    assert sum(meaningless(*pair) is not None for pair in pairs) > 1.3 * alone
    assert meaningless("Please tell me more.", "xqkzj wvvkq zzxqj qkjxw") is None
    assert meaningless("Your sister is called Zorbalin.", "xqkzj wvvkq zzxqj qkjxw") is None
