"""What a run cost, in the words of the report."""

import html
import re

from facejax.metrics import Writer
from facejax.reporting.rundir import read_runs
from facejax.reporting.speed import speed

WHOLE = {
    "images_per_s": 410.0,
    "images_per_s_per_device": 205.0,
    "step_ms": 156.0,
    "step_ms_p50": 150.0,
    "step_ms_p95": 180.0,
    "data_wait": 0.02,
    "mfu": 0.4,
    "ceiling_tflops": 0.25,
    "goodput": 0.8,
    "wall_s": 125.0,
    "host_peak_gib": 2.0,
}


def rows(tmp_path, **lines: dict) -> dict[str, list[str]]:
    """The table of runs of one line each: the first cell's text -> that of the others."""
    for name, values in lines.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text('{"schema_version": 1}')
        writer = Writer(tmp_path / name, 0)
        writer.scalars(1, values)
        writer.close()
    text = speed(read_runs([tmp_path / name for name in lines]))
    found = {}
    for row in re.findall("<tr>(.*?)</tr>", text)[1:]:
        cells = re.findall("<td>(.*?)</td>", row)
        first, *rest = (html.unescape(re.sub("<.*?>", " ", cell)).strip() for cell in cells)
        found[first] = rest
    return found


def test_the_cost_of_a_run_is_one_table(tmp_path):
    assert rows(tmp_path, run=WHOLE) == {
        "images/s": ["410"],
        "images/s per device": ["205"],
        "step, median": ["150.0 ms"],
        "step, 95th percentile": ["180.0 ms"],
        "data wait": ["2.0 %"],
        "MFU": ["40.0 % of the measured ceiling, 0.25 TFLOP/s a device"],
        "peak memory": ["2.0 GiB resident set of the process: the backend counts no memory"],
        "goodput": ["80.0 % of 2 min 05 s"],
    }


def test_costs_say_what_they_are_of_or_that_they_are_unknown(tmp_path):
    bare = {"step_ms": 1.0, "mfu": None}
    card = {"step_ms": 1.0, "mfu": 0.5, "device_peak_gib": 60.0, "host_peak_gib": 3.0}
    found = rows(tmp_path, bare=bare, card=card)
    assert found["MFU"] == [
        "– unknown: an objective or an encoder does not count its FLOPs",
        "50.0 % of the dense 16-bit peak of the device",
    ]
    assert found["peak memory"][1] == "60.0 GiB of the fullest device; host 3.0 GiB"
    assert found["goodput"] == ["–", "–"]
