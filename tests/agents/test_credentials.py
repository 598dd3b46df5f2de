from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pstream.agents.credentials import (
    Refusal,
    Token,
    authenticate,
    hash_token,
    make_token,
    new_agent_id,
    new_secret,
)
from p2pstream.config.model import Agent
from p2pstream.config.scalars import Secret, TokenHash

PIN = bytes(range(32))
TOKEN = Token(("https://p2p.example:8081/base",), "agent-x", Secret("s3cret_-"), PIN)


def test_ids_have_their_form_and_are_new() -> None:
    ids = {new_agent_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(re.fullmatch(r"agent-[a-z2-7]{26}", text) for text in ids)


def test_secrets_are_32_random_bytes_and_new() -> None:
    secrets = {new_secret().reveal() for _ in range(100)}
    assert len(secrets) == 100
    assert all(len(base64.urlsafe_b64decode(text + "=")) == 32 for text in secrets)


def test_a_generated_token_fits_on_two_lines_and_shows_no_secret() -> None:
    token = make_token(new_agent_id(), new_secret(), ("https://p2pstream.example.com:8081",), PIN)
    text = token.encode()
    assert re.fullmatch(r"p2ps_[A-Za-z0-9_-]+", text)
    assert len(text) < 300
    assert Token.parse(text) == token
    assert token.secret.reveal() not in repr(token)


URLS = st.sampled_from(
    ["https://a.example", "http://127.0.0.1:8081", "https://[2001:db8::1]:8443", "https://x.y/b/c"]
)
TOKENS = st.builds(
    Token,
    server_urls=st.lists(URLS, min_size=1, max_size=8).map(tuple),
    agent_id=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", fullmatch=True),
    secret=st.from_regex(r"[A-Za-z0-9._~+/-]{1,200}={0,2}", fullmatch=True).map(Secret),
    ca_pin=st.none() | st.binary(min_size=32, max_size=32),
)


@given(token=TOKENS, data=st.data())
def test_a_token_comes_back_whole_however_it_was_wrapped(token: Token, data: st.DataObject) -> None:
    text = token.encode()
    at = data.draw(st.integers(0, len(text)))
    assert Token.parse(f"  {text[:at]}\n   {text[at:]}\r\n") == token


@given(token=TOKENS, data=st.data())
def test_a_token_cut_short_or_changed_is_refused(token: Token, data: st.DataObject) -> None:
    text = token.encode()
    cut = text[: data.draw(st.integers(0, len(text) - 1))]
    with pytest.raises(ValueError, match=r"token"):
        Token.parse(cut)
    at = data.draw(st.integers(5, len(text) - 1))
    other = "A" if text[at] != "A" else "B"
    changed = text[:at] + other + text[at + 1 :]
    try:
        assert Token.parse(changed) == token  # spare bits of the last base64 character
    except ValueError as error:
        assert token.secret.reveal() not in str(error) or len(token.secret.reveal()) < 8


@given(st.text(max_size=60) | st.text(max_size=60).map(lambda text: "p2ps_" + text))
def test_anything_else_is_refused_in_words(text: str) -> None:
    with pytest.raises(ValueError, match="token"):
        Token.parse(text)


def seal(body: bytes) -> str:
    """A token whose check fits, whatever is in it."""
    raw = body + sha256(body).digest()[:4]
    return "p2ps_" + base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def fields(*values: bytes) -> bytes:
    return b"\x01" + b"".join(bytes([len(value)]) + value for value in values)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ghp_abc", "begins with `p2ps_`"),
        ("p2ps_", "cut short"),
        (TOKEN.encode()[:-3], "cut short"),
        (TOKEN.encode() + "x", "cut short"),
        (seal(b"\x02whatever"), "version 2: upgrade this agent"),
        (seal(fields(b"id", b"secret", b"")), "not whole"),
        (seal(b"\x01\x20abc"), "not whole"),
        (seal(fields(b"id", b"secret", b"short pin", b"https://x")), "damaged"),
        (seal(fields(b"id", b"se cret", b"", b"https://x")), "damaged"),
        (seal(fields(b"id", b"secret", b"", b"ftp://x")), "http"),
        (seal(fields(b"-", b"secret", b"", b"https://x")), "letters, digits"),
    ],
)
def test_what_is_wrong_with_a_token_is_said(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        Token.parse(text)


@pytest.mark.parametrize(
    ("urls", "secret", "words"),
    [
        ((), "s", "between 1 and 8 server URLs"),
        (("https://x",) * 9, "s", "between 1 and 8 server URLs"),
        (("https://x/" + "y" * 300,), "s", "at most 255"),
        (("x.example",), "s", "must be a URL"),
        (("https://x",), "a b", "a secret is"),
        (("https://x",), "a" * 256, "a secret is"),
    ],
)
def test_what_may_go_into_a_token(urls: tuple[str, ...], secret: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make_token("id", Secret(secret), urls, None)


def test_a_hash_is_that_of_the_secret() -> None:
    expected = TokenHash.of("s3cret_-")
    assert hash_token(TOKEN.encode()) == hash_token(" s3cret_-\n") == expected
    for wrong in ("", "two words", "p2ps_nonsense"):
        with pytest.raises(ValueError, match="token"):
            hash_token(wrong)


def agents(*listed: Agent) -> dict[str, Agent]:
    return {agent.id: agent for agent in listed}


KNOWN = agents(
    Agent("one", (TokenHash.of("secret-1"),)),
    Agent("rotating", (TokenHash.of("old"), TokenHash.of("new"))),
    Agent("off", (TokenHash.of("secret-2"),), enabled=False),
)


@pytest.mark.parametrize(
    ("agent_id", "secret", "outcome"),
    [
        ("one", b"secret-1", "one"),
        ("rotating", b"old", "rotating"),
        ("rotating", b"new", "rotating"),
        ("one", b"secret-2", "agent one: wrong secret"),
        ("one", b"", "agent one: wrong secret"),
        ("one", b"old", "agent one: wrong secret"),
        ("rotating", b"secret-1", "agent rotating: wrong secret"),
        ("off", b"secret-2", "agent off: disabled"),
        ("off", b"wrong", "agent off: wrong secret"),
        ("nobody", b"secret-1", "no agent has the id 'nobody'"),
        ("", b"", "no agent has the id ''"),
        ("One", b"secret-1", "no agent has the id 'One'"),
    ],
)
def test_who_is_let_in(agent_id: str, secret: bytes, outcome: str) -> None:
    found = authenticate(KNOWN, agent_id, secret)
    if isinstance(found, Refusal):
        assert found.detail == outcome
    else:
        assert found.id == outcome
        assert found.token_hash == (TokenHash.of(secret.decode()),)  # the one that matched alone
        assert found is KNOWN[outcome] or outcome == "rotating"


@pytest.fixture
def comparisons(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    made: list[object] = []
    real = TokenHash.matches

    def counted(self: TokenHash, secret: bytes) -> bool:
        made.append(self)
        return real(self, secret)

    monkeypatch.setattr(TokenHash, "matches", counted)
    yield made


@pytest.mark.parametrize(
    ("agent_id", "secret"),
    [
        ("one", b"secret-1"),
        ("one", b"wrong"),
        ("rotating", b"old"),
        ("rotating", b"wrong"),
        ("off", b"secret-2"),
        ("nobody", b"x"),
    ],
)
def test_everyone_costs_two_comparisons(
    comparisons: list[object], agent_id: str, secret: bytes
) -> None:
    authenticate(KNOWN, agent_id, secret)
    assert len(comparisons) == 2
