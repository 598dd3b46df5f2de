"""Hosts of a network that exists only for a test: namespaces of Linux, a router in the middle.

    server ── router ── host 1, host 2, …        10.77.0.1   10.77.N.1   10.77.N.2

Whatever the router is told to lose is lost without a word: no reset, no ICMP, as behind a
firewall. The namespaces are made and removed by whoever is outside of all of them; inside, only
links, rules and addresses change.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

SERVER: Final = "10.77.0.1"
_ROUTER: Final = "10.77.0.254"
_IP: Final = "ip"


def why_not() -> str:
    """Why namespaces cannot be made here; empty when they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which(_IP) is None:
        return "no ip command (Debian: apt-get install iproute2)"
    probe = f"p2p{os.getpid()}x"
    if _run("netns", "add", probe, check=False):
        return "this kernel or container makes no network namespaces"
    _run("netns", "del", probe)
    return ""


class Network:
    """`hosts` hosts behind a router. Names of namespaces begin with `name`."""

    def __init__(self, name: str, hosts: int) -> None:
        self.server = f"{name}s"
        self._router = f"{name}r"
        self._hosts = [f"{name}{number}" for number in range(1, hosts + 1)]

    def make(self) -> None:
        """Make all of it."""
        for space in (self.server, self._router, *self._hosts):
            _run("netns", "add", space)
            _run("-n", space, "link", "set", "lo", "up")
        in_router = self.run_in(self._router)
        subprocess.run((*in_router, "sysctl", "-qw", "net.ipv4.ip_forward=1"), check=True)
        self._link(self.server, 0, SERVER, _ROUTER)
        for number in range(1, len(self._hosts) + 1):
            self.plug(number)

    def remove(self) -> None:
        """Remove all of it, whatever there is."""
        for space in (self.server, self._router, *self._hosts):
            _run("netns", "del", space, check=False)

    def run_in(self, space: str) -> tuple[str, ...]:
        """What to put before a command that is to run in a namespace."""
        return (_IP, "netns", "exec", space)

    def host(self, number: int) -> tuple[str, ...]:
        """What to put before a command that is to run on a host (from 1)."""
        return self.run_in(self._hosts[number - 1])

    def plug(self, number: int) -> None:
        """Connect a host to the router."""
        self._link(self._hosts[number - 1], number, _address(number), f"10.77.{number}.1")

    def unplug(self, number: int) -> None:
        """Take a host's link away, and its address with it."""
        _run("-n", self._router, "link", "del", f"to{number}")

    def lose(self, number: int, *, port: int | None = None) -> None:
        """Lose what goes to and comes from a host, or only what its `port` sends and gets."""
        for rule in _rules(number, port):
            _run("-n", self._router, "rule", "add", "pref", "10", *rule, "blackhole")

    def find(self, number: int, *, port: int | None = None) -> None:
        """Undo `lose`."""
        for rule in _rules(number, port):
            _run("-n", self._router, "rule", "del", "pref", "10", *rule, "blackhole")

    def port_towards(self, number: int, port: int) -> int:
        """The local port of a host's one connection to the server's `port`."""
        question = ("ss", "-Htn", "state", "established", "dport", "=", f":{port}")
        done = subprocess.run(
            (*self.host(number), *question), capture_output=True, text=True, check=True
        )
        (line,) = done.stdout.splitlines()
        return int(line.split()[2].rpartition(":")[2])

    def _link(self, space: str, number: int, address: str, router: str) -> None:
        link = f"to{number}"
        ends = ("type", "veth", "peer", "name", "up0", "netns", space)
        _run("-n", self._router, "link", "add", link, *ends)
        for where, name, own in ((self._router, link, router), (space, "up0", address)):
            _run("-n", where, "address", "add", f"{own}/24", "dev", name)
            _run("-n", where, "link", "set", name, "up")
        _run("-n", space, "route", "add", "default", "via", router)


def _address(number: int) -> str:
    return f"10.77.{number}.2"


def _rules(number: int, port: int | None) -> Sequence[tuple[str, ...]]:
    ports: tuple[tuple[str, ...], ...] = ((), ())
    if port is not None:
        ports = ("ipproto", "tcp", "sport", str(port)), ("ipproto", "tcp", "dport", str(port))
    return ("from", _address(number), *ports[0]), ("to", _address(number), *ports[1])


def _run(*words: str, check: bool = True) -> int:
    with suppress(FileNotFoundError):
        done = subprocess.run((_IP, *words), capture_output=True, text=True)
        if check and done.returncode:
            raise SystemExit(f"ip {' '.join(words)}: {done.stderr.strip()}")
        return done.returncode
    return 127
