# SPDX-License-Identifier: Apache-2.0
"""Gradients of the whole model on the reference ops, and its starting weights."""

from math import log

import pytest
import torch
import torch.nn.functional as F

from tiny import relative, tiny_config, tiny_model, tokens
from warpweave import Model

pytestmark = pytest.mark.usefixtures("one_thread")


def test_scan_forms_of_both_modes_agree():
    model = tiny_model(dtype=torch.float64, backend="reference")
    ids = tokens(2, 9)
    with torch.no_grad():
        want = model(ids)
    assert relative(model(ids), want) < 1e-12


def test_gradient_is_the_slope_of_the_loss():
    model = tiny_model(dtype=torch.float64, backend="reference").requires_grad_()
    ids = tokens(2, 9)

    def loss():
        return F.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())

    loss().backward()
    generator = torch.Generator().manual_seed(1)
    for name, p in model.named_parameters():
        direction = torch.randn(p.shape, generator=generator, dtype=p.dtype)
        slope = float((p.grad * direction).sum())
        values = []
        with torch.no_grad():
            for step in (1e-5, -1e-5):
                p += step * direction
                values.append(float(loss()))
                p -= step * direction
        assert (values[0] - values[1]) / 2e-5 == pytest.approx(slope, rel=1e-4, abs=1e-8), name
        assert slope != 0, name


def test_bf16_products_train_fp32_weights():
    torch.manual_seed(0)
    config = tiny_config()
    model = Model(config, backend="reference", compute_dtype=torch.bfloat16)
    ids = tokens(4, 17)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        logits = model(ids[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert losses[0] == pytest.approx(log(96), rel=0.05)  # uniform over the vocabulary
    assert losses[-1] < losses[0] / 2


def test_starting_weights_follow_their_table():
    torch.manual_seed(0)
    config = tiny_config("MME*-" * 4, hidden_size=192, initializer_range=0.05)
    model = Model(config, backend="reference")
    state = model.state_dict()
    first = "layers.0.mixer."
    assert state["embeddings.weight"].std() == pytest.approx(0.05, rel=0.05)
    assert state[f"{first}in_proj.weight"].std() == pytest.approx(0.05, rel=0.05)
    for name in (
        f"{first}out_proj.weight",
        "layers.3.mixer.o_proj.weight",
        "layers.4.mixer.down_proj.weight",
        "layers.2.mixer.experts.down_proj",
        "layers.2.mixer.fc2_latent_proj.weight",
    ):
        assert state[name].std() == pytest.approx(0.05 / 20**0.5, rel=0.05), name
    A = state[f"{first}A_log"].exp()
    dt = F.softplus(state[f"{first}dt_bias"])
    assert A.min() >= 1
    assert A.max() <= 16
    assert dt.min() >= 0.001
    assert dt.max() <= 0.1 + 1e-6
    assert torch.equal(state[f"{first}D"], torch.ones(6))
    assert state[f"{first}conv1d.weight"].abs().max() <= 0.5
    assert not state[f"{first}conv1d.bias"].any()
    assert torch.equal(state["layers.0.norm.weight"], torch.ones(192))


def test_correction_bias_is_no_parameter():
    model = Model(tiny_config(), backend="reference")
    assert not any("correction_bias" in name for name, _ in model.named_parameters())
    assert sum("correction_bias" in name for name in model.state_dict()) == 2
