"""Whose tasks a ledger knows: a key of another account would find none of them, and pay for all of them again."""

from __future__ import annotations

import hashlib

from ..errors import LedgerError, TaskNotFoundError
from .ledger import Ledger
from .parts import Parts


async def check_account(ledger: Ledger, parts: Parts, key: str) -> None:
    """Bind a ledger to the account of an API key; raises `LedgerError` when it is another account's.

    The ledger keeps a digest of the key, salted with the batch's id, and never the key. A new key of the same account is known by what it
    can read: one task of the ledger is asked for.
    """
    mark = hashlib.blake2b(key.encode(), key=ledger.batch_id.encode(), digest_size=16).hexdigest()
    if await ledger.call(lambda store: store.fact("account")) == mark:
        return
    at_stake, task_ids = await ledger.call(lambda store: store.proofs())
    if at_stake and not await _knows_one(parts, task_ids):
        raise LedgerError(
            f"{at_stake} jobs in this folder were submitted with another API key, and this one knows none of their tasks",
            next_step="Open the batch with a key of the account that it was begun with, or use another folder.",
        )
    await ledger.call(lambda store: store.set_fact("account", mark))


async def _knows_one(parts: Parts, task_ids: list[str]) -> bool:
    for task_id in task_ids:
        try:
            await parts.poller.read(task_id)
        except TaskNotFoundError:
            continue
        return True
    return False
