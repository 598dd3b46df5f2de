"""Secrets and the hashes that stand for them. Neither ever prints what it holds."""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Final, final

from attrs import field, frozen

_HASH: Final = re.compile(r"sha256:([0-9a-fA-F]{64})")


@final
class Secret:
    """A string that shows as `Secret(***)`; equality takes the same time whatever differs."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the string itself: for the wire, never for a log."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(_bytes(self._value), _bytes(other._value))

    def __hash__(self) -> int:
        return hash(self._value)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


@final
@frozen(repr=False)
class TokenHash:
    """The SHA-256 of a token's secret, written `sha256:<64 hex>`."""

    digest: bytes = field()

    @classmethod
    def parse(cls, text: str) -> TokenHash:
        """`ValueError` unless it is `sha256:` and 64 hexadecimal digits; never repeats `text`."""
        match = _HASH.fullmatch(text)
        if match is None:
            raise ValueError(
                "must be `sha256:` and 64 hexadecimal digits; `p2pstream token hash` makes it "
                "from a token"
            )
        return cls(bytes.fromhex(match[1]))

    @classmethod
    def of(cls, secret: str | bytes) -> TokenHash:
        """Hash a secret; text is taken as UTF-8."""
        return cls(hashlib.sha256(secret.encode() if isinstance(secret, str) else secret).digest())

    def matches(self, secret: bytes) -> bool:
        """Whether this is the secret's hash, in constant time."""
        return hmac.compare_digest(hashlib.sha256(secret).digest(), self.digest)

    @property
    def text(self) -> str:
        """As the file has it."""
        return f"sha256:{self.digest.hex()}"

    def __repr__(self) -> str:
        # Eight digits tell two hashes apart and help nobody guess.
        return f"TokenHash(sha256:{self.digest.hex()[:8]}…)"
