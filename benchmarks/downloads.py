"""What a download costs: CPU and memory for 1 GB, beside curl, aria2c and bare aiohttp; and how
long it holds the event loop.

    python benchmarks/downloads.py    # all of it, five rounds, in a folder on /dev/shm
    python benchmarks/downloads.py --rounds 1 --size 200

Every client is a process of its own that fetches the same files, eight at once, from a server in
another process on loopback; its CPU time and its largest memory are what the operating system says
of it. Ours is the real downloader: ranges, MP4 check, SHA-256, fsync and rename. The bound is 1.25
times curl's CPU plus what SHA-256 alone costs, and 60 MB. "by hand" is aiohttp that hashes and
writes in a thread, as whoever may not hold the loop must: its threads and the loop share a core's
caches, so it costs more than the sum of bare aiohttp and SHA-256 alone. "start" and "bare start"
are the clients of ours and of aiohttp with nothing to fetch: what the interpreter and the imports
of each cost once in a process. The last columns are without its own: the median, and the middle
half of the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
AT_ONCE = 8
MOST_MEMORY = 60.0
CURL_FACTOR = 1.25
LONGEST_HOLD = 0.010


def box(kind: bytes, body_size: int) -> bytes:
    """Give the header of an MP4 box."""
    return (body_size + 8).to_bytes(4, "big") + kind


def write_video(path: Path, size: int) -> None:
    """Write a file that is an MP4 file as far as its boxes go, full of noise."""
    head = box(b"ftyp", 8) + b"isom\0\0\2\0"
    mvhd = (
        box(b"mvhd", 100)
        + bytes(12)
        + (1000).to_bytes(4, "big")
        + (5000).to_bytes(4, "big")
        + bytes(80)
    )
    head += box(b"moov", len(mvhd)) + mvhd
    block = random.Random(0).randbytes(1 << 20)
    with path.open("wb") as file:
        file.write(head + box(b"mdat", size - len(head) - 8))
        while (left := size - file.tell()) > 0:
            file.write(block[:left])


def serve(folder: Path) -> None:
    """Serve a folder's files with sendfile, which costs the server little; print the port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=100)
    print(listener.getsockname()[1], flush=True)
    while True:
        peer, _ = listener.accept()
        threading.Thread(target=answer, args=(peer, folder), daemon=True).start()


def answer(peer: socket.socket, folder: Path) -> None:
    """Answer the requests of one connection."""
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    reader = peer.makefile("rb")
    try:
        while line := reader.readline():
            while reader.readline().strip():
                pass
            path = folder / Path(line.split()[1].decode().partition("?")[0]).name
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                peer.sendall(
                    "HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\n"
                    f'Content-Length: {size}\r\nETag: "{path.name}"\r\n'
                    "Accept-Ranges: bytes\r\n\r\n".encode()
                )
                at = 0
                while at < size:
                    at += os.sendfile(peer.fileno(), file.fileno(), at, size - at)
    except OSError:
        pass
    finally:
        peer.close()


async def fetch_ours(urls: list[str], folder: Path) -> None:
    """Fetch with the downloader."""
    from happyhorse_async import Limits, RetryPolicy, Task, Timeouts
    from happyhorse_async._dispatcher import Events
    from happyhorse_async._downloader import Downloader
    from happyhorse_async._edges.fetch import Fetcher

    limits = Limits(max_downloads=AT_ONCE)
    fetcher = Fetcher(timeouts=Timeouts(), allow_loopback=True)
    api: Any = None  # no link dies here
    downloader = Downloader(
        api,
        fetcher,
        limits=limits,
        policy=RetryPolicy(),
        patience=600.0,
        events=Events(),
        unfinished=lambda _: None,
    )
    async with asyncio.TaskGroup() as group:
        for number, url in enumerate(urls):
            task = Task(id=f"task-unified-{number}", status="completed", results=(url,))
            group.create_task(downloader.download(task, f"{folder}/"))
    downloader.close()
    await fetcher.aclose()


async def fetch_bare(urls: list[str], folder: Path) -> None:
    """Fetch with aiohttp as its documentation shows it, blocking writes in the loop and no check at
    all.
    """
    import aiohttp

    room = asyncio.Semaphore(AT_ONCE)

    async def one(client: aiohttp.ClientSession, number: int, url: str) -> None:
        async with room, client.get(url) as response:
            with (folder / f"{number}.mp4").open("wb") as file:
                async for piece in response.content.iter_chunked(1 << 20):
                    file.write(piece)

    async with aiohttp.ClientSession() as client, asyncio.TaskGroup() as group:
        for number, url in enumerate(urls):
            group.create_task(one(client, number, url))


async def fetch_by_hand(urls: list[str], folder: Path) -> None:
    """Fetch with aiohttp; hash and write each megabyte in a thread, so that the loop goes on."""
    import aiohttp

    room = asyncio.Semaphore(AT_ONCE)

    async def one(client: aiohttp.ClientSession, number: int, url: str) -> None:
        digest = hashlib.sha256()
        async with room, client.get(url) as response:
            with (folder / f"{number}.mp4").open("wb") as file:

                def keep(piece: bytes) -> None:
                    digest.update(piece)
                    file.write(piece)

                async for piece in response.content.iter_chunked(1 << 20):
                    await asyncio.to_thread(keep, piece)

    async with aiohttp.ClientSession() as client, asyncio.TaskGroup() as group:
        for number, url in enumerate(urls):
            group.create_task(one(client, number, url))


async def watch_loop(held: list[float]) -> None:
    """Note how long the loop could not run us: the longest wake-up delay."""
    loop = asyncio.get_running_loop()
    while True:
        before = loop.time()
        await asyncio.sleep(0.001)
        held.append(loop.time() - before - 0.001)


async def fetch_watched(urls: list[str], folder: Path) -> None:
    """Fetch with the downloader, and say what held the loop."""
    from happyhorse_async._edges import part_files

    delay = float(os.environ.get("SLOW_DISK", "0"))
    if delay:
        write_all, sync = part_files._write_all, os.fsync
        part_files._write_all = lambda *args: (time.sleep(delay), write_all(*args))[1]  # type: ignore[assignment]
        os.fsync = lambda *args: (time.sleep(delay), sync(*args))[1]  # type: ignore[assignment]
    await fetch_ours([], folder)  # imports are not the downloads' doing
    held: list[float] = []
    loop = asyncio.get_running_loop()
    longest = 0.0
    run = asyncio.events.Handle._run

    def timed(handle: Any) -> Any:
        nonlocal longest
        before = time.thread_time()
        try:
            return run(handle)
        finally:
            longest = max(longest, time.thread_time() - before)

    asyncio.events.Handle._run = timed  # type: ignore[method-assign]
    watcher = loop.create_task(watch_loop(held))
    await fetch_ours(urls, folder)
    watcher.cancel()
    held.sort()
    print(json.dumps({"step": longest, "late": held[-1], "late_p99": held[int(len(held) * 0.99)]}))


async def start_ours(urls: list[str], folder: Path) -> None:
    """Load everything and open a downloader, but fetch nothing."""
    await fetch_ours([], folder)


async def start_bare(urls: list[str], folder: Path) -> None:
    """Load aiohttp and open a client, but fetch nothing."""
    await fetch_bare([], folder)


def hash_only(size: int) -> None:
    """Hash as many bytes."""
    block, digest = bytes(range(256)) * 4096, hashlib.sha256()
    for _ in range(size >> 20):
        digest.update(block)


CLIENTS = {
    "ours": fetch_ours,
    "bare": fetch_bare,
    "by hand": fetch_by_hand,
    "start": start_ours,
    "bare start": start_bare,
    "watched": fetch_watched,
}
STARTS = {"ours": "start", "bare": "bare start", "by hand": "bare start"}
"""What each client of ours costs without fetching; SHA-256 alone has an interpreter only."""


def command(client: str, urls: list[str], folder: Path, size: int) -> list[str]:
    """Give the command line of a client."""
    listing = folder / "list"
    if client == "curl":
        listing.write_text(
            "".join(f'url = "{url}"\noutput = "{folder}/{n}.mp4"\n' for n, url in enumerate(urls))
        )
        return ["curl", "-s", "--parallel", "--parallel-max", str(AT_ONCE), "-K", str(listing)]
    if client == "aria2c":
        listing.write_text("".join(f"{url}\n out={n}.mp4\n" for n, url in enumerate(urls)))
        options = [
            "-x1",
            "-s1",
            f"-j{AT_ONCE}",
            "--file-allocation=none",
            "--quiet",
            f"-d{folder}",
            f"-i{listing}",
        ]
        return ["aria2c", "--no-conf", *options]
    listing.write_text(json.dumps(urls))
    return [
        sys.executable,
        __file__,
        "--client",
        client,
        "--folder",
        str(folder),
        "--size",
        str(size // 1_000_000),
    ]


def measure(
    client: str, urls: list[str], folder: Path, *, size: int, slow: float = 0.0
) -> dict[str, float]:
    """Run a client once, and give its CPU seconds a GB, wall seconds, memory in MB, and what it
    prints.
    """
    folder.mkdir()
    env = {**os.environ, "PYTHONPATH": str(ROOT), "SLOW_DISK": str(slow)}
    began = time.perf_counter()
    child = subprocess.Popen(
        command(client, urls, folder, size),
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL if client == "curl" else None,
    )
    assert child.stdout is not None
    printed = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - began
    got = sum(path.stat().st_size for path in folder.glob("*.mp4"))
    shutil.rmtree(folder)
    assert child.returncode == 0, f"{client} ended with {child.returncode}"
    assert client in ("hash", *STARTS.values()) or got == size, (
        f"{client} fetched {got} of {size} bytes"
    )
    cpu = (usage.ru_utime + usage.ru_stime) * 1e9 / size
    return {
        "cpu": cpu,
        "wall": wall,
        "memory": usage.ru_maxrss / 1024,
        **(json.loads(printed) if printed.strip() else {}),
    }


def compare(count: int, each: int, rounds: int, work: Path) -> bool:
    """Compare the clients on one mix of files; True when the bounds hold."""
    source = work / "source"
    source.mkdir()
    write_video(source / "0.mp4", each)
    for number in range(1, count):
        os.link(source / "0.mp4", source / f"{number}.mp4")
    server = subprocess.Popen(
        [sys.executable, __file__, "--serve", str(source)], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    port = server.stdout.readline().strip()
    urls = [f"http://127.0.0.1:{port}/{number}.mp4" for number in range(count)]
    clients = [
        name
        for name in ("curl", "aria2c", "bare", "by hand", "ours", "start", "bare start", "hash")
        if name not in ("curl", "aria2c") or shutil.which(name)
    ]
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in clients}
    try:
        for _ in range(rounds):
            for name in clients:
                seen[name].append(measure(name, urls, work / name, size=count * each))
        holds = {
            slow: measure("watched", urls, work / "watched", size=count * each, slow=slow)
            for slow in (0.0, 0.05)
        }
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(source)
    return report(f"{count} x {each / 1e6:g} MB, {AT_ONCE} at once", seen, holds)


def report(
    title: str, seen: dict[str, list[dict[str, float]]], holds: dict[float, dict[str, float]]
) -> bool:
    """Print the figures and whether the bounds hold."""
    print(f"\n{title}\n{'client':10} {'CPU s/GB':>9} {'wall s':>8} {'MB':>7} {'without start':>22}")
    middle = {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for name, runs in seen.items()
    }
    for name, figures in middle.items():
        start = middle[STARTS[name]]["cpu"] if name in STARTS else 0.0
        costs = sorted(run["cpu"] - start for run in seen[name])
        low, high = costs[len(costs) // 4], costs[-1 - len(costs) // 4]
        print(
            f"{name:10} {figures['cpu']:9.2f} {figures['wall']:8.2f} {figures['memory']:7.1f} "
            f"{figures['cpu'] - start:7.2f} ({low:.2f} to {high:.2f})"
        )
    memory = max(run["memory"] for run in seen["ours"])
    fits = memory <= MOST_MEMORY
    print(f"memory at most {memory:.1f} MB of {MOST_MEMORY:g}: {'ok' if fits else 'TOO MUCH'}")
    if "curl" in middle:
        bound = CURL_FACTOR * middle["curl"]["cpu"] + middle["hash"]["cpu"]
        net = middle["ours"]["cpu"] - middle["start"]["cpu"]
        fits &= net <= bound
        print(
            f"CPU {net:.2f} (with start {middle['ours']['cpu']:.2f}) of {bound:.2f} s/GB: "
            f"{'ok' if net <= bound else 'TOO MUCH'}"
        )
    else:
        print(
            "curl is not installed: the bound on CPU, which is a multiple of curl's, "
            "was not looked at"
        )
    for slow, hold in holds.items():
        disk = f"a disk that takes {slow * 1000:g} ms a write" if slow else "tmpfs"
        print(
            f"loop, {disk}: longest step {hold['step'] * 1000:.1f} ms of its own CPU; "
            f"a timer was late by {hold['late_p99'] * 1000:.1f} ms "
            f"(99 of 100), {hold['late'] * 1000:.1f} ms at most"
        )
        fits &= hold["step"] <= LONGEST_HOLD
    return fits


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=1000, help="MB in all")
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("/dev/shm" if Path("/dev/shm").is_dir() else tempfile.gettempdir()),
    )
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--client", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
    if options.client:
        urls = json.loads((options.folder / "list").read_text())
        if options.client == "hash":
            hash_only(options.size * 1_000_000)
        else:
            asyncio.run(CLIENTS[options.client](urls, options.folder))
        return 0
    with tempfile.TemporaryDirectory(dir=options.work) as work:
        mixes = [(options.size // 5, 5_000_000), (max(1, options.size // 100), 100_000_000)]
        fits = [compare(count, each, options.rounds, Path(work)) for count, each in mixes]
    return 0 if all(fits) else 1


if __name__ == "__main__":
    sys.exit(main())
