"""What a report says of a run in words."""

from types import SimpleNamespace

from facejax.reporting import overview


def test_a_run_says_which_images_it_saw():
    sources = {"data.sources.0.name": "folder", "data.sources.0.path": "here/faces.zip"}
    sources |= {"data.sources.1.name": "synthetic"}
    run = SimpleNamespace(config={"encoder.name": "vit", "objective.mae.weight": 1.0, **sources})
    told = overview.what_it_is(run)
    assert told == "Pretraining of vit with mae on folder faces.zip, synthetic."
