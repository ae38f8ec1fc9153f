import pytest

from facejax.evaluators import verification
from facejax.evaluators._baselines import pixels


@pytest.mark.slow
@pytest.mark.real_faces
def test_raw_pixels_on_lfw_view_2(real_faces):
    cfg = verification.Config(
        str(real_faces / "lfw128.zip"), str(real_faces / "pairs.txt"), bootstrap=0
    )
    metrics = verification.run(cfg, verification.prepare(cfg, 128), pixels).metrics
    assert metrics["n"] == 6000
    assert metrics["failed"] == 0
    assert metrics["accuracy"] == pytest.approx(0.609, abs=0.007)  # +- its standard error
    assert metrics["accuracy_std"] / 10**0.5 == pytest.approx(0.007, abs=0.001)


@pytest.mark.real_faces
def test_view_1_files_match_their_pictures(real_faces):
    for name, pairs in (("pairsDevTrain.txt", 2200), ("pairsDevTest.txt", 1000)):
        cfg = verification.Config(
            str(real_faces / "lfw128.zip"), str(real_faces / name), protocol="best"
        )
        assert len(verification.prepare(cfg, 128).same) == pairs
