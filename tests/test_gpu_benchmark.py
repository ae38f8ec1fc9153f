"""The rows of the GPU kit: their commands are legal, and what is done is not repeated."""

import importlib
import sys
from pathlib import Path

import pytest

from benchmarks import gpu as benchmark


@pytest.mark.parametrize("tiny", [False, True])
def test_every_row_is_a_legal_command(tiny):
    assert len({row.name for row in benchmark.ROWS}) == len(benchmark.ROWS)
    for row in benchmark.ROWS:
        _, flag, module, *options = row.command(Path("out"), tiny)
        assert flag == "-m"
        args = importlib.import_module(module).arguments(options)
        assert args.size == (16 if tiny else int(next(w for w in row.options if "size" in w)[7:]))
        assert not (tiny and getattr(args, "compile", False))


def test_what_is_wanted_has_a_row():
    names = {row.name for row in benchmark.ROWS}
    models = {"vit-S-224", "vit-B-224", "vit-L-224", "vit-S-112", "mae-B-224", "mae-L-224"}
    for model in models | {"simclr-B-224"}:
        assert {f"{model}-cudnn", f"{model}-xla"} <= names
    assert {"iresnet50", "iresnet100", "input-112", "augment-S-112", "masking-B-224"} <= names


@pytest.fixture
def asked(monkeypatch):
    """Rows a, b and c, which need 1, 4 and 1 minutes; b fails as long as it is in the list."""
    asked, broken = [], ["b"]

    def run(command, seconds, cache):
        name = command[-1]
        asked.append(name)
        return {"status": int(name in broken), "seconds": 1.0, "output": f"{name} {seconds:.0f}"}

    rows = [benchmark.Row(name, "m", (name,), need) for name, need in zip("abc", (1, 4, 1))]
    monkeypatch.setattr(benchmark, "ROWS", tuple(rows))
    monkeypatch.setattr(benchmark, "run", run)
    asked.append(broken)
    return asked


def test_rows_are_done_once_and_failures_wait_for_a_retry(asked, tmp_path, capsys):
    broken = asked.pop()

    def go(*options):
        asked.clear()
        return benchmark.main([f"--out={tmp_path}", *options]), list(asked)

    assert go("--minutes=2") == (75, ["a", "c"])  # b would not end in time
    assert go() == (1, ["b"])
    assert go() == (1, [])
    broken.clear()
    assert go("--retry", "--only=a,b") == (0, ["b"])
    assert go() == (0, [])
    capsys.readouterr()
    assert go("--list") == (0, [])
    assert capsys.readouterr().out.count(" done ") == 3
    with pytest.raises(SystemExit, match="no row d"):
        go("--only=d")


def test_a_row_is_stopped_at_the_limit(tmp_path):
    command = [sys.executable, "-c"]
    found = benchmark.run([*command, "print('seen'); raise SystemExit(3)"], 60, tmp_path)
    assert (found["status"], found["output"]) == (3, "seen\n")
    assert benchmark.run([*command, "import time; time.sleep(600)"], 0.5, tmp_path) is None
