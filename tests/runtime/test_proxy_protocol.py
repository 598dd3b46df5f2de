"""`proxy_protocol = true`: from trusted proxies a header is required, from others none is taken."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

V1 = b"PROXY TCP4 203.0.113.9 10.0.0.1 56324 443\r\n"
V2 = (
    b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c"
    + socket.inet_aton("203.0.113.9")
    + socket.inet_aton("10.0.0.1")
    + b"\xdc\x04\x01\xbb"
)
LOCAL = b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"
ASK = b"GET / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: 192.0.2.1\r\nConnection: close\r\n\r\n"


async def serve_origin(stream: trio.SocketStream) -> None:
    """Answer with the client that the proxy names."""
    head = b""
    while b"\r\n\r\n" not in head:
        more = await stream.receive_some()
        if not more:
            return
        head += more
    named = [
        line.partition(b": ")[2]
        for line in head.split(b"\r\n")
        if line.startswith(b"X-Forwarded-For")
    ]
    body = b",".join(named)
    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


@pytest.fixture
async def proxied(site: Any, start: Any, nursery: trio.Nursery, request: Any) -> Any:
    """A server whose listener believes in PROXY headers from `request.param`'s networks."""
    protocol, trusted = getattr(request, "param", ("http", "127.0.0.0/8"))
    origin, *_ = await nursery.start(partial(trio.serve_tcp, host="127.0.0.1"), serve_origin, 0)
    port = origin.socket.getsockname()[1]
    site.write(
        site.listener()
        .replace(
            f"port = {site.port}",
            f'port = {site.port}\nprotocol = "{protocol}"\n'
            f'proxy_protocol = true\ntrusted_proxies = ["{trusted}"]\nheader_timeout_millis = 500',
        )
        .replace(
            'target_type = "static"\nstatic_response_body = "web"',
            f'url = "http://127.0.0.1:{port}"',
        )
    )
    await start()
    yield site
    nursery.cancel_scope.cancel()


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    data = b""
    with trio.fail_after(10):
        try:
            while more := await stream.receive_some():
                data += more
        except trio.BrokenResourceError:
            pass
    return data


async def ask(site: Any, sent: bytes) -> bytes:
    stream = await site.connect()
    await stream.send_all(sent)
    return await read_all(stream)


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
async def test_the_client_is_who_the_header_names(proxied: Any, header: bytes) -> None:
    answer = await ask(proxied, header + ASK)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"\r\n\r\n203.0.113.9"), "what the client says of itself is not believed"


async def test_a_balancers_own_check_is_its_own(proxied: Any) -> None:
    answer = await ask(proxied, LOCAL + ASK)
    # The balancer is a trusted proxy itself: its own X-Forwarded-For is believed.
    assert answer.endswith(b"\r\n\r\n192.0.2.1, 127.0.0.1")


@pytest.mark.parametrize("proxied", [("http", "192.0.2.0/24")], indirect=True)
async def test_a_stranger_is_who_he_is_and_cannot_claim_another(proxied: Any) -> None:
    assert (await ask(proxied, ASK)).endswith(b"\r\n\r\n127.0.0.1")
    assert (await ask(proxied, V1 + ASK)).startswith(b"HTTP/1.1 400 ")
    assert not (await ask(proxied, V2 + ASK)).startswith(b"HTTP/1.1 200 ")


async def test_without_a_header_a_trusted_proxy_is_turned_away(
    proxied: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert await ask(proxied, ASK) == b""
    assert "connection from 127.0.0.1: the connection does not begin with a PROXY header" in (
        caplog.text
    )


async def test_who_sends_half_a_header_is_not_waited_for(proxied: Any) -> None:
    assert await ask(proxied, V1[:-1]) == b""


@pytest.mark.parametrize("proxied", [("https", "127.0.0.0/8")], indirect=True)
async def test_the_header_stands_before_tls(proxied: Any) -> None:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    tcp = await proxied.connect()
    await tcp.send_all(V2)
    tls = trio.SSLStream(tcp, context, https_compatible=True)
    with trio.fail_after(10):
        await tls.send_all(ASK)
    assert (await read_all(tls)).endswith(b"\r\n\r\n203.0.113.9")


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed")
@pytest.mark.parametrize("option", ["send-proxy", "send-proxy-v2", "send-proxy-v2-ssl-cn"])
async def test_haproxy_in_front(proxied: Any, tmp_path: Path, option: str) -> None:
    file = tmp_path / "haproxy.cfg"
    file.write_text(
        f"""
defaults
  mode tcp
  timeout connect 5s
  timeout client 10s
  timeout server 10s
listen front
  bind 127.0.0.1:{proxied.third}
  server us 127.0.0.1:{proxied.port} {option}
"""
    )
    haproxy = await trio.lowlevel.open_process(
        ["haproxy", "-db", "-f", str(file)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    try:
        with trio.fail_after(10):
            while True:
                try:
                    # 127.0.0.2 is loopback too, and not the address haproxy connects from.
                    stream = await trio.open_tcp_stream(
                        "127.0.0.1", proxied.third, local_address="127.0.0.2"
                    )
                    break
                except OSError:
                    await trio.sleep(0.02)
            await stream.send_all(ASK)
            answer = await read_all(stream)
        await stream.aclose()
    finally:
        haproxy.kill()
        await haproxy.wait()
    # It is in 127.0.0.0/8 as well, so what it says of those before it is believed.
    assert answer.endswith(b"\r\n\r\n192.0.2.1, 127.0.0.2")
