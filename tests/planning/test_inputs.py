"""What a plan knows of data that may not be there."""

import numpy as np
import pytest
from support import resolve

from facejax import session, state
from facejax.data.mixture import open_sources
from facejax.data.order import make_order
from facejax.data.pipeline import BatchSpec, batches
from facejax.errors import UserError
from facejax.planning import inputs

HERE = {"name": "synthetic", "n": 24, "identities": 6, "size": 16}
AWAY = {"name": "folder", "path": "/nowhere/faces.zip", "identity": "parent"}


def run_on(source, **keys):
    data = {"size": 16, "sources": (source,)}
    return resolve({"centres": {}}, encoder={"name": "toy"}, data=data, **keys)


def test_data_that_is_here_is_believed():
    known = inputs.facts(run_on(HERE), {})
    mixture = open_sources((HERE,))
    assert (known.classes, known.records, known.assumed) == (mixture.classes, 24, ())
    assert known.fields == mixture.fields


def test_what_is_told_goes_before_the_data():
    known = inputs.facts(run_on(HERE), {"identity": 10**7, "attributes": 3})
    assert known.classes["identity"] == known.fields["identity"].classes == 10**7
    assert known.classes["expression"] > 0
    assert len(known.attributes) == known.fields["attributes"].shape[0] == 3


def test_data_that_is_not_here_is_named_and_its_classes_are_asked_for():
    run = run_on(AWAY)
    known = inputs.facts(run, {})
    assert "/nowhere/faces.zip" in known.assumed[0]
    with pytest.raises(UserError, match=r"--classes\.identity: .*give --classes\.identity=N"):
        inputs.program(run, known)


def test_classes_that_were_told_reach_the_parameters():
    run = run_on(AWAY)
    known = inputs.facts(run, {"identity": 77})
    program, frozen = inputs.program(run, known)
    assert frozen == {}
    assert program.spec.classes["identity"] == 77
    assert state.shapes(program).objective["sparse"]["centres"]["centres"].shape[0] == 77


def test_a_mistyped_key_of_a_source_that_is_here_is_an_error():
    with pytest.raises(UserError, match="identties"):
        inputs.facts(run_on({**HERE, "identties": 3}), {})


def test_the_batch_is_that_of_the_pipeline():
    run = run_on(HERE)
    known = inputs.facts(run, {})
    program, _ = inputs.program(run, known)
    found = inputs.batch(program, known)
    mixture = open_sources((HERE,))
    wanted = BatchSpec(16, run.global_batch, np.arange(run.global_batch), program.fields())
    real = next(batches(mixture, make_order(mixture, seed=0), wanted, steps=1)).arrays
    assert {k: (v.shape, v.dtype) for k, v in found.items()} == {
        k: (v.shape, v.dtype) for k, v in real.items()
    }


def test_epochs_become_steps_where_the_data_is_here():
    run = run_on(HERE, steps=None, epochs=2.0)
    assert inputs.with_steps(run, inputs.facts(run, {})).steps == 6
    away = run_on(AWAY, steps=None, epochs=2.0)
    assert inputs.with_steps(away, inputs.facts(away, {})).steps == inputs.ASSUMED_STEPS
    assert session.with_steps(run_on(HERE, steps=7), 10**6).steps == 7


def test_a_field_that_no_source_gives_is_an_error():
    run = run_on(HERE)
    known = inputs.facts(run, {})
    program, _ = inputs.program(run, known)
    bare = inputs.Facts({}, known.classes, (), 24, ())
    with pytest.raises(UserError, match="no source gives 'identity'"):
        inputs.batch(program, bare)
