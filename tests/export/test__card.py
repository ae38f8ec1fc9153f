"""export/_card.py: nine sections, filled from the run, honest where it recorded nothing."""

from facejax import export
from facejax.encoders import vit
from facejax.export import _card

SECTIONS = (
    "Model Details",
    "Intended Use",
    "Factors",
    "Metrics",
    "Evaluation Data",
    "Training Data",
    "Quantitative Analyses",
    "Ethical Considerations",
    "Caveats and Recommendations",
)
META = {
    "step": 1200,
    "data": ["name folder, path faces.zip"],
    "config": {
        "objective": {"mae": {}, "simclr": {}},
        "eval": {"lfw": {"type": "verification", "pairs": "pairs.txt", "flip": None}},
    },
    "metrics": {
        "loss": 0.5,
        "eval/lfw/accuracy": 0.613,
        "eval/lfw/accuracy_low": 0.601,
        "eval/lfw/accuracy_high": 0.627,
        "eval/lfw/accuracy@pixels": 0.63,
        "eval/lfw/accuracy_low@pixels": 0.61,
        "eval/lfw/accuracy_high@pixels": 0.65,
        "eval/lfw/accuracy@random": 0.574,
        "eval/lfw/accuracy@random_diff": 0.039,
        "eval/lfw/accuracy@random_diff_low": 0.02,
        "eval/lfw/accuracy@random_diff_high": 0.06,
        "eval/lfw/auc": float("nan"),
        "eval/rfw/fmr/African": 0.02,
    },
    "versions": {"jax": "0.10.2"},
}


def text(preprocess, meta):
    return _card.text(vit.Config.tiny(), "import x", preprocess, meta, {"status": "ok"})


def parts(card):
    found = dict(part.split("\n\n", 1) for part in card.split("\n## ")[1:])
    assert tuple(found) == SECTIONS
    return found


def test_it_says_what_the_run_recorded(preprocess):
    found = parts(text(preprocess, META))
    assert "- steps: 1200\n" in found["Model Details"]
    assert "- objectives: mae, simclr\n" in found["Model Details"]
    assert "```python\nimport x\n```" in found["Model Details"]
    assert "African" in found["Factors"]
    assert found["Metrics"] == "- accuracy\n- auc\n- fmr\n"
    assert "- lfw: type verification, pairs pairs.txt\n" in found["Evaluation Data"]
    assert "faces.zip; licence: not recorded" in found["Training Data"]
    numbers, groups = found["Quantitative Analyses"].split("By group:")
    rows = [line for line in numbers.splitlines() if "eval/" in line]
    assert rows == [
        "| eval/lfw/accuracy | 0.613 | 0.601 to 0.627 | 0.574 | 0.63 (0.61 to 0.65) |",
        "| eval/lfw/accuracy@random_diff | 0.039 | 0.02 to 0.06 |  |  |",
    ]
    assert "| eval/rfw/fmr/African | 0.02 | not evaluated |  |  |" in groups


def test_it_says_what_was_not_evaluated(preprocess):
    found = parts(text(preprocess, {}))
    assert found["Metrics"].strip() == "not evaluated"
    assert found["Evaluation Data"].strip() == "not evaluated"
    assert "Groups of people: not evaluated" in found["Factors"]
    assert "By group:\n\nnot evaluated" in found["Quantitative Analyses"]
    assert "- steps: unknown\n" in found["Model Details"]


def test_the_terms_name_the_data_and_grant_nothing():
    terms = _card.terms(META)
    assert "- name folder, path faces.zip\n" in terms
    assert "grants no licence" in terms
    assert "LICENSE" in export.FILES
