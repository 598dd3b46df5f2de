"""A browser, and pages that fail a test by what their console says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.browser import axe
from tests.browser.stage import Stage, Visitors

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

HERE: Final = Path(__file__).parent
SCREENSHOTS: Final = HERE.parents[1] / "build" / "screenshots"
# Root needs the first; the others keep the browser from asking anybody anything.
ARGUMENTS: Final = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# What happens here takes milliseconds; two busy cores may take far longer.
PATIENCE_MILLIS: Final = 30_000

# Whatever the policy forbids is told on the console too, as an error; this says which rule it was.
_TELL_VIOLATIONS: Final = """
document.addEventListener("securitypolicyviolation", (event) =>
  console.error("CSP:", event.violatedDirective, event.blockedURI, event.sourceFile));
"""


def absent() -> str | None:
    """What is missing for a browser, if anything is."""
    if shutil.which("chromium") is None:
        return "no chromium (`make browser` installs it)"
    try:
        import playwright.sync_api  # noqa: F401 - only whether it is there
    except ImportError:
        return "no playwright (`make browser` has it)"
    return None


def skip(reason: str) -> None:
    """Skip; fail where `make browser` promised that nothing is missing."""
    if os.environ.get("BROWSER") == "required":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's chromium."""
    if (reason := absent()) is not None:
        skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        yield found
        found.close()


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One site for all: tests leave it as they found it."""
    if (reason := absent()) is not None:
        skip(reason)
    with ExitStack() as stack:
        made = Stage(stack, tmp_path_factory.mktemp("stage"))
        made.start()
        stack.enter_context(Visitors(made.port))
        yield made


class Watched:
    """Contexts whose pages are listened to: no error, no warning, no request to anybody else."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._contexts: list[BrowserContext] = []
        self.faults: list[str] = []
        self.allowed: list[str] = []
        """Regular expressions of what a test means to happen."""

    def page(self, **options: Any) -> Page:
        """A page of a browser of its own, see `new_context` for the options."""
        context = self._browser.new_context(ignore_https_errors=True, **options)
        context.set_default_timeout(PATIENCE_MILLIS)
        context.add_init_script(_TELL_VIOLATIONS)
        self._contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: self._heard(message.type, message.text))
        page.on("pageerror", lambda error: self.faults.append(f"thrown: {error}"))
        page.on("dialog", lambda dialog: self.faults.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: self._asked(request.url))
        page.on("websocket", lambda socket: self._asked(socket.url))
        return page

    def _heard(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.faults.append(f"{kind}: {text}")

    def _asked(self, url: str) -> None:
        if not re.match(r"(https?|wss?)://127\.0\.0\.1:|about:|data:|blob:", url):
            self.faults.append(f"request to {url}")

    def end(self) -> None:
        """Close all, and fail for what was heard."""
        for context in self._contexts:
            context.close()
        pattern = "|".join(self.allowed) or "(?!)"
        assert [fault for fault in self.faults if not re.search(pattern, fault)] == []


@pytest.fixture
def watched(browser: Browser) -> Iterator[Watched]:
    """Makes pages that fail the test by what they say."""
    made = Watched(browser)
    yield made
    made.end()


def enter(page: Page, stage: Stage, where: str = "") -> None:
    """Log in, and go to a place of the dashboard: `#/agents`."""
    page.goto(stage.url + where)
    page.get_by_label("Admin token").fill(stage.token)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("navigation", name="Pages").wait_for()
    live(page)


def live(page: Page) -> None:
    """Wait until the page says that it is live."""
    page.locator(".link[data-state=live]").wait_for()


def until(page: Page, expression: str, argument: object = None) -> None:
    """Wait until it holds. Playwright's own way polls with `eval`, which our policy forbids."""
    for _ in range(PATIENCE_MILLIS // 50):
        if page.evaluate(expression, argument):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never: {expression}")


@pytest.fixture
def open_page(watched: Watched, stage: Stage) -> Callable[..., Page]:
    """`open_page("#/agents", color_scheme="dark")`: a page of the real site, logged in."""

    def open_(where: str = "", **options: Any) -> Page:
        page = watched.page(**options)
        enter(page, stage, where)
        return page

    return open_


@pytest.fixture(scope="session")
def axe_source() -> str:
    """The accessibility checker's script."""
    found = axe.source()
    if found is None:
        skip("no axe-core (`make browser` fetches it)")
    assert found is not None
    return found


@pytest.fixture(scope="module")
def fake() -> Iterator[Callable[[int, int], str]]:
    """`fake(agents, routes)`: the URL of a made-up site, see `fake.py`."""
    if (reason := absent()) is not None:
        skip(reason)
    with ExitStack() as stack:

        def start(agents: int, routes: int) -> str:
            command = (sys.executable, str(HERE / "fake.py"), f"--agents={agents}")
            process = subprocess.Popen(
                (*command, f"--routes={routes}"), stdout=subprocess.PIPE, text=True
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            assert process.stdout is not None
            with process.stdout:
                return f"http://127.0.0.1:{int(process.stdout.readline())}/"

        yield start


__all__ = ["SCREENSHOTS", "Stage", "Watched", "enter", "live", "until"]
