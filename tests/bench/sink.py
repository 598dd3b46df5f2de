"""An origin for uploads: reads a body to its end and answers how many bytes it had.

nginx, the origin of everything else, answers a request it has no use for before its body has come,
which is a different test. Body bytes are dropped inside the kernel, so that the sink costs the core
it shares with the load next to nothing; for ``/digest`` they are read and hashed instead.
"""

import hashlib
import socket
import sys
import threading
from collections.abc import Callable

# Enough that system calls do not count, small enough to stay in a core's cache.
CHUNK = 256 * 1024


def read_head(peer: socket.socket) -> tuple[bytes, bytes] | None:
    """One request head and what came after it, or None when the peer has left."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = peer.recv(CHUNK)
        if not more:
            return None
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def content_length(head: bytes) -> int:
    """The declared length; 0 when there is none (a chunked body is nothing we ask peers for)."""
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


def drain(peer: socket.socket, count: int, seen: Callable[[bytes], object] | None) -> bool:
    """Take ``count`` bytes off the socket; False when it ended before."""
    buffer = memoryview(bytearray(CHUNK))
    # With MSG_TRUNC a TCP socket drops the bytes instead of copying them out (tcp(7)).
    flags = 0 if seen else socket.MSG_TRUNC
    while count:
        got = peer.recv_into(buffer, min(count, CHUNK), flags)
        if not got:
            return False
        if seen:
            seen(bytes(buffer[:got]))
        count -= got
    return True


def serve(peer: socket.socket) -> None:
    """Answer requests on one connection until it ends."""
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with peer:
        while parts := read_head(peer):
            head, rest = parts
            count = content_length(head)
            digest = hashlib.sha256(rest) if b" /digest " in head.split(b"\r\n")[0] else None
            if not drain(peer, count - len(rest), digest.update if digest else None):
                return
            body = (digest.hexdigest() if digest else str(count)).encode()
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


def guarded(peer: socket.socket) -> None:
    """Serve; a peer that resets its connection (a proxy being stopped) ends only that one."""
    try:
        serve(peer)
    except ConnectionError:
        pass


def main() -> None:
    with socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=1024) as listener:
        while True:
            peer, _ = listener.accept()
            threading.Thread(target=guarded, args=(peer,), daemon=True).start()


if __name__ == "__main__":
    main()
