"""What is matched in which order, and where a request would go."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.browser.conftest import Watched, until
from tests.browser.stage import SCRIPT

if TYPE_CHECKING:
    from playwright.sync_api import Page


def test_routes_stand_in_matching_order(open_page: Callable[..., Page]) -> None:
    page = open_page("#/routes")
    page.get_by_role("link", name="media").wait_for()
    # By priority, then id; the disabled one is tried by nobody and comes last.
    assert page.locator("table.routes tbody th").all_text_contents() == [
        "broken",
        "media",
        "old",
        "status",
        "retired",
    ]
    media = page.get_by_role("row", name="media")
    text = media.text_content() or ""
    assert "media.example.com" in text and "home-lab" in text and "67 %" in text
    assert "disabled" in (page.get_by_role("row", name="retired").text_content() or "")
    assert "redirect 302 /new" in (page.get_by_role("row", name="old").text_content() or "")


def test_a_route_shows_groups_paths_and_its_toml(open_page: Callable[..., Page]) -> None:
    page = open_page("#/routes/media")
    drawer = page.get_by_role("dialog", name="media")
    drawer.get_by_role("heading", name="Group 0").filter(has_text="serves").wait_for()
    drawer.get_by_role("heading", name="Group 1").filter(has_text="stands by").wait_for()
    paths = drawer.get_by_role("table", name="Paths of home-lab")
    paths.get_by_role("row", name="cellar").filter(has_text="healthy").wait_for()
    paths.get_by_role("row", name="attic").wait_for()
    drawer.get_by_text("another group serves").wait_for()
    toml = drawer.locator("pre").filter(has_text="[[routes]]")
    toml.wait_for()
    text = toml.text_content() or ""
    assert 'host_pattern = "media.example.com"' in text and "[[routes.targets]]" in text
    assert "never-shown" not in text


def test_explain_says_where_a_request_would_go(open_page: Callable[..., Page]) -> None:
    page = open_page("#/routes")
    page.get_by_label("URL", exact=True).fill("http://media.example.com/library")
    page.get_by_role("button", name="Explain").click()
    way = page.locator(".explained .way")
    way.wait_for()
    text = way.text_content() or ""
    assert "public" in text and "media" in text and "home-lab 67 %" in text
    page.locator(".explained").filter(has_text="cellar").wait_for()
    lines = page.get_by_role("region", name="Explanation").text_content() or ""
    assert "broken  path: the path is not under /broken" in lines and "now:" in lines
    page.reload()  # the address is the question
    way.filter(has_text="home-lab 67 %").wait_for()


def test_explain_says_what_is_refused_and_why(
    open_page: Callable[..., Page], watched: Watched
) -> None:
    watched.allowed.append("status of 400")
    page = open_page("#/routes")
    url = page.get_by_label("URL", exact=True)
    url.fill("http://nobody.example.com/x")
    url.press("Enter")
    page.locator(".explained .hop-answer").filter(has_text="404 no_route").wait_for()
    url.fill(f"http://media.example.com/{SCRIPT}")
    url.press("Enter")
    page.locator(".explained .wrong").filter(has_text="the request").wait_for()
    assert page.evaluate("window.hacked") is None
    url.fill("http://any.example.com/old/thing?x=1")
    url.press("Enter")
    page.locator(".hop-answer").filter(has_text="302 to /new/thing?x=1").wait_for()


def test_filter_and_trouble(open_page: Callable[..., Page]) -> None:
    page = open_page("#/routes")
    rows = "document.querySelectorAll('table.routes tbody tr').length"
    page.get_by_role("link", name="media").wait_for()
    page.get_by_role("searchbox", name="Filter").fill("home-lab")
    until(page, f"{rows} === 1")
    page.get_by_role("searchbox", name="Filter").fill("")
    until(page, f"{rows} === 5")
    page.get_by_role("link", name="With trouble").click()
    until(page, f"{rows} === 0")
    page.get_by_text("No route matches.").wait_for()


def test_a_listener_shows_its_toml(open_page: Callable[..., Page]) -> None:
    page = open_page("#/routes")
    head = page.locator(".listener-head")
    head.get_by_role("heading", name="public").wait_for()
    head.get_by_text("TOML").click()
    assert "[[listeners]]" in (head.locator("pre").text_content() or "")
