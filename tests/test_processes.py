"""Workers end with their parent, and freed memory is used again."""

import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from pathflip.processes import follow_parent, freed_memory_is_reused, transformers_are_quiet

CLI = "from pathflip.cli import main; main()"


def children_of(process: int) -> list[int]:
    listing = subprocess.run(["pgrep", "-P", str(process)], capture_output=True, text=True, check=False)
    return [int(child) for child in listing.stdout.split()]


def alive(process: int) -> bool:
    """Running: neither gone nor a zombie that nobody has waited for."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="reads /proc")
def test_killing_simulate_ends_its_painters(tmp_path):
    words = ["simulate", "study", "--out", str(tmp_path), "--workers", "2"]
    parent = subprocess.Popen([sys.executable, "-c", CLI, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    children = []
    try:
        assert wait_until(lambda: any((tmp_path / "truth").glob("*.json")), 60)  # painters are at work
        children = children_of(parent.pid)
        assert len(children) >= 2
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        assert wait_until(lambda: not any(map(alive, children)), 10)
    finally:
        for process in [parent.pid, *children]:
            if alive(process):
                os.kill(process, signal.SIGKILL)
        parent.wait()


FAULTS = """
import resource
import numpy as np
from pathflip.processes import keep_memory
kept = {keep} and keep_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(2**23)
before = faults()
for _ in range(20):
    np.ones(2**23)
print(int(kept), faults() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_kept_memory_is_not_mapped_anew():
    def faults(keep: bool) -> tuple[int, ...]:
        done = subprocess.run([sys.executable, "-c", FAULTS.format(keep=keep)], capture_output=True, check=True)
        return tuple(map(int, done.stdout.split()))

    with freed_memory_is_reused() as known:
        pass
    if not known:
        pytest.skip("this C library keeps memory its own way")
    (_, usual), (with_memory, reused) = faults(False), faults(True)
    assert with_memory == 1
    assert usual > 100  # pages of 2 MiB at the largest
    assert reused < usual / 10


def warn(name):
    warnings.warn(f"slide '{name}':\ntwo lines", stacklevel=1)
    warnings.warn("a library's own", DeprecationWarning, stacklevel=1)


def test_a_workers_warnings_are_notes_of_one_line(capfd):
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=follow_parent) as pool:
        pool.submit(warn, "a\x1b[2Jb").result()
    assert capfd.readouterr().err == "note: slide 'a\\u001b[2Jb': two lines\n"


def test_threads_that_read_models_at_once_leave_the_tying_of_weights_as_it_was():
    """transformers takes the method away while it reads a model, and two threads in turn would put back nothing."""
    from transformers import PreTrainedModel
    from transformers.initialization import no_tie_weights

    before, first_is_in, second_waits = PreTrainedModel.tie_weights, threading.Event(), threading.Event()

    def first() -> None:
        with transformers_are_quiet(), no_tie_weights():
            first_is_in.set()
            second_waits.wait(0.3)

    def second() -> None:
        first_is_in.wait()
        with transformers_are_quiet(), no_tie_weights():
            second_waits.set()
            time.sleep(0.3)

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert PreTrainedModel.tie_weights is before
    finally:
        PreTrainedModel.tie_weights = before
