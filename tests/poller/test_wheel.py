"""What is due when: entering, moving, removing and taking."""

from __future__ import annotations

import math

from happyhorse_async._poller.plan import TimingWheel


class Thing:
    """Something with a due time."""

    slot = -1


def test_things_come_out_when_they_are_due_and_not_before() -> None:
    """Nothing is taken early, and the earliest comes first."""
    wheel: TimingWheel[Thing] = TimingWheel(0.1)
    early, late = Thing(), Thing()
    wheel.enter(late, 5.0)
    wheel.enter(early, 1.03)
    assert wheel.take(1.02, 10) == []
    assert wheel.take(1.2, 10) == [early]
    assert wheel.take(9.0, 10) == [late]
    assert (len(wheel), wheel.first()) == (0, None)


def test_entering_again_moves() -> None:
    """A thing is in an wheel once."""
    wheel: TimingWheel[Thing] = TimingWheel(0.1)
    thing = Thing()
    wheel.enter(thing, 1.0)
    wheel.enter(thing, 7.0)
    assert len(wheel) == 1
    assert wheel.take(2.0, 10) == []
    assert wheel.first() is not None
    assert wheel.take(7.1, 10) == [thing]


def test_removing_is_harmless_twice() -> None:
    """What was removed is gone, also when it is removed again."""
    wheel: TimingWheel[Thing] = TimingWheel(0.1)
    thing = Thing()
    wheel.enter(thing, 1.0)
    wheel.remove(thing)
    wheel.remove(thing)
    assert (len(wheel), wheel.first(), thing.slot) == (0, None, -1)


def test_no_more_is_taken_than_asked_for() -> None:
    """A crowd that is due at once is taken in portions, and none is lost or taken twice."""
    wheel: TimingWheel[Thing] = TimingWheel(0.1)
    things = [Thing() for _ in range(1000)]
    for thing in things:
        wheel.enter(thing, 1.0)
    taken: list[Thing] = []
    while portion := wheel.take(1.0, 300):
        assert len(portion) <= 300
        taken += portion
    assert len(taken) == 1000
    assert set(taken) == set(things)


def test_when_so_many_will_be_due() -> None:
    """The time by which a batch is full is known without looking at each thing."""
    wheel: TimingWheel[Thing] = TimingWheel(0.5)
    for second in range(10):
        wheel.enter(Thing(), float(second))
    assert wheel.when(3, 100.0) == 2.0
    assert wheel.when(10, 4.0) == math.inf
    assert TimingWheel[Thing](0.5).when(1, 3.0) == math.inf


def test_what_is_due_together_comes_in_the_order_in_which_it_was_entered() -> None:
    """No memory address decides who is first: equal nights can be played again."""
    wheel: TimingWheel[Thing] = TimingWheel(0.1)
    things = [Thing() for _ in range(100)]
    wheel.enter_all(things[1:], 1.0)
    wheel.enter(things[0], 1.0)
    assert wheel.take(1.0, 100) == [*things[1:], things[0]]
