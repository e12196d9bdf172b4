import dataclasses
import weakref

import numpy as np
import pytest
import torch

from pathflip.errors import ConfigError
from pathflip.train import AlignStep, TrainConfig, fit
from pathflip.types import AlignOutput
from tiny_align import TinyAlign, batches, make_batch, poison


@pytest.fixture
def batch():
    return make_batch([0, 1, 2, 3, 4, 5, 6], np.random.default_rng(0))


def gradients(model: torch.nn.Module, losses: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    model.zero_grad()
    sum(losses.values()).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("chunk", [1, 3, 7])
def test_gradient_caching_equals_the_plain_step(batch, chunk):
    model = TinyAlign()
    plain, cached = AlignStep(model)(batch), AlignStep(model, chunk)(batch)
    assert all(torch.allclose(plain[name], cached[name], rtol=1e-6) for name in plain)
    expected, got = gradients(model, plain), gradients(model, cached)
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], rtol=1e-5, atol=1e-7, msg=name)


def test_gradient_caching_by_hand_with_the_same_dropout(batch):
    """Against the method as its paper writes it: encode without a graph, cache gradients, encode again with one."""
    model, chunk = TinyAlign(dropout=0.5), 3
    torch.manual_seed(1)
    got = gradients(model, AlignStep(model, chunk)(batch))

    torch.manual_seed(1)
    states, parts, rows = [], [], [slice(start, start + chunk) for start in range(0, 7, chunk)]
    cut = [
        type(batch)(
            **{f.name: v if v is None else v[r] for f in dataclasses.fields(batch) for v in [getattr(batch, f.name)]}
        )
        for r in rows
    ]
    with torch.no_grad():
        for part in cut:
            states.append(torch.get_rng_state())
            parts.append(model(part))
    joined = AlignOutput.cat(parts)
    leaves = {
        name: getattr(joined, name).detach().requires_grad_()
        for name in ("slide", "caption", "patches", "sub_captions")
    }
    model.zero_grad()
    sum(model.losses(dataclasses.replace(joined, **leaves), batch).values()).backward()
    for state, part, where in zip(states, cut, rows, strict=True):
        torch.set_rng_state(state)
        again = model(part)
        sum((getattr(again, name) * leaf.grad[where]).sum() for name, leaf in leaves.items()).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(got[name], parameter.grad, rtol=1e-5, atol=1e-7, msg=name)


def test_gradient_caching_holds_one_chunk_of_activations(batch):
    """How many slides' hidden layers are alive at once, counted whenever a chunk is encoded."""

    def most_alive(chunk: int) -> int:
        hidden, most = [], [0]

        def count(module, inputs, out):
            hidden.append(weakref.ref(out))
            alive = [ref() for ref in hidden]
            most[0] = max(most[0], sum(len(tensor) for tensor in alive if tensor is not None))

        model = TinyAlign()
        model.patch[1].register_forward_hook(count)
        gradients(model, AlignStep(model, chunk)(batch))
        return most[0]

    assert most_alive(0) == 7
    assert most_alive(2) == 2


def test_gradient_caching_in_the_loop_with_low_precision(tmp_path):
    ends = []
    for chunk in (0, 2):
        step = AlignStep(TinyAlign(), chunk)
        fit(
            step,
            batches(),
            config=TrainConfig(steps=5, batch_size=4, device="cpu", precision="bf16"),
            out=tmp_path / str(chunk),
        )
        ends.append(step.model.state_dict())
    assert all(torch.allclose(ends[0][name], ends[1][name], rtol=1e-2, atol=1e-3) for name in ends[0])


def test_batch_normalisation_and_gradient_caching_do_not_mix():
    model = TinyAlign()
    model.patch.append(torch.nn.BatchNorm1d(8))
    AlignStep(model)
    with pytest.raises(ConfigError, match=r"normalises over the batch \(patch.4\)"):
        AlignStep(model, 2)


def test_suspects_are_found_in_features_and_in_embeddings(batch):
    step = AlignStep(TinyAlign())
    assert step.suspects(batch) == {}
    assert step.suspects(poison(batch, 3)) == {"slide-03": "its features (patches)"}
    huge = dataclasses.replace(batch, patches=batch.patches.clone())
    huge.patches[5] = 3e38  # finite, but its square is not
    assert step.suspects(huge).keys() == {"slide-05"}
    assert "embedding" in step.suspects(huge)["slide-05"]
