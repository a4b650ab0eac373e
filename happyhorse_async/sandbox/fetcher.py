"""How the service fetches foreign URLs: with a size cap and a time-out, and its own files without the network."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import aiohttp

from .images import MAX_BYTES

if TYPE_CHECKING:
    from .files import Shelf, StoredFile

__all__ = ["FetchError", "Fetcher"]

_TIMEOUT = aiohttp.ClientTimeout(total=20, sock_connect=5)


class FetchError(Exception):
    """A URL could not be fetched; the message says why."""


class Fetcher:
    """Turns URLs into bytes."""

    def __init__(self, shelf: Shelf, files_url: str, *, follow_redirects: bool) -> None:
        self._shelf = shelf
        self._own_prefix = f"{files_url}/f/"
        self._follow_redirects = follow_redirects
        self._session: aiohttp.ClientSession | None = None

    def is_own(self, url: str) -> bool:
        """Return whether a URL belongs to this sandbox's file service."""
        return url.startswith(self._own_prefix)

    def own_file(self, url: str) -> StoredFile | None:
        """Return the living file behind a URL of this sandbox's file service."""
        file_id = urlsplit(url[len(self._own_prefix) :]).path.partition("/")[0]
        return self._shelf.get(file_id)

    async def fetch(self, url: str) -> bytes:
        """Return what is behind a URL, one byte more than the image limit at most; raises `FetchError`."""
        if self.is_own(url):
            stored = self.own_file(url)
            if stored is None:
                raise FetchError("the file has expired or was deleted")
            return stored.data
        try:
            return await self._download(url)
        except (TimeoutError, aiohttp.ClientError, ValueError, OSError) as error:
            raise FetchError(f"the URL could not be fetched: {type(error).__name__}") from error

    async def _download(self, url: str) -> bytes:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=_TIMEOUT, headers={"User-Agent": "happyhorse-sandbox"})
        async with self._session.get(url, allow_redirects=self._follow_redirects) as answer:
            if answer.status != 200:
                raise FetchError(f"the URL answered {answer.status}")
            data = bytearray()
            async for chunk in answer.content.iter_chunked(65536):
                data += chunk
                if len(data) > MAX_BYTES:
                    break
            return bytes(data)

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
