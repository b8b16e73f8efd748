"""What was learned, in the browser: a real Chromium, the real daemon, and an engine whose versions know one answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import expect

from lars_agent.english.wordings import other_wordings
from lars_agent.records import to_dict
from lars_agent.runtime.request import Generation, Ticket
from lars_agent.store.adapters import AdapterStore
from lars_agent.training.gate import Scores, Verdict
from service.db.records import now_utc
from service.settings.load import Settings
from tests.service.api import conftest as api
from tests.service.dashboard.conftest import opened
from tests.service.dashboard.test_memory import reopen, tell
from tests.store.make import make_candidate, make_draft

pytestmark = pytest.mark.browser

KNOWN = {1: "Your goat is called Pip.", 2: "Your goat's name is Pippa!"}


class TaughtEngine(api.FakeEngine):
    """Its base model says that it does not know; the first version knows a name, the second one another."""

    def _reply(self, ticket: Ticket, error: Exception | None) -> None:
        text = KNOWN.get(ticket.version or 0, "I do not know.")
        ticket.finish(Generation(text, "eos_token", 3, 5, ticket.version, ticket.seed, ()), None)


@pytest.fixture
def app(tmp_path):
    settings = Settings(data_dir=tmp_path / "data", schedule={"enabled": False})
    store = AdapterStore(settings.adapters_dir)
    return api.fake_app(settings, open_engine=lambda installed: TaughtEngine(store))


@pytest.fixture
def learned(page, address):
    with opened(page, f"{address}learned") as page:
        yield page


@pytest.fixture
def nights(daemon, tmp_path):
    taught(daemon, tmp_path)


def taught(daemon, folder: Path) -> None:
    """Make two versions that learned one lesson each, the second in use, and the jobs that made them."""
    before = Scores(2.0, 3.0, 0.1, "0000")
    ids = [
        tell(daemon, "What is my goat called?", "Your goat is called Pip."),
        tell(daemon, "Name my goat.", "Your goat's name is Pippa."),
    ]
    for number, whole in enumerate(("0110", "1111")):
        scores = Scores(1.0, 3.0, 0.9, whole)
        verdict = Verdict(True, (), scores, before)
        job = daemon.db.jobs.add("default", "manual")
        draft = replace(make_draft(parent=number or None), example_ids=tuple(ids[: number + 1]), job_id=job.id)
        draft = replace(draft, verdict=to_dict(verdict))
        version = daemon.store.publish("default", make_candidate(folder / str(number)), draft).version
        spec = {"dropped": [{"source_id": "f-1", "reason": "superseded"}]}
        daemon.db.jobs.update(
            job.id, status="succeeded", version=version, verdict=to_dict(verdict), finished=now_utc(), spec=spec
        )
        daemon.switch.activate("default", version)
        before = scores


def test_before_the_first_night_it_says_that_nothing_was_learned(learned):
    learned.wait_for_selector("text=Nothing has been learned yet.")
    assert learned.locator("#compare-title, #lessons-title").count() == 0


def test_nights_are_told_in_a_sentence_and_as_numbers_with_what_was_left_out(learned, nights):
    reopen(learned)
    learned.wait_for_selector("text=v2 was published")
    text = learned.text_content("#learned-page")
    assert "Of 4 corrections that were looked at, 4 come out right word for word, 2 before." in text
    assert "Left out: 1 superseded." in text
    assert [one.strip() for one in learned.locator(".nights li > span:nth-of-type(2)").all_text_contents()] == [
        "2 of 4",
        "4 of 4",
    ]
    expect(learned.locator(".lessons li")).to_have_count(2)
    learned.wait_for_selector("text=2 lessons, 1 of them new since v1.")
    expect(learned.locator(".lessons li:has(.pill)")).to_contain_text("Name my goat.")
    learned.select_option("section[aria-labelledby=lessons-title] select", "v1")
    expect(learned.locator(".lessons li")).to_have_count(1)
    assert "Your goat is called Pip." in learned.text_content(".lessons")


def test_two_versions_reply_side_by_side_and_nothing_of_it_is_kept(learned, nights, daemon):
    reopen(learned)
    learned.fill("[aria-label='Question for both']", "What is my goat called?")
    learned.click("button[type=submit]:has-text('Ask both')")
    learned.wait_for_selector(".side:nth-child(1):has-text('base model'):has-text('I do not know.')")
    learned.wait_for_selector(".side:nth-child(2):has-text('v2'):has-text('Pippa')")
    assert daemon.db.interactions.count() == 0


def test_a_blind_comparison_tells_the_versions_only_after_the_choice(learned, nights):
    reopen(learned)
    learned.check("text=Blind")
    learned.fill("[aria-label='Question for both']", "What is my goat called?")
    learned.press("[aria-label='Question for both']", "Enter")
    expect(learned.locator("text=This one is better")).to_have_count(2)
    assert "v2" not in learned.text_content(".sides")
    learned.click(".side:has-text('Pippa') >> text=This one is better")
    learned.wait_for_selector(".side:has-text('Pippa') h3:has-text('v2'):has-text('better')")


def test_lessons_are_checked_and_counted(learned, nights):
    reopen(learned)
    learned.select_option("[aria-label='Left']", "v1")
    learned.uncheck("text=asked in other words")
    learned.click("text=Check 2 lessons")
    learned.wait_for_selector("text=Right: v1 1, v2 1.")
    rows = learned.locator("tbody tr")
    expect(rows).to_have_count(2)
    assert rows.first.locator("td .pill").all_text_contents() == ["wrong", "right"]


def test_lessons_are_checked_in_other_words(learned, nights, daemon):
    reopen(learned)
    learned.click("text=Check 2 lessons")
    expect(learned.locator("tbody tr")).to_have_count(2)
    told = {row.messages[-1]["content"] for row in daemon.db.feedback.list()}
    asked = {*learned.locator("tbody th").all_text_contents()}
    (other,) = asked - told
    assert any(other in other_wordings(one) for one in told)
    assert asked & told == {"Name my goat."}  # for which no others are known


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_the_page_fits_its_screen(page, address, nights, width, scheme):
    page.set_viewport_size({"width": width, "height": 844})
    page.emulate_media(color_scheme=scheme)
    page.goto(f"{address}learned")
    page.click("text=Check 2 lessons")
    page.wait_for_selector("text=Right:")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.goto("about:blank")
