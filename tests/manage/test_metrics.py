"""What a scrape shows, read back by Prometheus' own reader and judged by its own linter."""

from __future__ import annotations

import shutil
import subprocess
from typing import Any

import pytest
from prometheus_client import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_open
from prometheus_client.parser import text_string_to_metric_families as read

from p2pstream.config.load import load_text
from p2pstream.manage.metrics import Gauges, registry
from p2pstream.observe.counters import Counters
from p2pstream.observe.records import Record
from p2pstream.policy.board import Board
from p2pstream.snapshot import compile_snapshot

FILE = """
[[listeners]]
id = "web"
port = 80
[[agents]]
id = "box"
token_hash = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
[agents.labels]
site = "home"
[[routes]]
id = "media"
listener_id = "web"
is_default = true
[[routes.targets]]
name = "home"
url = "http://127.0.0.1:1"
transport = "agent"
agent_selector.match_labels = { site = "home" }
[routes.targets.health_check]
[[routes.targets]]
name = "spare"
url = "http://127.0.0.1:2"
"""

OK = Record(
    0.0, 1, "web", "media", "home", "box", b"GET", b"a.test", b"/", 200, None,
    10, 300, 0.004, 0.003, None, True, 1, "192.0.2.1",
)  # fmt: skip
LOST = OK._replace(status=502, error_kind="connect_failed", agent=None, target="spare")
LOST = LOST._replace(duration=2.0, first_byte=None)
NOWHERE = OK._replace(route=None, target=None, agent=None, status=404, error_kind="no_route")


@pytest.fixture
def board() -> Board:
    board = Board(compile_snapshot(load_text(FILE)).tables)
    board.state(board.tables.routes["media"])
    board.agent_connected("box")
    return board


def scrape(board: Board, *records: Record) -> Any:
    counters = Counters()
    counters.add(records)
    gauges = Gauges(
        board,
        {},
        {"web": 7},
        started=1_000.0,
        reloaded=2_000.0,
        reload_ok=True,
        lost_lines=3,
        history_ok=True,
    )
    return registry(counters, gauges, list(board.paths.values()))


def samples(text: str) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in read(text)
        for sample in family.samples
    }


def test_counts_and_states_are_shown(board: Board) -> None:
    shown = samples(generate_latest(scrape(board, OK, OK, LOST, NOWHERE)).decode())
    path = ("box", "web", "media", "home")  # agent, listener, route, target
    assert shown["p2pstream_requests_total", *path] == 2
    assert shown["p2pstream_request_body_bytes_total", *path] == 20
    assert shown["p2pstream_response_bytes_total", *path] == 600
    assert shown["p2pstream_requests_total", "", "web", "", ""] == 1
    assert (
        shown["p2pstream_request_errors_total", "", "connect_failed", "web", "media", "spare"] == 1
    )
    assert shown["p2pstream_responses_total", "404"] == 1
    assert shown["p2pstream_connections", "web"] == 7
    assert shown["p2pstream_path_usable", "box", "media", "home"] == 1
    assert shown["p2pstream_path_health", "box", "media", "unknown", "home"] == 1
    assert shown["p2pstream_agent_connected", "box"] == 0, "the hub says who is connected"
    assert shown["p2pstream_access_log_lost_lines_total",] == 3
    assert shown["process_resident_memory_bytes",] > 0


def test_durations_add_up_by_route(board: Board) -> None:
    shown = samples(generate_latest(scrape(board, OK, OK, LOST, NOWHERE)).decode())
    name = "p2pstream_request_duration_seconds"
    buckets = {
        float(key[1]): value
        for key, value in shown.items()
        if key[0] == f"{name}_bucket" and "media" in key
    }
    ordered = [buckets[bound] for bound in sorted(buckets)]
    assert ordered == sorted(ordered)
    assert buckets[0.005] == 2
    assert buckets[1.0] == 2
    assert buckets[float("inf")] == 3 == shown[f"{name}_count", "web", "media"]
    assert shown[f"{name}_sum", "web", "media"] == pytest.approx(2.008)


def test_clients_make_no_series(board: Board) -> None:
    def hostile(number: int) -> Record:
        text = b"%d" % number
        return NOWHERE._replace(host=text, path=b"/" + text, method=text, client=str(number))

    few = samples(generate_latest(scrape(board, NOWHERE)).decode())
    many = samples(generate_latest(scrape(board, *map(hostile, range(1_000)))).decode())
    assert few.keys() == many.keys()


def test_it_is_openmetrics_too(board: Board) -> None:
    # The library's own module for OpenMetrics has no types.
    text = openmetrics.generate_latest(scrape(board, OK, LOST)).decode()  # type: ignore[no-untyped-call]
    families = list(read_open(text))  # type: ignore[no-untyped-call]
    assert "p2pstream_requests" in [family.name for family in families]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_has_nothing_to_say(board: Board) -> None:
    text = generate_latest(scrape(board, OK, LOST, NOWHERE))
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_names_follow_the_rules(board: Board) -> None:
    """What promtool checks, for where it is not installed."""
    for family in scrape(board, OK, LOST, NOWHERE).collect():
        assert family.documentation
        assert family.name == family.name.lower()
        assert not family.name.endswith(("_total", "_count", "_sum", "_bucket"))
        assert not any(unit in family.name for unit in ("milli", "kilo", "mega", "minutes"))
