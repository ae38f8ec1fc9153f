from itertools import permutations

import numpy as np
import pytest

from facejax.evaluators._ranks import best_ranks, chance


def test_the_best_relevant_item_behind_all_that_tie_with_it():
    scores = np.array([[0.9, 0.5, 0.5, 0.5 - 1e-12, 0.1], [0.9, 0.5, 0.5, 0.5, 0.1]])
    relevant = np.array([[0, 1, 0, 0, 1], [1, 1, 0, 0, 0]], bool)
    assert best_ranks(scores, relevant).tolist() == [4, 1]
    removed = np.array([[1, 0, 0, 0, 0], [0, 0, 0, 0, 0]], bool)
    assert best_ranks(scores, relevant, removed).tolist() == [3, 1]


def test_chance_by_counting_orders():
    for items, relevant, k in ((4, 2, 1), (4, 1, 3), (5, 2, 2), (3, 1, 7)):
        orders = list(permutations(range(items)))
        hits = np.mean([min(order[:k]) < relevant for order in orders])
        found = chance(np.array([relevant]), np.array([items]), k)
        assert found[0] == pytest.approx(hits)
