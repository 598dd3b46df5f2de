"""What the browser keeps our pages from, should a fault in them ever let somebody in."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import pytest

from tests.browser.conftest import Watched, until

if TYPE_CHECKING:
    from playwright.sync_api import Page

# What an intruder would try, and what comes of it where it works.
ATTEMPTS: Final = {
    "inline script": """() => { const script = document.createElement("script");
        try { script.text = "window.hacked = 1"; } catch {}
        document.body.append(script); }""",
    "event handler": """() => { const image = document.createElement("img");
        try { image.setAttribute("onerror", "window.hacked = 1"); image.src = "data:,"; } catch {}
        document.body.append(image); }""",
    "markup": """() => { try { document.body.innerHTML = "<p id=hacked>"; } catch {}
        window.hacked = document.getElementById("hacked") ? 1 : undefined; }""",
    "eval": """() => setTimeout(() => { try { eval("window.hacked = 1"); } catch {} })""",
    "another host": """() => fetch("https://127.0.0.1:9/").then(() => { window.hacked = 1; },
        () => {})""",
    "a form elsewhere": """() => { const form = document.createElement("form");
        form.action = "https://127.0.0.1:9/"; document.body.append(form); form.submit(); }""",
}


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_the_policy_stops_it_and_the_watch_hears_it(
    open_page: Callable[..., Page], watched: Watched, attempt: str
) -> None:
    page = open_page()
    assert watched.faults == []
    page.evaluate(ATTEMPTS[attempt])
    for _ in range(100):
        if watched.faults:
            break
        page.wait_for_timeout(50)
    assert watched.faults, "nobody heard of it"
    assert page.evaluate("window.hacked") is None
    watched.faults.clear()


def test_no_other_page_can_frame_it(open_page: Callable[..., Page], watched: Watched) -> None:
    watched.allowed += [
        "frame-ancestors",
        "X-Frame-Options",
        "Refused to (display|frame)",
        "Framing",
    ]
    page = open_page()
    url = page.url
    page.context.route(
        "**/frame",
        lambda route: route.fulfill(
            content_type="text/html", body=f"<iframe src='{url}'></iframe>"
        ),
    )
    page.goto("https://127.0.0.1:9/frame")
    until(page, "document.querySelector('iframe') !== null")
    page.wait_for_timeout(500)
    inner = page.frames[-1]
    assert inner.locator("#main").count() == 0
