"""A fast server on loopback, in a process of its own: it speaks the least HTTP that is possible, so
that the clients are what is measured.

It says how busy it was itself. Beside `start`, this is the program that runs in that process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks import machine
from benchmarks.answers import Answers

REQUEST_END = b"\r\n\r\n"


class Line(asyncio.Protocol):
    """One connection; answers what it is asked, in order."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._buffer = b""

    def connection_made(self, transport: Any) -> None:
        """Keep the way back; uvloop's transports are none of asyncio's classes."""
        self._transport: asyncio.Transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer every request that is whole."""
        self._buffer = data = self._buffer + data if self._buffer else data
        while (end := data.find(REQUEST_END)) >= 0:
            head = data[:end]
            at = head.lower().find(b"\r\ncontent-length:")
            length = int(head[at + 17 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            whole = end + 4 + length
            if len(data) < whole:
                break
            method, path, _ = head.split(b" ", 2)
            self._server.handle(self._transport, method, path, data[end + 4 : whole])
            data = data[whole:]
        self._buffer = data


class Server:
    """The routes, and the limit on submissions when there is one: the k-th is answered k / rate
    seconds after the first.
    """

    def __init__(self, rate: float | None) -> None:
        self.answers: Answers | None = None
        self.requests = 0
        self._rate = rate
        self._free_at = 0.0
        self._loop = asyncio.get_running_loop()

    def handle(self, transport: asyncio.Transport, method: bytes, path: bytes, body: bytes) -> None:
        """Answer one request."""
        assert self.answers is not None
        self.requests += 1
        try:
            kind, answer = self.answers.answer(method, path, body)
            status = b"200 OK"
        except (KeyError, StopIteration):
            kind, status, answer = (
                b"application/json",
                b"404 Not Found",
                b'{"error":{"code":"not_found","message":"no such route"}}',
            )
        head = (
            b"HTTP/1.1 %b\r\nContent-Type: %b\r\nContent-Length: %d\r\nx-request-id: req-1\r\n"
            % (status, kind, len(answer))
        )
        whole = (
            head
            + (b'ETag: "1"\r\nAccept-Ranges: bytes\r\n\r\n' if kind == b"video/mp4" else b"\r\n")
            + answer
        )
        if self._rate is not None and path == b"/v1/videos/generations":
            self._free_at = max(self._free_at, self._loop.time()) + 1 / self._rate
            self._loop.call_at(self._free_at, transport.write, whole)
        else:
            transport.write(whole)


async def serve(life: float, rate: float | None) -> None:
    """Serve until standard input ends; each line on it is answered with what was done so far."""
    loop = asyncio.get_running_loop()
    server = Server(rate)
    listener = await loop.create_server(lambda: Line(server), "127.0.0.1", 0, backlog=20_000)
    url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    server.answers = Answers(url, life)
    print(url, flush=True)
    over = loop.create_future()

    def report() -> None:
        print(
            json.dumps(
                {
                    "cpu": time.process_time(),
                    "wall": time.perf_counter(),
                    "requests": server.requests,
                }
            ),
            flush=True,
        )

    def listen() -> None:
        for _ in sys.stdin:
            loop.call_soon_threadsafe(report)
        loop.call_soon_threadsafe(over.set_result, None)

    threading.Thread(target=listen, daemon=True).start()
    await over


class Loopback:
    """A running server, seen from the process that started it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.url = self._line().strip()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def work(self) -> dict[str, float]:
        """Give the CPU seconds it has used, its clock, and how many requests it has answered."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        figures: dict[str, float] = json.loads(self._line())
        return figures


@contextmanager
def start(*, life: float = 0.0, rate: float | None = None) -> Iterator[Loopback]:
    """Run a server; a submitted task is done after `life` seconds, and it accepts `rate`
    submissions a second (None: all).
    """
    command = [
        sys.executable,
        "-m",
        "benchmarks.loopback",
        "--life",
        str(life),
        *(["--rate", str(rate)] if rate else []),
    ]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=machine.environment(), **pipes) as process:
        try:
            yield Loopback(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()


def main() -> None:
    """Run as the server's process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--life", type=float, default=0.0)
    parser.add_argument("--rate", type=float)
    given = parser.parse_args()
    machine.pin(machine.SERVER)
    machine.allow_many_files()
    try:
        import uvloop
    except ImportError:
        asyncio.run(serve(given.life, given.rate))
    else:
        uvloop.run(serve(given.life, given.rate))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
