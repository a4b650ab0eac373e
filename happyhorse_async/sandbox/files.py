"""The file service's shelf: uploads, their 72 hours, and the quota. Pure: bytes in, values out."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs

from .images import read_header
from .refusals import Refusal, invalid

if TYPE_CHECKING:
    from random import Random

    from .clock import Agenda
    from .money import Wallet

__all__ = ["Shelf", "StoredFile"]

DATA_URL_PREFIX = "data:(image/(jpeg|png|gif|webp));base64,"
"""How `base64_data` must begin."""
DATA_URL_PATTERN = f"{DATA_URL_PREFIX}(([A-Za-z0-9+/]{{4}})*([A-Za-z0-9+/]{{4}}|[A-Za-z0-9+/]{{3}}=|[A-Za-z0-9+/]{{2}}==))"
"""What `base64_data` must look like, for the documents: matching megabytes with it would block the event loop."""

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

    def add(self, wallet: Wallet, data: bytes, *, now: float, original_name: str, name: str | None, path: str | None) -> StoredFile:
        """Keep a file; raises `Refusal` when it is empty or the account's quota is used up."""
        if not data:
            raise invalid("file", "the file is empty")
        if wallet.files >= wallet.account.file_quota:
            raise Refusal(403, "quota_exceeded", f"the quota of {wallet.account.file_quota} files is used up")
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
        self._agenda.at(stored.expires, lambda _: self.remove(file_id))
        return stored

    def get(self, file_id: str) -> StoredFile | None:
        """Return a living file of any account: its URL is public."""
        return self._files.get(file_id)

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
