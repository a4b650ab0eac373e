"""What a batch needs of its session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ..downloader import Downloader
    from ..events import Events
    from ..poller import Poller
    from ..pricing import Pricing
    from ..submitter import Submitter
    from ..uploader import Uploader


class Parts(Protocol):
    """The parts of an open session; some are made when they are first asked for."""

    submitter: Submitter

    @property
    def poller(self) -> Poller:
        """The one poller."""

    events: Events

    @property
    def downloader(self) -> Downloader:
        """The session's one downloader."""

    @property
    def uploader(self) -> Uploader:
        """The session's one uploader."""

    @property
    def pricing(self) -> Pricing:
        """The session's one book of prices."""
