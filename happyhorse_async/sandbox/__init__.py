"""The service on this machine, for demos and tests: real HTTP, real videos, adjustable time, faults
on request.

It shares no code with the rest of the package, so that a mistake on one side of the wire does not
hide on the other.
"""

from ._accounts import Account
from ._faults import Fault
from ._features import Features
from ._sandbox import Sandbox

__all__ = ["Account", "Fault", "Features", "Sandbox"]
