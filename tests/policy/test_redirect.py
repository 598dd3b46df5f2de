from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pstream.config.model import Route
from p2pstream.errors import InvalidRequestTarget
from p2pstream.policy.path import inspect, prefix_matches
from p2pstream.policy.redirect import Redirect

SAME, ORIGIN, URL = "same_host_path", "external_origin_keep_path", "absolute_url"


def location(
    mode: str,
    target: str,
    prefix: str | None,
    asked: str,
    *,
    suffix: bool = True,
    keep_query: bool = True,
) -> str:
    redirect = Redirect(
        Route(
            id="r",
            listener_id="web",
            path_prefix=prefix,
            is_default=prefix is None,
            action="redirect",
            redirect_target_mode=mode,  # type: ignore[arg-type]  # a plain str in the tables
            redirect_target=target,
            redirect_preserve_path_suffix=suffix,
            redirect_preserve_query=keep_query,
        )
    )
    path, mark, query = asked.encode().partition(b"?")
    return redirect.location(path, query if mark else None).decode()


CASES = [
    # The spec's own examples.
    (SAME, "/new?fixed=1", "/old", "/old/thing?x=1", "/new/thing?fixed=1&x=1"),
    (URL, "https://t.example/base?fixed=1#frag", None, "/deep?x=1",
     "https://t.example/base/deep?fixed=1&x=1#frag"),
    (SAME, "/new", None, "/", "/new"),
    (SAME, "/new", "/", "/", "/new"),
    # What follows the prefix, and exactly one slash before it.
    (SAME, "/new", "/old", "/old", "/new"),
    (SAME, "/new", "/old", "/old/", "/new"),
    (SAME, "/new/", "/old", "/old", "/new/"),
    (SAME, "/new/", "/old", "/old/", "/new/"),
    (SAME, "/new/", "/old", "/old/x", "/new/x"),
    (SAME, "/new", "/old", "/old/x/", "/new/x/"),
    (SAME, "/new", "/old/", "/old/", "/new"),
    (SAME, "/new", "/old/", "/old/x", "/new/x"),
    (SAME, "/", "/old", "/old/x", "/x"),
    (SAME, "/", "/old", "/old", "/"),
    (SAME, "/new", "/a/b", "/a/b/c/d", "/new/c/d"),
    (SAME, "/new", "/old", "/old/a//b", "/new/a//b"),
    # The suffix keeps the encoding it came in; the prefix may have come in any.
    (SAME, "/new", "/old", "/%6fld/a%20b%2Fc", "/new/a%20b%2Fc"),
    (SAME, "/new", "/a%2Fb", "/a%2fb/c", "/new/c"),
    (SAME, "/new", "/café", "/caf%C3%A9/%C3%A9", "/new/%C3%A9"),
    # Never a new authority.
    (SAME, "/", "/old", "/old//evil.example", "/evil.example"),
    (SAME, "/", "/old", "/old///evil.example/x", "/evil.example/x"),
    (SAME, "/", None, "//evil.example/x", "/evil.example/x"),
    (SAME, "/", "/old", "/old/%5Cevil.example", "/%5Cevil.example"),
    (SAME, "/", "/old", "/old/%2Fevil.example", "/%2Fevil.example"),
    (URL, "https://t.example", "/old", "/old/@evil.example", "https://t.example/@evil.example"),
    (URL, "https://t.example", "/old", "/old/.evil.example", "https://t.example/.evil.example"),
    (ORIGIN, "https://t.example", None, "//evil.example", "https://t.example//evil.example"),
    # Queries: configured first, then what came.
    (SAME, "/new", "/old", "/old?x=1", "/new?x=1"),
    (SAME, "/new?fixed=1", "/old", "/old", "/new?fixed=1"),
    (SAME, "/new?fixed=1", "/old", "/old?", "/new?fixed=1"),
    (SAME, "/new?fixed=1", "/old", "/old?a?b&c", "/new?fixed=1&a?b&c"),
    (SAME, "/new?", "/old", "/old?x=1", "/new?x=1"),
    (SAME, "/new#frag", "/old", "/old/x?y", "/new/x?y#frag"),
    # Whole path.
    (ORIGIN, "https://t.example", "/old", "/old/x%2f?q=1", "https://t.example/old/x%2f?q=1"),
    (ORIGIN, "https://t.example/", None, "/", "https://t.example/"),
    (ORIGIN, "http://t.example:8080", None, "/a", "http://t.example:8080/a"),
    (ORIGIN, "https://t.example", None, "*", "https://t.example/"),
    # Whole URLs.
    (URL, "https://t.example", None, "/", "https://t.example"),
    (URL, "https://t.example", None, "/?x=1", "https://t.example?x=1"),
    (URL, "https://t.example/#top", "/old", "/old/x?y", "https://t.example/x?y#top"),
    (URL, "https://[::1]:8443/b", None, "/c", "https://[::1]:8443/b/c"),
    (URL, "https://bücher.example/straße?q=ä#ö", None, "/",
     "https://xn--bcher-kva.example/stra%C3%9Fe?q=%C3%A4#%C3%B6"),
]  # fmt: skip


@pytest.mark.parametrize(("mode", "target", "prefix", "asked", "expected"), CASES)
def test_location(mode: str, target: str, prefix: str | None, asked: str, expected: str) -> None:
    assert location(mode, target, prefix, asked) == expected


@pytest.mark.parametrize(
    ("mode", "target", "suffix", "keep_query", "expected"),
    [
        (SAME, "/new?f=1", False, True, "/new?f=1&x=1"),
        (SAME, "/new?f=1", True, False, "/new/thing?f=1"),
        (SAME, "/new", False, False, "/new"),
        (URL, "https://t.example/b#f", False, False, "https://t.example/b#f"),
        (ORIGIN, "https://t.example", True, False, "https://t.example/old/thing"),
        # It is in the mode's name that the path is kept.
        (ORIGIN, "https://t.example", False, True, "https://t.example/old/thing?x=1"),
    ],
)
def test_what_is_not_to_be_preserved(
    mode: str, target: str, suffix: bool, keep_query: bool, expected: str
) -> None:
    asked = "/old/thing?x=1"
    assert location(mode, target, "/old", asked, suffix=suffix, keep_query=keep_query) == expected


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_the_status_is_the_configured_one(status: int) -> None:
    route = Route(
        id="r",
        listener_id="web",
        redirect_target_mode="same_host_path",
        redirect_target="/",
        redirect_status_code=status,  # type: ignore[arg-type]  # a plain int here
    )
    assert Redirect(route).status == status


tails = st.text(alphabet="/\\%2fF5cC.@:?#ab", max_size=12)


@given(st.sampled_from(["/", "/new", "/new/"]), st.sampled_from([None, "/", "/old"]), tails)
def test_a_client_never_chooses_the_authority(target: str, prefix: str | None, tail: str) -> None:
    path = (prefix or "").rstrip("/") + "/" + tail.replace("?", "").replace("#", "")
    try:
        seen = inspect(path.encode())
    except InvalidRequestTarget:
        return
    if prefix is not None and not prefix_matches(prefix, seen):
        return
    same = location(SAME, target, prefix, path)
    # As browsers read it: a backslash is a slash.
    assert same.startswith("/")
    assert not same.replace("\\", "/").startswith("//")
    absolute = location(URL, "https://t.example" + target, prefix, path)
    assert urlsplit(absolute).netloc == "t.example"
    kept = location(ORIGIN, "https://t.example", prefix, path)
    assert urlsplit(kept).netloc == "t.example"
    assert kept == "https://t.example" + path
