"""Take the screenshot of the dashboard that the README shows: `python -m docs.screenshot` (some minutes).

It starts a daemon in a scratch folder, sends it some of the demo's feedback, lets it train one version, and takes the
picture with Playwright and Chromium.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

from examples.persona import MARA, read_lines
from examples.running import Daemon, daemon

REPOSITORY = Path(__file__).resolve().parents[1]
MODELS = REPOSITORY / ".cache" / "models"
TARGET = REPOSITORY / "docs" / "dashboard.png"
CHROMIUM = "/usr/bin/chromium"
VIEWPORT = {"width": 1000, "height": 1000}
CORRECTIONS = 24
SETTINGS = {"training__steps": "8", "training__evaluate_every": "2", "training__warmup_steps": "2"}
SETTINGS |= {
    "training__batch_size": "4",
    "training__threads": "1",
    "runtime__threads": "1",
    "schedule__enabled": "true",
}


def main() -> None:
    """Train one version, take the screenshot and write it to docs/dashboard.png."""
    with tempfile.TemporaryDirectory(prefix="lars-agent-screenshot-") as folder:
        state = Path(folder)
        (state / "models").symlink_to(MODELS, target_is_directory=True)
        with daemon(state, **SETTINGS) as running:
            train(running)
            photograph(str(running.http.base_url))
    sys.stdout.write(f"wrote {TARGET}\n")


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


def photograph(url: str) -> None:
    """Write the picture of the page at `url`, once it shows the trained version."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport=VIEWPORT, device_scale_factor=1.5, color_scheme="light")
        page.goto(url)
        page.locator("#adapters li").first.wait_for()
        page.locator("#chart svg").wait_for()
        page.wait_for_timeout(1000)
        page.screenshot(path=str(TARGET), full_page=True)
        browser.close()


if __name__ == "__main__":
    main()
