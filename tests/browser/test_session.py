"""Who gets in, and what becomes of who no longer is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from tests.browser.conftest import Watched, enter, live
from tests.browser.stage import Stage

if TYPE_CHECKING:
    from playwright.sync_api import Page

REFUSED = "status of 401"
THROTTLED = "status of 429"


def try_token(page: Page, token: str) -> None:
    page.get_by_label("Admin token").fill(token)
    page.get_by_role("button", name="Sign in").click()


def test_only_the_admin_token_opens_it(watched: Watched, stage: Stage) -> None:
    watched.allowed.append(REFUSED)
    page = watched.page()
    page.goto(stage.url)
    page.get_by_label("Admin token").wait_for()
    assert page.title() == "Sign in · p2pstream"
    try_token(page, "not-the-token")
    page.get_by_role("alert").filter(has_text="This is not the admin token.").wait_for()
    assert page.get_by_role("navigation", name="Pages").count() == 0
    assert page.evaluate("document.activeElement.id") == "token"
    try_token(page, stage.token)
    page.get_by_role("heading", level=1).filter(has_text="Overview").wait_for()
    assert "token" not in page.url
    page.reload()
    page.get_by_role("heading", level=1).filter(has_text="Overview").wait_for()


def test_no_script_can_read_the_session(open_page: Callable[..., Page]) -> None:
    page = open_page()
    assert page.evaluate("document.cookie") == ""
    (cookie,) = page.context.cookies()
    assert cookie["httpOnly"] and cookie["secure"] and cookie["sameSite"] == "Strict"
    assert cookie["path"] == "/ops"
    assert "p2ps" not in str(page.evaluate("JSON.stringify(localStorage)"))


def test_signing_out_ends_the_session(open_page: Callable[..., Page]) -> None:
    page = open_page("#/agents")
    page.get_by_role("button", name="Sign out").click()
    page.get_by_label("Admin token").wait_for()
    page.reload()
    page.get_by_label("Admin token").wait_for()
    assert page.get_by_role("table").count() == 0


def test_who_guesses_is_told_to_wait(watched: Watched, tmp_path: Path) -> None:
    watched.allowed += [REFUSED, THROTTLED]
    with ExitStack() as stack:
        # One of its own: guessing there keeps nobody out here.
        stage = Stage(stack, tmp_path)
        stage.start_origin()
        stage.write_routes()
        stage.serve()
        page = watched.page()
        page.goto(stage.url)
        alert = page.get_by_role("alert")
        for _ in range(20):
            try_token(page, "guess")
            alert.filter(has_text=".").wait_for()
            if "Too many attempts. Try again in" in (alert.text_content() or ""):
                break
        else:
            raise AssertionError("twenty guesses, and nobody minds")
        try_token(page, stage.token)
        alert.filter(has_text="Too many attempts").wait_for()


def test_a_restart_is_seen_and_survived(watched: Watched, stage: Stage) -> None:
    watched.allowed += ["WebSocket connection to", "ERR_CONNECTION", "ERR_"]
    page = watched.page()
    enter(page, stage, "#/agents")
    stage.server.signal(15)
    page.locator(".link").filter(has_text="Connection lost, retrying").wait_for()
    assert page.locator("#say").text_content() == "Connection lost, retrying."
    assert page.get_by_role("table").count() == 1, "what was last known stays in sight"
    stage.server.wait()
    stage.server = stage.serve()
    # Sessions end with the process, so the way back leads through the login.
    page.get_by_text("Your session has ended. Sign in again.").wait_for()
    assert page.url.endswith("#/agents")
    try_token(page, stage.token)
    page.get_by_role("heading", name="Agents", level=1).wait_for()
    live(page)


def test_a_lost_line_comes_back_by_itself(watched: Watched, stage: Stage) -> None:
    watched.allowed += ["WebSocket connection to", "ERR_"]
    page = watched.page()
    enter(page, stage, "#/overview")
    # Chromium keeps open WebSockets while offline: it is the next page that has to open one.
    page.context.set_offline(True)
    page.get_by_role("link", name="Agents", exact=True).click()
    page.locator(".link").filter(has_text="Connection lost, retrying").wait_for()
    page.context.set_offline(False)
    live(page)
    page.get_by_role("link", name="cellar").wait_for()
