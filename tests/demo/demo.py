"""`make demo`: a server, two agents and an origin on this machine, and requests moving between.

Everything is real: the same commands that an operator types, each in a process of its own, TLS
with a generated CA between agents and server. It ends by itself and leaves nothing running.
"""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
CONFIG: Final = ROOT / "conf" / "demo.toml"
WORK: Final = ROOT / ".cache" / "demo"
PROGRAM: Final = (sys.executable, "-m", "p2pstream")
PORT: Final = 28080
ORIGIN_PORT: Final = 28090
AGENTS: Final = ("attic", "cellar")
REQUESTS: Final = 200
# Per steady phase of the second part, which lasts about half a minute.
SCENARIO_REQUESTS: Final = 600
# Everything here takes milliseconds; what has not happened after this long will not.
PATIENCE_SECONDS: Final = 20.0


def say(text: str) -> None:
    """Tell what happens next."""
    print(f"\n== {text}", flush=True)


def start(stack: ExitStack, *command: str) -> subprocess.Popen[str]:
    """Start a program that ends with the demo; its output goes to a log file of its own."""
    number = len(list(WORK.glob("*.log")))
    log = stack.enter_context((WORK / f"{number}.log").open("w"))
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, text=True, cwd=ROOT)
    stack.callback(stop, process)
    return process


def stop(process: subprocess.Popen[str], number: int = signal.SIGTERM) -> int:
    """Ask a program to end, and wait until it has."""
    if process.poll() is None:
        process.send_signal(number)
    try:
        return process.wait(PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def run(*arguments: str) -> str:
    """Run one of our commands and return what it prints."""
    done = subprocess.run((*PROGRAM, *arguments), capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        sys.exit(f"p2pstream {' '.join(arguments)}: {done.stderr}{done.stdout}")
    return done.stdout


def ask(count: int) -> dict[int, int]:
    """Send requests over a few connections, one after the other; returns status -> how many."""
    seen: dict[int, int] = {}
    connections = [http.client.HTTPConnection("127.0.0.1", PORT, timeout=10) for _ in range(4)]
    for number in range(count):
        connection = connections[number % len(connections)]
        connection.request("GET", f"/request/{number}")
        response = connection.getresponse()
        body = response.read()
        assert response.status != 200 or body == b"hello from the origin\n", body
        seen[response.status] = seen.get(response.status, 0) + 1
    for connection in connections:
        connection.close()
    return seen


def served() -> dict[str, int]:
    """Requests so far, by agent, as the server counts them."""
    status = json.loads(run("status", "--config", str(CONFIG), "--json"))
    return {path["agent"]: path["requests"] for path in status["paths"] if path["agent"]}


def connected() -> set[str]:
    """Names of the agents that are connected now."""
    status = json.loads(run("status", "--config", str(CONFIG), "--json"))
    return {agent["name"] for agent in status["agents"] if agent["state"] == "connected"}


def wait_for(what: str, condition: object) -> None:
    """Poll until a condition holds."""
    pause = threading.Event()
    assert callable(condition)
    for _ in range(int(PATIENCE_SECONDS / 0.1)):
        try:
            if condition():
                return
        except (OSError, SystemExit):
            pass
        pause.wait(0.1)
    sys.exit(f"demo: {what} did not happen within {PATIENCE_SECONDS:g} s; see the logs in {WORK}")


def is_open(port: int) -> bool:
    """Whether something listens on a port."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    connection.connect()
    connection.close()
    return True


def show(before: dict[str, int], names: dict[str, str], answers: dict[int, int]) -> dict[str, int]:
    """Print which agent served how many since `before`."""
    now = served()
    print("   agent      requests")
    for agent_id, name in names.items():
        print(f"   {name:<10} {now.get(agent_id, 0) - before.get(agent_id, 0):>8}")
    print("   answers:   " + ", ".join(f"{count} x {status}" for status, count in answers.items()))
    return now


def main() -> None:
    """Show the main job."""
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    with ExitStack() as stack:
        say("an origin, as it might run in a home lab")
        start(stack, sys.executable, str(Path(__file__).with_name("greeter.py")), str(ORIGIN_PORT))
        wait_for("the origin", lambda: is_open(ORIGIN_PORT))

        say(f"two agents: p2pstream agents create NAME --label site=demo --config {CONFIG.name}")
        made = {
            name: json.loads(
                run(
                    "agents",
                    "create",
                    name,
                    "--label",
                    "site=demo",
                    "--config",
                    str(CONFIG),
                    "--json",
                )
            )
            for name in AGENTS
        }
        names = {agent["id"]: name for name, agent in made.items()}
        for name, agent in made.items():
            print(f"   {name}: p2pstream agent --token {agent['token'][:24]}…")

        say(f"the server: p2pstream serve --config {CONFIG.relative_to(ROOT)}")
        server = start(stack, *PROGRAM, "serve", "--config", str(CONFIG))
        wait_for("the listener", lambda: is_open(PORT))
        agents = {
            name: start(stack, *PROGRAM, "agent", "--token", agent["token"])
            for name, agent in made.items()
        }
        wait_for("both agents", lambda: connected() == set(AGENTS))
        print(run("status", "--config", str(CONFIG)))

        say(f"{REQUESTS} requests while both agents serve")
        answers = ask(REQUESTS)
        counts = show({}, names, answers)
        shares = [counts.get(agent_id, 0) for agent_id in names]
        if answers != {200: REQUESTS} or min(shares) < REQUESTS * 0.4:
            sys.exit(f"demo: expected all answered and about half each, got {answers}, {shares}")

        say(f"{AGENTS[0]} is taken away (kill -9) in the middle of {REQUESTS} more")
        answers = ask(REQUESTS // 4)
        stop(agents[AGENTS[0]], signal.SIGKILL)
        for status, count in ask(REQUESTS - REQUESTS // 4).items():
            answers[status] = answers.get(status, 0) + count
        show(counts, names, answers)
        if answers != {200: REQUESTS}:
            sys.exit(f"demo: a lost agent cost requests: {answers}")

        say("everything is told to end")
        code = stop(server)
        print(f"   the server drained and left with {code}")
        if code:
            sys.exit(f"demo: the server left with {code}")
    say("six agents at three sites: killed, paused, cut off and slowed down under steady load")
    scenario = (sys.executable, "-m", "tests.e2e.scenario", "--requests", str(SCENARIO_REQUESTS))
    if code := subprocess.run(scenario, cwd=ROOT).returncode:
        sys.exit(f"demo: the scenario left with {code}")
    say("done: nothing is left running")


if __name__ == "__main__":
    main()
