"""What the trainer writes, and what is left of it after a kill."""

import io
import json
import os
import pty

import numpy as np
import pytest

from facejax.evaluators import Result
from facejax.metrics import (
    Progress,
    Writer,
    duration,
    load_eval,
    load_preview,
    read_jsonl,
    save_eval,
    save_preview,
)


class Clock:
    """A clock that moves only when told."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def strict(path):
    """Parses every line as strict JSON, which knows no NaN."""

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def test_scalars_are_json_lines_whatever_the_number(tmp_path):
    writer = Writer(tmp_path, 0)
    values = {"loss": np.float32(0.5), "lr": 1e-3, "mfu": None, "skipped_steps": np.int64(2)}
    writer.scalars(1, values)
    writer.scalars(2, {"loss": float("nan"), "grad_norm": np.float32("inf")})
    writer.close()
    assert strict(tmp_path / "metrics.jsonl") == [
        {"step": 1, "loss": 0.5, "lr": 1e-3, "mfu": None, "skipped_steps": 2},
        {"step": 2, "loss": None, "grad_norm": None},
    ]


def test_lines_are_on_disk_before_close(tmp_path):
    writer = Writer(tmp_path, 0)
    writer.scalars(1, {"loss": 1.0})
    writer.histogram(1, "simclr/positive", np.ones(4), -1.0, 1.0)
    writer.batch_ids(1, [("faces", np.int64(7)), ("faces", 3)])
    assert [row["loss"] for row in strict(tmp_path / "metrics.jsonl")] == [1.0]
    (histogram,) = strict(tmp_path / "histograms.jsonl")
    assert histogram["name"] == "simclr/positive"
    assert (histogram["low"], histogram["high"], histogram["counts"]) == (-1.0, 1.0, [1.0] * 4)
    batches = strict(tmp_path / "batches.jsonl")
    assert batches == [{"step": 1, "ids": [["faces", 7], ["faces", 3]]}]
    writer.close()


def test_resuming_cuts_all_three_files_to_the_checkpoint(tmp_path):
    writer = Writer(tmp_path, 0)
    for step in (1, 2, 3):
        writer.scalars(step, {"loss": step / 3})
        writer.histogram(step, "h", np.ones(2), 0.0, 1.0)
        writer.batch_ids(step, [("a", step)])
    writer.close()
    before = (tmp_path / "metrics.jsonl").read_bytes().splitlines()
    for name in ("metrics.jsonl", "histograms.jsonl", "batches.jsonl"):
        with (tmp_path / name).open("a") as file:
            file.write('{"step":2,"torn":')
    resumed = Writer(tmp_path, 2)
    resumed.scalars(3, {"loss": 9.0})
    resumed.close()
    lines = (tmp_path / "metrics.jsonl").read_bytes().splitlines()
    assert lines[:2] == before[:2]
    assert [row["step"] for row in strict(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    assert strict(tmp_path / "metrics.jsonl")[2]["loss"] == 9.0
    assert [row["step"] for row in strict(tmp_path / "histograms.jsonl")] == [1, 2]
    assert [row["step"] for row in strict(tmp_path / "batches.jsonl")] == [1, 2]


def test_a_second_writer_cuts_nothing_and_survives_a_torn_line(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step":1,"loss":1.0}\n{"step":2,"lo')
    writer = Writer(tmp_path, None)
    writer.scalars(1, {"eval/lfw/auc": 0.75})
    writer.close()
    rows = list(read_jsonl(tmp_path / "metrics.jsonl"))
    assert rows == [{"step": 1, "loss": 1.0}, {"step": 1, "eval/lfw/auc": 0.75}]


def test_lines_follow_a_file_that_another_process_has_cut(tmp_path):
    follower = Writer(tmp_path, None)
    follower.scalars(1, {"eval/lfw/auc": 0.5})
    trainer = Writer(tmp_path, 1)
    follower.scalars(2, {"eval/lfw/auc": 0.6})
    assert [row["step"] for row in strict(tmp_path / "metrics.jsonl")] == [1, 2]
    follower.close()
    trainer.close()


def test_processes_but_the_first_write_nothing(tmp_path):
    writer = Writer(tmp_path / "run", 0, write=False)
    writer.scalars(1, {"loss": 1.0})
    writer.histogram(1, "h", np.ones(2), 0.0, 1.0)
    writer.batch_ids(1, [("a", 1)])
    writer.flush()
    writer.close()
    assert not (tmp_path / "run").exists()


def test_tensorboard_holds_scalars_and_histograms(tmp_path):
    from tensorboardX.proto.event_pb2 import Event

    writer = Writer(tmp_path, 0)
    writer.scalars(3, {"loss": 0.5, "mfu": None})
    writer.histogram(3, "simclr/positive", np.array([1.0, 3.0]), 0.0, 1.0)
    writer.close()
    (path,) = (tmp_path / "tensorboard").iterdir()
    data, values = path.read_bytes(), {}
    while data:
        length = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]
        values |= {value.tag: (event.step, value) for value in event.summary.value}
    assert values["loss"][0] == 3
    assert values["loss"][1].simple_value == 0.5
    assert "mfu" not in values
    histogram = values["simclr/positive"][1].histo
    assert (histogram.num, histogram.sum) == (4.0, 1 * 0.25 + 3 * 0.75)


def test_evaluation_survives_the_round_trip(tmp_path):
    line = {"x": np.r_[0, 1.0], "y": np.r_[0, 1.0], "xlabel": "FAR", "ylabel": "TAR"}
    result = Result(
        metrics={"accuracy": 0.75, "tar@far=1e-3": float("nan"), "n": np.int64(6)},
        curves={"roc": {**line, "logx": True}, "plain": line},
        items={"correct": np.array([True, False])},
        embeddings=np.arange(6, dtype=np.float32).reshape(3, 2),
        labels=np.array(["Ann", "Bo", "Ann"], dtype=object),
    )
    path = save_eval(tmp_path, "lfw", 10, "random", result)
    assert path == tmp_path / "artifacts" / "eval-lfw-10-random.npz"
    back = load_eval(path)
    assert back.metrics["accuracy"] == 0.75
    assert back.metrics["n"] == 6
    assert np.isnan(back.metrics["tar@far=1e-3"])
    assert back.curves["roc"]["ylabel"] == "TAR"
    assert (back.curves["roc"]["logx"], back.curves["plain"]["logx"]) == (True, False)
    np.testing.assert_array_equal(back.curves["roc"]["y"], [0, 1])
    np.testing.assert_array_equal(back.items["correct"], [True, False])
    np.testing.assert_array_equal(back.embeddings, result.embeddings)
    assert back.labels.tolist() == ["Ann", "Bo", "Ann"]
    bare = load_eval(save_eval(tmp_path, "lfw", 10, "", Result({"auc": 1.0})))
    assert bare.embeddings is None
    assert bare.labels is None
    assert {p.name for p in path.parent.iterdir()} == {path.name, "eval-lfw-10.npz"}


def test_preview_survives_the_round_trip(tmp_path):
    images = np.arange(2 * 3 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 4, 3)
    path = save_preview(tmp_path, "mae", 5, images, ("input", "masked", "reconstruction"))
    assert path.name == "preview-mae-5.npz"
    back, columns = load_preview(path)
    np.testing.assert_array_equal(back, images)
    assert columns == ["input", "masked", "reconstruction"]


@pytest.mark.parametrize(
    ("images", "columns"),
    [
        (np.zeros((2, 3, 4, 4, 3), np.float32), ("a", "b", "c")),
        (np.zeros((2, 3, 4, 4), np.uint8), ("a", "b", "c")),
        (np.zeros((2, 3, 4, 4, 3), np.uint8), ("a", "b")),
    ],
)
def test_a_preview_of_another_form_is_refused(tmp_path, images, columns):
    with pytest.raises(ValueError):
        save_preview(tmp_path, "mae", 5, images, columns)
    assert not (tmp_path / "artifacts").exists()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.6, "1 min 00 s"),
        (750, "12 min 30 s"),
        (18420, "5 h 07 min"),
        (180000, "2 d 02 h"),
    ],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_progress_in_a_log_file_is_one_line_per_update():
    log, clock = io.StringIO(), Clock()
    with Progress(100, stream=log, clock=clock) as progress:
        progress.update(10, {"loss": 0.5, "images_per_s": 640.0, "mfu": None, "step_ms": 2000.0})
        clock.now = 10.0
        progress.update(20, {"loss": float("nan"), "mfu": 0.412, "data_wait": 0.013})
    assert log.getvalue().splitlines() == [
        "step 10/100  10.0 %  3 min 00 s left  loss 0.5000  640 images/s",
        "step 20/100  20.0 %  1 min 20 s left  loss nan  MFU 41.2 %  data wait 1.3 %",
    ]


def test_progress_says_of_what_mfu_is_a_share_and_whose_memory_it_is():
    log = io.StringIO()
    speed = {"images_per_s": 640.0, "images_per_s_per_device": 80.0}
    speed |= {"step_ms": 9.0, "step_ms_p50": 8.0, "step_ms_p95": 12.0}
    rest = {"mfu": 0.412, "ceiling_tflops": 0.4, "goodput": 0.9, "host_peak_gib": 1.26}
    with Progress(100, stream=log) as progress:
        progress.update(100, speed | rest | {"device_peak_gib": 60.0})
    assert log.getvalue() == (
        "step 100/100  100.0 %  0 s left  640 images/s (80 a device)  step 8 ms (p95 12)"
        "  MFU 41.2 % of the measured ceiling  goodput 90 %  device peak 60.0 GiB"
        "  host peak 1.3 GiB\n"
    )


def test_progress_in_a_terminal_rewrites_its_line():
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w") as terminal:
        with Progress(100, stream=terminal) as progress:
            progress.update(50, {"loss": 0.25})
            progress.update(60, {"loss": 0.125})
            progress._live.refresh()
        terminal.write("the end")
        terminal.flush()
        shown = ""
        while "the end" not in shown:  # one read takes what has passed through by then, no more
            shown += os.read(leader, 65536).decode()
    os.close(leader)
    assert "60/100" in shown
    assert "loss 0.1250" in shown
    assert "\x1b[" in shown
