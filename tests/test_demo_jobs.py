"""Jobs side by side: each after what it waits for, the first first, and what one raises is raised."""

import operator
import time
from graphlib import CycleError

import pytest

from pathflip.demo import Demo, run_demo, stages
from pathflip.demo.jobs import Job, run_jobs
from pathflip.errors import ConfigError


def test_jobs_wait_for_those_before_them_and_results_come_back_by_name():
    jobs = [
        Job("second", time.time_ns, after=("first",)),
        Job("first", time.time_ns),
        Job("third", operator.add, (1, 2), after=("first", "second")),
    ]
    ticks = []
    done = run_jobs(jobs, 2, lambda: ticks.append(1))
    assert done["first"].result < done["second"].result
    assert done["third"].result == 3
    assert set(done) == {"first", "second", "third"}
    assert ticks


def test_of_free_jobs_the_one_that_stands_first_goes_first():
    done = run_jobs([Job(name, time.time_ns) for name in "abc"], 1)
    assert done["a"].result < done["b"].result < done["c"].result


def test_what_a_job_raises_is_raised_and_a_circle_is_refused():
    with pytest.raises(ZeroDivisionError):
        run_jobs([Job("a", operator.truediv, (1, 0))], 1)
    with pytest.raises(CycleError):
        run_jobs([Job("a", time.time_ns, after=("b",)), Job("b", time.time_ns, after=("a",))], 1)


def test_a_device_that_is_not_there_is_said_before_any_work(tmp_path):
    with pytest.raises(ConfigError, match="cuda:99"):
        run_demo(tmp_path / "out", quick=True, device="cuda:99")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("device", "stated"), [("cpu", "cpu"), (None, "auto")])
def test_every_training_takes_the_device_named(tmp_path, device, stated):
    demo = Demo(tmp_path, device=device)
    recipes = [*demo.recipes().values(), demo.language(), *demo.stages(False), *demo.stages(True)]
    assert len(recipes) == 8
    assert {recipe.train.device for recipe in recipes} == {stated}


def test_every_model_is_opened_on_the_device_named(tmp_path, monkeypatch):
    devices: list[str | None] = []

    def opened(path, device=None):
        devices.append(device)
        raise FileNotFoundError

    for name in ("load", "load_assistant"):
        monkeypatch.setattr(stages, name, opened)
    monkeypatch.setattr(stages, "cohort_questions", lambda cohort, split: ([], {}))
    demo = Demo(tmp_path, device="cpu")
    for job in stages._measuring(demo, demo.recipes()):
        if job.name != "upper_bound":
            with pytest.raises(FileNotFoundError):
                job.run(*job.arguments)
    assert devices == ["cpu"] * 8
