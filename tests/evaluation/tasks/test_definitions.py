"""What counts as right, worked by hand."""

from __future__ import annotations

import pytest

from pruning_core.errors import PrunescopeError
from pruning_core.evaluation.tasks.definitions import TASKS, Item, Vote, chance, task

PIQA = TASKS["piqa"]

TWO = Item((("q", " yes"), ("q", " by no means")), 1, (3, 11))


def votes(*likelihoods: float) -> tuple[Vote, ...]:
    return tuple(Vote(likelihood, False) for likelihood in likelihoods)


def test_acc_takes_the_likelier_answer_and_acc_norm_the_likelier_per_character() -> None:
    assert PIQA.right(TWO, votes(-3, -5)) == {"acc": 0, "acc_norm": 1}
    assert PIQA.right(TWO, votes(-5, -3)) == {"acc": 1, "acc_norm": 1}
    assert PIQA.right(TWO, votes(-1, -9)) == {"acc": 0, "acc_norm": 0}


def test_the_first_of_equals_wins() -> None:
    assert PIQA.right(TWO, votes(-4, -4))["acc"] == 0


def test_tasks_without_acc_norm_do_not_report_it() -> None:
    assert TASKS["winogrande"].right(TWO, votes(-5, -3)) == {"acc": 1}


def test_a_last_word_is_right_where_greedy_says_it() -> None:
    item = Item((("the", " end"),), 0, (1,))
    assert TASKS["lambada_openai"].right(item, (Vote(-9, True),)) == {"acc": 1}
    assert TASKS["lambada_openai"].right(item, (Vote(-0.1, False),)) == {"acc": 0}


def test_chance_is_that_of_the_items() -> None:
    four = Item((("q", " a"),) * 4, 0, (1,) * 4)
    assert chance([TWO, four]) == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert chance([Item((("q", " word"),), 0, (1,))]) == 0


def test_an_unknown_task_is_told_the_nearest() -> None:
    with pytest.raises(PrunescopeError, match="Did you mean 'arc_easy'"):
        task("arc_eazy")
    assert task("boolq").title == "BoolQ"
