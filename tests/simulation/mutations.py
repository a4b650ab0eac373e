"""Small wrong changes to the product, each of which a few simulated nights must catch.

python -m tests.simulation.mutations                   # the whole table
python -m tests.simulation.mutations "two denials" ... # those whose names contain a text

Each change is a replacement in a copy of the package, in which the same nights are played until a
law breaks.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent.parent
MOST = 300
"""Seeds of each kind within which a change must be caught."""
SIZE = 5
"""Jobs of a batch while changes are looked for."""


BATCHES_ONLY = {
    "_rules/job_failures.py",
    *(f"batch/{name}" for name in ("_batch.py", "_feed.py", "_follow.py", "_steps.py")),
    "batch/ledger.sql",
}
"""Files of which a crowd knows nothing."""


class Mutation(NamedTuple):
    """One wrong change: in a file of the package, one text becomes another."""

    name: str
    file: str
    right: str
    wrong: str


MUTATIONS = (
    # --- money ------------------------------------------------------------------------------------
    Mutation(
        "a 503 counts as not charged",
        "_rules/retry.py",
        "if error.code in ADMISSION_CODES or error.status in REFUSALS:",
        "if error.code in ADMISSION_CODES or error.status in (*REFUSALS, 503):",
    ),
    Mutation(
        "a gateway's page is believed",
        "_rules/retry.py",
        "if not error.own_body or is_pending(error) or error.code == CONFLICT:",
        "if is_pending(error) or error.code == CONFLICT:",
    ),
    Mutation(
        "a replay's refusal is believed",
        "_rules/retry.py",
        "    give_up = Reaction.LOOK if doubted else Reaction.STOP\n",
        "    give_up = Reaction.STOP\n",
    ),
    Mutation(
        "a lost answer counts as never sent",
        "_rules/retry.py",
        "return Certainty.UNKNOWN if error.sent else Certainty.NEVER_LEFT",
        "return Certainty.NEVER_LEFT",
    ),
    Mutation(
        "an answer that cannot be read counts as never sent",
        "_rules/retry.py",
        "    if isinstance(error, UnreadableAnswerError):\n        return Certainty.UNKNOWN",
        "    if isinstance(error, UnreadableAnswerError):\n        return Certainty.NEVER_LEFT",
    ),
    Mutation(
        "a Retry-After is obeyed however long it is",
        "_rules/retry.py",
        "if asked > LONGEST_ASKED:",
        "if asked > 1e9:",
    ),
    Mutation(
        "each attempt has a key of its own",
        "_submitter/in_flight.py",
        "payload, self.key, fresh=self.in_doubt",
        'payload, f"{self.key}-{self._sent}", fresh=self.in_doubt',
    ),
    Mutation(
        "the last attempt alone says whether it was charged",
        "_submitter/in_flight.py",
        "certain = step.failures.unknown is None",
        "certain = retry.certainty_of(error) is not retry.Certainty.UNKNOWN",
    ),
    Mutation(
        "what an earlier process sent is sent again blindly",
        "_submitter/in_flight.py",
        "        if shared.proof.shown and not self.aged:\n"
        "            self._to(SubmissionStage.WAITING)\n            return\n",
        "        self._to(SubmissionStage.WAITING)\n        return\n",
    ),
    Mutation(
        "nobody asks whether keys are kept",
        "_submitter/key_proof.py",
        "MOST_ASKED = 32",
        "MOST_ASKED = 0",
    ),
    Mutation(
        "an integer code shows no keys",
        "_submitter/key_proof.py",
        'return known or (error.status == 409 and error.code == "409")',
        "return known",
    ),
    Mutation(
        "a cancelled caller's task is no orphan",
        "_submitter/submitter.py",
        "            self._orphans.add(request, idempotency_key, task_id, link)\n",
        "            del link\n",
    ),
    Mutation(
        "a saved job's money stays reserved",
        "batch/ledger.sql",
        "UPDATE jobs SET state = 'saved', {columns}, reserved = 0, error = NULL",
        "UPDATE jobs SET state = 'saved', {columns}, error = NULL",
    ),
    Mutation(
        "what earlier runs reserved does not count",
        "_budget.py",
        "wanted = self._parked + self._promised + amount",
        "wanted = self._promised + amount",
    ),
    Mutation(
        "what is in doubt is freed",
        "batch/_follow.py",
        "if unsent and not (job.sent_before or job_failures.may_be_paid(error)):",
        "if unsent:",
    ),
    Mutation(
        "the key is not on the disk when the request leaves",
        "batch/_steps.py",
        'await self._ledger.write("submitting", job, fold=job.uploaded is not None)',
        'self._ledger.post("submitting", job)',
    ),
    # --- videos -----------------------------------------------------------------------------------
    Mutation(
        "two denials end a task",
        "_poller/patience.py",
        "    if refused and left <= 0:\n",
        "    if refused and trouble.denials >= 2:\n"
        "        return Believing(Belief.BELIEVE)\n    if refused and left <= 0:\n",
    ),
    Mutation(
        "completed without a link is the last word",
        "_poller/patience.py",
        "if now - trouble.empty_since >= polling.patience:",
        "if trouble.empty >= 1:",
    ),
    Mutation(
        "a submission without an answer ends its job",
        "_rules/job_failures.py",
        "(Stage.DOUBT, JobTrouble.LOST): (JobStep(Next.AGAIN), ",
        "(Stage.DOUBT, JobTrouble.LOST): (JobStep(Next.FAILED), ",
    ),
    Mutation(
        "a link that gives nothing ends its job",
        "_rules/job_failures.py",
        "(Stage.FETCHED, JobTrouble.PASSING): (JobStep(Next.AGAIN), JobStep(Next.LEFT)),",
        "(Stage.FETCHED, JobTrouble.PASSING): (JobStep(Next.FAILED), JobStep(Next.FAILED)),",
    ),
    Mutation(
        "a video has its name before it is synced",
        "_edges/part_files.py",
        "        self._sync()\n        if sys.platform",
        "        if sys.platform",
    ),
    Mutation(
        "a video that stops within its last box is whole",
        "_formats/mp4.py",
        "elif not self._has_all_pictures(index):",
        "elif not self._begun:",
    ),
    Mutation(
        "what is no whole video is saved",
        "_edges/part_files.py",
        "return self._digest.hexdigest(), self._walk.finish()",
        "return self._digest.hexdigest(), mp4.Movie()",
    ),
    Mutation(
        "a video's name is not synced",
        "_edges/disk.py",
        "        if descriptor >= 0:\n            _sync(descriptor)\n",
        "        pass\n",
    ),
    Mutation(
        "what was begun is not brought home without its row",
        "batch/_feed.py",
        "        for state in AT_STAKE:\n",
        "        for state in AT_STAKE[:0]:\n",
    ),
    Mutation(
        "the part file stays open",
        "_edges/sinks.py",
        "            await self._do(self._file.close, last=True)\n",
        "            return\n",
    ),
    # --- the event loop, and what is left over ----------------------------------------------------
    Mutation(
        "files are written in the event loop",
        "_concurrency.py",
        "return await to_the_end(hand_over(self._pool, call))",
        "return call()",
    ),
    Mutation(
        "a call has no time limit",
        "_edges/http.py",
        "if traced else self._limit(timeout) as facts:",
        "if traced else self._limit(None) as facts:",
    ),
    Mutation(
        "the slot at the gate is not given back",
        "_submitter/in_flight.py",
        "        self.shared.gate.leave()\n",
        "",
    ),
    Mutation(
        "the place of a task in flight is not given back",
        "batch/_follow.py",
        "        finally:\n            self._in_flight.release()\n",
        "        finally:\n            pass\n",
    ),
    Mutation(
        "the folder's lock is not released",
        "batch/_batch.py",
        "            lock.release()\n",
        "            del lock\n",
    ),
    Mutation(
        "connections stay open",
        "_edges/http.py",
        "            await self._client.close()\n",
        "            pass\n",
    ),
    Mutation(
        "background work is not ended",
        "_concurrency.py",
        "            for task in self._tasks:\n                task.cancel()\n"
        "            await asyncio.wait(self._tasks)",
        "            return",
    ),
    Mutation(
        "the key is logged",
        "_edges/http.py",
        "        try:\n            traced = self._events.traced\n",
        '        __import__("logging").getLogger("happyhorse_async")'
        '.warning("".join(self._client.headers.values()))\n'
        "        try:\n            traced = self._events.traced\n",
    ),
)


def mutate(mutation: Mutation, package: Path) -> None:
    """Make a wrong change in a copy of the package; raises `ValueError` when its text is not there
    once.
    """
    path = package / mutation.file
    text = path.read_text()
    if text.count(mutation.right) != 1:
        raise ValueError(
            f"{mutation.name}: {mutation.file} has its text {text.count(mutation.right)} times"
        )
    path.write_text(text.replace(mutation.right, mutation.wrong))


def hunt(mutation: Mutation, nights: int = MOST) -> tuple[str, str]:
    """Play nights with a wrong change until a law breaks; return the law, and kind and number of
    the nights that it took.

    "" and the last when none has broken. Crowds come first, which are cheaper.
    """
    law, took = "", ""
    with tempfile.TemporaryDirectory() as folder:
        for part in ("happyhorse_async", "tests"):
            ignored = shutil.ignore_patterns("__pycache__", "photos")
            shutil.copytree(ROOT / part, Path(folder) / part, ignore=ignored)
        mutate(mutation, Path(folder) / "happyhorse_async")
        for kind in ("batch",) if mutation.file in BATCHES_ONLY else ("crowd", "batch"):
            command = [sys.executable, "-m", "tests.simulation", "--until-broken", "--jobs", "1"]
            command += ["--nights", str(nights), "--size", str(SIZE), "--kind", kind]
            done = subprocess.run(
                command,
                cwd=folder,
                env={**os.environ, "PYTHONPATH": folder},
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode != 0:
                raise RuntimeError(f"{mutation.name}: no night was played\n{done.stderr[-2000:]}")
            last = json.loads(done.stdout.splitlines()[-1])
            law, took = last["law"], f"{kind} {last['seeds']}"
            if law:
                break
    return law, took


def main(names: list[str]) -> int:
    """Print the table; return how many changes were not caught."""
    missed = 0
    print("| wrong change | law that caught it | seeds |\n|---|---|---|", flush=True)
    for mutation in MUTATIONS:
        if not names or any(name in mutation.name for name in names):
            law, took = hunt(mutation)
            missed += not law
            print(f"| {mutation.name} | {law or 'NOT CAUGHT'} | {took} |", flush=True)
    return missed


if __name__ == "__main__":
    sys.exit(min(main(sys.argv[1:]), 1))
