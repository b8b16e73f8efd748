"""Text that would do harm as markup, script, style or address, in every place of every page: it stays text."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote, urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.service.dashboard.conftest import served
from tests.service.dashboard.fake_daemon import HOT, NIGHT, adapter_body, job_body
from tests.service.dashboard.hostile import HOSTILE
from tests.service.dashboard.scripted import MODEL, Scripted, interaction, lesson, scripted_app, setting, talk
from tests.service.dashboard.test_job import STATE
from tests.service.dashboard.test_states import WATCH

pytestmark = pytest.mark.browser

WIDTH = 390
ALL = "\n".join(HOSTILE)
LESSONS = [
    lesson(number, text, response=text, correction=text, comment=text, tags=[text], interaction_id=f"i-{number}")
    for number, text in enumerate(HOSTILE)
]
TALKED = {
    "talks": [talk(number, text) for number, text in enumerate(HOSTILE)],
    "replies": [interaction(number, text, text) for number, text in enumerate(HOSTILE)],
    "stored": LESSONS,
    "names": ("default", *HOSTILE),
}
# What text may never become: elements that load or run something, handlers, and links that are scripts.
MADE = """() => [...document.body.querySelectorAll("*:not(body > #answers)")].filter((one) =>
  one.matches("script, img, iframe, object, embed, svg, math, style, link, base, meta, video, audio, animate, b") ||
  [...one.attributes].some(({ name }) => name.startsWith("on")) ||
  /^(javascript|data):/i.test(one.href ?? one.action ?? "")).map((one) => one.outerHTML.slice(0, 200))"""


@pytest.fixture(scope="module")
def daemon() -> Scripted:
    return Scripted()


@pytest.fixture(scope="module")
def address(daemon: Scripted) -> Iterator[str]:
    with served(scripted_app(daemon)) as address:
        yield address


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """A page of a phone's width, on which nothing may have happened at the end."""
    page = browser.new_page(viewport={"width": WIDTH, "height": 900})
    happened: list[str] = []
    page.on("dialog", lambda dialog: happened.append(dialog.message) or dialog.dismiss())
    page.on("pageerror", lambda error: happened.append(str(error)))
    page.on("popup", lambda popup: happened.append(popup.url))
    host = urlsplit(address).netloc
    page.on("request", lambda request: urlsplit(request.url).netloc == host or happened.append(request.url))
    page.add_init_script(WATCH)
    yield page
    for direction in ("ltr", "rtl"):
        page.evaluate("direction => (document.documentElement.dir = direction)", direction)
        assert page.evaluate("document.documentElement.scrollWidth") <= WIDTH
    assert page.evaluate("violated") == []
    assert page.evaluate(MADE) == []
    assert urlsplit(page.url).netloc == host
    page.close()
    assert happened == []


def quoted(text: str) -> str:
    return f"“{text}”"


def sentence(text: str) -> str:
    """Return the text as `format.sentence` shows it."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def texts(page: Page, selector: str) -> list[str]:
    return page.locator(selector).all_text_contents()


def test_in_conversations_replies_and_corrections(page, address, daemon) -> None:
    daemon.become(Scripted(**TALKED, answer=ALL, recalled=["f-0", "f-33"]))
    page.goto(address)
    expect(page.locator(".conversations .title bdi")).to_have_count(len(HOSTILE))
    assert texts(page, ".conversations .title bdi") == [*HOSTILE]
    assert {*HOSTILE} <= {*texts(page, ".options option")}
    page.click(".conversations .title >> nth=0")
    expect(page.locator(".thread > li")).to_have_count(len(HOSTILE))
    assert texts(page, ".said") == texts(page, ".reply > p[dir=auto]") == [*reversed(HOSTILE)]
    assert texts(page, ".kept bdi") == [quoted(text) for text in reversed(HOSTILE)]
    page.locator(".reply button:has-text('Edit the correction')").nth(5).click()
    expect(page.locator(".correction textarea")).to_have_value(HOSTILE[-6])
    page.click("text=New conversation")
    page.fill("#message", ALL)
    page.click(".composer button[type=submit]")
    expect(page.locator(".reply[aria-busy=false]")).to_have_count(1)
    assert texts(page, ".said") == texts(page, ".reply > p[dir=auto]") == [ALL]
    expect(page.locator("text=Recalled:").locator("bdi")).to_have_count(2)
    assert texts(page, ".reply p.quiet bdi") == [quoted(HOSTILE[0]), quoted(HOSTILE[33])]


def test_in_ones_own_data_and_in_what_is_imported(page, address, daemon) -> None:
    daemon.become(Scripted(**TALKED))
    page.goto(f"{address}memory")
    expect(page.locator(".lessons > li")).to_have_count(len(HOSTILE))
    assert texts(page, ".lessons > li > div > p.quiet") == [*HOSTILE]
    assert texts(page, ".lessons > li > div > p[dir]:not(.quiet)") == texts(page, ".tag bdi") == [*HOSTILE]
    assert texts(page, ".lessons details bdi") == [quoted(text) for text in HOSTILE for _ in ("reply", "comment")]
    page.click(".tag >> nth=0")
    expect(page.locator(".filters .small bdi")).to_have_text(HOSTILE[0])
    for number, name in enumerate(HOSTILE):
        some = HOSTILE[20:] if number % 2 else HOSTILE[:20]
        refused = [{"line": line, "message": text} for line, text in enumerate(some)]
        daemon.imported = {"imported": 0, "valid": 0, "refused": refused}
        with page.expect_response("**/feedback/import*"):
            page.set_input_files("[type=file]", {"name": name, "mimeType": "text/plain", "buffer": b"{}"})
        if number < 2:
            expect(page.locator("[role=status] li").last).to_have_text(sentence(some[-1]), use_inner_text=False)
            assert texts(page, "[role=status] li") == [sentence(text) for text in some]


def test_in_what_was_learned_and_in_verdicts(page, address, daemon) -> None:
    verdict = {"accepted": False, "reasons": [*HOSTILE], "candidate": {}, "incumbent": {}}
    runs = [{"scheduled": NIGHT, "outcome": "missed", "reason": text, "job_id": None} for text in HOSTILE[:14]]
    job = job_body("failed", finished=NIGHT, verdict=verdict, error=ALL, spec={"dropped": dict.fromkeys(HOSTILE, 1)})
    daemon.become(Scripted(**TALKED, job=job, taught=[*LESSONS], runs=runs, answer=ALL))
    page.goto(f"{address}learned")
    expect(page.locator(".lessons.plain > li")).to_have_count(len(HOSTILE))
    assert texts(page, "#verdict-reasons li") == [*HOSTILE, ALL]
    assert texts(page, "section[aria-labelledby=result-title] > p.quiet")[: len(HOSTILE)] == [*HOSTILE]
    assert texts(page, ".lessons bdi") == texts(page, ".lessons p[dir]") == [*reversed(HOSTILE)]
    assert texts(page, ".runs .quiet") == [sentence(text) for text in HOSTILE[:14]]
    page.fill("[aria-label='Question for both']", HOSTILE[0])
    page.click("button:has-text('Ask both')")
    expect(page.locator(".side p:not(:has(span))")).to_have_count(2)
    assert texts(page, ".side p") == [ALL, ALL]


def test_in_a_job_that_waits(page, address, daemon) -> None:
    job = job_body("queued", state=STATE | {"waiting_for": [*HOSTILE]})
    daemon.become(Scripted(job=job, progress=[], problems=[*HOSTILE], notices=[*HOSTILE]))
    page.goto(f"{address}learned")
    expect(page.locator("#job-step")).to_contain_text("DROP TABLE")
    assert page.text_content("#job-step") == f"preparing; waiting: {'; '.join(HOSTILE)}"
    assert page.text_content("#notice") == page.text_content("#waits") == "\n".join(sentence(text) for text in HOSTILE)


def test_in_versions(page, address, daemon) -> None:
    versions = [
        adapter_body(f"v{number}", f"v{number - 1}" if number else "base", False)
        | {"base_model": text, "base_model_sha256": "b" * 64}
        for number, text in enumerate(HOSTILE)
    ]
    daemon.become(Scripted(versions=versions, active="base", names=("default", *HOSTILE)))
    page.goto(f"{address}versions")
    page.click("button:has-text('Show all 40')")
    models = texts(page, ".facts > div:nth-child(2) dd")
    assert models == [f"{text}, {'b' * 12}" for text in reversed(HOSTILE)]
    assert {*HOSTILE} <= {*texts(page, ".choice option")}


def test_in_checks_and_problems_of_the_device(page, address, daemon) -> None:
    checks = [{"name": f"check {number}", "state": "against", "words": text} for number, text in enumerate(HOSTILE)]
    model = {"name": ALL, "dtype": HOSTILE[1]}
    night = HOT | {"words": ALL, "checks": checks}
    daemon.become(Scripted(problems=[*HOSTILE], loading_error=HOSTILE[0], night=night, model=model))
    page.goto(f"{address}device")
    expect(page.locator("#checks li")).to_have_count(len(HOSTILE))
    assert texts(page, "#checks .quiet") == [f"{sentence(text)} " for text in HOSTILE]  # there is no advice
    assert texts(page, "section .error") == [sentence(text) for text in (HOSTILE[0], *HOSTILE)]
    assert page.text_content("#idle-message") == sentence(ALL)
    assert page.text_content("#facts dd") == f"{ALL} ({HOSTILE[1]})"


def test_in_settings_and_names_of_models(page, address, daemon) -> None:
    settings = [setting(f"model.n{number}", text) | {"origin": text} for number, text in enumerate(HOSTILE)]
    choice = setting("model.choice", HOSTILE[0]) | {"value_schema": {"type": "string", "enum": [*HOSTILE]}}
    models = [MODEL | {"name": text, "reference": f"{text}.", "in_use": False} for text in HOSTILE]
    pull = {"reference": HOSTILE[1], "message": HOSTILE[2], "error": ALL, "is_over": True}
    daemon.become(Scripted(settings=[*settings, choice], models=models, pull=pull))
    page.goto(f"{address}preferences")
    expect(page.locator(".models li")).to_have_count(len(HOSTILE))
    assert texts(page, ".models strong") == [*HOSTILE]
    assert page.text_content("section[aria-labelledby=models-title] .error") == sentence(ALL)
    page.click("summary")
    values = page.locator(".settings input").evaluate_all("all => all.map((one) => one.value)")
    assert values == [text.replace("\n", "") for text in HOSTILE]  # a field has one line
    assert texts(page, ".settings option") == [*HOSTILE]
    assert all(
        f"set by {text};" in shown for text, shown in zip(HOSTILE, texts(page, ".settings p.quiet"), strict=False)
    )


def test_in_what_can_be_read_without_scripts(browser, address, daemon) -> None:
    daemon.become(Scripted(**TALKED))
    context = browser.new_context(java_script_enabled=False, viewport={"width": WIDTH, "height": 900})
    page = context.new_page()
    for path, selector in (("?conversation=c-1", ".said"), ("", ".conversations bdi"), ("memory", ".lessons p.quiet")):
        page.goto(address + path)
        assert {*texts(page, selector)} == {*HOSTILE}
        assert page.evaluate(MADE) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= WIDTH
    page.goto(f"{address}device?code={quote(ALL)}&refused={quote(ALL)}&profile={quote(ALL)}")
    assert page.evaluate(MADE) == []
    context.close()
