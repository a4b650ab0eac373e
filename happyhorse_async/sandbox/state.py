"""What is going on in a sandbox, as JSON: for the page at `/` and for whoever steers it from another process."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from .scenarios import SCENARIOS

if TYPE_CHECKING:
    from .faults import Fault
    from .journal import RequestRecord
    from .service import Service
    from .tasks import TaskRecord

__all__ = ["describe", "describe_fault", "describe_request"]

_MOST_TASKS = 100
_MOST_REQUESTS = 12


def describe(service: Service, now: float) -> dict[str, Any]:
    """Return clock, money, the latest tasks and requests, and the faults."""
    world = service.world
    tasks = list(islice(reversed(world.tasks.values()), _MOST_TASKS))
    wallets = world.wallets.values()
    return {
        "now": now,
        "speed": service.clock.speed,
        "url": service.url,
        "files_url": service.files_url,
        "paid": len(world.tasks),
        "refunded": world.refunded,
        "credits": {
            "remaining": float(sum(wallet.remaining for wallet in wallets)),
            "reserved": float(sum(wallet.reserved for wallet in wallets)),
            "used": float(sum(wallet.used for wallet in wallets)),
        },
        "files": sum(wallet.files for wallet in wallets),
        "tasks": [_describe_task(service, task, now) for task in tasks],
        "requests": [describe_request(record) for record in reversed(service.journal.latest(_MOST_REQUESTS))],
        "faults": [describe_fault(fault) for fault in service.faults.faults],
        "scenarios": list(SCENARIOS),
    }


def describe_request(record: RequestRecord) -> dict[str, Any]:
    """Return one request without its headers and body."""
    path = f"{record.path}?{record.query}" if record.query else record.path
    return {"at": record.at, "host": record.host, "method": record.method, "path": path, "status": record.status}


def describe_fault(fault: Fault) -> dict[str, Any]:
    """Return a fault's action and conditions."""
    return {
        "action": fault.action,
        "method": fault.method,
        "path": fault.path,
        "times": fault.times,
        "probability": fault.probability,
        "details": {name: repr(value) for name, value in fault.details.items()},
    }


def _describe_task(service: Service, task: TaskRecord, now: float) -> dict[str, Any]:
    link = service.views.link(task)
    error = task.error()
    return {
        "id": task.id,
        "created": task.created,
        "status": service.views.status(task, now),
        "progress": task.progress_at(now),
        "prompt": task.submission.prompt,
        "image_url": task.submission.image_url,
        "quality": task.submission.quality,
        "duration": task.submission.duration,
        "reserved": float(task.charge.reserved),
        "charged": float(task.charge.charged),
        "refunded": float(task.charge.refunded),
        "error": error["code"] if error else None,
        "link": link,
        "link_expires": task.links[-1].expires if link else None,
    }
