"""Batches on several machines: the same jobs, in PostgreSQL, worked on by any number of processes.

The extra `dbos`. `happyhorse cluster` is made of this; from code, `Cluster` and `Worker` do.
"""

from ._cluster import Cluster, ClusterOverview
from ._database import ClusterLimits
from ._enqueue import Enqueued, Refused
from ._keeper import WorkerFacts
from ._worker import Worker, WorkerOptions, draining_on_signals

__all__ = [
    "Cluster",
    "ClusterLimits",
    "ClusterOverview",
    "Enqueued",
    "Refused",
    "Worker",
    "WorkerFacts",
    "WorkerOptions",
    "draining_on_signals",
]
