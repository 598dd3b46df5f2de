"""A WebSocket server (websockets, PyPI): `python ws_origin.py`, prints its port.

/echo        sends back each message as it came, text or binary; understands permessage-deflate
/pieces      sends every message back in fragments of 1,000 bytes or characters
/close/N     closes with code N and the reason `as asked`
/tell        after each message: its kind and length; once closed, keeps what the client closed with
/last        what the last /tell connection was closed with: `code reason`; waits for its end
/ping        pings the client, and says how it went
"""

from __future__ import annotations

import sys
import threading
from http import HTTPStatus

from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve

PIECE = 1_000
MAX_SIZE = 1 << 21
LAST = ["nothing"]
TELLING = threading.Lock()  # while a /tell connection has not ended and been noted


def handle(connection: ServerConnection) -> None:
    """One connection."""
    assert connection.request is not None
    _, kind, *rest = connection.request.path.split("/")
    if kind == "tell":
        with TELLING:
            converse(connection, kind)
            LAST[0] = f"{connection.close_code} {connection.close_reason}"
    else:
        converse(connection, kind, *rest)


def converse(connection: ServerConnection, kind: str, *rest: str) -> None:
    """All of one connection up to its end."""
    try:
        if kind == "close":
            connection.close(int(rest[0]), "as asked")
        elif kind == "ping":
            answered = connection.ping("are you there?").wait(10)
            connection.send("answered" if answered else "no answer")
        else:
            talk(connection, kind)
    except ConnectionClosed:
        pass


def talk(connection: ServerConnection, kind: str) -> None:
    """Answer each message."""
    for message in connection:
        if kind == "pieces":
            size = len(message)
            connection.send(message[at : at + PIECE] for at in range(0, size, PIECE))
        elif kind == "tell":
            connection.send(f"{type(message).__name__} {len(message)}")
        else:
            connection.send(message)


def plain(connection: ServerConnection, request: Request) -> Response | None:
    """The one answer that is no WebSocket."""
    if request.path != "/last":
        return None
    with TELLING:
        return connection.respond(HTTPStatus.OK, LAST[0])


if __name__ == "__main__":
    with serve(handle, "127.0.0.1", 0, process_request=plain, max_size=MAX_SIZE) as server:
        print(server.socket.getsockname()[1], flush=True)
        sys.stdout.close()
        server.serve_forever()
