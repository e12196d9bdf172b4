"""Losses of several processes: as released (fixtures of 1, 2 and 3), and ours equal to one process."""

from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from safetensors.torch import load_file
from torch import Tensor

import gloo_losses
from parity import LOSS, assert_close, tensors

Ranks = list[dict[str, Tensor]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three processes have met here as groups of 1, 2 and 3 and left what each computed."""
    folder = tmp_path_factory.mktemp("gloo")
    mp.spawn(gloo_losses.run, args=(folder,), nprocs=3)
    return folder


@pytest.fixture(params=[1, 2, 3])
def ranks(request: pytest.FixtureRequest, folder: Path) -> Ranks:
    """What every process of a group computed."""
    return [load_file(folder / f"group{request.param}-rank{rank}.safetensors") for rank in range(request.param)]


@pytest.mark.slow
def test_gathering_sends_every_gradient_home(ranks: Ranks) -> None:
    """The gradient of a product with transposed rows, which torch's own gather gets wrong on gloo."""
    world_size = len(ranks)
    x = torch.ones(2 * world_size, 3, requires_grad=True)
    for rank in range(world_size):
        product = gloo_losses.probe(rank) @ x.T
        product.backward(torch.arange(float(product.numel())).view_as(product))
    assert x.grad is not None
    assert_close(torch.cat([values["gathered.grad"] for values in ranks]), x.grad, 1e-3)


@pytest.mark.slow
def test_released_losses_and_gradients_of_every_rank(ranks: Ranks) -> None:
    for variant in ("pf1", "pf2"):
        for name, expected in tensors("losses_distributed", f"{variant}_ws{len(ranks)}").items():
            if name.startswith("out."):
                for rank, values in enumerate(ranks):
                    actual = values[f"{variant}.{name}"]
                    if "grad" in name:
                        assert_close(actual, expected[rank], 1e-5, f"{name} of rank {rank}")
                    else:
                        torch.testing.assert_close(actual, expected[rank], rtol=LOSS, atol=0, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["published", "published_all", "perceiver", "soft_top_k"])
def test_our_losses_equal_one_process(ranks: Ranks, name: str) -> None:
    """The mean over processes of losses and gradients is what one process computes on the joined batch."""
    world_size, model = len(ranks), gloo_losses.ours()[name]
    whole = gloo_losses.our_losses(model, world_size, slice(0, world_size * gloo_losses.SLIDES))
    for key, expected in whole.items():
        parts = [values[f"ours.{name}.{key}"] for values in ranks]
        if key.startswith("grad."):
            assert_close(torch.cat(parts) / world_size, expected, 1e-6, key)
        else:
            assert_close(torch.stack(parts).mean(0), expected, 2e-6, key)
