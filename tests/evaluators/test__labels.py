from collections import Counter

import numpy as np
import pytest

from facejax.errors import UserError
from facejax.evaluators._labels import hash_share, parents, read_table, split_people


def table(tmp_path, text: str, there=("a.png", "b.png")):
    path = tmp_path / "labels.csv"
    path.write_bytes(text.encode())
    return read_table(str(path), "pictures", there)


def test_reads_columns_by_name(tmp_path):
    got = table(tmp_path, 'file,who,"x, y"\r\nb.png,Ann,1\r\na.png,,2\r\n')
    assert got.files == ("b.png", "a.png")
    assert got.columns == {"who": ("Ann", ""), "x, y": ("1", "2")}
    assert got.lines == (2, 3)
    with pytest.raises(UserError, match="did you mean 'who'"):
        got.column("whom", "column")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("file,who\n", "no rows"),
        ("file,who\na.png\n", "1 columns instead of 2"),
        ("file,who\na.png,x\na.png,y\n", "second time"),
        ("file,who\nz.png,x\n", "no picture 'z.png' in pictures"),
    ],
)
def test_errors(tmp_path, text, what):
    with pytest.raises(UserError, match=what):
        table(tmp_path, text)


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


def test_parents_are_the_folders():
    assert parents(["set/Ann/1.png", "Bo/1.png"]) == ("Ann", "Bo")
    with pytest.raises(UserError, match=r"'1\.png' lies in no folder"):
        parents(["1.png"])
