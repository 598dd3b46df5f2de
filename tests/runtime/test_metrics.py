"""`/metrics` of a whole server: for the administrator, true to what happened."""

from __future__ import annotations

from typing import Any

import trio
from prometheus_client.parser import text_string_to_metric_families as read

from p2pstream.manage.admin import token_file
from p2pstream.net.dial import dial_tcp
from p2pstream.net.http import Request, Response, fetch


async def scrape(site: Any, token: str = "", accept: str = "text/plain") -> Response:
    stream = await dial_tcp("127.0.0.1", site.management, 5)
    try:
        headers = [("host", "localhost"), ("accept", accept)]
        if token:
            headers.append(("authorization", f"Bearer {token}"))
        with trio.fail_after(10):
            request = Request("GET", "/metrics", tuple(headers))
            return await fetch(stream, request, max_body_bytes=1_000_000)
    finally:
        stream.close()


async def test_a_scrape_shows_what_happened(site: Any, start: Any) -> None:
    site.write(site.listener())
    await start()
    assert (await scrape(site)).status == 401
    for _ in range(3):
        assert await site.get() == (200, "web")
    token = token_file(site.file.parent / "state").read_text().strip()

    async def values() -> dict[str, float]:
        response = await scrape(site, token)
        assert response.status == 200
        return {
            sample.name: sample.value
            for family in read(response.body.decode())
            for sample in family.samples
            if sample.labels in ({}, {"status": "200"})
        }

    shown = await values()
    assert shown["p2pstream_responses_total"] == 3
    assert shown["p2pstream_history_up"] == 1
    assert shown["p2pstream_config_last_reload_successful"] == 1
    before = shown["p2pstream_config_last_reload_success_timestamp_seconds"]

    site.write(site.listener() + "nonsense = 1\n")
    assert (await site.runtime.reloading.reload()).exit_code == 3
    shown = await values()
    assert shown["p2pstream_config_last_reload_successful"] == 0
    assert shown["p2pstream_config_last_reload_success_timestamp_seconds"] == before

    site.write(site.listener() + site.listener("more", site.other))
    assert (await site.runtime.reloading.reload()).exit_code == 0
    shown = await values()
    assert shown["p2pstream_config_last_reload_successful"] == 1
    assert shown["p2pstream_config_last_reload_success_timestamp_seconds"] > before


async def test_openmetrics_where_it_is_asked_for(site: Any, start: Any) -> None:
    site.write(site.listener())
    await start()
    token = token_file(site.file.parent / "state").read_text().strip()
    accept = "application/openmetrics-text;version=1.0.0"
    response = await scrape(site, token, accept)
    assert (response.header("content-type") or "").startswith("application/openmetrics-text")
    assert response.body.endswith(b"# EOF\n")
