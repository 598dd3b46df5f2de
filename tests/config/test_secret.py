from __future__ import annotations

import hashlib

import pytest

from p2pstream.config.secret import Secret, TokenHash

DIGEST = hashlib.sha256(b"hunter2").hexdigest()


def test_a_secret_shows_itself_only_when_asked() -> None:
    secret = Secret("hunter2")
    for shown in (repr(secret), str(secret), f"{secret}", f"{secret!r:>20}", "%s" % secret):  # noqa: UP031 - this way of printing is one of those meant
        assert "hunter2" not in shown
    assert secret.reveal() == "hunter2"
    assert not hasattr(secret, "__dict__")


def test_secrets_are_compared_by_value() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("ä") == Secret("ä")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a"), Secret("b")}) == 2


def test_a_hash_matches_its_secret_alone() -> None:
    stored = TokenHash.parse(f"sha256:{DIGEST.upper()}")
    assert stored == TokenHash.of("hunter2") == TokenHash.of(b"hunter2")
    assert stored.text == f"sha256:{DIGEST}"
    assert TokenHash.parse(stored.text) == stored
    assert stored.matches(b"hunter2")
    assert not stored.matches(b"hunter3")
    assert not stored.matches(b"")


def test_a_hash_does_not_print_itself_whole() -> None:
    assert DIGEST[8:] not in repr(TokenHash.of("hunter2"))
    assert DIGEST[8:] not in str(TokenHash.of("hunter2"))


@pytest.mark.parametrize(
    "text", ["", "hunter2", DIGEST, f"md5:{DIGEST}", f"sha256:{DIGEST}0", f"sha256:{DIGEST}\n"]
)
def test_what_is_no_hash_is_not_repeated(text: str) -> None:
    with pytest.raises(ValueError, match="64 hexadecimal") as caught:
        TokenHash.parse(text)
    assert not text or text not in str(caught.value)
