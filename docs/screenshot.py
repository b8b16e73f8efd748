"""Take the screenshots of the dashboard that README and docs show: `python -m docs.screenshot` (some minutes).

It starts a daemon in a scratch folder, talks to it, sends it some of the demo's feedback, lets it train one version,
and takes the pictures with Playwright and Chromium.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from examples.persona import MARA, read_lines
from examples.running import Daemon, daemon

REPOSITORY = Path(__file__).resolve().parents[1]
MODELS = REPOSITORY / ".cache" / "models"
TARGET = REPOSITORY / "docs"
CHROMIUM = "/usr/bin/chromium"
VIEWPORT = {"width": 1000, "height": 700}
HIGHEST = 1500  # of a picture
CORRECTIONS = 12
SETTINGS = {"schedule__enabled": "true"}
SAID = ("By the way, my goat is called Pip.", "What is the name of my goat?")


def main() -> None:
    """Train one version, take the screenshots and write them to docs/."""
    with tempfile.TemporaryDirectory(prefix="lars-agent-screenshot-") as folder:
        state = Path(folder)
        (state / "models").symlink_to(MODELS, target_is_directory=True)
        with daemon(state, **SETTINGS) as running, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = browser.new_page(viewport=VIEWPORT, color_scheme="light")
            for name, shown in (("talk", talk), ("learned", learned), ("memory", memory)):
                if name == "learned":
                    train(running)
                page.goto(f"{running.url}/{'' if name == 'talk' else name}")
                shown(page)
                height = min(HIGHEST, page.evaluate("document.documentElement.scrollHeight"))
                clip = {"x": 0, "y": 0, "width": VIEWPORT["width"], "height": height}
                page.screenshot(path=str(TARGET / f"{name}.png"), full_page=True, clip=clip)  # type: ignore[arg-type]
                sys.stdout.write(f"wrote {TARGET / name}.png\n")
            browser.close()


def train(running: Daemon) -> None:
    """Send feedback and wait for the job that learns from it."""
    for item in read_lines(MARA / "feedback.jsonl")[:CORRECTIONS]:
        running.post("/feedback", item)
    job = running.post("/jobs", {"profile": "default"})
    while job["finished"] is None:
        time.sleep(2)
        job = running.get(f"/jobs/{job['id']}")
    if job["status"] != "succeeded":
        raise SystemExit(f"the job ended as {job['status']}: {job['error']}")


def talk(page: Page) -> None:
    """Say something, and correct the last reply."""
    page.wait_for_selector("#state.good")
    for number, text in enumerate(SAID, start=1):
        page.fill("#message", text)
        page.press("#message", "Enter")
        page.wait_for_selector(f".thread > li:nth-child({number}) .reply[aria-busy=false]")
    page.click(".thread > li:last-child >> text=It should have said…")
    page.wait_for_timeout(1000)


def learned(page: Page) -> None:
    """Ask two versions the same, and check the lessons."""
    page.wait_for_selector("#compare-title")
    page.fill("[aria-label='Question for both']", "What is my dog called?")
    page.click("button:has-text('Ask both')")
    page.wait_for_selector(".side:nth-child(2) p:not(:has(.quiet))")
    page.click("button:has-text('Check ')")
    page.wait_for_selector("text=/^Right:/", timeout=300_000)


def memory(page: Page) -> None:
    """Show what would be forgotten with a few lessons."""
    page.fill("[type=search]", "dog")
    page.wait_for_timeout(1000)


if __name__ == "__main__":
    main()
