"""Processes of Python that start at once: forks of one process that has loaded the package.

To start Python and to load the package costs most of what a short command costs. So each process
of tests keeps one server that has loaded everything, and a command is a fork of it. It has its own
id, folder, variables, files and signals; it ends as Python ends, and it can be killed.

Where a system cannot do that, and where a variable changes Python itself, a new Python starts.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import gc
import importlib
import io
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parent.parent
LOADED = (
    "happyhorse_async.cli._app",
    "happyhorse_async.cli._generate",
    "happyhorse_async.cli._batch",
    "happyhorse_async.cli._tasks",
    "happyhorse_async.cli._account",
    "happyhorse_async._session",
    "happyhorse_async.batch",
    "happyhorse_async.batch.report",
    "happyhorse_async.batch._manifest",
    "aiohttp",
    "cattrs",
    "rich.console",
    "rich.live",
    "rich.progress",
    "rich.table",
)
"""What a command would load; the commands load what else they need."""
PYTHONS_OWN = ("PYTHONIOENCODING", "PYTHONUTF8", "PYTHONUNBUFFERED", "LANG", "LC_ALL")
"""Variables that Python reads when it starts, and not a program later."""

Process = Any
"""A process of asyncio, or what does the same for a fork."""


async def python(
    module: str,
    *words: object,
    cwd: Path,
    env: Mapping[str, str],
    stdin: int = asyncio.subprocess.DEVNULL,
    stdout: int | IO[str] = asyncio.subprocess.PIPE,
    stderr: int | None = asyncio.subprocess.PIPE,
    limit: int = 1 << 16,
) -> Process:
    """Start `python -W error -m MODULE WORDS` in a folder, with these variables alone."""
    changed = any(env.get(name) != os.environ.get(name) for name in PYTHONS_OWN if name in env)
    if changed or not hasattr(os, "pidfd_open"):
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", "-m", module, *map(str, words)),
            cwd=cwd,
            env={"PYTHONPATH": str(ROOT), **env},
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            limit=limit,
        )
    request = {"module": module, "words": [*map(str, words)], "cwd": str(cwd), "env": dict(env)}
    ours: list[int | None] = []
    theirs: list[int] = []
    for number, wanted in enumerate((stdin, stdout, stderr)):
        mine, other = _ends(number, wanted)
        ours.append(mine)
        theirs.append(other)
    process = Forked(_server().start(request, theirs))
    for end in theirs:
        os.close(end)
    await process.open(ours, limit)
    return process


def stop_reading(process: Process) -> None:
    """Read no more of what a process prints, as `head` does after some lines."""
    if isinstance(process, Forked):
        process.stop_reading()
    else:
        process._transport.get_pipe_transport(1).close()


def _ends(number: int, wanted: int | IO[str] | None) -> tuple[int | None, int]:
    """Return our end and the process's end of one of its three standard files."""
    if wanted == asyncio.subprocess.PIPE:
        read, write = os.pipe()
        return (write, read) if number == 0 else (read, write)
    if wanted == asyncio.subprocess.DEVNULL:
        return None, os.open(os.devnull, os.O_RDWR)
    if wanted is None:
        return None, os.dup(number)
    return None, os.dup(wanted if isinstance(wanted, int) else wanted.fileno())


class Forked:
    """A fork, with the verbs of a process of asyncio."""

    def __init__(self, status: socket.socket) -> None:
        self._status = status
        self._status.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = self._loop.create_future()
        self.pid = 0
        self._transports: dict[int, asyncio.BaseTransport] = {}
        self.stdin: asyncio.StreamWriter | None = None
        self.stdout: asyncio.StreamReader | None = None
        self.stderr: asyncio.StreamReader | None = None

    async def open(self, ends: list[int | None], limit: int) -> None:
        """Wait for its id, and open our ends of its files."""
        self.pid = int(await self._loop.sock_recv(self._status, 64))
        self._loop.add_reader(self._status, self._end)
        if ends[0] is not None:
            transport, protocol = await self._loop.connect_write_pipe(
                asyncio.streams.FlowControlMixin, os.fdopen(ends[0], "wb")
            )
            self.stdin = asyncio.StreamWriter(transport, protocol, None, self._loop)
        self.stdout = await self._reader(1, ends[1], limit)
        self.stderr = await self._reader(2, ends[2], limit)

    async def _reader(
        self, number: int, end: int | None, limit: int
    ) -> asyncio.StreamReader | None:
        if end is None:
            return None
        reader = asyncio.StreamReader(limit)
        self._transports[number], _ = await self._loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(end, "rb")
        )
        return reader

    def _end(self) -> None:
        self._loop.remove_reader(self._status)
        told = self._status.recv(64)
        self._status.close()
        self._ended.set_result(int(told or 255))

    @property
    def returncode(self) -> int | None:
        """The code it ended with, or less a signal's number; None while it runs."""
        return self._ended.result() if self._ended.done() else None

    async def wait(self) -> int:
        """Wait for its end."""
        return await asyncio.shield(self._ended)

    async def communicate(self, data: bytes | None = None) -> tuple[bytes | None, bytes | None]:
        """Say something to it, hear it to the end, and wait for its end."""
        if self.stdin is not None:
            self.stdin.write(data or b"")
            self.stdin.close()
        said = await asyncio.gather(*(_heard(stream) for stream in (self.stdout, self.stderr)))
        await self.wait()
        return said[0], said[1]

    def stop_reading(self) -> None:
        """Read no more of what it prints."""
        self._transports[1].close()

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if not self._ended.done():
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it, as a power cut would."""
        self.send_signal(signal.SIGKILL)


async def _heard(stream: asyncio.StreamReader | None) -> bytes | None:
    return None if stream is None else await stream.read()


class _Server:
    """The process that the commands are forks of; it ends with the process of the tests."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "tests.forks", str(theirs.fileno())],
            cwd=ROOT,
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        atexit.register(self._close)

    def _close(self) -> None:
        self._control.close()
        self._process.wait()

    def start(self, request: Mapping[str, object], ends: list[int]) -> socket.socket:
        """Ask for a fork; return where its id and then its end are told."""
        status, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            socket.send_fds(self._control, [json.dumps(request).encode()], [*ends, theirs.fileno()])
        return status


@functools.cache
def _server() -> _Server:
    return _Server()


# --- in the server


def serve(control: socket.socket) -> Callable[[], None]:
    """Fork at each request and tell of each end; return, in a fork, what is to be run there."""
    running: dict[int, tuple[int, socket.socket]] = {}
    poll = select.poll()
    poll.register(control, select.POLLIN)
    while True:
        for number, _ in poll.poll():
            if number in running:
                pid, status = running.pop(number)
                poll.unregister(number)
                os.close(number)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                _tell(status, code)
                status.close()
                continue
            message, ends, _, _ = socket.recv_fds(control, 1 << 20, 4)
            if not message:
                sys.exit()
            pid = os.fork()
            if not pid:
                control.close()
                for other, (_, status) in running.items():
                    os.close(other)
                    status.close()
                return functools.partial(_become, json.loads(message), ends)
            for end in ends[:3]:
                os.close(end)
            status = socket.socket(fileno=ends[3])
            _tell(status, pid)
            watched = os.pidfd_open(pid)
            running[watched] = pid, status
            poll.register(watched, select.POLLIN)


def _tell(status: socket.socket, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # the test has ended and left its process alone
        status.send(str(number).encode())


def _become(request: dict[str, Any], ends: list[int]) -> None:
    """Be the command: its files, its folder, its variables, its signals."""
    for number, end in enumerate(ends[:3]):
        os.dup2(end, number)
    for end in ends:
        os.close(end)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    errors = (sys.stdin.errors, sys.stdout.errors, sys.stderr.errors)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        file = _standard_file(number, errors[number])
        setattr(sys, name, file)
        setattr(sys, f"__{name}__", file)
    sys.argv = ["", *request["words"]]
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)


def _standard_file(number: int, errors: str | None) -> io.TextIOWrapper:
    """Open a standard file as Python does at its start."""
    raw = io.FileIO(number, "r" if number == 0 else "w", closefd=False)
    buffer = io.BufferedReader(raw) if number == 0 else io.BufferedWriter(raw)
    lines = number == 2 or os.isatty(number)
    return io.TextIOWrapper(buffer, "utf-8", errors, line_buffering=lines)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests
    for name in LOADED:
        importlib.import_module(name)
    gc.freeze()  # collecting what all have in common would copy it to each
    run = serve(socket.socket(fileno=int(sys.argv[1])))
    run()
