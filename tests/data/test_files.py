"""Directories and zip archives give the same files, from any thread."""

import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facejax.data.files import open_files
from facejax.errors import UserError

NAMES = st.from_regex(r"[a-c]{1,3}(/[a-c]{1,3}){0,2}\.jpg", fullmatch=True)


@settings(max_examples=30, deadline=None)
@given(
    contents=st.dictionaries(NAMES, st.tuples(st.binary(max_size=300), st.booleans()), min_size=1),
    comment=st.binary(max_size=20),
)
def test_zip_gives_back_what_was_stored(tmp_path_factory, contents, comment):
    path = tmp_path_factory.mktemp("zip") / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.comment = comment
        for name, (data, deflate) in contents.items():
            kind = zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED
            archive.writestr(name, data, kind)
    files = open_files(str(path))
    assert files.names == tuple(sorted(contents))
    assert {name: files.read(name) for name in files.names} == {
        n: c[0] for n, c in contents.items()
    }


def test_directory_and_zip_agree_and_hide_the_same_files(tmp_path):
    folder = tmp_path / "set"
    for name in ("a/1.jpg", "b.png", ".hidden/2.jpg", "__MACOSX/3.jpg", "c/.DS_Store"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for path in folder.rglob("*"):
            archive.write(path, path.relative_to(folder))
    directory, archive = open_files(str(folder)), open_files(str(tmp_path / "set.zip"))
    assert directory.names == archive.names == ("a/1.jpg", "b.png")
    assert directory.read("a/1.jpg") == archive.read("a/1.jpg") == b"a/1.jpg"


def test_threads_share_one_archive(tmp_path):
    data = {f"{i}.bin": bytes([i % 251]) * (1000 + i) for i in range(200)}
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name, content in data.items():
            archive.writestr(name, content)
    files = open_files(str(tmp_path / "x.zip"))
    names = sorted(data) * 10
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(files.read, names)) == [data[name] for name in names]


def test_zip_members_that_changed_are_refused_one_by_one(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("bad", b"0123456789" * 10)
        archive.writestr("good", b"fine")
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"0123456789")] ^= 1
    path.write_bytes(raw)
    files = open_files(str(path))
    with pytest.raises(OSError, match="CRC"):
        files.read("bad")
    assert files.read("good") == b"fine"


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04" + bytes(40)])
def test_broken_archive_is_a_user_error(tmp_path, content):
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.zip: not a readable zip"):
        open_files(str(tmp_path / "x.zip"))


def test_missing_path_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        open_files(str(tmp_path / "nothing"))
