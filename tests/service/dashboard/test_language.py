"""The pages in another language: the choice of it, the German catalog against the code, and right-to-left."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from math import inf
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from playwright.sync_api import Browser, Page, expect
from pydantic_core import PydanticKnownError
from starlette.routing import Mount

from lars_agent.training.gate import GatePolicy, Scores
from lars_agent.training.gate import decide as judge
from service.api.settings import _schemas
from service.dashboard.language import PLACEHOLDER, WORDS, Languages
from service.dashboard.routes import FOLDER, PAGES, Assets
from service.schedule.idle_policy import DeviceState, decide
from service.settings.load import Settings
from service.settings.sections import Idle
from tests.service.api import conftest as api
from tests.service.dashboard.conftest import opened, served
from tests.service.dashboard.fake_daemon import NIGHT, FakeDaemon, fake_app, job_body
from tests.service.dashboard.test_accessibility import violations
from tests.service.dashboard.test_learned import taught
from tests.service.dashboard.test_memory import tell

REPOSITORY = Path(__file__).parents[3]
GERMAN = json.loads((WORDS / "de.json").read_text(encoding="utf-8"))
WIDTH = 390
INVALID = {
    "greater_than": {"gt": 0},
    "greater_than_equal": {"ge": 0},
    "less_than": {"lt": 0},
    "less_than_equal": {"le": 0},
    "int_from_float": {},
    "string_too_long": {"max_length": 2},
    "string_too_short": {"min_length": 1},
}  # what may be wrong with a setting or a field
ENGLISH = r"\b(the|and|of|is|are|were|not|with|it|this|that|no|to|by|for|in use|from)\b"
# The texts of a page that are not the user's own: of text nodes and of attributes that are read out.
SHOWN = """() => {
  const texts = [document.title];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const isOwn = (node) => node.closest("[dir=auto], code, script, datalist, noscript, bdi");
  while (walker.nextNode()) {
    const { parentElement, textContent } = walker.currentNode;
    if (!isOwn(parentElement)) texts.push(textContent.trim());
  }
  for (const name of ["aria-label", "placeholder", "title"])
    for (const node of document.querySelectorAll(`[${name}]`)) texts.push(node.getAttribute(name).split(": ")[0]);
  return texts;
}"""
TEXTS = {
    "": ["Neues Gespräch", "Alles bleibt auf diesem Gerät", "Senden", "Erste Schritte"],
    "memory": ["Was ich ihm gesagt habe", "3 Lektionen", "Bring ihm etwas bei", "korrigiert", "Exportieren"],
    "learned": ["v2 wurde veröffentlicht", "Von 4 geprüften Korrekturen", "Weggelassen: 1 überholt.", "Nächte"],
    "versions": ["Zurück zu v1", "in Gebrauch", "4 von 4 Korrekturen Wort für Wort richtig, vorher 2"],
    "device": ["Darf es jetzt lernen?", "Um diese Zeit steht nichts an.", "Arbeitsspeicher", "Läuft seit"],
    "preferences": ["Wie der Browser", "eingeschaltet", "Ob es von selbst lernt.", "Modelle"],
}


def keys_in_code() -> set[str]:
    scripts = "".join(path.read_text(encoding="utf-8") for path in sorted((FOLDER / "static").glob("*.js")))
    pages = "".join(path.read_text(encoding="utf-8") for path in sorted((FOLDER / "templates").iterdir()))
    plurals = re.findall(r'\bplural\([^"]*?"([^"]+)",\s*"([^"]+)"', scripts)
    singles = re.findall(r'\b(?:t|nodes)\(\s*"([^"]+)"', scripts + pages)
    return {*singles, *(text for pair in plurals for text in pair), *(page.title for page in PAGES)}


def texts_in_python() -> str:
    """All constant texts of the daemon, the names of its settings, and what pydantic says."""
    found = [PydanticKnownError(kind, values).message() for kind, values in INVALID.items()]
    found += [path[-1].replace("_", " ") for path, _ in _schemas()]
    found += [message[:1].lower() + message[1:] for message in found]
    for folder in ("lars_agent", "service"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            found += [str(node.value) for node in nodes if isinstance(node, ast.Constant)]
    return "\n".join([*found, (FOLDER / "static" / "settings.js").read_text(encoding="utf-8")])


def test_each_text_of_the_pages_has_german_words_and_none_is_left_over() -> None:
    assert keys_in_code() ^ {"language name", *GERMAN["pages"]} == {"language name"}


def test_each_sentence_of_the_daemon_that_is_translated_is_one_that_it_says() -> None:
    said = texts_in_python()
    parts = {key: re.split(r"\{\w+\}|[;:,.()]", key) for key in GERMAN["daemon"]}
    assert [key for key, found in parts.items() if any(part.strip() not in said for part in found)] == []


def test_each_setting_is_described_in_german() -> None:
    described = {text for path, schema in _schemas() for text in (schema["description"], path[-1].replace("_", " "))}
    assert described - {*GERMAN["daemon"]} == set()


@pytest.mark.parametrize("part", ["daemon", "pages"])
def test_the_catalog_is_sorted_and_its_placeholders_are_those_of_the_text(part: str) -> None:
    words = GERMAN[part]
    assert [*words] == sorted(words)
    for key, text in words.items():
        assert sorted(PLACEHOLDER.findall(key)) == sorted(PLACEHOLDER.findall(text)), key


@pytest.mark.parametrize(
    ("cookie", "header", "code"),
    [
        ("", "", "en"),
        ("", "de", "de"),
        ("", "de-AT,de;q=0.9,en;q=0.5", "de"),
        ("", "en-GB,en;q=0.9,de;q=0.8", "en"),
        ("", "fr, sv;q=0.9, de;q=0.3", "de"),
        ("", "en;q=0.2, DE-de;q=0.9", "de"),
        ("", "de;q=0", "en"),
        ("", "de;q=nan, ;;,,=, de;q=x", "en"),
        ("", "fr", "en"),
        ("de", "en", "de"),
        ("en", "de", "en"),
        ("fr", "de", "de"),
        ("../../etc/passwd", "de", "de"),
        ("\x00;{}", "*", "en"),
    ],
)
def test_the_language_is_the_cookie_s_else_the_browser_s_else_english(cookie: str, header: str, code: str) -> None:
    assert Languages().choose(cookie, header).code == code


def test_the_page_names_its_language_and_what_it_depends_on() -> None:
    client = TestClient(fake_app(FakeDaemon()))
    page = client.get("/device", headers={"Accept-Language": "de", "Cookie": "=;; lars-language; x=%ff\\;"})
    assert '<html lang="de" dir="ltr">' in page.text
    assert page.headers["vary"] == "Accept-Language, Cookie, Accept-Encoding"
    assert "static/words/de.json" in page.text
    page = client.get("/device", headers={"Accept-Language": "de", "Cookie": "lars-language=en"})
    assert '<html lang="en" dir="ltr">' in page.text
    assert "static/words" not in page.text


def test_a_language_is_added_by_a_file_and_a_broken_one_leaves_english(tmp_path: Path) -> None:
    words = {"pages": {"Settings": "الإعدادات", "{name} is here": "{name} هنا", "language name": "العربية"}}
    (tmp_path / "ar.json").write_text(json.dumps(words), encoding="utf-8")
    (tmp_path / "fr.json").write_text("{", encoding="utf-8")
    (tmp_path / "notes about words.json").write_text("{}", encoding="utf-8")
    languages = Languages(tmp_path)
    arabic, french = languages.choose("ar", ""), languages.choose("fr", "")
    assert [language.name for language in languages] == ["English", "العربية", "fr"]
    assert (arabic.direction, french.direction) == ("rtl", "ltr")
    assert arabic.t("{name} is here", name="{name}") == "{name} هنا"
    assert (arabic.t("Unknown {x}", x=1), french.t("Settings")) == ("Unknown 1", "Settings")


@pytest.fixture(scope="module")
def app(tmp_path_factory) -> FastAPI:
    """A daemon that also knows a language that is written from right to left, as long as German is."""
    folder = tmp_path_factory.mktemp("words")
    (folder / "de.json").write_bytes((WORDS / "de.json").read_bytes())
    (folder / "ar.json").write_text(json.dumps({part: arabic(words) for part, words in GERMAN.items()}))
    settings = Settings(data_dir=tmp_path_factory.mktemp("data"), schedule={"enabled": False})
    app = api.fake_app(settings)
    app.state.languages = Languages(folder)
    app.router.routes.insert(0, Mount("/static/words", Assets(directory=folder)))
    return app


def arabic(words: dict[str, str]) -> dict[str, str]:
    return {key: re.sub(r"(?<!\{)\b\w+\b(?!\})", lambda word: "ع" * len(word[0]), text) for key, text in words.items()}


@pytest.fixture(scope="module")
def address(app, tmp_path_factory) -> Iterator[str]:
    with served(app) as address:
        taught(app.state.daemon, tmp_path_factory.mktemp("versions"))
        tell(app.state.daemon, "Where is my hat?", "In the hall.", tags=("hats",))
        yield address


@pytest.fixture(scope="module")
def german(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": WIDTH, "height": 900}, locale="de-DE", bypass_csp=True)
    yield context.new_page()
    context.close()


def english(texts: list[str]) -> list[str]:
    """Return those with English words, but for examples in quotation marks."""
    return [text for text in texts if re.search(ENGLISH, re.sub('"[^"]*"', "", text))]


def open_all(page: Page, url: str) -> None:
    page.goto(url)
    page.wait_for_selector("#state.good")
    page.wait_for_selector("main section")
    page.wait_for_load_state("networkidle")
    page.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")


@pytest.mark.browser
@pytest.mark.parametrize("path", TEXTS)
def test_a_german_page_has_no_english_words_and_axe_finds_nothing(german: Page, address: str, path: str) -> None:
    open_all(german, address + path)
    assert german.get_attribute("html", "lang") == "de"
    shown = german.evaluate(SHOWN)
    assert [text for text in TEXTS[path] if text.lower() not in "\n".join(shown).lower()] == []
    assert english(shown) == []
    assert {*shown} & {key for words in GERMAN.values() for key in words} <= {
        *GERMAN["pages"].values(),
        *GERMAN["daemon"].values(),
    }
    assert violations(german) == []
    assert german.evaluate("document.documentElement.scrollWidth") <= WIDTH


@pytest.mark.browser
def test_what_the_daemon_says_is_german_on_a_german_page(german: Page) -> None:
    busy = DeviceState(
        window="shut", request_age_s=12, away_s=0, others_cpu=0.99, busiest="python", load=3.2, on_battery=True,
        battery=0.15, celsius=85, throttled=True, available_bytes=2**30, memory_pressure=40, free_disk_bytes=2**20,
    )  # fmt: skip
    daemon, found = FakeDaemon(), decide(busy, Idle(), needs_bytes=2**31)
    unknown = decide(DeviceState(), Idle(), needs_bytes=0).checks
    fine = decide(
        DeviceState("overdue", inf, 9000.0, 0.1, None, 0.1, False, 1.0, 40, False, 2**40, 0, 2**40),
        Idle(),
        needs_bytes=0,
    )
    supplies = [decide(DeviceState(under_voltage=weak), Idle(), needs_bytes=0) for weak in (True, False)]
    said = [*found.checks, *unknown, *fine.checks, *(check for one in supplies for check in one.checks)]
    checks = [(f"{index}", check) for index, check in enumerate(said)]
    daemon.night = {"adapting": False, "words": f"not adapting: {found.why}"}
    daemon.night["checks"] = [{"name": check.name, "state": check.state, "words": check.message} for _, check in checks]
    scores = Scores(1.2, 3.5, 0.8, "0011", "ffca", looping="1110", spilled="1110")
    base, lucky = Scores(2.0, 3.0, 0.9, "1111", "ffca", looping="0000"), Scores(1.0, 3.0, 0.95, recall_doubt=0.5)
    reasons = [*judge(scores, base, GatePolicy(), base).reasons, *judge(lucky, base, GatePolicy(), base).reasons]
    verdict = {"accepted": False, "reasons": reasons}
    verdict |= {"candidate": {"whole": "0011"}, "incumbent": {"whole": "1111"}}
    daemon.job = job_body("rejected", finished=NIGHT, verdict=verdict, pauses={"heat": {"count": 2, "seconds": 60.0}})
    daemon.refusal = "job j-7 is running; wait for it, or cancel it"
    with served(fake_app(daemon)) as address:
        open_all(german, f"{address}device")
        assert english(german.evaluate(SHOWN)) == []
        expect(german.locator("#checks")).to_contain_text(
            "Andere Programme brauchen 99 % des Prozessors (am meisten: python)."
        )
        expect(german.locator("#checks")).to_contain_text("1 MiB Speicherplatz sind frei, nötig sind 512.")
        open_all(german, f"{address}learned")
        assert english(german.evaluate(SHOWN)) == []
        reasons = german.locator("#verdict-reasons")
        expect(reasons).to_contain_text(
            "Von 4 Korrekturen kommen jetzt 2 Wort für Wort richtig heraus, vorher 4; 2 gingen verloren"
        )
        expect(reasons).to_contain_text(
            "ist um 16,67 % gestiegen, verglichen mit: der Adapter in Gebrauch (dort 3,0000, jetzt 3,5000)"
        )
        for text in (
            "Von 2, die vorher richtig herauskamen (Korrekturen über dich), gingen 2 verloren; der Zufall erklärt 1.",
            "Von 4 Antworten auf allgemeine Fragen wiederholen sich 3, beim Grundmodell 0; höchstens 1 dürfen es.",
            "Von 4 allgemeinen Fragen bekommen 3 eine Antwort, die zu einer anderen Frage gelehrt wurde",
            "Die Wahrscheinlichkeit, dass das kein Gewinn ist, beträgt 50 %; erlaubt sind höchstens 20 %.",
        ):
            expect(reasons).to_contain_text(text)
        expect(german.locator("#job-when")).to_contain_text("angehalten wegen Hitze 2-mal, 60 s")
        german.click("#adapt[aria-disabled=false]")
        expect(german.locator(".error")).to_have_text("Auftrag j-7: läuft; warte auf ihn oder brich ihn ab.")
        daemon.problems = ["the flux is {out} of order; call somebody: now"]
        german.goto(f"{address}device")
        expect(german.locator("#notice")).to_have_text("The flux is {out} of order; call somebody: now.")
        german.goto("about:blank")


@pytest.mark.browser
def test_the_choice_of_a_language_changes_the_page_and_is_kept(page: Page, address: str) -> None:
    with opened(page, f"{address}preferences"):
        page.select_option("label:has-text('Language') select", label="Deutsch")
        page.wait_for_selector("#settings-title:text-is('Einstellungen')")
        assert {cookie["name"]: cookie["sameSite"] for cookie in page.context.cookies()} == {"lars-language": "Strict"}
        page.click("nav a:text-is('Gelerntes')")
        expect(page.locator("html")).to_have_attribute("lang", "de")
        page.goto(f"{address}preferences")
        page.select_option("label:has-text('Sprache') select", label="Wie der Browser")
        page.wait_for_selector("#settings-title:text-is('Settings')")


@pytest.mark.browser
def test_a_language_from_right_to_left_needs_its_catalog_only(browser: Browser, address: str) -> None:
    context = browser.new_context(viewport={"width": WIDTH, "height": 900}, locale="ar-EG")
    page = context.new_page()
    for path in TEXTS:
        open_all(page, address + path)
        assert page.evaluate("getComputedStyle(document.querySelector('main section')).direction") == "rtl"
        expect(page.locator("html")).to_have_attribute("lang", "ar")
        assert page.locator("nav a").first.text_content() == "ع" * len("Gespräch")
        assert page.evaluate("document.documentElement.scrollWidth") <= WIDTH, path
    context.close()
