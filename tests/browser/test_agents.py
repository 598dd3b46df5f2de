"""Which agent is there, since when, and what declares it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.browser.conftest import until
from tests.browser.stage import IMAGE, SCRIPT, Stage

if TYPE_CHECKING:
    from playwright.sync_api import Page


def names(page: Page) -> list[str]:
    return page.locator("table.agents tbody th").all_text_contents()


def test_all_agents_are_listed_with_their_state(open_page: Callable[..., Page]) -> None:
    page = open_page("#/agents")
    table = page.get_by_role("table", name="Agents")
    attic = table.get_by_role("row", name="attic")
    attic.wait_for()
    text = attic.text_content() or ""
    assert "connected" in text and "up " in text and "site=home" in text
    assert sorted(names(page)) == sorted([SCRIPT, "attic", "cellar"])
    assert "2 of 3 agents connected" in (page.locator(".told").text_content() or "")


def test_what_operators_name_is_text_and_never_markup(open_page: Callable[..., Page]) -> None:
    page = open_page("#/agents")
    page.get_by_role("link", name=SCRIPT).click()
    drawer = page.get_by_role("dialog")
    drawer.get_by_role("heading", name=SCRIPT).wait_for()
    drawer.get_by_text(f"note={IMAGE}").first.wait_for()
    drawer.locator("pre").filter(has_text="[[agents]]").wait_for()
    assert page.locator("main script, dialog script, main img, dialog img").count() == 0
    assert page.evaluate("window.hacked") is None


def test_one_agent_tells_all_about_itself(open_page: Callable[..., Page], stage: Stage) -> None:
    page = open_page("#/agents")
    page.get_by_role("link", name="cellar").click()
    drawer = page.get_by_role("dialog", name="cellar")
    drawer.wait_for()
    id = stage.ids["cellar"]
    drawer.get_by_text(f"p2pstream.io/agent-id={id}").wait_for()
    assert "system" in (
        drawer.get_by_role("listitem").filter(has_text="agent-id").text_content() or ""
    )
    drawer.get_by_text("p2pstream agent --token p2ps_").wait_for()
    toml = drawer.locator("pre").filter(has_text="[[agents]]")
    assert f'id = "{id}"' in (toml.text_content() or "")
    assert "sha256:" not in (drawer.text_content() or ""), "hashes are nobody's business"
    assert drawer.get_by_role("table", name="Sessions").get_by_text("still here").count() == 1
    assert "agents.d/cellar.toml" in (drawer.text_content() or "")
    drawer.get_by_role("link", name="media").click()
    page.get_by_role("dialog", name="media").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("heading", name="Routes", level=1).wait_for()


def test_filter_sort_and_state_live_in_the_address(open_page: Callable[..., Page]) -> None:
    page = open_page("#/agents")
    page.get_by_role("link", name="attic").wait_for()
    page.keyboard.press("/")
    page.keyboard.type("SITE=home")
    until(page, "document.querySelectorAll('table.agents tbody tr').length === 2")
    assert names(page) == ["attic", "cellar"]
    page.get_by_role("columnheader", name="Agent").get_by_role("button").click()
    assert names(page) == ["cellar", "attic"]
    page.reload()
    page.get_by_role("link", name="attic").wait_for()
    assert names(page) == ["cellar", "attic"]
    assert page.get_by_role("searchbox", name="Filter").input_value() == "SITE=home"
    page.get_by_role("searchbox", name="Filter").fill("no such agent")
    page.get_by_text("No agent matches.").wait_for()
    page.get_by_role("searchbox", name="Filter").fill("")
    page.get_by_role("link", name="Not connected").click()
    until(page, "document.querySelectorAll('table.agents tbody tr').length === 1")
    assert names(page) == [SCRIPT]


def test_an_agent_that_leaves_is_seen_to_leave(
    open_page: Callable[..., Page], stage: Stage
) -> None:
    page = open_page("#/agents")
    row = page.get_by_role("row", name="attic")
    row.filter(has_text="connected").wait_for()
    page.evaluate("window.here = true")
    # Paused, then killed: it says no goodbye. What replaces it is the same agent again.
    stage.agents["attic"].kill()
    row.filter(has_text="disconnected").filter(has_text="gone").wait_for()
    assert page.evaluate("window.here"), "the page was not loaded anew"
    stage.revive("attic")
    row.filter(has_text="up ").wait_for()
    page.get_by_role("link", name="attic").click()
    sessions = page.get_by_role("dialog").get_by_role("table", name="Sessions")
    sessions.get_by_role("row").nth(2).wait_for()
