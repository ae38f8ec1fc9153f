"""Groups of one identity: what they hold depends on (seed, n) alone, blocked records or not."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facejax import plugins
from facejax.data import pipeline
from facejax.data.mixture import Entry, Mixture
from facejax.data.order import make_order
from facejax.data.pipeline import BatchSpec
from facejax.data.records import BadRecord, Field
from facejax.data.sampling import Groups, Sampler, identities_of, people_of
from facejax.errors import TrainingFailed, UserError


class People:
    """A source whose record `i` shows `identities[i]`; those in `broken` are bad."""

    def __init__(self, identities, broken=(), known=True):
        self._of, self.broken = np.array(identities, np.int32), set(broken)
        classes = int(self._of.max()) + 1
        self.fields = {"image": Field(dtype="uint8"), "identity": Field((), "int32", classes)}
        if known:
            self.identities = lambda: self._of

    def __len__(self):
        return len(self._of)

    def name(self, index):
        return f"face {index}"

    def read(self, indices):
        image = np.zeros((4, 4, 3), np.uint8)
        return [
            BadRecord("broken")
            if i in self.broken
            else {"image": image, "identity": int(self._of[i])}
            for i in indices
        ]


def mixture(*sources, weights=None):
    weights = weights or [None] * len(sources)
    return Mixture([Entry(f"s{i}", s, w) for i, (s, w) in enumerate(zip(sources, weights))])


def pk(people, images, min_images=0):
    return Sampler("pk", people, images, min_images)


def drawn(order, n, group):
    return np.array([order[i] for i in range(n * group)]).reshape(n, group)


def faces(counts, seed=0):
    """Shuffled identities, identity k `counts[k]` times."""
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))


COUNTS = st.lists(st.integers(1, 9), min_size=2, max_size=12)
SIZES = st.integers(1, 3)


@settings(max_examples=40, deadline=None)
@given(counts=COUNTS, images=SIZES, seed=st.integers(0, 9))
def test_an_epoch_visits_every_identity_once_without_repeats_in_a_group(counts, images, seed):
    of = faces(counts, seed)
    enough = {k for k, count in enumerate(counts) if count >= images}
    sampler = pk(1, images, images)
    if not enough:
        with pytest.raises(UserError, match=f"no identity of 's0' has {images} images"):
            make_order(mixture(People(of)), seed, sampler)
        return
    order = make_order(mixture(People(of)), seed, sampler)
    groups = drawn(order, 3 * len(enough), images)
    assert all(len(set(group)) == images for group in groups.tolist())
    people = of[groups]
    assert (people == people[:, :1]).all()
    for epoch in people[:, 0].reshape(3, -1):
        assert set(epoch) == enough
        assert len(epoch) == len(enough)
    few = len(counts) - len(enough)
    assert [str(few) in note for note in order.notes] == [True] * bool(few)


def test_pictures_of_an_identity_come_equally_often():
    of = faces([7, 4])
    groups = drawn(make_order(mixture(People(of)), 0, pk(2, 2)), 2 * 12, 2)
    times = Counter(groups.ravel().tolist())
    first = [times[i] for i in np.flatnonzero(of == 0)]
    assert sum(first) == 24
    assert max(first) - min(first) <= 4  # one of seven is left out of each of four cycles
    assert [times[i] for i in np.flatnonzero(of == 1)] == [6] * 4


def test_balanced_rows_show_identities_equally_often_and_then_pictures():
    of = faces([1, 2, 6])
    groups = drawn(make_order(mixture(People(of)), 0, Sampler("balanced")), 3 * 12, 1)
    assert np.bincount(of[groups[:, 0]]).tolist() == [12, 12, 12]
    times = Counter(groups[:, 0].tolist())
    assert [times[i] for i in np.argsort(of, kind="stable")] == [12, 6, 6, 2, 2, 2, 2, 2, 2]


def test_epochs_and_seeds_and_labels_have_other_orders():
    of = faces([4] * 8)
    mix = mixture(People(of), People(of))
    groups = drawn(make_order(mix, 0, pk(8, 2)), 64, 2)
    parts = [groups[groups[:, 0] // len(of) == s] % len(of) for s in (0, 1)]
    assert [len(part) for part in parts] == [32, 32]
    one, other = (of[part[:, 0]].reshape(4, 8) for part in parts)
    assert (one[0] != one[1]).any()
    assert (one != other).any()
    again = drawn(make_order(mix, 1, pk(8, 2)), 64, 2)
    assert (groups != again).any()


@pytest.mark.parametrize("sampler", [pk(4, 2), Sampler("balanced")])
def test_rows_do_not_depend_on_processes_or_restarts(sampler):
    mix = mixture(People(faces([5] * 6), broken=[3]), People(faces([3] * 9)), weights=[2, 1])

    def ids(rows, start=0):
        order = make_order(mix, 7, sampler)
        wanted = BatchSpec(4, 8, rows, ["identity"])
        batches = pipeline.batches(mix, order, wanted, start=start, steps=9)
        return [list(zip(b.ids, b.arrays["identity"].tolist())) for b in batches]

    whole = ids(np.arange(8))
    for processes in (2, 4, 8):
        parts = [ids(rows) for rows in np.split(np.arange(8), processes)]
        assert [[row for part in step for row in part] for step in zip(*parts)] == whole
    assert ids(np.arange(8), start=5) == whole[5:]
    if sampler.type == "pk":
        people = np.array([[who for _, who in step] for step in whole]).reshape(-1, 2)
        assert (people[:, 0] == people[:, 1]).all()


def test_weights_count_groups_and_default_to_identities():
    mix = mixture(People(faces([2] * 30)), People(faces([9] * 10)))
    groups = drawn(make_order(mix, 0, pk(8, 2)), 400, 2)
    assert np.mean(groups[:, 0] < 60) == pytest.approx(0.75, abs=0.01)
    assert ((groups < 60).sum(1) % 2 == 0).all()
    weighted = Mixture([Entry(e.label, e.source, w) for e, w in zip(mix.entries, (1, 4))])
    groups = drawn(make_order(weighted, 0, pk(8, 2)), 400, 2)
    assert np.mean(groups[:, 0] < 60) == pytest.approx(0.2, abs=0.01)


def test_a_broken_picture_is_replaced_by_another_of_the_same_person():
    of = faces([4, 4, 2])
    broken = np.concatenate([np.flatnonzero(of == 0)[:2], np.flatnonzero(of == 2)])
    mix = mixture(People(of, broken=broken))
    order = make_order(mix, 0, pk(3, 2))
    found = pipeline.batches(mix, order, BatchSpec(4, 6, np.arange(6)), steps=8)
    for step, batch in enumerate(found):
        wanted = of[[order[6 * step + row] for row in range(6)]]
        got = np.array([index for _, index in batch.ids])
        assert not set(got) & set(broken)
        whole = wanted != 2  # nothing of the third is left, so others stand in
        assert (of[got][whole] == wanted[whole]).all()
        for group in got.reshape(3, 2):
            assert of[group[0]] != 0 or len(set(group)) == 2
    mix = mixture(People(of, broken=range(10)))
    wanted = BatchSpec(4, 6, np.arange(6))
    with pytest.raises(TrainingFailed, match="s0: 1000 broken records in a row"):
        list(pipeline.batches(mix, make_order(mix, 0, pk(3, 2)), wanted, steps=1))


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(2, 7), min_size=2, max_size=6),
    images=st.integers(1, 2),
    data=st.data(),
)
def test_blocked_pictures_give_way_and_nothing_else_moves(counts, images, data):
    of = faces(counts)
    mix, sampler = mixture(People(of)), pk(1, images)
    before = drawn(make_order(mix, 0, sampler), 40, images)
    blocked = np.array(sorted(data.draw(st.sets(st.integers(0, len(of) - 1), max_size=6))), int)
    left = np.bincount(np.delete(of, blocked), minlength=len(counts))
    if (left < images).all():
        with pytest.raises(UserError, match="no identity keeps"):
            make_order(mix, 0, sampler, blocked=blocked)
        return
    after = drawn(make_order(mix, 0, sampler, blocked=blocked), 40, images)
    assert not np.isin(after, blocked).any()
    assert all(len(set(group)) == images for group in after.tolist())
    stays = left[of[before[:, 0]]] >= images
    untouched = ~np.isin(before, blocked) & stays[:, None]
    np.testing.assert_array_equal(before[untouched], after[untouched])
    np.testing.assert_array_equal(of[before][stays], of[after][stays])
    assert (of[after] == of[after][:, :1]).all()


def test_small_identities_are_refused_or_left_out():
    people = People(faces([3, 1, 3, 1, 1]))
    mix = mixture(people)
    with pytest.raises(UserError, match=r"min_images: 3 identities of 's0' have fewer than 2 im"):
        make_order(mix, 0, pk(2, 2))
    order = make_order(mix, 0, pk(2, 2, 2))
    assert order.notes == (
        "s0: rows are drawn from 2 identities; left out: 3 identities with fewer than 2 images",
    )
    with pytest.raises(UserError, match="people: 4 people in a batch, of 2 in all"):
        make_order(mix, 0, pk(4, 2, 2))
    unknown = mixture(People([0, -1, 1, 0, -1]))
    order = make_order(unknown, 0, Sampler("balanced"))
    assert order.notes[0].endswith("2 identities; left out: 2 images of unknown identity")
    assert not np.isin(drawn(order, 40, 1), [1, 4]).any()
    people.fields = {"image": Field(dtype="uint8")}
    with pytest.raises(UserError, match=r"sampler: 's0' gives no identity"):
        make_order(mix, 0, Sampler("balanced"))


@pytest.mark.parametrize(
    ("sampler", "told"),
    [
        (Sampler("balanced", people=3), r"where\.people: balanced rows have no groups"),
        (Sampler("balanced", images=3), r"where\.images: balanced rows have no groups"),
        (pk(3, 2), r"3 people x 2 images do not fill 8 rows"),
        (pk(0, 0), r"0 people x 0 images do not fill 8 rows"),
        (pk(4, 2, 1), r"where\.min_images: 1 is less than the 2 images"),
        (Sampler("balanced", min_images=-1), r"where\.min_images"),
    ],
)
def test_samplers_that_do_not_fit(sampler, told):
    with pytest.raises(UserError, match=told):
        sampler.check(8, "where")
    pk(4, 2, 2).check(8, "where")
    Sampler("balanced", min_images=5).check(8, "where")


@pytest.mark.parametrize("name", plugins.names("source"))
def test_sources_tell_the_identities_that_their_records_have(name, tmp_path):
    module = plugins.load("source", name, "test")
    source = module.open(module.Config.tiny(tmp_path))
    if "identity" not in source.fields:
        pytest.skip("its tiny set has no identities")
    told = identities_of(source)
    assert told.dtype == np.int32
    assert told.tolist() == [r.get("identity", -1) for r in source.read(range(len(source)))]


def test_identities_are_read_where_a_source_does_not_tell_them():
    source = People([2, 0, 1, 0], broken=[1], known=False)
    assert identities_of(source).tolist() == [2, -1, 1, 0]


def test_millions_of_records_are_a_few_arrays():
    n = 3_000_000
    people = people_of(np.arange(n, dtype=np.int32) % (n // 10), pk(8, 4), "big")
    assert people.records.nbytes + people.starts.nbytes < 8 * n
    assert people.records.dtype == np.int32
    groups = Groups(people, "0", 4, np.array([5, n // 10 + 5]))
    assert len(groups) == n // 10
    mine, others = groups.draw(123)
    assert len(mine) == 4
    assert len({r % (n // 10) for r in mine + others}) == 1
