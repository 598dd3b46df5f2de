"""Each page, light and dark, wide and narrow: seen, checked for accessibility, walked by keyboard.

The screenshots land in `build/screenshots/`, to be looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.browser.conftest import SCREENSHOTS, Watched, enter, live, until
from tests.browser.stage import Stage

if TYPE_CHECKING:
    from playwright.sync_api import Page

# What must be in sight before a page is complete.
PAGES: Final = {
    "overview": ("#/overview", ".hots tbody tr"),
    "agents": ("#/agents", "table.agents tbody tr"),
    "agent": ("#/agents/{cellar}", "dialog .toml >> nth=1"),
    "routes": ("#/routes?method=GET&url=http://media.example.com/library", ".explained .toml"),
    "route": ("#/routes/media", "dialog .toml"),
    "traffic": ("#/traffic?level=detailed", "table.traffic tbody tr >> nth=5"),
}
SIZES: Final = {"wide": (1280, 900), "phone": (375, 812)}
SCHEMES: Final = ("light", "dark")
AXE_RUN: Final = """() => axe.run(document, {
  runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
  resultTypes: ["violations"],
})"""


def show(page: Page, stage: Stage, name: str) -> None:
    """Go to a page of the dashboard, and wait until all of it is there."""
    where, complete = PAGES[name]
    page.goto("about:blank")
    page.goto(stage.url + where.format(**stage.ids))
    live(page)
    page.locator(complete).first.wait_for()


def check_accessibility(page: Page, source: str, what: str) -> None:
    page.evaluate(source)
    found: dict[str, Any] = page.evaluate(AXE_RUN)
    faults = [
        f"{one['id']} ({one['impact']}): {node['target']} {node.get('failureSummary', '')}"
        for one in found["violations"]
        for node in one["nodes"]
    ]
    assert faults == [], f"{what}: {faults}"


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("size", SIZES)
def test_every_page_is_whole_and_accessible(
    watched: Watched, stage: Stage, axe_source: str, size: str, scheme: str
) -> None:
    width, height = SIZES[size]
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page = watched.page(
        viewport={"width": width, "height": height},
        color_scheme=scheme,
        reduced_motion="reduce",  # an animation caught in the middle has the wrong contrast
    )

    def look(name: str) -> None:
        file = SCREENSHOTS / f"{name}-{size}-{scheme}.png"
        page.screenshot(path=file, full_page=name == "overview")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        drawer = "document.querySelector('dialog')?.scrollWidth ?? 0"
        assert page.evaluate(drawer) <= width, name
        check_accessibility(page, axe_source, name)

    page.goto(stage.url)
    page.get_by_label("Admin token").wait_for()
    look("login")
    enter(page, stage)
    for name in PAGES:
        show(page, stage, name)
        if name == "traffic":
            page.get_by_role("button", name="Pause").click()
        look(name)
    page.locator("table.traffic tbody a").first.click()
    page.locator("dialog .steps").wait_for()
    look("request")


def test_the_colours_can_be_chosen_and_are_kept(open_page: Callable[..., Page]) -> None:
    page = open_page(color_scheme="light")
    background = "getComputedStyle(document.documentElement).backgroundColor"
    light = page.evaluate(background)
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(background)
    assert dark != light
    button = page.get_by_role("button", name="Colours")
    button.click()
    assert page.evaluate(background) == light, "chosen, whatever the system says"
    button.click()
    page.emulate_media(color_scheme="light")
    assert page.evaluate(background) == dark
    page.reload()
    live(page)
    assert page.evaluate(background) == dark
    button.click()
    page.emulate_media(color_scheme="light")
    assert page.evaluate(background) == light


# What has the focus, and whether one can see that it has.
FOCUS: Final = """() => {
  const at = document.activeElement;
  const row = at.closest("th[scope=row]");
  const style = getComputedStyle(at, row ? "::after" : null);
  const box = at.getBoundingClientRect();
  return {
    name: at.getAttribute("aria-label") ?? at.textContent.trim(),
    visible: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
    inSight: box.bottom > 0 && box.top < innerHeight,
    inDialog: at.closest("dialog") !== null,
  };
}"""


def test_all_of_it_works_without_a_mouse(open_page: Callable[..., Page]) -> None:
    page = open_page("#/agents")
    page.get_by_role("link", name="attic").wait_for()
    assert page.evaluate("document.activeElement.id") == "main", "the form that had it is gone"
    page.reload()
    page.get_by_role("link", name="attic").wait_for()
    page.keyboard.press("Tab")
    assert page.evaluate(FOCUS)["name"] == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    assert page.url.endswith("#/agents"), "the way into the content is no change of the page"
    page.reload()
    page.get_by_role("link", name="attic").wait_for()
    names = []
    for _ in range(25):
        page.keyboard.press("Tab")
        focus = page.evaluate(FOCUS)
        assert focus["visible"] and focus["inSight"], focus
        names.append(focus["name"])
        if focus["name"] == "attic":
            break
    assert names[1:6] == ["p2pstream, overview", "Overview", "Agents", "Routes", "Traffic"]
    assert names[-1] == "attic"
    page.keyboard.press("Enter")
    page.get_by_role("dialog", name="attic").locator(".toml").nth(1).wait_for()
    for _ in range(12):
        page.keyboard.press("Tab")
        at = page.evaluate("document.activeElement.tagName")
        assert page.evaluate(FOCUS)["inDialog"] or at == "BODY", "what is behind takes no part"
    page.keyboard.press("Escape")
    page.get_by_role("dialog").wait_for(state="hidden")
    until(page, "document.activeElement.textContent === 'attic'")
    assert page.url.endswith("#/agents")


def test_a_page_has_landmarks_and_one_heading(open_page: Callable[..., Page]) -> None:
    page = open_page()
    for name in ("Overview", "Agents", "Routes", "Traffic"):
        page.get_by_role("navigation", name="Pages").get_by_role("link", name=name).click()
        page.get_by_role("heading", level=1).filter(has_text=name).wait_for()
        assert page.title() == f"{name} · p2pstream"
        assert page.get_by_role("heading", level=1).count() == 1
        assert page.locator("[aria-current=page]").text_content() == name
        for landmark in ("banner", "main"):
            assert page.get_by_role(landmark).count() == 1


def test_nothing_moves_for_who_asked_for_that(open_page: Callable[..., Page]) -> None:
    page = open_page("#/agents", reduced_motion="reduce")
    page.get_by_role("link", name="attic").click()
    page.get_by_role("dialog").wait_for()
    assert page.evaluate("document.getAnimations().length") == 0
