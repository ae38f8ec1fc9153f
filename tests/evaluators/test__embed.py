import numpy as np
from made_up_faces import number, person

from facejax.evaluators._embed import embed_pictures, map_rows
from facejax.evaluators._metrics import unit
from facejax.evaluators._pictures import open_pictures


def corner(images):
    """Reads the top left pixel, so the mirror image differs."""
    return images[:, 0, 0].astype(np.float32)


def embed(faces, embed, names, flip="none"):
    pictures = open_pictures(faces.images, None, 1.0)
    rows = [pictures.names().index(name) for name in names]
    return embed_pictures(embed, pictures, rows, 8, flip)


def test_padding_reaches_no_result(faces, monkeypatch):
    monkeypatch.setattr("facejax.evaluators._pictures.CHUNK", 3)
    names = [faces.name(p, i) for p, i in ((3, 1), (0, 2), (19, 10), (3, 1))]
    values, usable = embed(faces, corner, names)
    assert usable.tolist() == [True] * 4
    np.testing.assert_array_equal(values[:, :2], [[3, 1], [0, 2], [19, 10], [3, 1]])


def test_sum_adds_raw_embeddings_and_concat_puts_unit_ones_side_by_side(faces):
    names = [faces.name(p, 1) for p in range(5)]

    def lopsided(images):  # the mirror image is the second call
        scale = 1 if lopsided.calls % 2 == 0 else 3
        lopsided.calls += 1
        return np.stack([person(images) + scale, number(images) * scale], 1).astype(np.float32)

    found = {}
    for flip in ("none", "sum", "concat"):
        lopsided.calls = 0
        found[flip] = embed(faces, lopsided, names, flip)[0]
    first = found["none"]
    second = np.stack([np.arange(5) + 3, np.full(5, 3)], 1)
    np.testing.assert_array_equal(found["sum"], first + second)
    np.testing.assert_allclose(
        found["concat"], np.concatenate([unit(first), unit(second)], 1), rtol=1e-6
    )


def test_the_mirror_image_is_mirrored_left_to_right(faces):
    seen = []

    def watch(images):
        seen.append(images)
        return corner(images)

    embed(faces, watch, [faces.name(1, 1)], "sum")
    np.testing.assert_array_equal(seen[1], seen[0][:, :, ::-1])


def test_map_takes_people_with_many_pictures_and_few_pictures_of_each():
    people = np.array(["a"] * 100 + ["b"] * 4 + ["c"] * 6)
    usable = np.ones(110, bool)
    usable[0] = False
    rows = map_rows(people, usable)
    np.testing.assert_array_equal(rows, [*range(1, 31), *range(104, 110)])
    assert len(map_rows(people[:3], usable[:3])) == 0
