"""Reload under load: nothing fails, nothing that survives is closed, nothing is kept.

    python -m tests.soak.reload_soak [--connections 1000 --reloads 100 --seconds 100 --rate 500]

Half of the reloads change something (`Soak.write`), half find the file as it was. All the while
requests come at a fixed rate, through a direct target, an agent, and a group whose other target is
unhealthy; half of the held connections are upgraded and half are long polls, half direct and half
through the agent. Prints one JSON object; the exit code says whether all held.
"""

import argparse
import json
import ssl
import sys
import tempfile
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import trio

from p2pstream.net.ca import self_signed
from p2pstream.observe.records import RING_SIZE
from tests.ports import free_port
from tests.soak.load import Client, Held, Rate
from tests.soak.site import Site, raise_descriptor_limit


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--reloads", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=100)
    parser.add_argument("--rate", type=float, default=500)
    options = parser.parse_args()
    raise_descriptor_limit()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        soak = Soak(stack, folder, options)
        report = trio.run(soak.run)
    print(json.dumps(report, indent=2))
    return 0 if report["held"] else 1


class Soak:
    """One run."""

    def __init__(self, stack: ExitStack, folder: Path, options: argparse.Namespace) -> None:
        self.options = options
        self.site = Site(stack, folder)
        self.port, self.tls_port, self.extra_port, management_port = (free_port() for _ in "1234")
        self.failures: list[str] = []
        self.memory: list[int] = []
        self.extra_requests = self.tls_requests = 0
        self.site.start_origins()
        self.head = f"""
include = ["agents.d/*.toml"]
[server]
state_dir = "state"
[management]
port = {management_port}
[[listeners]]
id = "public"
bind_address = "127.0.0.1"
port = {self.port}
"""
        self.certify(0)
        self.site.config.write_text(self.head)
        made = self.site.run("agents", "create", "attic", "--label", "site=soak")
        self.agent_file = Path(made["file"])
        self.write(0)
        self.site.serve()
        self.site.agent(made["token"])

    # --- what the file says ---------------------------------------------------------------------

    def write(self, step: int) -> None:
        """The file after so many changes; each step changes several things."""
        good, sick = (
            f"http://127.0.0.1:{port}" for port in (self.site.origin_port, self.site.sick_port)
        )
        via = 'transport = "agent"\nagent_selector.match_labels = { site = "soak" }\n'
        text = self.head + f"max_connections = {5000 + step}\n"
        patient = "upstream_response_header_timeout_millis = 3600000\n"  # a long poll's answer
        text += self.route("direct", target(good, patient))
        text += self.route("agent", target(good, via + patient))
        group = target(good, f"weight = {1 + step % 7}\n")
        health = 'health_check = { path = "/health", interval_millis = 1000'
        health += ", timeout_millis = 500 }"
        group += target(good, f'name = "second"\n{health}\n')
        group += target(sick, f'name = "sick"\n{health}\n')
        text += self.route("group", group)
        if step % 2:
            preserve = "true" if step % 4 == 1 else "false"
            text += self.route("more", target(good, f"preserve_host = {preserve}\n"))
            text += '[[listeners]]\nid = "extra"\nbind_address = "127.0.0.1"\n'
            text += f"port = {self.extra_port}\n"
            text += self.route("extra", target(good), listener="extra")
        folder = self.site.folder
        text += f"""
[[listeners]]
id = "secure"
protocol = "https"
bind_address = "127.0.0.1"
port = {self.tls_port}
[[listeners.certificates]]
hostname_pattern = "direct.test"
certificate_file = "{folder}/cert.pem"
key_file = "{folder}/cert.pem"
"""
        text += self.route("secure", target(good), listener="secure")
        text += "".join(self.route(f"filler-{n}", target(good)) for n in range(step % 5, 200))
        self.site.config.write_text(text)
        agent = self.agent_file.read_text().partition("[agents.labels]")[0]
        labels = f'[agents.labels]\nsite = "soak"\nstep = "{step}"\n'
        self.agent_file.write_text(f"{agent}{labels}")

    def route(self, name: str, targets: str, listener: str = "public") -> str:
        """A route for the host of its name."""
        return f"""
[[routes]]
id = "{name}"
listener_id = "{listener}"
host_pattern = "{name.removeprefix("secure-")}.test"
{targets}"""

    def certify(self, step: int) -> None:
        """Another certificate under the same name."""
        self.certificate = self_signed(f"step-{step}.test", datetime.now(UTC)).pem
        (self.site.folder / "cert.pem").write_bytes(self.certificate)

    # --- the run --------------------------------------------------------------------------------

    async def run(self) -> dict[str, object]:
        """Load, reload, and report."""
        hosts = ("direct.test", "agent.test", "group.test")
        self.held = Held(self.port)
        self.rate = Rate(self.port, [(host, b"/") for host in hosts], self.options.rate, 32)
        await self.unhealthy()
        before = int(self.site.ask_origin("/count"))
        for number in range(self.options.connections // 2):
            await self.held.open((hosts[number % 2], b"/echo"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.rate.run)
            if self.options.reloads > 10:  # fewer tell nothing of memory
                await self.fill_ring()
            await self.reload_all()
            self.rate.stop()
        await self.held.prove()
        sick = int(self.site.ask_origin("/count")) - before
        await trio.to_thread.run_sync(self.site.ask_origin, "/release")
        await self.held.end()
        return self.report(sick)

    async def fill_ring(self) -> None:
        """The latest records are kept, up to a number: growth until then is no leak."""
        full = Rate(self.port, [("direct.test", b"/")], 2_000, 16)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(full.run)
            while full.answered < RING_SIZE and not full.failures:  # noqa: ASYNC110 -- a counter
                await trio.sleep(0.1)
            full.stop()
        self.failures += full.failures

    async def unhealthy(self) -> None:
        """Wait until the sick target is known to be."""
        while True:
            status = await trio.to_thread.run_sync(self.site.run, "status")
            if any(path["unusable"] == "unhealthy" for path in status["paths"]):
                return
            await trio.sleep(0.2)

    async def reload_all(self) -> None:
        """Reload at fixed times."""
        start = trio.current_time()
        step = 0
        for number in range(1, self.options.reloads + 1):
            await trio.sleep_until(start + number * self.options.seconds / self.options.reloads)
            if number % 2:
                step += 1
                if step % 3 == 0:
                    self.certify(step)
                self.write(step)
            self.site.reload()
            await self.reloaded(number)
            await self.look(step)
            self.memory.append(self.site.server.memory_bytes)
            if number % 10 == 0:
                await self.held.prove()

    async def reloaded(self, count: int) -> None:
        """Wait until so many reloads are done."""
        with trio.fail_after(30):
            while self.site.reloads < count:  # noqa: ASYNC110 -- a log in another process
                await trio.sleep(0.01)

    async def look(self, step: int) -> None:
        """What was reloaded is in force: the certificate, the listener that comes and goes."""
        client = await self.secure()
        if await client.get(("secure.test", b"/")) != (200, b"ok", True):
            self.failures.append(f"step {step}: https")
        shown = client.stream.getpeercert(binary_form=True)  # type: ignore[attr-defined]  # of TLS
        if shown != ssl.PEM_cert_to_DER_cert(first_certificate(self.certificate)):
            self.failures.append(f"step {step}: the certificate is an old one")
        self.tls_requests += 1
        await trio.aclose_forcefully(client.stream)
        try:
            extra = await Client.connect(self.extra_port)
        except OSError:
            if step % 2:
                self.failures.append(f"step {step}: the extra listener is not open")
            return
        if not step % 2:
            self.failures.append(f"step {step}: the extra listener is still open")
        elif await extra.get(("extra.test", b"/")) != (200, b"ok", True):
            self.failures.append(f"step {step}: the extra listener")
        self.extra_requests += 1
        await trio.aclose_forcefully(extra.stream)

    async def secure(self) -> Client:
        """A connection to the https listener."""
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        tcp = await trio.open_tcp_stream("127.0.0.1", self.tls_port)
        stream = trio.SSLStream(tcp, context, server_hostname="direct.test")
        await stream.do_handshake()
        return Client(stream)

    def report(self, sick: int) -> dict[str, object]:
        """What was seen, and whether it is what was promised."""
        latencies = sorted(seconds for _, seconds in self.rate.latencies)
        tenth, last = self.memory[min(9, len(self.memory) - 1)], self.memory[-1]
        failures = [*self.failures, *self.rate.failures, *self.held.failures]
        refused = self.site.log.read_text().count("refused") + self.site.log.read_text().count(
            "Traceback"
        )
        growth = last / tenth - 1
        return {
            "held": not failures and not sick and not refused and growth < 0.05,
            "reloads": self.site.reloads,
            "requests": self.rate.answered,
            "held_connections": self.held.count,
            "https_requests": self.tls_requests,
            "extra_listener_requests": self.extra_requests,
            "failures": len(failures),
            "first_failures": failures[:10],
            "log_faults": refused,
            "requests_to_the_unhealthy_target": sick,
            "median_millis": round(latencies[len(latencies) // 2] * 1000, 2),
            "p99_millis": round(latencies[len(latencies) * 99 // 100] * 1000, 2),
            "worst_millis": round(latencies[-1] * 1000, 2),
            "memory_at_every_tenth": self.memory[9::10],
            "memory_after_tenth_reload": tenth,
            "memory_at_the_end": last,
            "memory_growth_percent": round(growth * 100, 2),
        }


def target(url: str, extra: str = "") -> str:
    """A target."""
    return f'[[routes.targets]]\nurl = "{url}"\n{extra}'


def first_certificate(pem: bytes) -> str:
    """The leaf of a PEM file."""
    text = pem.decode()
    start = text.index("-----BEGIN CERTIFICATE-----")
    end = "-----END CERTIFICATE-----"
    return text[start : text.index(end, start) + len(end)]


if __name__ == "__main__":
    sys.exit(main())
