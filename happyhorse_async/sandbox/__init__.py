"""The service on this machine, for demos and tests: real HTTP, real videos, adjustable time, faults
on request.

It shares no code with the rest of the package. So a mistake on one side of the wire does not hide
on the other.

A simulation runs it without sockets and in virtual time. Give it your clock and a fixed start. Put
its protocols at the other end of your own transports:

    async with Sandbox(
        host=None, real=loop.time, start=1_800_000_000, seed=7, video="stub", connector=my_connector
    ) as sandbox:
        protocol = sandbox.connect(url)  # of `sandbox.url`, `sandbox.files_url` or a result link
        protocol.connection_made(transport)

`my_connector` makes the aiohttp connector through which callbacks and fetched image URLs leave.
With equal seeds and equal requests in equal order, ids, times, faults and bytes are equal.
"""

from ._accounts import Account
from ._faults import Fault
from ._features import Features
from ._sandbox import Sandbox

__all__ = ["Account", "Fault", "Features", "Sandbox"]
