"""The machine that the figures come from: its cores, and what it is called."""

from __future__ import annotations

import os
import platform
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parent.parent
CLIENT, SERVER = -1, 0
"""The cores, of those that this process may use, that clients and servers are kept on."""
PACKAGES = (
    "aiohttp",
    "attrs",
    "cattrs",
    "anyio",
    "orjson",
    "uvloop",
    "fal-client",
    "replicate",
    "openai",
)


def pin(core: int) -> bool:
    """Keep this process on one of the cores that it may use; gives whether clients and servers are
    apart by that.
    """
    if not hasattr(os, "sched_setaffinity"):
        return False
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return False
    os.sched_setaffinity(0, {cores[core]})
    return True


def allow_many_files() -> None:
    """Raise the limit of open files as far as it goes."""
    try:
        import resource
    except ImportError:
        return
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def most_memory() -> float:
    """Give the most memory that this process has held so far, in MB."""
    try:
        import resource
    except ImportError:
        return 0.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        1024 if sys.platform != "darwin" else 1024**2
    )


def environment() -> dict[str, str]:
    """Give the environment of a child process: this checkout first on its path, and bytecode kept,
    as an installed package has it.
    """
    inherited = {
        name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
    }
    return {**inherited, "PYTHONPATH": str(ROOT)}


def version_of(package: str) -> str | None:
    """Give the version of an installed package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def processor() -> str:
    """Give the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )


def facts() -> dict[str, str]:
    """Give what a reader needs to know of this machine."""
    versions = {name: version_of(name) for name in PACKAGES}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "machine": f"{processor()}, {cores} cores, {platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": ", ".join(f"{name} {version}" for name, version in versions.items() if version),
        "absent": ", ".join(name for name, version in versions.items() if not version) or "none",
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": "python -m benchmarks " + " ".join(sys.argv[1:]),
        "load": "other work on the machine before it began (load average of a minute): " + load(),
    }


def load() -> str:
    """Give the load average of the last minute."""
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "not known"
