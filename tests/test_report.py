"""The page, as a reader meets it. The runs are made up: gradients as pictures, noise as scores."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from facejax.errors import UserError
from facejax.evaluators import Result
from facejax.metrics import Writer, save_eval, save_preview
from facejax.report import run, write_report
from facejax.reporting.rundir import read_runs

CONFIG = {
    "seed": 0,
    "steps": 400,
    "global_batch": 64,
    "encoder": {"name": "vit", "size": "tiny"},
    "objective": {"mae": {"weight": 1.0, "mask": 0.75}, "simclr": {"weight": 0.5, "tau": 0.1}},
    "data": {"size": 112, "sources": [{"name": "synthetic", "weight": 1.0}]},
    "optimizer": {"name": "adamw", "base_lr": 1.5e-4},
}


def make_config(path: Path, config=CONFIG, **head) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    whole = {
        "schema_version": 1,
        "config": config,
        "versions": {"facejax": "0.1.0", "jax": "0.10.2", "python": "3.11.9"},
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "devices": {"kind": "cpu", "count": 2},
        "created": "2026-01-02T03:04:05+00:00",
    }
    (path / "config.json").write_text(json.dumps(whole | head))
    return path


def make_run(path: Path, seed: int = 0, config=CONFIG) -> Path:
    """A whole run with everything that the report can show."""
    rng = np.random.default_rng(seed)
    make_config(path, config)
    writer = Writer(path, 0)
    for step in range(10, 401, 10):
        t = step / 400
        mae, simclr = 0.4 + 0.6 * np.exp(-4 * t), 1.5 + 3 * np.exp(-2 * t)
        noise = 1 + 0.03 * rng.standard_normal(8)
        values = {
            "loss": (mae + 0.5 * simclr) * noise[0],
            "loss/mae": mae * noise[1],
            "loss/simclr": simclr * noise[2],
            "lr": 1.5e-4 * min(1, 8 * t) * (1 + np.cos(np.pi * t)) / 2,
            "grad_norm": np.exp(1.5 * (1 - t) + 0.3 * rng.standard_normal()),
            "images_per_s": 410 * noise[3],
            "data_wait": 0.02 * abs(noise[4]),
            "step_ms": 156 * noise[5],
            "step_ms_p50": 150.0,
            "step_ms_p95": 180.0,
            "images_per_s_per_device": 205 * noise[3],
            "mfu": 0.4,
            "ceiling_tflops": 0.25,
            "goodput": t / (t + 0.25),
            "wall_s": 100 * (t + 0.25),
            "host_peak_gib": 1 + t,
            "skipped_steps": 0,
            "bad_records": 2,
        }
        writer.scalars(step, values)
        if step % 20 == 0:
            for name, centre in (("positive", 0.2 + 0.6 * t), ("negative", 0.25 - 0.2 * t)):
                values = rng.normal(centre, 0.16, 4000).clip(-1, 1)
                counts = np.histogram(values, 64, (-1, 1))[0]
                writer.histogram(step, f"simclr/{name}", counts, -1.0, 1.0)
    for step in (100, 200, 300, 400):
        make_eval(path, writer, rng, step)
        save_preview(path, "mae", step, gradients(), ("input", "masked", "reconstruction"))
    writer.close()
    (path / "rejected.csv").write_text("source,record,reason\na,x,truncated\na,y,truncated\n")
    return path


def gradients(rows: int = 4, side: int = 32) -> np.ndarray:
    """u8[rows, 3, side, side, 3] of coloured gradients."""
    ramp = np.linspace(0, 255, side)
    images = np.zeros((rows, 3, side, side, 3), np.uint8)
    for row in range(rows):
        images[row, ..., 0], images[row, ..., 1] = ramp[None, :], ramp[:, None]
        images[row, ..., 2] = 255 * row / rows
    images[:, 1, : side // 2] = 128
    return images


def make_eval(path: Path, writer: Writer, rng: np.random.Generator, step: int) -> None:
    identity = np.repeat(np.arange(20), 12)
    far = np.r_[0, np.logspace(-4, 0, 200)]
    scores = {"": 0.6 + 0.3 * step / 400, "random": 0.58, "pixels": 0.61}
    line = {}
    for suffix, accuracy in scores.items():
        tail = f"@{suffix}" if suffix else ""
        metrics = {
            "accuracy": accuracy,
            "accuracy_low": accuracy - 0.02,
            "accuracy_high": accuracy + 0.02,
            "accuracy_std": 0.015,
            "tar@far=1e-3": accuracy / 2,
            "impostors@far=1e-3": 3.0,
            "balanced_accuracy/Smiling": accuracy,
            "balanced_accuracy/Smiling_low": accuracy - 0.1,
            "skipped/Bald": 1.0,
            "l2": 0.01,
            "n": 6000.0,
            "failed": 0.0,
        }
        line |= {f"eval/lfw/{name}{tail}": value for name, value in metrics.items()}
        power = 1 - accuracy
        roc = {"x": far, "y": far**power, "xlabel": "false accepts", "ylabel": "true accepts"}
        roc |= {"logx": True}
        spread = 3 * (accuracy - 0.5)
        centres = np.random.default_rng(1).standard_normal((20, 16))
        embeddings = spread * centres[identity] + rng.standard_normal((240, 16))
        save_eval(
            path, "lfw", step, suffix, Result(metrics, {"roc": roc}, {}, embeddings, identity)
        )
    for suffix in ("random", "pixels"):
        gain = scores[""] - scores[suffix]
        ends = {"": gain, "_low": gain - 0.03, "_high": gain + 0.03}
        line |= {f"eval/lfw/accuracy@{suffix}_diff{end}": v for end, v in ends.items()}
    writer.scalars(step, line)


class Page(HTMLParser):
    """Collects what a browser would make of the page."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.sections: dict[str, str] = {}
        self.tables: dict[str, list[list[list[str]]]] = {}
        self._here = ""
        self._hidden = False
        self.feed(path.read_text(encoding="utf-8"))
        self.text = " ".join(self.sections.values())

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._hidden = tag == "style"
        if tag in ("section", "header", "footer"):
            self._here = dict(attributes).get("id", tag)
        elif tag == "table":
            self.tables.setdefault(self._here, []).append([])
        elif tag == "tr":
            self.tables[self._here][-1].append([])
        elif tag in ("td", "th"):
            self.tables[self._here][-1][-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag):
        self._hidden = False
        if tag in ("td", "th"):
            self._in_cell = False

    _in_cell = False

    def handle_data(self, data):
        if self._hidden:
            return
        self.sections[self._here] = self.sections.get(self._here, "") + data
        if self._in_cell:
            cell = self.tables[self._here][-1][-1]
            cell[-1] = f"{cell[-1]} {data}".strip()

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)

    def rows(self, section: str) -> dict[str, list[str]]:
        """The first table of a section: first cell -> the other cells."""
        return {row[0]: row[1:] for row in self.tables[section][0]}


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "first")


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Path:
    changed = json.loads(json.dumps(CONFIG))
    changed["objective"]["simclr"]["tau"] = 0.2
    return make_run(tmp_path_factory.mktemp("more") / "second", 1, changed)


def test_one_run_shows_every_part(one, tmp_path):
    page = Page(write_report([one], tmp_path / "report.html"))
    assert "first" in page.sections["header"]
    assert "Pretraining of vit with mae + simclr on synthetic." in page.sections["header"]
    for fact in ("400 of 400", "25,600", "2 × cpu", "2026-01-02 03:04 UTC", "0123456789", "0.10.2"):
        assert fact in page.sections["header"]
    for key, words in {
        "evaluation": ("step 400, n = 6,000, failed = 0", "random encoder", "raw pixels"),
        "curves": ("lfw: roc", "false accepts (log)", "10⁻³"),
        "training": ("loss/mae", "loss/simclr", "Learning rate", "Gradient norm", "No step was"),
        "similarity": ("positive, step 20", "negative, step 400", "cosine similarity"),
        "previews": ("input", "masked", "reconstruction", "mae, step 400", "mae, step 300"),
        "map": ("192 images of 16 identities", "PCA", "t-SNE", "lfw, random encoder"),
        "speed": ("images/s", "Data wait", "Goodput"),
        "records": ("rejected.csv: 2", "truncated"),
        "config": ("objective.simclr.tau", "data.sources.0.name", "python"),
    }.items():
        for word in words:
            assert word in page.sections[key], (key, word)
    assert "yet" not in page.text.replace("nan", "")


def test_the_table_gives_baselines_intervals_and_differences(one, tmp_path):
    rows = Page(write_report([one], tmp_path / "report.html")).rows("evaluation")
    assert rows["metric"][:3] == ["trained", "random encoder", "raw pixels"]
    assert rows["accuracy"] == [
        "0.9000 [0.8800, 0.9200] ± 0.0150",
        "0.5800 [0.5600, 0.6000] ± 0.0150",
        "0.6100 [0.5900, 0.6300] ± 0.0150",
        "+0.3200 [+0.2900, +0.3500]",
        "+0.2900 [+0.2600, +0.3200]",
    ]
    assert rows["tar@far=1e-3"] == ["0.4500", "0.2900", "0.3050", "–", "–"]
    assert set(rows) == {"metric", "accuracy", "tar@far=1e-3"}


def test_what_only_explains_other_metrics_is_folded_away(one, other, tmp_path):
    for dirs in ([one], [one, other]):
        page = Page(write_report(dirs, tmp_path / "report.html"))
        shown, folded = page.tables["evaluation"]
        details = {"impostors@far=1e-3", "balanced_accuracy/Smiling", "skipped/Bald", "l2"}
        assert details <= {row[0] for row in folded}
        assert not details & {row[0] for row in shown}
        assert page.count("details") == (3 if len(dirs) == 1 else 1)
        assert page.sections["evaluation"].count("The encoder at each evaluated step") == 2


def test_the_page_needs_nothing_from_outside(one, tmp_path):
    path = write_report([one], tmp_path / "report.html")
    page = Page(path)
    assert page.count("svg") > 10
    assert page.count("img") == 2 * 4 * 3
    assert page.count("script") == page.count("link") == page.count("iframe") == 0
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href", "data", "action"):
                assert value.startswith(("data:image/png;base64,", "#")), (tag, name, value)
    assert not re.search(r"url\(|@import|https?:", path.read_text())
    policy = {a.get("http-equiv"): a.get("content") for tag, a in page.tags if tag == "meta"}
    assert policy["Content-Security-Policy"].startswith("default-src 'none'")
    assert str(one.parent) not in path.read_text()


def test_every_svg_is_well_formed_and_in_frame(one, tmp_path):
    from xml.etree import ElementTree

    text = write_report([one], tmp_path / "report.html").read_text()
    drawings = re.findall(r"<svg.*?</svg>", text, re.S)
    for drawing in drawings:
        root = ElementTree.fromstring(drawing)
        _, _, width, height = map(float, root.get("viewBox").split())
        for path in root.iter("path"):
            if path.get("class") in ("line", "band", "ridge"):
                points = np.array(re.findall(r"[ML]([\d.-]+) ([\d.-]+)", path.get("d")), float)
                assert np.isfinite(points).all()
                assert (points >= 0).all()
                assert (points <= [width, height]).all()


def test_pictures_can_be_left_out(one, tmp_path):
    page = Page(write_report([one], tmp_path / "report.html", pictures=False))
    assert page.count("img") == 0
    assert "previews" not in page.sections
    assert "Pictures and names were left out" in page.sections["footer"]
    assert "192 images of 16 identities" in page.sections["map"]


def test_names_of_people_go_with_the_pictures(one, tmp_path):
    path = make_config(tmp_path / "people")
    (path / "metrics.jsonl").touch()
    labels = np.repeat(["Ann_Example", "Bo_Example"], 4)
    save_eval(path, "lfw", 1, "", Result({}, embeddings=np.eye(8), labels=labels))
    named = write_report([path], tmp_path / "named.html").read_text()
    bare = write_report([path], tmp_path / "bare.html", pictures=False).read_text()
    assert "identity Ann_Example" in named
    assert "Example" not in bare
    assert "identity 1" in bare
    assert "identity 2" in bare


def test_several_runs_are_compared(one, other, tmp_path):
    page = Page(write_report([one, other], tmp_path / "report.html"))
    rows = page.rows("runs")
    assert rows[""] == ["first", "second"]
    assert rows["step"] == ["400 of 400"] * 2
    assert rows["last loss"][0] != rows["last loss"][1]
    assert page.rows("evaluation")["metric"] == ["first", "second"]
    config = page.rows("config")
    assert config["objective.simclr.tau"] == ["0.1", "0.2"]
    assert "seed" not in config
    assert "Nothing differs." in page.sections["config"]
    assert page.sections["training"].count("second") >= 4
    # A legend for each overlaid chart names both runs beside lines of two colours.
    assert {"var(--c0)", "var(--c1)"} <= {a.get("stroke") for _, a in page.tags}


@pytest.mark.parametrize("word", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>'])
def test_text_from_a_run_is_never_markup(tmp_path, word):
    name = word.replace("/", "")
    config = {"encoder": {"name": word}, word: word, "objective": {word: {"weight": 1}}}
    path = make_config(tmp_path / name, config, versions={word: word}, commit=word, created=word)
    writer = Writer(path, None)
    for step in (1, 2):
        writer.scalars(step, {"loss": 1.0, f"loss/{word}": 1.0, word: 1.0})
        writer.scalars(step, {f"eval/{name}/{word}": 0.5, f"eval/{name}/{word}@random": 0.5})
        writer.histogram(step, word, np.ones(4), 0.0, 1.0)
    writer.close()
    curve = {"x": np.r_[0, 1.0], "y": np.r_[0, 1.0], "xlabel": word, "ylabel": word}
    labels = np.array([word, word, "b", "b"])
    result = Result({}, {word: curve}, {}, np.eye(4), labels)
    save_eval(path, "e", 1, "", result)
    save_preview(path, "p", 1, gradients(), (word,) * 3)
    (path / "rejected.csv").write_text(f'reason\n"{word.replace(chr(34), chr(34) * 2)}"\n')
    for dirs in ([path], [path, make_run(tmp_path / "plain")]):
        page = Page(write_report(dirs, tmp_path / "report.html"))
        assert page.count("script") == 0
        assert not any("onerror" in a or a.get("src") == "x" for _, a in page.tags)
        assert word in page.text


def test_a_run_that_has_only_begun_says_what_is_missing(tmp_path):
    path = make_config(tmp_path / "new")
    (path / "metrics.jsonl").write_text('{"step":')
    page = Page(write_report([path], tmp_path / "report.html"))
    for key in ("evaluation", "curves", "training", "previews", "map", "speed"):
        assert "yet" in page.sections[key], key
    assert "No distribution logged" in page.sections["similarity"]
    assert "No rejected.csv" in page.sections["records"]
    assert page.count("svg") == page.count("img") == 0
    both = Page(write_report([path, path.parent / "new"], tmp_path / "both.html"))
    assert "new (1)" in both.text


def test_torn_lines_and_numbers_that_are_not_finite_are_survived(tmp_path):
    path = make_config(tmp_path / "torn")
    lines = [f'{{"step":{i},"loss":{"null" if i == 3 else 1 / i}}}' for i in range(1, 6)]
    (path / "metrics.jsonl").write_text("\n".join(lines) + '\nnoise\n{"step":6,"lo')
    (loaded,) = read_runs([path])
    np.testing.assert_array_equal(loaded.curves["loss"].steps, [1, 2, 3, 4, 5])
    assert np.isnan(loaded.curves["loss"].values[2])
    text = write_report([path], tmp_path / "report.html").read_text()
    (line,) = re.findall(r'class="line" stroke="var\(--c0\)" d="([^"]+)"', text)
    assert line.count("M") == 2


def test_an_evaluation_without_baselines_says_so(tmp_path):
    path = make_config(tmp_path / "bare")
    writer = Writer(path, 0)
    writer.scalars(5, {"eval/knn/knn@20": 0.5})
    writer.close()
    page = Page(write_report([path], tmp_path / "report.html"))
    assert page.rows("evaluation") == {"metric": ["trained"], "knn@20": ["0.5000"]}
    assert "not evaluated: random encoder, raw pixels" in page.sections["evaluation"]


def test_skipped_steps_are_drawn(tmp_path):
    path = make_config(tmp_path / "skips")
    writer = Writer(path, 0)
    for step in (1, 2, 3):
        writer.scalars(step, {"loss": 1.0, "skipped_steps": step - 1})
    writer.close()
    page = Page(write_report([path], tmp_path / "report.html"))
    assert "Skipped steps" in page.sections["training"]
    assert "No step was skipped" not in page.text


def test_odd_curves_are_drawn(tmp_path):
    path = make_config(tmp_path / "odd")
    writer = Writer(path, 0)
    for step in (1, 2, 3):
        odd = {"grad_norm": 0.0, "lr": 0.0, "const": 0.9 + step * 1e-16, "big": 3e7 * step}
        writer.scalars(step, {"loss": -1.0} | odd)
    writer.histogram(20000, "plain", np.r_[0.0, 3.0, 0.0], 0.0, 3.0)
    writer.histogram(30000, "plain", np.zeros(3), 0.0, 3.0)
    writer.close()
    empty = {"x": np.zeros(0), "y": np.zeros(0), "xlabel": "x", "ylabel": "y", "logx": True}
    point = {"x": np.ones(1), "y": np.ones(1), "xlabel": "x", "ylabel": "y"}
    save_eval(path, "e", 1, "", Result({}, {"empty": empty, "point": point}))
    page = Page(write_report([path], tmp_path / "report.html"))
    for words in ("Gradient norm", "const", "80M", "20k", "e: point", "All objectives"):
        assert words in page.text
    assert "e: empty" not in page.text


def test_long_runs_give_small_pages(tmp_path):
    path = make_config(tmp_path / "long")
    lines = (f'{{"step":{i},"loss":{1 + (i % 7) / 7}}}\n' for i in range(1, 20001))
    (path / "metrics.jsonl").write_text("".join(lines))
    report = write_report([path], tmp_path / "report.html")
    assert report.stat().st_size < 40_000
    assert "bands reach to their extremes" in Page(report).sections["training"]


@pytest.mark.parametrize(
    ("make", "where", "what"),
    [
        (lambda p: None, "run", "no such directory"),
        (lambda p: p.mkdir(), "run", "no config.json here"),
        (lambda p: make_config(p), "run", "no metrics.jsonl here"),
        (lambda p: make_run_with(p, "{"), "config.json", "not valid JSON"),
        (lambda p: make_run_with(p, '{"schema_version": 2}'), "config.json", "schema version 2"),
    ],
)
def test_a_directory_that_is_no_run_is_one_line(tmp_path, make, where, what):
    make(tmp_path / "run")
    with pytest.raises(UserError) as caught:
        run([str(tmp_path / "run")])
    assert caught.value.where.endswith(where)
    assert what in caught.value.what
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("**/*.html"))


def make_run_with(path: Path, config: str) -> None:
    path.mkdir()
    (path / "config.json").write_text(config)
    (path / "metrics.jsonl").touch()


def test_the_command(one, other, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run([str(one)]) == 0
    assert (one / "report.html").is_file()
    assert run([str(one), str(other), f"--out={tmp_path}/a/b.html", "--no-pictures"]) == 0
    assert Page(tmp_path / "a" / "b.html").count("img") == 0
    assert run([str(one), str(other)]) == 0
    assert (tmp_path / "report.html").is_file()
    assert capsys.readouterr().out.count("wrote ") == 3
    with pytest.raises(UserError, match=r"is a directory|Is a directory"):
        run([str(one), f"--out={tmp_path}"])
    with pytest.raises(UserError):
        run([str(one), "--no-picture"])
