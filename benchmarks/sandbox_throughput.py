"""How many submits and reads a second one sandbox process answers, with stub videos.

    python benchmarks/sandbox_throughput.py    # on Linux, each side on a core of its own

The server is one process pinned to the first core, the client one pinned to the second; the client
speaks the least HTTP that is possible, so that the server is what is measured.

The exit code is 1 when one core answers fewer than 1,500 submits or 3,000 reads a second. What
counts is answers per CPU second of the server, which other work on the machine does not blur; where
that is unknown, answers per second.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

CONNECTIONS = 16
LEAST = {"submits": 1_500, "reads": 3_000}
"""Answers a second that one core must give."""
MODEL = "happyhorse-1.0-image-to-video"


def pin(core: int) -> None:
    """Keep this process on one core, where the system can do that."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[core % len(cores)]})


async def serve() -> None:
    """Run the sandbox until standard input ends."""
    from happyhorse_async.sandbox import Sandbox

    async with Sandbox(video="stub", credits=10**9) as sandbox:
        print(json.dumps([sandbox.url, sandbox.key]), flush=True)
        await asyncio.to_thread(sys.stdin.read)


def head(method: str, path: str, key: str, extra: str = "") -> bytes:
    """Return a request's head."""
    head = f"{method} {path} HTTP/1.1\r\nHost: sandbox\r\nAuthorization: Bearer {key}\r\n"
    return f"{head}{extra}\r\n".encode()


async def exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
) -> bytes:
    """Send a request and return the body of its answer, which must be a 200."""
    writer.write(request)
    lines = await reader.readuntil(b"\r\n\r\n")
    if not lines.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(lines.decode())
    at = lines.lower().index(b"content-length:") + 15
    return await reader.readexactly(int(lines[at : lines.index(b"\r\n", at)]))


async def measure(url: str, requests: list[bytes], seconds: float) -> tuple[float, list[bytes]]:
    """Return answers a second over all connections, and the last body of each."""
    host, port = url.removeprefix("http://").split(":")
    stop = time.perf_counter() + seconds

    async def run(number: int) -> tuple[int, bytes]:
        reader, writer = await asyncio.open_connection(host, int(port))
        count, body = 0, b""
        while time.perf_counter() < stop:
            body = await exchange(reader, writer, requests[number % len(requests)])
            count += 1
        writer.close()
        return count, body

    outcomes = await asyncio.gather(*(run(number) for number in range(CONNECTIONS)))
    return sum(count for count, _ in outcomes) / seconds, [body for _, body in outcomes]


class Meter:
    """Prints rates, beside the CPU time that the server took, which other work on the machine does
    not blur.
    """

    def __init__(self, pid: int) -> None:
        self._stat = Path(f"/proc/{pid}/stat")
        self._before = self._cpu()

    def _cpu(self) -> float:
        if not self._stat.exists():
            return 0.0
        fields = self._stat.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def show(self, label: str, rate: float, seconds: float) -> float:
        """Print one rate, and return that of one core."""
        now = self._cpu()
        used, self._before = now - self._before, now
        core = f"  {rate * seconds / used:8,.0f} per CPU second" if used else ""
        print(f"{label:<20} {rate:8,.0f} a second{core}")
        return rate * seconds / used if used else rate


def missed(rates: dict[str, float]) -> list[str]:
    """Return a line for every bound that the rates do not reach."""
    return [
        f"missed: {label} {rates[label]:,.0f} a second on one core, at least {least:,} are wanted"
        for label, least in LEAST.items()
        if rates[label] < least
    ]


async def drive(url: str, key: str, seconds: float, meter: Meter) -> dict[str, float]:
    """Measure submits, reads of one task, and reads of many tasks at once; return the first two
    rates of one core.
    """
    body = json.dumps(
        {"model": MODEL, "image_urls": ["https://cdn.example.com/cat.png"], "prompt": "run"}
    ).encode()
    extra = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    submits, answers = await measure(
        url, [head("POST", "/v1/videos/generations", key, extra) + body], seconds
    )
    rates = {"submits": meter.show("submits", submits, seconds)}
    ids = [json.loads(answer)["id"] for answer in answers]
    reads, _ = await measure(
        url, [head("GET", f"/v1/tasks/{task_id}", key) for task_id in ids], seconds
    )
    rates["reads"] = meter.show("reads", reads, seconds)
    body = json.dumps({"task_ids": ids}).encode()
    extra = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    batches, _ = await measure(url, [head("POST", "/v1/tasks/batch", key, extra) + body], seconds)
    meter.show(f"batch reads of {len(ids)}", batches, seconds)
    return rates


def main() -> int:
    """Start the server in its own process, drive it from this one, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        pin(0)
        asyncio.run(serve())
        return 0
    command = [sys.executable, __file__, "--serve"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        url, key = json.loads(server.stdout.readline())
        pin(1)
        rates = asyncio.run(drive(url, key, given.seconds, Meter(server.pid)))
        server.communicate("")
    problems = missed(rates)
    print("\n".join(problems) or "both bounds are kept")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
