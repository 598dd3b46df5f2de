"""Ids, secrets and tokens of agents; whether somebody who dials in is the agent it says.

    token = "p2ps_" base64url( 1 | agent_id | secret | pin | url ... | check )

with a leading version byte, every field behind its length in one byte, and at the end the first
four bytes of the SHA-256 of all before them, so that a token cut short in a paste is told from a
wrong one.

Rules:

1. The server keeps the SHA-256 of a secret, never the secret; 32 random bytes need no salt.
2. Unknown id, disabled agent, wrong secret: one answer, in the same time. The reason is only for
   the log.
3. Nothing here prints a secret, nor repeats a token that does not parse.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from typing import Final

from attrs import evolve, frozen

from p2pstream.config.model import Agent
from p2pstream.config.scalars import Secret, TokenHash, parse_base_url, parse_id

_PREFIX: Final = "p2ps_"
_VERSION: Final = 1
_CHECK_BYTES: Final = 4
_SECRET_BYTES: Final = 32
_PIN_BYTES: Final = 32
# 26 base32 characters are 130 bits: no two agents get one id, ever.
_ID_RANDOM_BYTES: Final = 17
_ID_CHARACTERS: Final = 26
# An agent serves a handful of servers; a token stays one line.
_MAX_URLS: Final = 8

# RFC 6750 §2.1: what a Bearer token may consist of.
_BEARER: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")
# Compared with for ids that nobody has: the hash of a secret that nobody has.
_NOBODY: Final = TokenHash(hashlib.sha256(secrets.token_bytes(_SECRET_BYTES)).digest())


def new_agent_id() -> str:
    """`agent-` and 26 random lower-case base32 characters."""
    text = base64.b32encode(secrets.token_bytes(_ID_RANDOM_BYTES)).decode("ascii").lower()
    return f"agent-{text[:_ID_CHARACTERS]}"


def new_secret() -> Secret:
    """32 random bytes as 43 base64url characters."""
    return Secret(_base64url(secrets.token_bytes(_SECRET_BYTES)))


@frozen
class Token:
    """All that an agent needs, in one argument.

    `ca_pin` is the SHA-256 of the management CA's public key; None means that the server's
    certificate is one that the system's trust store knows (or that the URL is plain http).
    """

    server_urls: tuple[str, ...]
    agent_id: str
    secret: Secret
    ca_pin: bytes | None = None

    def encode(self) -> str:
        """The token as it stands in the setup command."""
        fields = [
            self.agent_id.encode("ascii"),
            self.secret.reveal().encode("ascii"),
            self.ca_pin or b"",
            *(url.encode("ascii") for url in self.server_urls),
        ]
        body = bytes([_VERSION]) + b"".join(bytes([len(field)]) + field for field in fields)
        return _PREFIX + _base64url(body + _check(body))

    @classmethod
    def parse(cls, text: str) -> Token:
        """Read a token; blanks and line breaks in it, as terminals put there, do not matter.

        Errors: `ValueError`, in words for whoever pasted it.
        """
        packed = "".join(text.split())
        if not packed.startswith(_PREFIX):
            raise ValueError(f"a token begins with `{_PREFIX}`; this is something else")
        body = _checked(packed.removeprefix(_PREFIX))
        fields = _fields(body[1:])
        if len(fields) < 4:
            raise ValueError("the token is not whole; make a new one")
        agent_id, secret, pin, *urls = fields
        if len(pin) not in (0, _PIN_BYTES) or not _BEARER.fullmatch(secret.decode("latin-1")):
            raise ValueError("the token is damaged; make a new one")
        return cls(
            tuple(parse_base_url(url.decode("latin-1")) for url in urls),
            parse_id(agent_id.decode("latin-1")),
            Secret(secret.decode("ascii")),
            pin or None,
        )


def make_token(
    agent_id: str, secret: Secret, server_urls: tuple[str, ...], ca_pin: bytes | None
) -> Token:
    """Check what is to go into a token. Errors: `ValueError`."""
    if not 1 <= len(server_urls) <= _MAX_URLS:
        raise ValueError(f"a token has between 1 and {_MAX_URLS} server URLs")
    urls = tuple(parse_base_url(url) for url in server_urls)
    for url in urls:
        if len(url) > 255:
            raise ValueError("a server URL in a token has at most 255 characters")
    if not _BEARER.fullmatch(secret.reveal()) or len(secret.reveal()) > 255:
        raise ValueError("a secret is 1-255 characters of A-Z a-z 0-9 . _ ~ + / -")
    return Token(urls, parse_id(agent_id), secret, ca_pin)


def hash_token(text: str) -> TokenHash:
    """The `token_hash` for a setup token, or for a bare secret. Errors: `ValueError`."""
    packed = text.strip()
    if packed.startswith(_PREFIX):
        return TokenHash.of(Token.parse(packed).secret.reveal())
    if not _BEARER.fullmatch(packed):
        raise ValueError("neither a token nor a secret: characters in it that none of them has")
    return TokenHash.of(packed)


@frozen
class Refusal:
    """Somebody is not let in; `detail` is for the log alone."""

    detail: str


def authenticate(agents: Mapping[str, Agent], agent_id: str, secret: bytes) -> Agent | Refusal:
    """The agent that has this id and secret, in the time that it takes for any id and secret.

    Of several hashes it has the one that matched alone: whoever keeps it can tell when that is
    withdrawn.
    """
    agent = agents.get(agent_id)
    hashes = agent.token_hash if agent is not None else ()
    # Two comparisons for everyone: an agent has two hashes at most, while its secret is rotated.
    padded = (*hashes, _NOBODY, _NOBODY)[: max(2, len(hashes))]
    matches = [token_hash.matches(secret) for token_hash in padded]
    if agent is None:
        return Refusal(f"no agent has the id {agent_id[:80]!r}")
    if not any(matches[: len(hashes)]):
        return Refusal(f"agent {agent.id}: wrong secret")
    if not agent.enabled:
        return Refusal(f"agent {agent.id}: disabled")
    if len(hashes) == 1:  # all agents but those whose secret is being rotated
        return agent
    matched = (one for one, matches_it in zip(padded, matches, strict=True) if matches_it)
    return evolve(agent, token_hash=tuple(matched))


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _check(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()[:_CHECK_BYTES]


def _checked(text: str) -> bytes:
    """The body of a token whose check fits. Errors: `ValueError`."""
    cut = "the token is cut short or has a wrong character: copy all of it, or make a new one"
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error) as error:
        raise ValueError(cut) from error
    body, check = raw[:-_CHECK_BYTES], raw[-_CHECK_BYTES:]
    if not body or not hmac.compare_digest(check, _check(body)):
        raise ValueError(cut)
    if body[0] != _VERSION:
        raise ValueError(f"the token is of version {body[0]}: upgrade this agent")
    return body


def _fields(data: bytes) -> list[bytes]:
    fields = []
    while data:
        end = 1 + data[0]
        if len(data) < end:
            raise ValueError("the token is not whole; make a new one")
        fields.append(data[1:end])
        data = data[end:]
    return fields
