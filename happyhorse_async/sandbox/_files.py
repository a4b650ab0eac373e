"""The file service's shelf: uploads, their 72 hours, and the quota. Pure: bytes in, values out."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import aiohttp
import attrs

from ._errors import Refused, invalid
from ._images import MAX_BYTES, read_header

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from ._accounts import Wallet
    from ._clock import Agenda

_NAME = re.compile(r"[^\w.\- ]", re.ASCII)
_EXTENSIONS = {"image/jpeg": "jpg", "image/png": "png", "image/webp": "webp", "image/gif": "gif"}


@attrs.frozen(kw_only=True, eq=False)
class StoredFile:
    """A file that an account uploaded."""

    id: str
    wallet: Wallet
    name: str
    original_name: str
    path: str
    mime_type: str
    data: bytes = attrs.field(repr=False)
    uploaded: float
    expires: float


class Shelf:
    """All living files of all accounts."""

    def __init__(self, chance: Random, agenda: Agenda, *, file_seconds: float) -> None:
        self._chance = chance
        self._agenda = agenda
        self._file_seconds = file_seconds
        self._files: dict[str, StoredFile] = {}
        self._receipts: dict[tuple[str, str], str] = {}

    def add(
        self,
        wallet: Wallet,
        data: bytes,
        *,
        now: float,
        original_name: str,
        name: str | None,
        path: str | None,
        upload_id: str | None = None,
    ) -> StoredFile:
        """Keep a file; raises `Refused` when it is empty or the account's quota is used up."""
        if not data:
            raise invalid("file", "the file is empty")
        if wallet.files >= wallet.account.file_quota:
            raise Refused(
                403, "quota_exceeded", f"the quota of {wallet.account.file_quota} files is used up"
            )
        facts = read_header(data)
        mime_type = facts.mime_type if facts else "application/octet-stream"
        file_id = f"file-{self._chance.getrandbits(80):020x}"
        stored = StoredFile(
            id=file_id,
            wallet=wallet,
            name=_tidy(name) or f"{file_id[5:17]}.{_EXTENSIONS.get(mime_type, 'bin')}",
            original_name=original_name,
            path="/".join(filter(None, (_tidy(part) for part in (path or "").split("/")))),
            mime_type=mime_type,
            data=data,
            uploaded=now,
            expires=now + self._file_seconds,
        )
        self._files[file_id] = stored
        wallet.files += 1
        if upload_id is not None:
            self._receipts[wallet.account.key, upload_id] = file_id
        self._agenda.at(stored.expires, lambda _: self.remove(file_id))
        return stored

    def get(self, file_id: str) -> StoredFile | None:
        """Return a living file of any account: its URL is public."""
        return self._files.get(file_id)

    def receipt(self, wallet: Wallet, upload_id: str) -> StoredFile | None:
        """Return the living file that an upload of this account and name became."""
        return self._files.get(self._receipts.get((wallet.account.key, upload_id), ""))

    def owned_by(self, wallet: Wallet) -> list[StoredFile]:
        """Return the files of an account, newest first."""
        return [stored for stored in reversed(self._files.values()) if stored.wallet is wallet]

    def remove(self, file_id: str) -> None:
        """Forget a file, if it is still there."""
        stored = self._files.pop(file_id, None)
        if stored is not None:
            stored.wallet.files -= 1


def _tidy(name: str | None) -> str:
    return _NAME.sub("_", name or "").strip(" .")[:128]


# --- How the service fetches foreign URLs: with a size cap and a time-out, and its own files
# without the network.


_TIMEOUT = aiohttp.ClientTimeout(total=20, sock_connect=5)


class FetchError(Exception):
    """A URL could not be fetched; the message says why."""


class UrlFetcher:
    """Turns URLs into bytes."""

    def __init__(
        self,
        shelf: Shelf,
        files_url: str,
        *,
        follow_redirects: bool,
        client: Callable[[], aiohttp.ClientSession],
    ) -> None:
        self._shelf = shelf
        self._client = client
        self._own_prefix = f"{files_url}/f/"
        self._follow_redirects = follow_redirects

    def is_own(self, url: str) -> bool:
        """Return whether a URL belongs to this sandbox's file service."""
        return url.startswith(self._own_prefix)

    def own_file(self, url: str) -> StoredFile | None:
        """Return the living file behind a URL of this sandbox's file service."""
        file_id = urlsplit(url[len(self._own_prefix) :]).path.partition("/")[0]
        return self._shelf.get(file_id)

    async def fetch(self, url: str) -> bytes:
        """Return what is behind a URL, one byte more than the image limit at most; raises
        `FetchError`.
        """
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
        async with self._client().get(
            url, timeout=_TIMEOUT, allow_redirects=self._follow_redirects
        ) as answer:
            if answer.status != 200:
                raise FetchError(f"the URL answered {answer.status}")
            data = bytearray()
            async for chunk in answer.content.iter_chunked(65536):
                data += chunk
                if len(data) > MAX_BYTES:
                    break
            return bytes(data)
