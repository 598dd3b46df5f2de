from __future__ import annotations

import re
from typing import cast

import pytest

from p2pstream.manage import pages
from p2pstream.manage.server import Exchange, Router
from p2pstream.net.http import Request, Response, ServerConnection

# What the dashboard may weigh in all, as the product promises.
MOST_BYTES = 150_000


def router(base: str = "") -> Router:
    made = Router(base)
    pages.add_to(made)
    return made


async def get(to: Router, path: str, **fields: str) -> Response:
    headers = tuple((name.replace("_", "-"), value) for name, value in fields.items())
    nobody = cast(ServerConnection, None)  # a page reads nothing and sends by its answer alone
    answer = await to.respond(Exchange(Request("GET", path, headers), nobody, "192.0.2.1"))
    assert isinstance(answer, Response)
    return answer


def linked(page: bytes) -> list[str]:
    return re.findall(r'(?:src|href)="(static/[^"]+)"', page.decode())


def test_all_of_it_is_light() -> None:
    sizes = {name: len(body) for name, body in pages.assets().items()}
    assert sum(sizes.values()) < MOST_BYTES, sizes


async def test_the_page_names_every_file_and_each_is_there() -> None:
    one = router("/ops")
    page = await get(one, "/ops/")
    assert page.header("content-type") == "text/html; charset=utf-8"
    found = {}
    for url in linked(page.body):
        found[url.rpartition("/")[2]] = answer = await get(one, f"/ops/{url}")
        assert answer.status == 200
    assert found.keys() == pages.assets().keys() - {"index.html"}


async def test_modules_import_what_is_there() -> None:
    files = pages.assets()
    for name, body in files.items():
        for module in re.findall(r'from "\./([^"]+)"', body.decode()):
            assert module in files, f"{name} imports {module}"


async def test_assets_are_kept_for_ever_and_the_page_is_asked_for_anew() -> None:
    one = router()
    page = await get(one, "/")
    assert page.header("cache-control") == "no-cache"
    asset = await get(one, "/" + linked(page.body)[0])
    assert asset.header("cache-control") == "public, max-age=31536000, immutable"
    assert asset.header("content-type") == "image/svg+xml"


async def test_another_file_is_another_address(monkeypatch: pytest.MonkeyPatch) -> None:
    before = linked((await get(router(), "/")).body)
    changed = {**pages.assets(), "dom.js": b"// another one\n"}
    monkeypatch.setattr(pages, "assets", lambda: dict(changed))
    one = router()
    after = linked((await get(one, "/")).body)
    assert not set(before) & set(after)
    assert (await get(one, "/" + before[0])).status == 404


@pytest.mark.parametrize("form", ["{}", "W/{}", '"other", {}'])
async def test_who_has_it_is_not_sent_it_again(form: str) -> None:
    one = router()
    etag = (await get(one, "/")).header("etag")
    assert etag is not None
    answer = await get(one, "/", if_none_match=form.format(etag))
    assert (answer.status, answer.body) == (304, b"")
    assert answer.header("etag") == etag
    assert (await get(one, "/", if_none_match='"other"')).status == 200


async def test_the_policy_stands_on_every_file() -> None:
    one = router()
    page = await get(one, "/")
    for answer in (page, *[await get(one, f"/{url}") for url in linked(page.body)]):
        policy = dict(
            rule.partition(" ")[::2]
            for rule in (answer.header("content-security-policy") or "").split("; ")
        )
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert policy["trusted-types"] == "'none'"
        assert answer.header("x-content-type-options") == "nosniff"


def test_nothing_in_the_files_asks_for_more() -> None:
    """No inline script or style, and no address of anybody else's."""
    for name, body in pages.assets().items():
        text = body.decode().replace("http://www.w3.org/2000/svg", "")  # a name, not an address
        if name.endswith(".html"):
            assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", text), name
        assert not re.search(r"url\(|@import|https?://(?![$a-z]+\.example|\$\{)", text), name


async def test_the_base_path_gets_its_slash() -> None:
    answer = await get(router("/ops"), "/ops")
    assert (answer.status, answer.header("location")) == (308, "/ops/")
    assert (await get(router("/ops"), "/")).status == 404
