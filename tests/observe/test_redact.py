from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pstream.observe import redact

SECRET = "PLANTED-9f3a1c"


def shown(name: str, value: str, **more: object) -> str:
    line = (name.lower().encode(), name.encode(), value.encode())
    (label, text), *_ = redact.fields([line], **more)  # type: ignore[arg-type]  # as given
    assert label == name
    return text


@pytest.mark.parametrize(
    "name",
    [
        *("Authorization", "Proxy-Authorization", "Cookie", "Set-Cookie", "X-Api-Key", "X-Auth"),
        *("X-Access-Token", "X-Amz-Security-Token", "X-CSRF-Token", "X-XSRF", "Client-Secret"),
        *("X-Password", "X-Session-Id", "WWW-Authenticate", "X-Hub-Signature-256", "COOKIE2"),
        *("Authentication-Info", "x_api_key", "X-JWT-Assertion", "Api-Credential"),
    ],
)
def test_what_speaks_of_credentials_is_hidden(name: str) -> None:
    assert shown(name, SECRET) == "[redacted]"


@pytest.mark.parametrize("name", ["Host", "Accept", "User-Agent", "Via", "ETag", "Content-Length"])
def test_what_does_not_is_shown(name: str) -> None:
    assert shown(name, "as it is; q=1, a/b") == "as it is; q=1, a/b"


@pytest.mark.parametrize(
    "value", [f"Bearer {SECRET}", f"basic {SECRET}", f"Token {SECRET}", f"DIGEST x={SECRET}"]
)
def test_a_value_that_begins_like_a_credential_is_hidden(value: str) -> None:
    assert shown("X-Original", value) == "[redacted]"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("https://a.test/x?token=1&b=2", "https://a.test/x?token=[redacted]&b=2"),
        ("https://a.test/x#access_token=1&b=2", "https://a.test/x#access_token=[redacted]&b=2"),
        ("https://me:pw@a.test/x", "https://[redacted]@a.test/x"),
        ("https://me:p@w@a.test/x@y", "https://[redacted]@a.test/x@y"),
        ("https://a.test/x;jsessionid=1/y;v=2", "https://a.test/x;jsessionid=[redacted]/y;v=2"),
        ("multipart/form-data;boundary=token", "multipart/form-data;boundary=token"),
        ("/x?code=1&page=3", "/x?code=[redacted]&page=3"),
        ("/plain", "/plain"),
        ("text/html; q=0.5?", "text/html; q=0.5?"),
    ],
)
def test_urls_in_values_lose_their_credentials(value: str, expected: str) -> None:
    assert shown("Referer", value) == expected


def test_what_the_file_adds_is_hidden_wherever_it_stands() -> None:
    assert shown("X-Env", SECRET, hidden={b"x-env"}) == "[redacted]"
    assert shown("X-Echo", f"you said {SECRET}", values=[SECRET]) == "[redacted]"
    assert shown("X-Echo", "yes 1", values=["1", ""]) == "yes 1"  # too short to mean anything


def test_a_secret_is_not_cut_in_half() -> None:
    value = "x" * 1_015 + SECRET
    assert SECRET[:6] not in shown("X-Echo", value, values=[SECRET])
    assert len(shown("X-Long", "y" * 5_000)) < 1_100


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"page=1&sort=up", "page=1&sort=up"),
        (b"api_key=1&page=2", "api_key=[redacted]&page=2"),
        (b"%74oken=1", "%74oken=[redacted]"),
        (b"X-Amz-Signature=1", "X-Amz-Signature=[redacted]"),
        (b"sig=1&se=2", "sig=[redacted]&se=2"),
        (b"eyJhbGciOiJIUzI1NiJ9.e30", "[redacted]"),
        (b"flag", "flag"),
        (b"x=Bearer 1", "x=[redacted]"),
        (b"x=Bearer+1", "x=[redacted]"),
        (b"next=https%3A%2F%2Fa.test%2F%3Ftoken%3D1&b=2", "next=[redacted]&b=2"),
        (b"next=https%3A%2F%2Fa.test%2F%3Fpage%3D1", "next=https%3A%2F%2Fa.test%2F%3Fpage%3D1"),
        (b"", ""),
    ],
)
def test_queries(raw: bytes, expected: str) -> None:
    assert redact.query(raw) == expected


def test_paths() -> None:
    assert redact.path(b"/a;jsessionid=1;v=2/b;%73id=3/c") == (
        "/a;jsessionid=[redacted];v=2/b;%73id=[redacted]/c"
    )
    assert redact.path(b"/a/\xff;b") == "/a/\\xff;b"
    assert redact.sentence("no route for a.test/x;sid=1") == "no route for a.test/x;sid=[redacted]"


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_anything_can_be_shown(name: bytes, value: bytes) -> None:
    for label, text in redact.fields([(name.lower(), name, value)]):
        assert isinstance(label, str) and isinstance(text, str)
    assert isinstance(redact.query(value), str)
    assert isinstance(redact.text(value), str)
    assert isinstance(redact.path(value), str)
