"""The Chromium that pages are tested in. Without one their tests fail in CI, and are skipped aloud elsewhere."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
NONE_FOUND = "no Chromium on the PATH: install it to test the pages (Debian: apt-get install chromium)"
IN_A_BROWSER = [pytest.mark.e2e, pytest.mark.skipif(not CHROMIUM and not os.environ.get("CI"), reason=NONE_FOUND)]


@contextmanager
def launched() -> Iterator[Browser]:
    """A headless browser."""
    from playwright.sync_api import sync_playwright  # a second, in every worker

    if CHROMIUM is None:
        raise FileNotFoundError(NONE_FOUND)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()
