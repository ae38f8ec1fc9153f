import numpy as np
import pytest

from facejax.errors import UserError
from facejax.evaluators._pairs import read_pairs


def written(tmp_path, text: str) -> str:
    path = tmp_path / "pairs.txt"
    path.write_text(text)
    return str(path)


def test_view_2_has_contiguous_folds(tmp_path):
    fold = "A_B\t1\t4\nC\t1\tD\t2\n"
    pairs = read_pairs(written(tmp_path, "3\t1\n" + 3 * fold + "\n"))
    assert pairs.left[:2] == (("A_B", 1), ("C", 1))
    assert pairs.right[:2] == (("A_B", 4), ("D", 2))
    np.testing.assert_array_equal(pairs.same, [True, False] * 3)
    np.testing.assert_array_equal(pairs.fold, [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(pairs.lines, [2, 3, 4, 5, 6, 7])


def test_view_1_has_none(tmp_path):
    pairs = read_pairs(written(tmp_path, "1\r\nAnn Lee\t1\t4\r\nC\t1\tD\t2\r\n"))
    assert pairs.fold is None
    assert pairs.left[0] == ("Ann Lee", 1)


def test_blanks_instead_of_tabs(tmp_path):
    assert read_pairs(written(tmp_path, "1\nA 1 4\nC 1 D 2\n")).right == (("A", 4), ("D", 2))


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("", ":1", "no header"),
        ("A\t1\t2\n", ":1", "no header"),
        ("0\n", ":1", "no header"),
        ("1\t1\nA\t1\t2\nC\t1\tD\t2\n", ":1", "one fold"),
        ("1\nA\t1\t2\nC\t1\tD\n", ":3", "not a pair"),
        ("1\nA\t1\tx\nC\t1\tD\t2\n", ":2", "not a pair"),
        ("2\t1\nA\t1\t2\nC\t1\tD\t2\n", "", "promises 4 pairs but 2 follow"),
    ],
)
def test_errors_name_the_line(tmp_path, text, where, what):
    path = written(tmp_path, text)
    with pytest.raises(UserError) as error:
        read_pairs(path)
    assert error.value.where == path + where
    assert what in error.value.what


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="no such pairs file"):
        read_pairs(str(tmp_path / "nowhere.txt"))


def test_a_file_without_first_line_has_the_folds_that_are_asked_for(tmp_path):
    path = written(tmp_path, 4 * "m.01\t1\t4\nm.02\t1\tm.03\t2\n")
    pairs = read_pairs(path, folds=4)
    np.testing.assert_array_equal(pairs.same, [True, False] * 4)
    np.testing.assert_array_equal(pairs.fold, np.arange(8) // 2)
    np.testing.assert_array_equal(pairs.lines, np.arange(1, 9))
    with pytest.raises(UserError, match="8 pairs without a first line do not make 3 folds"):
        read_pairs(path, folds=3)
    headed = written(tmp_path, "2\t1\n" + 2 * "A\t1\t4\nC\t1\tD\t2\n")
    assert read_pairs(headed, folds=4).fold.tolist() == [0, 0, 1, 1]
