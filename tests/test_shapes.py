"""Annotations are executed in this test run: a tensor of another shape than written stops the call."""

import sys
from dataclasses import replace
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from feature_grids import make_features, scattered_cells
from pathflip import losses
from pathflip.errors import PathFLIPError
from pathflip.evaluate import metrics
from shape_check import CALLS, next_test, unchecked


def test_a_wrong_argument_stops_the_call():
    with pytest.raises(TypeCheckError, match=r"losses\.info_nce"):
        losses.info_nce(torch.zeros(2, 3), torch.zeros(2, 4), 1.0)
    with pytest.raises(TypeCheckError, match="'positives'"):
        metrics.recall_at_k(np.zeros((2, 2)), 1, np.zeros((2, 3), bool))
    with unchecked(), pytest.raises(PathFLIPError, match="positives"):
        metrics.recall_at_k(np.zeros((2, 2)), 1, np.zeros((2, 3), bool))


def test_a_wrong_result_stops_the_call(monkeypatch):
    assert losses.cosine(torch.ones(2, 3), torch.ones(4, 3)).shape == (2, 4)
    monkeypatch.setattr(losses, "F", SimpleNamespace(normalize=lambda rows, dim: rows[None]))
    with pytest.raises(TypeCheckError, match=r"return value of pathflip\.losses\.cosine"):
        losses.cosine(torch.ones(2, 3), torch.ones(4, 3))


def test_every_test_has_the_first_calls_of_a_function_checked():
    for _ in range(CALLS):
        with pytest.raises(TypeCheckError):
            losses.local_rows(2, "4")
    assert losses.local_rows(2, "4") == slice(0, 2)  # nobody looks any more
    next_test()
    with pytest.raises(TypeCheckError):
        losses.local_rows(2, "4")


def test_a_record_holds_what_it_says():
    slide = make_features(scattered_cells(np.random.default_rng(0), 40))
    with pytest.raises(TypeCheckError, match="'valid'"):
        replace(slide, valid=slide.valid[:-1])


@pytest.mark.parametrize("name", ["cli", "data.packed", "features", "models.pathflip", "text", "workbench"])
def test_the_whole_package_is_checked(name):
    import_module(f"pathflip.{name}")
    modules = {key: module for key, module in sys.modules.items() if key.split(".")[0] == "pathflip"}
    assert len(modules) > 10
    assert {key for key, module in modules.items() if type(module.__loader__).__name__ != "_JaxtypingLoader"} == set()
