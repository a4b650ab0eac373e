"""The memory of the newest things: it has an end, and forgets none of the newest half."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from happyhorse_async._recent import Recent

MOST = 6
NAMES = st.sampled_from("abcdefghijkl")


@given(st.lists(st.tuples(NAMES, st.booleans())))
def test_the_newest_half_is_remembered_and_never_more_than_that_many(
    steps: list[tuple[str, bool]],
) -> None:
    """Whatever comes and goes: a newest value is never an older one, and what goes is gone."""
    recent: Recent[int] = Recent(MOST)
    true: dict[str, int] = {}
    came: dict[str, None] = {}
    for number, (name, goes) in enumerate(steps):
        if goes:
            assert recent.pop(name) in (true.pop(name, None), None)
        else:
            came.pop(name, None)
            came[name], true[name] = None, number
            recent.remember(name, number)
        held = {each: recent.get(each) for each in came if each in recent}
        assert held.items() <= true.items()
        assert len(held) <= MOST
        newest = list(came)[-MOST // 2 :]
        assert all(recent.get(each) == true.get(each) for each in newest)
