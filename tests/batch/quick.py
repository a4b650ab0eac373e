"""The command line with an eager poller, so that tests need not wait as real users do: `python -m tests.batch.quick batch ...`."""

from __future__ import annotations

from happyhorse_async import Session
from happyhorse_async.cli import main
from tests.batch.worker import POLLING, RETRY

if __name__ == "__main__":
    defaults = Session.__init__.__kwdefaults__
    assert defaults is not None
    defaults.update(polling=POLLING, retry=RETRY)
    main()
