"""One's own data in the browser: a real Chromium, the real daemon, and an engine that replies "echo: "."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from playwright.sync_api import expect

from lars_agent.example import Message
from service.db.records import NewFeedback
from tests.service.dashboard.conftest import opened
from tests.store.make import make_candidate, make_draft

pytestmark = pytest.mark.browser

ROWS = ".lessons > li"


@pytest.fixture
def memory(page, address):
    with opened(page, f"{address}memory") as page:
        yield page


def tell(daemon, question: str, answer: str, **values) -> str:
    new = NewFeedback(
        messages=(Message(role="user", content=question),), response="I do not know.", correction=answer, **values
    )
    return daemon.db.feedback.add(new)[0].id


def reopen(page) -> None:
    page.reload()
    page.wait_for_selector("#state.good")


def test_nothing_is_stored_at_first_and_what_is_taught_counts_at_once(memory, daemon):
    memory.wait_for_selector("text=Nothing is stored yet.")
    memory.fill("[placeholder='What is my goat called?']", "What is my boat called?")
    memory.fill("[placeholder='Your goat is called Pip.']", "Your boat is called Ida.")
    memory.click("button:text-is('Store')")
    memory.wait_for_selector("text=Stored; it counts from the next reply on.")
    expect(memory.locator(ROWS)).to_have_count(1)
    expect(memory.locator("[placeholder='What is my goat called?']")).to_have_value("")
    (row,) = daemon.db.feedback.list()
    assert (row.messages[-1]["content"], row.correction) == ("What is my boat called?", "Your boat is called Ida.")
    assert daemon.db.recall.search("default", "How do I call my boat?", 3).corrections[0].answer == row.correction


def test_a_profile_begins_with_the_first_lesson_that_names_it(memory, daemon):
    for profile, name in (("default", "Ida"), ("No Name", "Eva"), ("work", "Eva")):
        memory.fill("[placeholder='What is my goat called?']", "What is my boat called?")
        memory.fill("[placeholder='Your goat is called Pip.']", f"Your boat is called {name}.")
        memory.fill("[list=profiles]", profile)
        memory.click("button:text-is('Store')")
        if profile == "No Name":
            memory.wait_for_selector(".error:has-text('profile')")
        else:
            expect(memory.locator("[placeholder='What is my goat called?']")).to_have_value("")  # it is stored
    memory.select_option("label:has-text('of profile') select", "work")
    expect(memory.locator(ROWS)).to_have_count(1)
    assert daemon.profiles.names() == ["default", "work"]


def test_data_are_searched_and_filtered(memory, daemon):
    tell(daemon, "Where is my boat?", "In Bergen.", tags=("boats",))
    tell(daemon, "Where is my hat?", "In the hall.", source="stated")
    tell(daemon, "Where is my cat?", "On the roof.", profile="ada")
    reopen(memory)
    expect(memory.locator(ROWS)).to_have_count(3)
    memory.fill("[type=search]", "BERGEN")
    expect(memory.locator(ROWS)).to_have_count(1)
    memory.click("[aria-label='Show only the tag boats']")
    memory.fill("[type=search]", "hat")
    memory.wait_for_selector("text=Nothing like that is stored.")
    memory.click("text=tag boats")
    expect(memory.locator(ROWS)).to_have_count(1)
    memory.fill("[type=search]", "")
    memory.select_option("label:has-text('Show') select", "stated")
    memory.wait_for_selector(".pill:has-text('said in passing')")
    expect(memory.locator(ROWS)).to_have_count(1)
    memory.select_option("label:has-text('Show') select", "")
    expect(memory.locator(ROWS)).to_have_count(3)
    memory.select_option("label:has-text('of profile') select", "ada")
    expect(memory.locator(ROWS)).to_have_count(1)
    expect(memory.locator(ROWS)).to_contain_text("On the roof.")


def test_many_are_read_a_page_at_a_time(memory, daemon):
    for number in range(60):
        tell(daemon, f"What is thing {number}?", f"It is {number}.")
    reopen(memory)
    memory.wait_for_selector(".pill:has-text('60 lessons')")
    expect(memory.locator(ROWS)).to_have_count(50)
    memory.click("text=Show more")
    expect(memory.locator(ROWS)).to_have_count(60)
    assert memory.locator("text=Show more").count() == 0


def test_an_edit_counts_and_is_undone(memory, daemon):
    tell(daemon, "Where is my boat?", "In Bergen.")
    reopen(memory)
    memory.click("[aria-label='Edit: Where is my boat?']")
    expect(memory.locator(".correction textarea").first).to_be_focused()
    memory.keyboard.press("Escape")
    expect(memory.locator("[aria-label='Edit: Where is my boat?']")).to_be_focused()
    memory.click("[aria-label='Edit: Where is my boat?']")
    memory.fill(f"{ROWS} textarea", "In Vigo.")
    memory.fill(f"{ROWS} .correction input", "boats, sea, boats")
    memory.click("text=Save")
    memory.wait_for_selector("text=Changed; it counts from the next reply on.")
    expect(memory.locator(".kept")).to_be_focused()
    (row,) = daemon.db.feedback.list()
    assert (row.correction, row.tags) == ("In Vigo.", ("boats", "sea"))
    memory.click("text=Undo")
    memory.wait_for_selector("text=Changed back.")
    (row,) = daemon.db.feedback.list()
    assert (row.correction, row.tags) == ("In Bergen.", ())


def test_everything_about_one_subject_is_forgotten_with_its_effect_said_before(memory, daemon, tmp_path):
    boats = [tell(daemon, f"What about boat {number}?", f"It is {number}.") for number in range(3)]
    other = tell(daemon, "Where is my hat?", "In the hall.")
    for number, learned in enumerate(([other], [other, boats[1]])):
        draft = replace(make_draft(parent=number or None), example_ids=tuple(learned))
        version = daemon.store.publish("default", make_candidate(tmp_path / str(number)), draft).version
        daemon.switch.activate("default", version)
    reopen(memory)
    memory.fill("[type=search]", "boat")
    expect(memory.locator(ROWS)).to_have_count(3)
    memory.check("text=All 3 shown")
    memory.uncheck("[aria-label='Choose: What about boat 0?']")
    memory.click("[aria-label='Forget the chosen']")
    question = memory.locator(".confirm")
    expect(question).to_contain_text("Forget 2 lessons? v2 learned them and will be deleted; v1 replies until the next")
    question.locator(".danger").click()
    memory.wait_for_selector("text=2 lessons forgotten; nothing of them is left in any file. v2 had learned of it")
    expect(memory.locator(ROWS)).to_have_count(1)
    assert {row.id for row in daemon.db.feedback.list()} == {boats[0], other}
    assert [found.version for found in daemon.store.versions("default")] == [1]
    assert {*daemon.db.erasures.list()[0].feedback} == {boats[1], boats[2]}


def test_details_tell_what_had_been_replied_and_where_it_was_learned(memory, daemon, tmp_path):
    feedback_id = tell(daemon, "Where is my boat?", "In Bergen.", comment="It moved")
    draft = replace(make_draft(), example_ids=(feedback_id,))
    daemon.store.publish("default", make_candidate(tmp_path / "c"), draft)
    reopen(memory)
    memory.click("text=Details")
    memory.wait_for_selector("text=Learned in v1.")
    assert "base model had replied: “I do not know.”" in memory.text_content(ROWS)
    assert "It moved" in memory.text_content(ROWS)


def test_an_import_is_looked_at_before_and_an_export_is_what_was_imported(memory, daemon, tmp_path):
    good = {"messages": [{"role": "user", "content": "Where is it?"}, {"role": "assistant", "content": "Here."}]}
    lines = tmp_path / "lines.jsonl"
    lines.write_text(json.dumps(good) + "\nnot JSON\n")
    memory.set_input_files("[type=file]", lines)
    memory.wait_for_selector("text=1 line can be imported. 1 cannot; nothing is stored until it is mended:")
    memory.wait_for_selector("li:has-text('line 2')")
    assert memory.locator("text=Import 1 line").count() == 0
    memory.click("text=Leave it")
    lines.write_text(json.dumps(good) + "\n")
    memory.set_input_files("[type=file]", lines)
    memory.click("text=Import 1 line")
    memory.wait_for_selector("text=1 lesson imported.")
    expect(memory.locator(ROWS)).to_have_count(1)
    with memory.expect_download() as saved:
        memory.click("button:has-text('Export')")
    assert saved.value.suggested_filename == "lars-agent-all.jsonl"
    assert json.loads(saved.value.path().read_text())["messages"] == good["messages"]


def test_hostile_text_stays_text(memory, daemon):
    hostile = "<img src=x onerror=alert(1)> {{7*7}} \u202e"
    tell(daemon, hostile, hostile, tags=(hostile,), comment=hostile)
    reopen(memory)
    memory.click("text=Details")
    assert memory.locator(ROWS).locator("img").count() == 0
    assert memory.text_content(f"{ROWS} p:nth-child(2)") == hostile


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_the_page_fits_its_screen(page, address, daemon, width, scheme):
    long = "A_rather_long_word" * 12
    tell(daemon, long, long, tags=("x" * 100,))
    page.set_viewport_size({"width": width, "height": 844})
    page.emulate_media(color_scheme=scheme)
    page.goto(f"{address}memory")
    page.wait_for_selector(ROWS)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.goto("about:blank")
