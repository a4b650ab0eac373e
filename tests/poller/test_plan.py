"""What is read when: tasks that are alike stay together, and none is left out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from happyhorse_async import Polling
from happyhorse_async._poller import plan
from happyhorse_async._poller.plan import Plan
from happyhorse_async._poller.watched import Watched

lives = st.sampled_from([None, 30.0, 60.0, 90.0, 120.0, 150.0, 180.0])


@given(
    st.lists(st.tuples(lives, st.sampled_from([0.0, 50.0, 500.0]), st.booleans()), min_size=1),
    st.lists(st.sampled_from(["as it was", "all changed", "memory cleared", "one changed"])),
)
def test_every_task_is_in_one_group_of_its_kind(
    tasks: list[tuple[float | None, float, bool]], events: list[str]
) -> None:
    """Whatever happens between two looks, no task is left out, entered twice, or with others that
    are expected to live for another time.
    """
    looked = Plan(Polling())
    group = []
    for number, (estimate, born, callback) in enumerate(tasks):
        watched = Watched(f"task-{number}", 1000.0 - born, 1000.0 - born)
        watched.estimate, watched.callback = estimate, callback
        group.append(watched)
    for event in ["as it was", *events]:
        if event == "all changed":
            for watched in group:
                watched.kind = None
        elif event == "memory cleared":
            looked._kinds.clear()
            group[-1].kind = None
        elif event == "one changed":
            group[0].kind, group[0].estimate = None, 45.0
        groups = looked.alike(group, 1000.0)
        found = [watched.id for alike in groups for watched in alike]
        assert sorted(found) == sorted(watched.id for watched in group)
        for alike in groups:
            assert len({(each.estimate, each.callback) for each in alike}) == 1


def test_few_kinds_are_not_looked_at_again() -> None:
    """Batches of several kinds are the rule; one by one their ages cost more than all else."""
    looked = Plan(Polling())
    group = [Watched(f"task-{number}", 0.0, 0.0) for number in range(50)]
    for number, watched in enumerate(group):
        watched.estimate = float(number % plan.FEW_KINDS)
    first = [list(alike) for alike in looked.alike(group, 10.0)]
    kinds = [watched.kind for watched in group]
    assert [list(alike) for alike in looked.alike(group, 5000.0)] == first
    assert [watched.kind for watched in group] == kinds
    group[0].kind = None
    looked.alike(group, 5000.0)
    assert group[1].kind != kinds[1]
