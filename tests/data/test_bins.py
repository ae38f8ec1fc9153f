"""Verification sets are read from pickles that can do nothing else."""

import os
import pickle
import pickletools
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facejax.data.bins import read_bin
from facejax.errors import UserError


def saved(tmp_path, content, protocol=pickle.HIGHEST_PROTOCOL):
    path = tmp_path / "set.bin"
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol))
    return str(path)


def images(found):
    return [r["image"] for r in found.source.read(range(len(found.source)))]


@settings(max_examples=40, deadline=None)
@given(
    pairs=st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=300), st.booleans())),
    protocol=st.integers(0, pickle.HIGHEST_PROTOCOL),
    arrays=st.booleans(),
)
def test_every_protocol_is_read(tmp_path_factory, pairs, protocol, arrays):
    pairs += [(b"a", b"b", True)]
    encoded = [image for left, right, _ in pairs for image in (left, right)]
    written = [np.frombuffer(i, np.uint8) for i in encoded] if arrays else encoded
    same = [flag for _, _, flag in pairs]
    flags = np.array(same) if arrays else same
    found = read_bin(saved(tmp_path_factory.mktemp("bin"), (written, flags), protocol))
    assert images(found) == encoded
    assert found.same.tolist() == same
    flags = [np.bool_(flag) for flag in same]
    found = read_bin(saved(tmp_path_factory.mktemp("bin"), (written, flags), protocol))
    assert found.same.tolist() == same


def test_pixels_keep_their_layout(tmp_path):
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    for written in (pixels, np.asfortranarray(pixels)):
        found = read_bin(saved(tmp_path, ([written, pixels], [True])))
        for image in images(found):
            np.testing.assert_array_equal(image, pixels)
    assert found.source.name(1) == "pair 0, right"


def test_pickles_of_python_2(tmp_path):
    """A list and a tuple as its cPickle wrote them: strings of bytes by SHORT_BINSTRING."""
    string = b"U\x04\xff\xd8\xff\x00"
    content = b"\x80\x02](" + string * 2 + b"e](\x88e\x86."
    assert "SHORT_BINSTRING" in {opcode.name for opcode, _, _ in pickletools.genops(content)}
    assert images(read_bin(saved(tmp_path, content))) == [b"\xff\xd8\xff\x00"] * 2
    core = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    state = b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ"
    state += struct.pack("<i", -1) + b"J" + struct.pack("<i", -1) + b"K\x00tb\x89U\x02\xff\xd8tb"
    array = core + state
    found = read_bin(saved(tmp_path, b"\x80\x02](" + array * 2 + b"e](\x89e\x86."))
    assert images(found) == [b"\xff\xd8"] * 2
    assert found.same.tolist() == [False]


class Calls:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "hostile",
    [
        Calls(os.mkdir, "made"),
        Calls(eval, "__import__('os').mkdir('made')"),
        Calls(getattr, "os", "upper"),
        Calls(np.load, "made"),
        np.array([None], object),
        np.zeros(1, [("a", "u1")]),
        np.float32(1),
        {"set": {1}},
    ],
)
def test_hostile_pickles_are_refused_and_do_nothing(tmp_path, monkeypatch, hostile, protocol):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"set\.bin: (no verification set|image 0)"):
        read_bin(saved(tmp_path, ([hostile, b"b"], [True]), protocol))
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (([b"a"] * 3, [True]), "holds 3 images for 1 pairs"),
        (([b"a"] * 2, [True, False]), "holds 2 images for 2 pairs"),
        (([], []), "holds 0 images for 0 pairs"),
        ([b"a"], "holds no list of images"),
        ((b"ab", [True]), "holds no list of images"),
        (([b"a", "b"], [True]), "image 1 is neither"),
        (([b"a", np.zeros((2, 2), np.uint8)], [True]), "image 1 is neither"),
        (([b"a", b"b"], [b"x"]), "not marked by True and False"),
        (([b"a", b"b"], [2]), "not marked by True and False"),
        (b"", "no verification set"),
        (pickle.dumps(([b"a" * 99] * 2, [True]))[:50], "no verification set"),
        (b"\x80\x02cos\nsystem\n.", r"it asks for os\.system"),
    ],
)
def test_what_is_no_set_is_refused_in_one_line(tmp_path, content, told):
    with pytest.raises(UserError, match=told) as error:
        read_bin(saved(tmp_path, content))
    assert "\n" not in str(error.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"x\.bin: No such file"):
        read_bin(str(tmp_path / "x.bin"))
