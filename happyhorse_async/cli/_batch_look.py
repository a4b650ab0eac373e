"""Before a batch runs: what is wrong with which row, and what the good ones will cost."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from ._common import Exit
from ._console import agreed, counted, money, put, say

if TYPE_CHECKING:
    from .._session import Session
    from ..batch._manifest import BadLine, Checked, Manifest

MOST_SHOWN = 50
"""Bad rows that are printed one by one."""


@attrs.frozen(kw_only=True)
class Look:
    """How an input is looked at before anything is spent."""

    skip_bad: bool
    """Work on the good rows although there are bad ones."""
    quiet: bool
    """Do not ask."""
    as_json: bool

    async def at(
        self,
        session: Session,
        manifest: Manifest,
        folder: Path | None = None,
        *,
        retry: bool = False,
    ) -> tuple[Checked, Exit | None]:
        """Look at every row and say the price of what `folder` does not have yet.

        Return what was found, and an exit code when this is the end.
        """
        found = await _checked(session, manifest, folder, retry=retry)
        self._show_bad(found)
        self._show_skipped(*manifest.skipped)
        if found.cut_prompts:
            say(
                f"warning: {found.cut_prompts} prompts are longer than the service reads, and will "
                "be cut"
            )
        self._show_price(found)
        return found, self._end(found, manifest.source)

    def _end(self, found: Checked, source: str) -> Exit | None:
        if found.bad_rows and not self.skip_bad:
            say("nothing was sent: mend the bad rows, or leave them out with --skip-bad")
            return Exit.WRONG_INPUT
        if not found.good:
            say(f"nothing was sent: there is no job in {source}")
            return Exit.WRONG_INPUT
        if not self.quiet and found.settled < found.good and not agreed("Go on?"):
            return Exit.NOT_WANTED
        return None

    def _show_price(self, found: Checked) -> None:
        if self.as_json:
            facts = {"jobs": found.good, "settled": found.settled, "bad_rows": found.bad_rows}
            put({"event": "checked", **facts, "credits": found.credits, "usd": found.usd})
            return
        cost = f"about {money(found.credits)} credits (${found.usd:,.2f})"
        what = ""
        if found.settled:
            left = found.good - found.settled
            what = f", {found.settled:,} of them paid or ended before, {left:,} left"
        say(f"{counted(found.good, 'job')}{what}; {counted(found.bad_rows, 'bad row')}: {cost}")

    def _show_bad(self, found: Checked) -> None:
        """Name the bad rows; those that follow each other with the same problem share a line."""
        alike = itertools.groupby(found.bad, key=lambda row: row.problems)
        groups = [list(group) for _, group in alike][:MOST_SHOWN]
        for group in groups:
            for row in group if self.as_json else ():
                self._put_bad(row)
            more = f", and the next {len(group) - 1:,} alike" if len(group) > 1 else ""
            say(f"error: {group[0]}{more}")
        left = found.bad_rows - sum(map(len, groups))
        if left:
            say(f"... and {counted(left, 'more bad row')}")

    def _put_bad(self, row: BadLine) -> None:
        facts = {"place": row.place, "line": row.line, "problems": row.problems}
        put({"event": "bad_row", **facts})

    def _show_skipped(self, count: int, names: Sequence[str]) -> None:
        if self.as_json and count:
            put({"event": "skipped", "files": count, "names": list(names)})
        if count:
            named = ", ".join(names) + (", ..." if count > len(names) else "")
            say(f"skipped, as no JPEG, PNG or WEBP by name: {count:,} ({named})")


async def _checked(
    session: Session, manifest: Manifest, folder: Path | None, *, retry: bool
) -> Checked:
    from ..batch._earlier_runs import EarlierRuns
    from ..batch._manifest import check

    if folder is None:
        return await check(manifest, session.estimate)
    earlier = await asyncio.to_thread(EarlierRuns, folder, retry=retry)
    with closing(earlier):
        return await check(manifest, session.estimate, earlier.settled)
