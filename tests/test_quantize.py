# SPDX-License-Identifier: Apache-2.0
"""Quantising a checkpoint: the bits of an independent writer, streamed, resumed, all or nothing."""

import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from contextlib import suppress
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from typer.testing import CliRunner

import released
from released import F32, rules
from test_checkpoint import nested, nested_by_transformers, stacked, store, with_mtp
from tiny import relative, tiny_config, tiny_model, tokens
from warpweave import Model, cli
from warpweave.demo import MODEL_DIR, train
from warpweave.model import quantize as quantizer
from warpweave.model.calibrate import calibrate
from warpweave.model.checkpoint import INDEX, CheckpointError, released_tensors
from warpweave.model.quantize import ASSUMED_AMAX, RECIPES, algorithm, quantize, quantize_model
from warpweave.model.tensorfile import read_header

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = {
    "intermediate_size": 64,
    "moe_intermediate_size": 32,
    "moe_shared_expert_intermediate_size": 48,
    "n_routed_experts": 12,
}
CONFIG = tiny_config("ME*-", **SIZES)
# The same recipes for the independent writer.
EXPECTED = {
    "nvfp4": rules(("layers.*_proj", "NVFP4")),
    "nvfp4-w4a16": rules(("layers.*_proj", "W4A16_NVFP4")),
    "fp8": rules(("layers.*_proj", "FP8")),
    "mixed": rules(
        ("*.experts.*", "NVFP4"), ("*.shared_experts.*", "FP8"), ("*.in_proj", "FP8"),
        ("*.out_proj", "FP8"), ("*.mixer.up_proj", "NVFP4"), ("*.mixer.down_proj", "NVFP4"),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "model"
    tiny_model(CONFIG, backend="reference").save_pretrained(path, max_shard_bytes=60_000)
    (path / "tokenizer.json").write_text("{}")
    return path


def run(source, target, recipe="mixed", **options):
    return quantize(source, target, recipe, backend="reference", **options)


def load(path, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Model.from_pretrained(path, backend="reference", **options)


def tensors(path):
    files = sorted(path.glob("*.safetensors"))
    return {name: t for file in files for name, t in load_file(file).items()}


def raw(t):
    """Bytes of a tensor or array, for comparisons of bits."""
    array = t.contiguous().view(torch.uint8).numpy() if t.dim() else t.numpy()
    return np.ascontiguousarray(array).tobytes()


def logits(model):
    with torch.no_grad():
        return model(tokens(2, 9))


def everything(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.mark.parametrize("recipe", RECIPES)
def test_bits_are_those_of_an_independent_writer(source, tmp_path, recipe):
    rows = run(source, tmp_path / "q", recipe)
    got = tensors(tmp_path / "q")
    want, decoded, layers = released.quantise(tensors(source), EXPECTED[recipe])
    assert got.keys() == want.keys()
    for name, t in got.items():
        value = np.asarray(want[name])
        if name.endswith(".input_scale"):
            algo = layers[name.removesuffix(".input_scale")]
            value = F32(ASSUMED_AMAX) / F32(448 if algo == "FP8" else 2688)
        assert tuple(t.shape) == np.shape(value), name
        assert raw(t) == np.ascontiguousarray(value).tobytes(), name
    dense = tiny_model(CONFIG, backend="reference")
    for name, value in decoded.items():
        row = next(r for r in rows if f"backbone.{r['layer']}.weight" == name)
        w = tensors(source)[name].numpy()
        error = np.linalg.norm(decoded[name] - w) / np.linalg.norm(w)
        assert row["error"] == pytest.approx(error, rel=1e-4)
        r, k = row["worst_block"]
        width = 16 if w.shape[1] % 16 == 0 else w.shape[1]
        blocks = np.square(value - w).reshape(w.shape[0], -1, width).sum(-1)
        assert blocks[r, k // width] == blocks.max()
        assert row["worst_error"] == pytest.approx(blocks.max() ** 0.5, rel=1e-4)
    assert {f"backbone.{r['layer']}" for r in rows} == set(layers)
    for name, _, t in released_tensors(dense):
        if name in decoded:
            t.copy_(torch.from_numpy(decoded[name]))
    assert relative(logits(load(tmp_path / "q")), logits(dense)) < 1e-5


@pytest.mark.parametrize(
    "options", [{}, {"four_over_six": True}, {"head": True}], ids=lambda o: next(iter(o), "plain")
)
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_model_in_memory_gets_the_same(source, tmp_path, recipe, options):
    run(source, tmp_path / "q", recipe, **options)
    stored, ours = load(tmp_path / "q", mmap=False).state_dict(), load(source)
    quantize_model(ours, recipe, **options)
    assert bool(list(ours.lm_head.quantized())) == ("head" in options)
    assert stored.keys() == ours.state_dict().keys()
    for name, t in ours.state_dict().items():
        assert stored[name].dtype == t.dtype, name
        assert raw(stored[name].flatten()) == raw(t.flatten()), name
    ours.save_pretrained(tmp_path / "saved")
    theirs = tensors(tmp_path / "q")
    assert theirs.keys() == tensors(tmp_path / "saved").keys()
    paths = [tmp_path / name / "hf_quant_config.json" for name in ("q", "saved")]
    said = [json.loads(path.read_text())["quantization"] for path in paths]
    for key in ("quant_algo", "quantized_layers", "group_size"):
        assert said[0].get(key) == said[1].get(key)


def test_four_over_six_errs_less(source, tmp_path):
    plain = run(source, tmp_path / "a", "nvfp4")
    scaled = run(source, tmp_path / "b", "nvfp4", four_over_six=True)
    total = [sum(row["squared_error"] for row in rows) for rows in (plain, scaled)]
    assert total[1] < total[0]


def test_recipes_and_widths():
    assert algorithm("nvfp4", "layers.0.mixer.in_proj", 48) == "NVFP4"
    assert algorithm("nvfp4", "layers.0.mixer.in_proj", 40) is None
    assert algorithm("fp8", "layers.0.mixer.in_proj", 40) == "FP8"
    assert algorithm("mixed", "layers.7.mixer.experts.3.up_proj", 48) == "NVFP4"
    assert algorithm("mixed", "layers.7.mixer.shared_experts.up_proj", 48) == "FP8"
    for layer in ("lm_head", "embeddings", "layers.0.mixer.gate", "layers.0.mixer.conv1d",
                  "mtp.layers.0.mixer.q_proj", "norm_f"):  # fmt: skip
        assert not any(algorithm(recipe, layer, 48) for recipe in RECIPES), layer
    for layer in ("q_proj", "o_proj", "fc1_latent_proj"):
        assert algorithm("mixed", f"layers.0.mixer.{layer}", 48) is None
    with pytest.raises(ValueError, match="recipe 'int4' is not supported, only nvfp4, "):
        algorithm("int4", "lm_head", 48)


@pytest.mark.parametrize("layout", [stacked, nested, nested_by_transformers, with_mtp])
def test_source_layouts(source, tmp_path, layout):
    run(source, tmp_path / "plain")
    (tmp_path / "source").mkdir()
    shutil.copy(source / "config.json", tmp_path / "source")
    store(tmp_path / "source", layout(tensors(source)))
    run(tmp_path / "source", tmp_path / "q")
    assert torch.equal(logits(load(tmp_path / "q")), logits(load(tmp_path / "plain")))
    kept = tensors(tmp_path / "q")
    for name, t in layout(tensors(source)).items():
        if "experts" not in name and "_proj" not in name:
            assert torch.equal(kept[name], t), name
    if layout is stacked:
        assert "model.layers.1.mixer.experts.11.up_proj.weight_scale_2" in kept


def test_files_and_metadata(source, tmp_path):
    rows = run(source, tmp_path / "q", max_shard_bytes=20_000)
    files = sorted(os.listdir(tmp_path / "q"))
    shards = [file for file in files if file.endswith(".safetensors")]
    assert len(shards) > 3
    rest = {"config.json", "hf_quant_config.json", "quantization.json", "tokenizer.json", INDEX}
    assert set(files) - set(shards) == rest
    index = json.loads((tmp_path / "q" / INDEX).read_text())
    assert set(index["weight_map"]) == set(tensors(tmp_path / "q"))
    nbytes = sum(t.nbytes for t in tensors(tmp_path / "q").values())
    assert index["metadata"]["total_size"] == nbytes
    assert json.loads((tmp_path / "q" / "quantization.json").read_text())["matrices"] == rows
    config = json.loads((tmp_path / "q" / "config.json").read_text())
    hf = json.loads((tmp_path / "q" / "hf_quant_config.json").read_text())["quantization"]
    ours = config.pop("quantization_config")
    assert config == json.loads((source / "config.json").read_text())
    assert hf["quant_algo"] == ours["quant_algo"] == "MIXED_PRECISION"
    assert hf["quantized_layers"] == ours["quantized_layers"]
    layer = "backbone.layers.1.mixer.experts.4.up_proj"
    assert hf["quantized_layers"][layer] == {"quant_algo": "NVFP4", "group_size": 16}
    assert {"lm_head", "backbone.layers.1.mixer.gate", "mtp*"} <= set(hf["exclude_modules"])
    assert ours["quant_method"] == "modelopt"
    assert os.listdir(tmp_path) == ["q"]


def test_layers_stay_together_and_can_be_mapped(source, tmp_path, monkeypatch):
    """Experts 0, 1, 2, .. at equal distances, so that no copy and no reordering is needed."""
    monkeypatch.setattr("warpweave.model.checkpoint._SMALL", 0)
    run(source, tmp_path / "q", "nvfp4", max_shard_bytes=60_000)
    experts = load(tmp_path / "q").layers[1].mixer.experts
    assert experts.place is None
    assert experts.up_proj.stride(0) > experts.up_proj[0].numel()
    for file in (tmp_path / "q").glob("*.safetensors"):
        for name, entry in read_header(file).items():
            assert entry.start % entry.dtype.itemsize == 0, name
        with safe_open(file, "pt") as opened:  # the library checks order and gaps
            assert opened.keys()


def test_pieces_of_a_matrix_give_the_same_bytes(source, tmp_path, monkeypatch):
    run(source, tmp_path / "whole")
    monkeypatch.setattr(quantizer, "_CHUNK", 100)
    monkeypatch.setattr(quantizer, "_COPY", 7)
    run(source, tmp_path / "pieces")
    whole, pieces = everything(tmp_path / "whole"), everything(tmp_path / "pieces")
    reports = [json.loads(files.pop("quantization.json")) for files in (whole, pieces)]
    assert whole == pieces
    for a, b in zip(*(report["matrices"] for report in reports), strict=True):
        assert a["worst_block"] == b["worst_block"]
        assert a["error"] == pytest.approx(b["error"], rel=1e-6)


@pytest.mark.skipif(not find_spec("warpweave._native"), reason="needs the compiled kernels")
@pytest.mark.parametrize("recipe", ["nvfp4", "mixed"])
def test_native_kernels_write_the_same_bytes(source, tmp_path, recipe):
    run(source, tmp_path / "reference", recipe, four_over_six=recipe == "mixed")
    quantize(source, tmp_path / "native", recipe, four_over_six=recipe == "mixed")
    assert everything(tmp_path / "native") == everything(tmp_path / "reference")


class Interrupt(Exception):
    """Ends a run in the middle."""


def interrupted(source, target, monkeypatch, after, **options):
    """A run that dies in the middle of its `after`-th matrix."""
    calls = []
    original = quantizer.Writer.quantize

    def count(self, file, job, at):
        calls.append(job.name)
        if len(calls) > after:
            file.write(b"half a matrix")
            raise Interrupt
        return original(self, file, job, at)

    with monkeypatch.context() as patch:
        patch.setattr(quantizer.Writer, "quantize", count)
        with suppress(Interrupt):
            run(source, target, **options)
    return calls


def test_an_interrupted_run_leaves_nothing_that_loads_and_is_resumed(source, tmp_path, monkeypatch):
    options = {"max_shard_bytes": 5_000}
    run(source, tmp_path / "whole", **options)
    total = len(interrupted(source, tmp_path / "q", monkeypatch, 10**9, **options))
    shutil.rmtree(tmp_path / "q")
    staging = tmp_path / ".q.quantizing"
    done = 0
    for after in (0, 1, 9, 9):
        interrupted(source, tmp_path / "q", monkeypatch, after, **options)
        assert not (tmp_path / "q").exists()
        with pytest.raises(ValueError, match=r"config\.json does not exist"):
            load(staging)
        finished = len(list(staging.glob("*.safetensors")))
        assert finished >= done
        done = finished
    assert done > 2
    seen = []
    rest = interrupted(source, tmp_path / "q", monkeypatch, 10**9, **options,
                       progress=lambda done, total: seen.append((done, total)))  # fmt: skip
    assert 0 < len(rest) < total
    assert seen[-1][0] == seen[-1][1]
    assert everything(tmp_path / "q") == everything(tmp_path / "whole")
    assert sorted(os.listdir(tmp_path)) == ["q", "whole"]


@pytest.mark.parametrize("damage", ["truncated", "header", "no rows", "options", "source"])
def test_what_does_not_fit_is_written_again(source, tmp_path, monkeypatch, damage):
    shutil.copytree(source, tmp_path / "source")
    options = {"max_shard_bytes": 20_000, "recipe": "nvfp4"}
    run(tmp_path / "source", tmp_path / "whole", **options)
    interrupted(tmp_path / "source", tmp_path / "q", monkeypatch, 14, **options)
    staging = tmp_path / ".q.quantizing"
    shard = sorted(staging.glob("*.safetensors"))[0]
    if damage == "truncated":
        os.truncate(shard, shard.stat().st_size - 1)
    elif damage == "header":
        data = bytearray(shard.read_bytes())
        data[20] ^= 1
        shard.write_bytes(data)
    elif damage == "no rows":
        shard.with_name(f"{shard.name}.rows").unlink()
    elif damage == "options":
        shutil.rmtree(tmp_path / "whole")
        options["four_over_six"] = True
        run(tmp_path / "source", tmp_path / "whole", **options)
    else:
        for file in (tmp_path / "source").glob("*.safetensors"):
            save_file({n: t * 2 for n, t in load_file(file).items()}, file)
        shutil.rmtree(tmp_path / "whole")
        run(tmp_path / "source", tmp_path / "whole", **options)
    run(tmp_path / "source", tmp_path / "q", **options)
    assert everything(tmp_path / "q") == everything(tmp_path / "whole")


def test_one_process_at_a_time(source, tmp_path):
    refused = pytest.raises(ValueError, match="another process writes")
    with quantizer.locked(tmp_path / ".q.quantizing", {}), refused:
        run(source, tmp_path / "q")
    run(source, tmp_path / "q")


def test_refusals(source, tmp_path, monkeypatch):
    run(source, tmp_path / "q")
    with pytest.raises(ValueError, match="q exists already"):
        run(source, tmp_path / "q")
    with pytest.raises(ValueError, match="is quantised already"):
        run(tmp_path / "q", tmp_path / "r")
    shutil.copy(source / "config.json", tmp_path / "q")
    (tmp_path / "q" / "hf_quant_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"weight is torch\.\w+: quantised already"):
        run(tmp_path / "q", tmp_path / "r")
    shutil.copytree(source, tmp_path / "narrow")
    store(tmp_path / "narrow", {"backbone.norm_f.weight": torch.ones(3)})
    with pytest.raises(ValueError, match="finds nothing to quantise"):
        run(tmp_path / "narrow", tmp_path / "r")
    bad = tensors(source)
    name = "backbone.layers.1.mixer.experts.3.up_proj.weight"
    bad[name][5, 7] = float("nan")
    store(tmp_path / "narrow", bad)
    monkeypatch.setattr(quantizer, "_CHUNK", 100)
    with pytest.raises(ValueError, match=rf"{re.escape(name)} in .* is nan at \[5, 7\]"):
        run(tmp_path / "narrow", tmp_path / "r")
    assert not (tmp_path / "r").exists()
    (tmp_path / "empty").mkdir()
    run(source, tmp_path / "empty")
    assert torch.isfinite(logits(load(tmp_path / "empty"))).all()


def test_zeros_and_tiny_values(tmp_path):
    model = tiny_model(tiny_config("-", **SIZES), backend="reference")
    model.layers[0].mixer.up_proj.weight.zero_()
    model.layers[0].mixer.down_proj.weight.mul_(1e-30)
    model.save_pretrained(tmp_path / "m")
    for recipe in RECIPES:
        run(tmp_path / "m", tmp_path / recipe, recipe)
        again = load(tmp_path / recipe)
        assert not again.layers[0].mixer.up_proj.matrix("weight", torch.float32).dequantize().any()
        assert torch.isfinite(logits(again)).all()


# Calibration.


def test_calibration_sees_every_input(source, tmp_path, monkeypatch):
    ids = tokens(3, 11)
    amax = calibrate(source, ids, backend="reference")
    model = load(source, dtype=torch.bfloat16)
    names = {t.data_ptr(): n.removesuffix(".weight") for n, t in model.named_parameters()}
    seen = {}
    linear, moe = torch.nn.functional.linear, model.lm_head.ops.moe_mlp

    def spy(x, weight, bias=None):
        if (name := names.get(weight.data_ptr())) is not None:
            seen[name] = max(seen.get(name, 0), float(x.abs().max()))
        return linear(x, weight, bias)

    def spy_moe(x, up, down, weights, indices):
        for t in range(x.shape[0]):
            for e in indices[t].tolist():
                h = (up[e] @ x[t]).relu().square()
                for leaf, v in (("up_proj", x[t]), ("down_proj", h)):
                    name = f"layers.1.mixer.experts.{e}.{leaf}"
                    seen[name] = max(seen.get(name, 0), float(v.abs().max()))
        return moe(x, up, down, weights, indices)

    for module in model.modules():
        if hasattr(module, "ops"):
            module.ops.dense, module.ops.moe_mlp = spy, spy_moe
    model.layers[1].mixer.bias = True  # in parts, not as one op
    with torch.no_grad():
        model(ids)
    seen.pop("lm_head")
    assert set(seen) <= set(amax)
    for name, value in seen.items():
        assert amax[name] == pytest.approx(value, rel=0.02), name
    idle = set(amax) - set(seen)
    assert all(".experts." in name for name in idle)
    rows = run(source, tmp_path / "q", "nvfp4", amax=amax)
    stored = tensors(tmp_path / "q")
    for row in rows:
        scale = stored[f"backbone.{row['layer']}.input_scale"]
        assert float(scale) == pytest.approx(amax[row["layer"]] / 2688, rel=1e-6)


def test_experts_without_tokens_take_the_most_of_the_others(source):
    amax = calibrate(source, tokens(1, 1), backend="reference")
    for leaf in ("up_proj", "down_proj"):
        found = [amax[f"layers.1.mixer.experts.{e}.{leaf}"] for e in range(12)]
        assert sum(value == max(found) for value in found) >= 12 - 3 + 1
        assert min(found) > 0


# The command.


def command(*arguments):
    return CliRunner().invoke(cli.app, ["quantize", *(str(a) for a in arguments)])


def test_command_reports_and_draws(tmp_path):
    pytest.importorskip("matplotlib")
    result = command(MODEL_DIR, tmp_path / "q", "--recipe", "mixed", "--four-over-six", "--plot",
                     "--backend", "reference")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    experts = r"layers\.4\.mixer\.experts\.\*\.up_proj +NVFP4 +8 +0\.0[89]\d\d"
    assert re.search(experts, result.stdout)
    assert re.search(r"layers\.0\.mixer\.in_proj +FP8 +1 +0\.02\d\d", result.stdout)
    assert "worst blocks of 16" in result.stdout
    assert (tmp_path / "q" / "quantization.png").read_bytes().startswith(b"\x89PNG")
    facts = json.loads(CliRunner().invoke(cli.app, ["info", str(tmp_path / "q"), "--json"]).stdout)
    assert facts["quantised_matrices"] == {"NVFP4": 36, "FP8": 10}
    generated = CliRunner().invoke(
        cli.app, ["generate", "--model", str(tmp_path / "q"), "--backend", "reference",
                  "--max-new-tokens", "4", "It was"],
    )  # fmt: skip
    assert generated.exit_code == 0, generated.stderr


def test_command_calibrates(tmp_path):
    text = tmp_path / "text"
    text.write_text(HELD_OUT)
    result = command(MODEL_DIR, tmp_path / "q", "--recipe", "fp8", "--calibrate", text,
                     "--tokens", 40, "--backend", "reference")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    scales = [t for n, t in tensors(tmp_path / "q").items() if n.endswith("input_scale")]
    assert len({float(t) for t in scales}) > len(scales) / 3


def test_mistakes_end_in_one_line(source, tmp_path, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    options = ("--recipe", "fp8", "--backend", "reference")
    monkeypatch.setattr(cli, "find_spec", lambda name: None)
    for arguments, message in (
        ((source, tmp_path / "q", "--recipe", "int4"), "--recipe 'int4' is not supported, only"),
        ((source, tmp_path / "full", *options), "exists already"),
        ((tmp_path / "none", tmp_path / "q", *options), "config.json does not exist"),
        ((source, tmp_path / "q", *options, "--plot"), "--plot needs matplotlib"),
    ):
        result = command(*arguments)
        assert result.exit_code == 2
        assert message in result.stderr
        assert result.stderr.count("\n") == 1
        assert not (tmp_path / "q").exists()


# What it costs.

# From the held-out ends of Pride and Prejudice (1813).
HELD_OUT = (
    "Happy for all her maternal feelings was the day on which Mrs. Bennet got rid of her two most "
    "deserving daughters. With what delighted pride she afterwards visited Mrs. Bingley, and "
    "talked of Mrs. Darcy, may be guessed."
)


@pytest.mark.parametrize("recipe", RECIPES)
def test_perplexity_of_the_demo_model(recipe):
    """Weights cost at most 2 % (bench/perplexity.py measures it on the whole held-out text)."""
    tokenizer = Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json"))
    bits = []
    for change in (None, recipe):
        model = Model.from_pretrained(MODEL_DIR, backend="reference")
        if change:
            quantize_model(model, change)
        bits.append(train.bits_per_byte(model, tokenizer, [HELD_OUT]))
    bytes_a_token = len(HELD_OUT.encode()) / len(tokenizer.encode(HELD_OUT).ids)
    assert 2 ** ((bits[1] - bits[0]) * bytes_a_token) < 1.02


PEAK = """
import sys
from warpweave.model.quantize import quantize

def kib(key):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(key))

if sys.argv[3] == "quantize":
    import warpweave.reference
    quantize(sys.argv[1] + "/small", sys.argv[2] + "/small", "nvfp4", backend="reference")
    before = kib("VmHWM")
    quantize(sys.argv[1] + "/large", sys.argv[2] + "/large", "nvfp4", backend="reference")
    print((kib("VmHWM") - before) / 1024)
else:
    from warpweave import Model
    before = kib("RssAnon")
    model = Model.from_pretrained(sys.argv[2] + "/large", backend="reference")
    print((kib("RssAnon") - before) / 1024)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads Linux's peak memory")
def test_memory_does_not_grow_with_the_model(tmp_path):
    for name, experts in (("small", 16), ("large", 128)):
        config = tiny_config(
            "E", hidden_size=256, moe_intermediate_size=512, n_routed_experts=experts,
            moe_latent_size=None, moe_shared_expert_intermediate_size=512,
        )  # fmt: skip
        with torch.no_grad():
            Model(config, backend="reference").save_pretrained(tmp_path / "in" / name)
    (tmp_path / "out").mkdir()
    grown = {}
    for step in ("quantize", "load"):
        done = subprocess.run(
            [sys.executable, "-c", PEAK, str(tmp_path / "in"), str(tmp_path / "out"), step],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        grown[step] = float(done.stdout)
    print(f"MiB for 128 MiB of weights: {grown}")
    assert grown["quantize"] < 20
    assert grown["load"] < 20  # 18 MiB of codes and scales stay in the file
