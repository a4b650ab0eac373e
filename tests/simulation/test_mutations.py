"""The list of wrong changes fits the product, and the nights catch them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.simulation.mutations import MUTATIONS, ROOT, Mutation, hunt, mutate

pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="nights are played in children of one process"
)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_each_wrong_change_fits_the_product(mutation: Mutation, tmp_path: Path) -> None:
    """The text of each change stands in its file exactly once; code stays code."""
    target = tmp_path / mutation.file
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(ROOT / "happyhorse_async" / mutation.file, target)
    mutate(mutation, tmp_path)
    if target.suffix == ".py":
        compile(target.read_text(), mutation.file, "exec")


def test_there_are_enough_and_no_two_are_one() -> None:
    """At least twenty-five changes, each with a name and an effect of its own."""
    assert len(MUTATIONS) >= 25
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS)
    assert all(mutation.right != mutation.wrong for mutation in MUTATIONS)


def test_a_wrong_change_is_caught_by_the_law_it_breaks() -> None:
    """A video that has its name before it is synced breaks that law in one of the first nights."""
    mutation = next(each for each in MUTATIONS if "synced" in each.name)
    law, _ = hunt(mutation, nights=5)
    assert law == "a video has its name before its bytes are synced"


@pytest.mark.slow
@pytest.mark.skipif(
    "HAPPYHORSE_MUTATIONS" not in os.environ, reason="takes hours: HAPPYHORSE_MUTATIONS=1"
)
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_each_wrong_change_is_caught(mutation: Mutation) -> None:
    """Within three hundred seeds of each kind a law breaks."""
    law, took = hunt(mutation)
    print(mutation.name, law, took)
    assert law
