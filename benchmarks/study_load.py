"""How many votes a second the study's server stores, how fast it replies, and what a killed server loses.

    python benchmarks/study_load.py        # writes benchmarks/study.json

Fifty raters vote at once, each `THINK` seconds after the last vote was acknowledged; server and raters share the
machine. Replies are timed while the server is left alone. Then raters do not think at all, which gives the most votes
that it stores. At last it is killed (SIGKILL) and started again several times under this load; raters send again what
was not acknowledged.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import httpx2
import numpy as np

from icreward_lib.run.files import write_json
from icreward_lib.study.protocol import ArmClip, Item, StudyConfig
from icreward_lib.study.store import Store

RATERS, PAIRS = 50, 400
THINK = 0.2
SERVER = """
import sys
from pathlib import Path
from icreward_lib.study.server import serve
from icreward_lib.study.store import Store
serve(Store(Path(sys.argv[1])), [], url="", host="127.0.0.1", port=int(sys.argv[2]), admin_token=None)
"""

Votes = set[tuple[int, int]]


def begin(path: Path) -> list[tuple[int, str]]:
    """Begin a study of imagined clips whose raters have consented; gives their links."""

    def item(number: int) -> Item:
        clips = tuple(ArmClip(arm, f"{number}/{arm}", f"{number:030x}{k:02x}") for k, arm in enumerate("abx"))
        return Item(f"p{number}", str(number), f"{number:032x}", clips[:2], clips[2])

    config, judged = StudyConfig(), [item(number) for number in range(PAIRS)]
    with closing(Store(path, create=True)) as store:
        store.begin(config, judged)
        store.enrol(RATERS, judged)
        links = store.links()
        for number, _ in links:
            store.consent(number)
    return links


class Server:
    """The server in a process of its own."""

    def __init__(self, votes: Path) -> None:
        """Start it on a free port."""
        self.votes, self.kills = votes, 0
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port = int(listener.getsockname()[1])
        self.start()

    def start(self) -> None:
        """Start it and wait until it listens."""
        self._process = subprocess.Popen([sys.executable, "-c", SERVER, str(self.votes), str(self.port)])
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except ConnectionRefusedError:
                time.sleep(0.05)

    def kill(self) -> None:
        """Kill it without a warning."""
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self.kills += 1


async def rate(
    client: httpx2.AsyncClient,
    link: tuple[int, str],
    think: float,
    until: asyncio.Event,
    acknowledged: Votes,
    times: list[float],
) -> None:
    """Vote screen by screen; a vote without a reply is sent again."""
    number, token = link
    trial = sum(rater == number for rater, _ in acknowledged)
    await asyncio.sleep(think * number / RATERS)  # people do not start on a signal
    while not until.is_set():
        started = time.perf_counter()
        try:
            reply = await client.post(f"/api/{token}/vote", json={"trial": trial, "choice": "left", "seconds": 1.0})
        except httpx2.TransportError:
            await asyncio.sleep(0.05)
            continue
        reply.raise_for_status()
        times.append(time.perf_counter() - started)
        acknowledged.add((number, trial))
        trial += 1
        await asyncio.sleep(think)


async def load(
    server: Server,
    links: list[tuple[int, str]],
    acknowledged: Votes,
    seconds: float,
    *,
    think: float = 0.0,
    kills: int = 0,
) -> tuple[float, list[float]]:
    """Let all raters vote for some seconds, with some kills between; gives votes a second and each reply's time."""
    times: list[float] = []
    until = asyncio.Event()
    limits = httpx2.Limits(max_connections=RATERS, max_keepalive_connections=RATERS)
    url = f"http://127.0.0.1:{server.port}"
    async with httpx2.AsyncClient(base_url=url, limits=limits, timeout=30, trust_env=False) as client:
        started = time.perf_counter()
        raters = [asyncio.create_task(rate(client, link, think, until, acknowledged, times)) for link in links]
        for _ in range(kills):
            await asyncio.sleep(seconds / (kills + 1))
            server.kill()
            await asyncio.to_thread(server.start)
        await asyncio.sleep(seconds / (kills + 1))
        until.set()
        await asyncio.gather(*raters)
        return len(times) / (time.perf_counter() - started), times


def main() -> None:
    """Measure, write the result, and fail if an acknowledged vote is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10, help="of each of the three loads")
    parser.add_argument("--kills", type=int, default=5)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path(__file__).parent) as folder:
        votes = Path(folder, "votes.sqlite")
        links = begin(votes)
        server = Server(votes)
        acknowledged: Votes = set()
        rate_thinking, times = asyncio.run(load(server, links, acknowledged, chosen.seconds, think=THINK))
        rate_most, hurried = asyncio.run(load(server, links, acknowledged, chosen.seconds))
        asyncio.run(load(server, links, acknowledged, chosen.seconds, kills=chosen.kills))
        kills = server.kills
        server.kill()
        with closing(Store(votes)) as store:
            stored = {(answer.rater, answer.trial) for answer in store.answers()}
    p50, p99 = np.percentile(times, [50, 99]) * 1000
    result = {
        "raters": RATERS,
        "think_seconds": THINK,
        "votes_per_second": round(rate_thinking, 1),
        "p50_ms": round(float(p50), 1),
        "p99_ms": round(float(p99), 1),
        "most_votes_per_second": round(rate_most, 1),
        "most_p99_ms": round(float(np.percentile(hurried, 99)) * 1000, 1),
        "acknowledged": len(acknowledged),
        "stored": len(stored),
        "kills": kills,
        "cores": len(os.sched_getaffinity(0)),
    }
    write_json(Path(__file__).with_name("study.json"), result)
    print(result)
    if lost := acknowledged - stored:
        raise SystemExit(f"{len(lost)} acknowledged votes are not stored")


if __name__ == "__main__":
    main()
