"""The service on this machine, for demos and tests: real HTTP, real videos, adjustable time, faults on request.

It shares no code with the rest of the package, so that a mistake on one side of the wire does not hide on the other.
"""

from happyhorse_async.sandbox.facade import Sandbox
from happyhorse_async.sandbox.faults import Fault
from happyhorse_async.sandbox.features import Features
from happyhorse_async.sandbox.money import Account

__all__ = ["Account", "Fault", "Features", "Sandbox"]
