"""The command line with an eager poller, so that tests need not wait as real users do: `python -m
tests.cli.quick batch ...`.

With BATCH_REPLAYS=0 a submission whose answer was lost is not sent again.
"""

from __future__ import annotations

import os

import attrs

from happyhorse_async import Session
from happyhorse_async.cli import main
from tests.batch.worker import POLLING, RETRY

if __name__ == "__main__":
    defaults = Session.__init__.__kwdefaults__
    assert defaults is not None
    replays = int(os.environ.get("BATCH_REPLAYS", RETRY.replays))
    defaults.update(polling=POLLING, retry=attrs.evolve(RETRY, replays=replays))
    main()
