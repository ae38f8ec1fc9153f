"""Label files: what a user may write, and what each mistake is told."""

import csv

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facejax.data import labels
from facejax.errors import UserError

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), max_size=8)


def write(path, text):
    path.write_text(text)
    return str(path)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.tuples(TEXT.filter(bool), TEXT, TEXT), min_size=1, unique_by=lambda r: r[0]),
    key=st.integers(0, 2),
)
def test_table_gives_back_what_was_written(tmp_path_factory, rows, key):
    path = tmp_path_factory.mktemp("csv") / "x.csv"
    order = [1, 2]
    order.insert(key, 0)
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        for row in [("file", "a", "b"), *rows]:
            writer.writerow([row[k] for k in order])
    table = labels.read_table(str(path))
    assert table.columns == ("a", "b")
    assert table.rows == {name: (a, b) for name, a, b in rows}


def test_first_column_names_the_file_if_none_is_called_so(tmp_path):
    table = labels.read_table(write(tmp_path / "x.csv", "picture,who\na.jpg,ann\n"))
    assert table.columns == ("who",)
    assert table.rows == {"a.jpg": ("ann",)}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "holds no rows"),
        ("file,a\n", "holds no rows"),
        ("file,a\nx.jpg,1,2\n", "row 2 has 3 values"),
        ("file,a\nx.jpg,1\nx.jpg,1\n", "names 'x.jpg' twice"),
        ("file,a,a\nx.jpg,1,1\n", "two columns called 'a'"),
    ],
)
def test_malformed_tables_are_user_errors(tmp_path, text, told):
    with pytest.raises(UserError, match=told):
        labels.read_table(write(tmp_path / "x.csv", text))


def test_rows_match_by_path_or_by_unique_file_name(tmp_path):
    table = labels.read_table(write(tmp_path / "x.csv", "file,a\n1.jpg,p\nb/2.jpg,q\n"))
    assert labels.match(table, ["images/1.jpg", "b/2.jpg"], "error") == [("p",), ("q",)]
    with pytest.raises(UserError, match=r"1 images have no entry: d/1\.jpg"):
        labels.match(table, ["b/2.jpg", "d/1.jpg", "1.jpg"], "error")


def test_images_without_a_row_are_named_and_counted(tmp_path):
    table = labels.read_table(write(tmp_path / "x.csv", "file,a\n0.jpg,p\n9.jpg,q\n"))
    names = [f"{i}.jpg" for i in range(6)]
    with pytest.raises(UserError, match=r"5 images have no entry: 1\.jpg, 2\.jpg, 3\.jpg, \.\.\.;"):
        labels.match(table, names, "error")
    assert labels.match(table, names, "unknown") == [("p",)] + [None] * 5
    with pytest.raises(UserError, match=r"no row matches an image, such as '7\.jpg'"):
        labels.match(table, ["7.jpg"], "unknown")


def test_classes_are_numbered_by_sorted_name():
    numbers, names = labels.classes(["zoe", "", "ann", "zoe"])
    assert names == ("ann", "zoe")
    assert numbers.tolist() == [1, -1, 0, 1]


def test_attributes_are_the_columns_of_yes_no_and_unknown(tmp_path):
    text = "file,Smiling,Male,mood,n\na,1,0,1,2\nb,-1,,x,-1\n"
    table = labels.read_table(write(tmp_path / "x.csv", text))
    assert labels.attributes(table, ()) == ("Smiling", "Male")
    values = labels.attribute_values(
        table, [table.rows["b"], None, table.rows["a"]], ("Smiling", "Male")
    )
    assert values.dtype == np.int8
    assert values.tolist() == [[-1, 0], [0, 0], [1, 0]]


def test_attributes_written_as_zero_and_one_are_refused(tmp_path):
    table = labels.read_table(write(tmp_path / "x.csv", "file,Smiling\na,1\nb,0\n"))
    with pytest.raises(UserError, match="write -1 for no"):
        labels.attributes(table, ())


def test_names_are_found_beneath_a_folder_but_never_in_another():
    rows = labels.rows_by_name(["lfw/Ann/1.png", "lfw/Bo/1.png", "lfw/Bo/2.png", "Bo/2.png"])
    assert rows["lfw/Ann/1.png"] == rows["Ann/1.png"] == 0
    assert rows["Bo/1.png"] == 1
    assert (rows["lfw/Bo/2.png"], rows["Bo/2.png"]) == (2, 3)
    assert "1.png" not in rows
    assert "Ann/2.png" not in rows
