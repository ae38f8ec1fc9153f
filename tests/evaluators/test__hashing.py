from collections import Counter

import numpy as np

from facejax.evaluators._hashing import hash_share, split_people


def test_people_stay_together_in_parts_of_the_right_share():
    people = [f"P{i // 3}" for i in range(9000)]
    part = split_people(people, (0.6, 0.2, 0.2))
    assert len(set(zip(people, part.tolist()))) == 3000
    share = np.array([Counter(part.tolist())[i] for i in range(3)]) / 9000
    np.testing.assert_allclose(share, (0.6, 0.2, 0.2), atol=0.03)


def test_a_split_does_not_change_when_people_are_added():
    few = split_people(["x", "y"], (0.5, 0.5))
    np.testing.assert_array_equal(split_people(["w", "x", "y", "z"], (0.5, 0.5))[1:3], few)
    assert hash_share("x") == 0x2D711642B726B044 / 2**64  # the head of its SHA-256
