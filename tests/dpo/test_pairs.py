"""Pairs by other rules than the poster's."""

from __future__ import annotations

import numpy as np
import pytest

from icreward_lib.dpo import at_random, best_over_worst, motion_matched

SCORES = np.array([[0.1, 0.9, 0.5], [0.3, 0.3, 0.3], [0.6, 0.2, 0.8]])


def test_the_best_goes_over_the_worst_where_there_is_one() -> None:
    pairs = best_over_worst(SCORES)
    assert pairs.table[["sample", "winner", "loser"]].to_numpy().tolist() == [[0, 1, 0], [2, 2, 1]]
    assert pairs.table["margin"].tolist() == pytest.approx([0.8, 0.6])
    assert (pairs.comparisons, pairs.even) == (3, 1)


def test_a_coin_prefers_either() -> None:
    scores = np.random.default_rng(0).random((200, 5))
    table, again = (at_random(scores, seed=3).table for _ in range(2))
    assert table.equals(again) and not table.equals(at_random(scores, seed=4).table)
    assert (table["winner"] != table["loser"]).all() and len(table) == 200
    assert 0.4 < (table["margin"] > 0).mean() < 0.6


def test_pairs_that_move_alike_have_the_widest_margin_of_those() -> None:
    motion = np.array([[0.0, 9.0, 1.0], [0.0, 1.0, 2.0], [0.0, 5.0, 9.0]])
    # Gaps 9, 1, 8; 1, 2, 1; 5, 9, 4: half are up to 4. Samples 0 and 2 keep one pair each; sample 1 is even.
    pairs = motion_matched(SCORES, motion)
    assert pairs.table[["sample", "winner", "loser"]].to_numpy().tolist() == [[0, 2, 0], [2, 2, 1]]
    assert pairs.table["margin"].tolist() == pytest.approx([0.4, 0.6])
    assert (pairs.comparisons, pairs.even) == (3, 1)


def test_clips_that_all_stand_still_move_alike() -> None:
    pairs = motion_matched(SCORES, np.zeros_like(SCORES))
    assert pairs.table.equals(best_over_worst(SCORES).table)


def test_pairs_that_move_alike_but_are_even_are_refused() -> None:
    scores, motion = np.array([[0.5, 0.5, 0.5, 0.9]]), np.array([[1.0, 1.0, 1.0, 9.0]])
    with pytest.raises(ValueError, match="clips that move alike has a winner"):
        motion_matched(scores, motion)


def test_arrays_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="at least two videos"):
        best_over_worst(np.zeros((3, 1)))
    with pytest.raises(ValueError, match="one shape"):
        motion_matched(SCORES, np.zeros((3, 2)))
