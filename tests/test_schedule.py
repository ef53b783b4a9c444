"""Schedules: pure factors of the epoch or the step, 1 at the start."""

import math

import pytest

from runner.training.schedule import Constant, Cosine, Geometric, Staircase, Step

ALL = [Constant(), Step(milestones=[3, 5], values=[0.1, 0.05, 0.2]), Geometric(factor=0.5)]
ALL += [Staircase(factor=0.5, steps=3), Cosine(final=0.1)]


def rates(schedule, epochs, lr=1.0):
    """The learning rate of each epoch, of one step each."""
    return [lr * schedule(epoch, epochs, epoch) for epoch in range(epochs)]


def test_constant():
    assert rates(Constant(), 3) == [1.0, 1.0, 1.0]


def test_step_holds_the_first_value_for_as_many_epochs_as_its_milestone_says():
    schedule = Step(milestones=[25], values=[0.1, 0.05])
    assert rates(schedule, 60, lr=schedule.initial) == pytest.approx([0.1] * 25 + [0.05] * 35, rel=1e-12)


def test_step_with_several_values_up_and_down_or_none():
    schedule = Step(milestones=[1, 3], values=[0.1, 0.4, 0.02])
    assert rates(schedule, 5, lr=0.1) == pytest.approx([0.1, 0.4, 0.4, 0.02, 0.02])
    assert rates(Step(milestones=[], values=[0.3]), 2) == [1.0, 1.0]


def test_a_group_with_a_rate_of_its_own_keeps_its_proportion():
    assert rates(Step(milestones=[1], values=[0.1, 0.05]), 2, lr=0.02) == pytest.approx([0.02, 0.01])


def test_geometric():
    assert rates(Geometric(factor=0.5), 4, lr=0.8) == pytest.approx([0.8, 0.4, 0.2, 0.1])


def test_staircase_counts_steps_whatever_the_epoch():
    schedule = Staircase(factor=0.5, steps=4)
    assert [schedule(0, 1, step) for step in range(10)] == [1] * 4 + [0.5] * 4 + [0.25] * 2
    assert schedule(7, 9, 3) == 1
    # TensorFlow's exponential_decay with staircase, of the reference's 20,001st step
    assert 0.001 * Staircase()(0, 1, 20_000) == pytest.approx(0.001 * 0.96**10)


def test_cosine_starts_at_one_and_ends_at_final():
    schedule = Cosine(final=0.2)
    assert schedule(0, 8, 0) == 1
    assert schedule(4, 8, 0) == pytest.approx(0.6)
    assert schedule(2, 8, 0) == pytest.approx(0.2 + 0.8 * math.cos(math.pi / 8) ** 2)
    assert schedule(8, 8, 0) == pytest.approx(0.2)
    falling = rates(schedule, 9)
    assert falling == sorted(falling, reverse=True)


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_every_schedule_is_a_pure_function_that_starts_at_one(schedule):
    first = rates(schedule, 10)
    assert first[0] == 1
    assert [schedule(epoch, 10, epoch) for epoch in reversed(range(10))] == first[::-1]
    assert schedule == eval(repr(schedule))  # nothing beside the options is kept


def test_only_step_brings_a_learning_rate():
    assert [schedule.initial for schedule in ALL] == [None, 0.1, None, None, None]


@pytest.mark.parametrize(
    ("schedule", "options", "message"),
    [
        (
            Step,
            {"milestones": [0], "values": [1.0, 2.0]},
            "milestones must be positive and increasing, got [0]",
        ),
        (
            Step,
            {"milestones": [5, 5], "values": [1.0, 2.0, 3.0]},
            "milestones must be positive and increasing, got [5, 5]",
        ),
        (
            Step,
            {"milestones": [5], "values": [1.0]},
            "values must be 2, one more than milestones, got [1.0]",
        ),
        (
            Step,
            {"milestones": [5], "values": [1.0, 0.0]},
            "values must be positive and finite, got [1.0, 0.0]",
        ),
        (
            Step,
            {"milestones": [5], "values": [math.nan, 1.0]},
            "values must be positive and finite, got [nan, 1.0]",
        ),
    ],
)
def test_bad_arguments_get_one_sentence(schedule, options, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011  (the whole message is compared)
        schedule(**options)
    assert str(error.value) == message
