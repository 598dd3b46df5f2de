"""An origin in the test's own hands: how its ends are passed on."""

from __future__ import annotations

import socket
import struct
import threading

import pytest

from tests.interop.http.peers import MEGABYTE, Raw, Site


@pytest.fixture(params=["direct"])
def host(request: pytest.FixtureRequest) -> str:
    return f"raw.{request.param}.test"


def reset(connection: Raw) -> None:
    """Close so that the other end sees a reset."""
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.sock.close()


ANSWER = b"HTTP/1.1 413 Too Much\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno\n"


@pytest.mark.parametrize("size", [100, 100_000, 20 * MEGABYTE])
def test_an_origin_that_answers_and_closes_without_reading(
    site: Site, host: str, size: int
) -> None:
    """Closing with unread bytes resets the connection; its answer, sent before, still counts."""
    for _ in range(5):
        with site.connect() as client:
            client.send(
                f"POST /x HTTP/1.1\r\nHost: {host}\r\nContent-Length: {size}\r\n\r\n".encode()
            )

            def upload() -> None:
                try:
                    client.send(bytes(size))
                except OSError:
                    pass

            sender = threading.Thread(target=upload)
            with site.accept() as origin:
                origin.until(b"\r\n\r\n")
                sender.start()
                origin.send(ANSWER)
            answer = client.until(b"\r\n\r\n")
            body = client.exactly(3) if answer.startswith(b"HTTP/1.1 413 ") else client.buffer
            reset(client)
            sender.join()
            assert (answer[9:12], body) == (b"413", b"no\n")
