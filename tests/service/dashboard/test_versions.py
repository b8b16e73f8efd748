"""The line of versions in the browser: a real Chromium and the real daemon."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.service.dashboard.conftest import opened
from tests.service.dashboard.test_learned import taught
from tests.service.dashboard.test_memory import reopen

pytestmark = pytest.mark.browser

ROWS = ".versions > li"


@pytest.fixture
def versions(page, address, daemon, tmp_path):
    taught(daemon, tmp_path)
    with opened(page, f"{address}versions") as page:
        yield page


def test_a_new_daemon_has_the_base_model_alone(page, address):
    with opened(page, f"{address}versions") as page:
        page.wait_for_selector("text=The base model replies. Nothing has been learned yet")
        expect(page.locator(ROWS)).to_have_count(1)
        assert page.locator("#rollback").count() == 0


def test_each_version_tells_what_it_learned_and_was_worth(versions):
    expect(versions.locator(ROWS)).to_have_count(3)
    newest = versions.locator(ROWS).first
    expect(newest).to_contain_text("2 lessons, 1 new · 4 of 4 corrections right word for word, 2 before")
    expect(newest.locator(".pill")).to_have_text("in use")
    newest.locator("summary").click()
    expect(newest.locator("dl")).to_contain_text("General text, loss")
    newest.get_by_text("Compare with v1").click()
    expect(versions.locator("[aria-label=Left]")).to_have_value("v1")
    expect(versions.locator("[aria-label=Right]")).to_have_value("v2")


def test_its_replies_to_general_questions_are_compared_with_the_base_model_s(versions, daemon):
    with daemon.model_host.engine() as engine:
        engine.openings[2] = "It is this: "
    earlier = versions.locator(ROWS).nth(1)
    earlier.locator("summary").click()
    earlier.get_by_text("Ask it general questions").click()
    expect(earlier).to_contain_text("8 of 8 replies to general questions are the base model's, word for word.")
    newest = versions.locator(ROWS).first
    newest.locator("summary").click()
    newest.get_by_text("Ask it general questions").click()
    expect(newest).to_contain_text("0 of 8 replies")
    expect(newest.locator("ins")).to_have_text(["It ", "is ", "this: "] * 8)
    expect(newest.locator("del")).to_have_text(["echo: "] * 8)


def test_an_earlier_one_is_put_in_use_and_that_is_undone(versions, daemon):
    versions.click("#rollback:text-is('Go back to v1')")
    versions.wait_for_selector("text=V1 replies from now on.")
    expect(versions.locator(".kept")).to_be_focused()
    assert daemon.store.active("default") == 1
    versions.click("text=Undo")
    expect(versions.locator(f"{ROWS}[aria-current] strong")).to_have_text("v2")
    versions.click("[aria-label='Use base model']")
    versions.wait_for_selector("text=Base model replies from now on.")
    assert daemon.store.active("default") is None


def test_ratings_are_told_and_a_branch_is_drawn(versions, daemon, tmp_path, address):
    daemon.switch.activate("default", None)
    taught(daemon, tmp_path / "again")  # v3 comes from the base model
    said = versions.request.post(f"{address}generate", data={"inputs": "Hi", "parameters": {"adapter_id": "default"}})
    rated = {"interaction_id": said.json()["interaction_id"], "rating": 1}
    assert versions.request.post(f"{address}feedback", data=rated).status == 201
    reopen(versions)
    expect(versions.locator(ROWS)).to_have_count(5)
    expect(versions.locator(ROWS).first).to_contain_text("in use: 1 liked, 0 disliked or corrected")
    expect(versions.locator(f"{ROWS}.branch strong")).to_have_text(["v4", "v3"])
    expect(versions.locator(f"{ROWS}.branch").first).to_contain_text("branches off from v1")


def test_a_version_whose_manifest_cannot_be_read_is_told_and_the_others_are_shown(versions, daemon):
    (daemon.store.folder("default", 1) / "manifest.json").write_text("[" * 100_000)
    reopen(versions)
    expect(versions.locator(".error")).to_contain_text("V1 cannot be used: ")
    expect(versions.locator(ROWS)).to_have_count(2)
