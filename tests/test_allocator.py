"""Memory that was freed is still there, and only where the CPU computes."""

import subprocess
import sys

import pytest

from facejax import allocator

FAULTS = """
import resource, sys, threading
import numpy as np
from facejax import allocator
if sys.argv[1] == "kept":
    assert allocator.keep_memory()

def work():
    for _ in range(2):  # the second time the heap has its size
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(4):
            np.ones(2**22)
        found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

found = []
thread = threading.Thread(target=work)
thread.start()
thread.join()
print(found[-1])
"""


def faults(how: str) -> int:
    command = [sys.executable, "-c", FAULTS, how]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_freed_memory_comes_back_without_page_faults():
    plain, kept = faults("plain"), faults("kept")
    assert kept * 20 < plain, (kept, plain)


def test_accelerators_are_told_from_the_cpu(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert allocator.only_cpu()
    monkeypatch.setenv("JAX_PLATFORMS", "cuda,cpu")
    assert not allocator.only_cpu()
    monkeypatch.delenv("JAX_PLATFORMS")
    monkeypatch.setattr(allocator.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(allocator.importlib.metadata, "entry_points", lambda group: ())
    assert allocator.only_cpu()
    monkeypatch.setattr(allocator.importlib.metadata, "entry_points", lambda group: ("cuda",))
    assert not allocator.only_cpu()
