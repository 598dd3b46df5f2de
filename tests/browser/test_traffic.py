"""Requests as they happen."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import quote

from tests.browser.conftest import Watched, enter, until
from tests.browser.stage import IMAGE, SCRIPT, Stage

if TYPE_CHECKING:
    from playwright.sync_api import Page


def ask(stage: Stage, host: str, path: str, **fields: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", stage.port, timeout=10)
    try:
        connection.request("GET", path, headers={"Host": host, **fields})
        response = connection.getresponse()
        response.read()  # to its end: who leaves before is a client that cancelled
        return response.status
    finally:
        connection.close()


def test_a_request_is_drawn_as_its_way(open_page: Callable[..., Page], stage: Stage) -> None:
    page = open_page("#/traffic?host=media.example.com&path_prefix=/look")
    assert ask(stage, "media.example.com", "/look/here") == 200
    row = page.get_by_role("row", name="/look/here")
    row.filter(has_text="200").wait_for()
    hops = row.locator(".hop").all_text_contents()
    assert hops[:2] == ["listener public", "route media"]
    assert hops[2] in ("target home-lab", "target cloud")
    assert hops[-2:] == [f"origin 127.0.0.1:{stage.origin_port}", "answer 200"]
    row.get_by_role("link").click()
    drawer = page.get_by_role("dialog")
    steps = drawer.locator(".steps li")
    kinds = drawer.locator(".steps .kind").all_text_contents()
    assert kinds[:2] == ["listener", "route"] and kinds[-1] == "answer"
    assert "+0.00 ms" in (steps.first.text_content() or "")
    drawer.get_by_role("link", name="Explain it now").click()
    page.locator(".explained .way").filter(has_text="media").wait_for()


def test_why_is_told_at_the_detailed_level(open_page: Callable[..., Page], stage: Stage) -> None:
    page = open_page("#/traffic?path_prefix=/broken&level=detailed")
    row = page.get_by_role("row", name="/broken").first
    row.filter(has_text="502 connect_failed").wait_for()
    page.get_by_role("button", name="Pause").click()
    row.get_by_role("link").click()
    drawer = page.get_by_role("dialog")
    drawer.locator("li.bad").filter(has_text="Connection refused").wait_for()
    drawer.get_by_role("link", name="The route").click()
    page.get_by_role("dialog", name="broken").wait_for()


def test_headers_are_shown_and_secrets_are_not(
    open_page: Callable[..., Page], stage: Stage
) -> None:
    page = open_page("#/traffic?path_prefix=/fields-of")
    page.get_by_label("Level").select_option("headers")
    until(page, "location.hash.includes('level=headers')")
    page.locator(".link[data-state=live]").wait_for()
    secret = "s3cr3t-of-mine"
    row = page.get_by_role("row", name="/fields-of")
    # The trace of the new level begins a moment after the page says so.
    for _ in range(50):
        ask(stage, "media.example.com", "/fields-of", Authorization=f"Basic {secret}")
        page.wait_for_timeout(100)
        if row.count():
            break
    page.get_by_role("button", name="Pause").click()
    row.first.get_by_role("link").click()
    drawer = page.get_by_role("dialog")
    for summary in drawer.locator("summary").all():
        summary.click()
    drawer.get_by_text("[redacted]").first.wait_for()
    text = drawer.text_content() or ""
    assert "authorization" in text.lower() and secret not in text and "never-shown" not in text


def test_pause_costs_nothing_and_clear_clears(open_page: Callable[..., Page]) -> None:
    page = open_page("#/traffic")
    page.locator("table.traffic tbody tr").first.wait_for()
    with page.expect_event("websocket") as resumed:
        page.get_by_role("button", name="Pause").click()
        page.locator(".link").filter(has_text="Paused").wait_for()
        page.get_by_text("Paused: tracing is off").wait_for()
        seen = page.locator("table.traffic tbody tr").count()
        page.wait_for_timeout(700)
        assert page.locator("table.traffic tbody tr").count() == seen
        page.get_by_role("button", name="Clear").click()
        page.get_by_text("Paused. Tracing is off.").wait_for()
        page.get_by_role("button", name="Resume").click()
    assert "/ops/api/v1/trace" in resumed.value.url
    page.locator("table.traffic tbody tr").first.wait_for()


def test_filters_are_the_servers(open_page: Callable[..., Page]) -> None:
    page = open_page("#/traffic")
    page.locator("table.traffic tbody tr").first.wait_for()
    page.get_by_text("Filters").click()
    page.get_by_label("Status").fill("5xx")
    with page.expect_event("websocket") as filtered:
        page.get_by_role("button", name="Apply").click()
    assert "status=5xx" in filtered.value.url
    page.locator("table.traffic tbody tr").filter(has_text="502").nth(1).wait_for()
    answers = page.locator("table.traffic .hop-answer").all_text_contents()
    assert {answer[:10] for answer in answers} == {"answer 502"}


def test_a_filter_that_means_nothing_is_said_to(
    open_page: Callable[..., Page], watched: Watched
) -> None:
    watched.allowed.append("WebSocket connection to")
    page = open_page("#/traffic?host=media.example.com")
    page.get_by_label("Status").fill("many")
    page.get_by_role("button", name="Apply").click()
    assert page.evaluate("document.querySelector('#by-status').matches(':invalid')")
    assert "status" not in page.url
    page.goto(page.url.partition("#")[0] + "#/traffic?host=not/a/host")
    page.get_by_text("a filter may be misspelt").wait_for()
    page.locator(".link").filter(has_text="Not accepted").wait_for()
    page.get_by_role("button", name="Reset").click()
    page.locator(".link[data-state=live]").wait_for()


def test_an_agent_is_found_by_its_name(open_page: Callable[..., Page], stage: Stage) -> None:
    page = open_page("#/traffic?agent=cellar")
    page.locator("table.traffic tbody tr").nth(2).wait_for()
    assert set(page.locator(".traffic .hop-agent").all_text_contents()) == {"agent cellar"}


def test_what_clients_send_is_text_and_never_markup(
    open_page: Callable[..., Page], stage: Stage
) -> None:
    page = open_page("#/traffic?level=headers&path_prefix=/library")
    # The path of what is on its way; what stands raw in it is refused before it is anybody's.
    fields = {"User-Agent": SCRIPT, "Referer": IMAGE}
    assert ask(stage, "media.example.com", "/library/" + quote(SCRIPT), **fields) == 200
    row = page.locator("table.traffic tbody tr").filter(has_text="%3Cscript%3E")
    row.filter(has_text="200").wait_for()
    page.get_by_role("button", name="Pause").click()
    row.get_by_role("link").click()
    drawer = page.get_by_role("dialog")
    for summary in drawer.locator("summary").all():
        summary.click()
    drawer.get_by_text(SCRIPT).first.wait_for()
    drawer.get_by_text(IMAGE).first.wait_for()
    assert page.evaluate("window.hacked") is None
    assert page.locator("main script, dialog script, dialog img").count() == 0


def test_what_was_dropped_is_said(watched: Watched, stage: Stage) -> None:
    """Of a server whose messages are made up: a page that is too slow cannot be had on demand."""
    page = watched.page()
    events = [
        {"id": "a", "stage": "received", "at": 1, "millis": 0, "listener": "l", "path": "/x"},
        {"id": "a", "stage": "failed", "at": 1, "millis": 2, "status": 503, "error_kind": "k"},
    ]
    page.route_web_socket(
        "**/api/v1/trace?**",
        lambda socket: socket.send(json.dumps({"events": events, "dropped": 7})),
    )
    enter(page, stage, "#/traffic")
    page.get_by_text("7 requests left out: more came than could be told").wait_for()
    page.get_by_role("row", name="/x").filter(has_text="503 k").wait_for()


def test_reading_further_down_holds_the_list_still(
    watched: Watched, fake: Callable[[int, int], str]
) -> None:
    page = watched.page(viewport={"width": 1000, "height": 500})
    page.goto(fake(20, 20) + "#/traffic")
    until(page, "document.querySelectorAll('table.traffic tbody tr').length > 25")
    page.evaluate("scrollTo(0, 600)")
    page.get_by_text("the list holds still").wait_for(state="attached")
    first = page.locator("table.traffic tbody th").first
    held = first.text_content()
    page.wait_for_timeout(800)
    assert first.text_content() == held
    page.evaluate("scrollTo(0, 0)")
    until(
        page,
        "(held) => document.querySelector('table.traffic tbody th').textContent !== held",
        held,
    )
