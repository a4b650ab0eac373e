"""Batches on several machines: the same jobs, in PostgreSQL, worked on by any number of processes.

The extra `dbos`. `happyhorse cluster` is made of this; from code, `Cluster` is the front door.
"""

from .. import needs

try:
    from ._cluster import Cluster, ClusterOverview
    from ._values import ClusterLimits, Enqueued, RefusedRow, WorkerFacts, WorkerOptions
except ModuleNotFoundError as _error:
    raise needs("dbos", _error) from _error

__all__ = [
    "Cluster",
    "ClusterLimits",
    "ClusterOverview",
    "Enqueued",
    "RefusedRow",
    "WorkerFacts",
    "WorkerOptions",
]
