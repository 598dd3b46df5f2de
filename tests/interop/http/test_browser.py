"""A browser (Debian's chromium, driven by Playwright) as the client of WebSockets and events."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from tests.interop.http.peers import PATIENCE, Missing, Site, absent, program

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--no-proxy-server",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--host-resolver-rules=MAP *.test 127.0.0.1",
)  # fmt: skip
NUMBERS = count()

# Each resolves with what it saw; the page's own errors reject.
ECHO = """
async ([url, size]) => {
  const socket = new WebSocket(url);
  socket.binaryType = "arraybuffer";
  const next = () => new Promise((done, failed) => {
    socket.onmessage = (event) => done(event.data);
    socket.onerror = () => failed(new Error("the socket failed"));
    socket.onclose = (event) => failed(new Error("closed with " + event.code));
  });
  await new Promise((done, failed) => { socket.onopen = done; socket.onerror = failed; });
  const told = {extensions: socket.extensions, texts: []};
  for (const text of ["hello", "ünïcödé €", ""]) {
    const answer = next();
    socket.send(text);
    told.texts.push(await answer);
  }
  const sent = new Uint8Array(size);
  for (let at = 0; at < size; at += 65536)
    crypto.getRandomValues(sent.subarray(at, Math.min(at + 65536, size)));
  const answer = next();
  socket.send(sent);
  const got = new Uint8Array(await answer);
  told.same = got.length === size && got.every((byte, at) => byte === sent[at]);
  const closed = new Promise((done) => { socket.onclose = done; });
  socket.close(4321, "enough");
  const event = await closed;
  told.closed = [event.code, event.reason, event.wasClean];
  return told;
}
"""
CLOSED = """
(url) => new Promise((done) => {
  const socket = new WebSocket(url);
  socket.onclose = (event) => done([event.code, event.reason, event.wasClean]);
})
"""
EVENTS = """
([events, step]) => new Promise((done, failed) => {
  const source = new EventSource(events);
  const seen = [];
  source.onmessage = (event) => {
    seen.push(event.data);
    if (seen.length === 3) { source.close(); done(seen); } else fetch(step);
  };
  source.onerror = () => failed(new Error("the events ended after " + seen));
})
"""
FETCH = """
async ([url, size]) => {
  const body = new Uint8Array(size).fill(7);
  const answer = await fetch(url, {method: "POST", body});
  const told = await answer.json();
  return [answer.status, told.body_size, told.content_length];
}
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A running chromium."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        absent("no playwright (PyPI)")
    try:
        executable = program("chromium")
    except Missing as missing:
        absent(str(missing))
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=executable, args=list(FLAGS))
        yield running
        running.close()


@pytest.fixture(params=["http", "https"])
def page(browser: Any, site: Site, way: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A page from our listener; `page.ws` and `page.go` are the bases of two origins."""
    scheme = request.param
    port = site.tls_port if scheme == "https" else site.port
    context = browser.new_context(ignore_https_errors=True)
    page = context.new_page()
    page.set_default_timeout(PATIENCE * 1000)
    page.goto(f"{scheme}://go.{way}.test:{port}/page")
    assert page.title() == "page"
    page.go = f"{scheme}://go.{way}.test:{port}"
    page.ws = f"{scheme.replace('http', 'ws')}://ws.{way}.test:{port}"
    yield page
    context.close()


def test_a_websocket(site: Site, page: Any) -> None:
    site.need("ws")
    told = page.evaluate(ECHO, [f"{page.ws}/echo", 1 << 20])
    assert told.pop("extensions").startswith("permessage-deflate")
    assert told == {
        "texts": ["hello", "ünïcödé €", ""],
        "same": True,
        "closed": [4321, "enough", True],
    }


def test_a_websocket_that_the_server_closes(site: Site, page: Any) -> None:
    site.need("ws")
    assert page.evaluate(CLOSED, f"{page.ws}/close/4001") == [4001, "as asked", True]
    # No WebSocket there: the answer is an ordinary one, and the browser says 1006 of it.
    assert page.evaluate(CLOSED, f"{page.ws}/last")[0] == 1006


def test_events_and_uploads(site: Site, page: Any) -> None:
    site.need("go")
    key = f"browser-{next(NUMBERS)}"
    urls = [f"{page.go}/events?key={key}", f"{page.go}/step?key={key}"]
    assert page.evaluate(EVENTS, urls) == ["1", "2", "3"]
    assert page.evaluate(FETCH, [f"{page.go}/echo", 3 << 20]) == [200, 3 << 20, 3 << 20]
