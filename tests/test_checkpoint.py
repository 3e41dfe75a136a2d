# SPDX-License-Identifier: Apache-2.0
"""Reading every layout, refusing every damage with all names in one error, writing atomically."""

import json
import os
import subprocess
import sys
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

from tiny import relative, tiny_config, tiny_model, tokens
from warpweave import Model
from warpweave.model import tensorfile
from warpweave.model.checkpoint import INDEX, CheckpointError

PATTERN = "ME*-"


@pytest.fixture(scope="module")
def model():
    return tiny_model(tiny_config(PATTERN), backend="reference")


def stacked(tensors):
    """transformers' own layout: model. prefix, experts of a layer in one tensor."""
    out, experts = {}, {}
    for name, t in tensors.items():
        name = name.replace("backbone.", "model.")
        if ".experts." in name:
            stem, number, leaf, _ = name.rsplit(".", 3)
            experts.setdefault(f"{stem}.{leaf}", {})[int(number)] = t
        else:
            out[name] = t
    for name, parts in experts.items():
        out[name] = torch.stack([parts[e] for e in range(len(parts))])
    return out


def nested(tensors):
    towers = {"vision_model.patch.weight": torch.ones(3), "mlp1.0.weight": torch.ones(2)}
    return {f"language_model.{name}": t for name, t in tensors.items()} | towers


def nested_by_transformers(tensors):
    """The language model inside model., its head beside it."""
    towers = {"model.vision_tower.patch.weight": torch.ones(3)}
    return towers | {k.replace("backbone.", "model.language_model."): v for k, v in tensors.items()}


def with_mtp(tensors):
    return tensors | {"mtp.layers.0.enorm.weight": torch.ones(4), "mtp.layers.1.x": torch.ones(1)}


def released(model, path):
    """One file as somebody else's writer stores it; the directory has our config."""
    model.save_pretrained(path)
    return load_file(path / "model.safetensors")


def store(path, tensors, shards=1):
    """Replace the weights of a directory, through the safetensors library."""
    for old in (*path.glob("*.safetensors"), path / INDEX):
        old.unlink(missing_ok=True)
    names = sorted(tensors)
    if shards == 1:
        save_file(tensors, path / "model.safetensors")
        return
    weight_map = {}
    for i in range(shards):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        part = {name: tensors[name] for name in names[i::shards]}
        save_file(part, path / file)
        weight_map |= dict.fromkeys(part, file)
    (path / INDEX).write_text(json.dumps({"weight_map": weight_map}))


def load(path, **options):
    return Model.from_pretrained(path, backend="reference", **options)


def same(a, b):
    mine, expected = a.state_dict(), b.state_dict()
    assert mine.keys() == expected.keys()
    for name in expected:
        assert mine[name].dtype == expected[name].dtype, name
        assert torch.equal(mine[name], expected[name]), name


LAYOUTS = {
    "backbone per expert": lambda t: t,
    "model stacked": stacked,
    "model per expert": lambda t: {k.replace("backbone.", "model."): v for k, v in t.items()},
    "nested backbone": nested,
    "nested stacked": lambda t: nested(stacked(t)),
    "nested by transformers": nested_by_transformers,
    "with mtp": with_mtp,
}


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(model, tmp_path, layout, shards):
    store(tmp_path, LAYOUTS[layout](released(model, tmp_path)), shards)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        again = load(tmp_path)
    same(again, model)
    assert not any(t.is_meta for t in again.state_dict().values())
    expected = {
        "with mtp": ["mtp.layers.0.enorm.weight", "mtp.layers.1.x"],
        "nested backbone": ["mlp1.0.weight", "vision_model.patch.weight"],
        "nested stacked": ["mlp1.0.weight", "vision_model.patch.weight"],
        "nested by transformers": ["model.vision_tower.patch.weight"],
    }.get(layout, [])
    assert sorted(again.unused_tensors) == expected
    assert len(caught) == (1 if expected else 0)
    if layout == "with mtp":
        assert "2 under mtp." in str(caught[0].message)


@pytest.mark.parametrize("shard_bytes", [1, 9_000, 40_000, 1 << 30])
def test_written_files_are_the_released_layout(model, tmp_path, shard_bytes):
    model.save_pretrained(tmp_path / "new", max_shard_bytes=shard_bytes)
    files = sorted((tmp_path / "new").glob("*.safetensors"))
    tensors = {name: t for file in files for name, t in load_file(file).items()}
    assert set(tensors) == set(released(model, tmp_path / "one"))
    assert all(name.startswith(("backbone.", "lm_head.")) for name in tensors)
    assert tensors["backbone.layers.1.mixer.experts.7.up_proj.weight"].shape == (24, 32)
    assert tensors["backbone.layers.0.mixer.conv1d.weight"].shape[1] == 1
    if len(files) > 1:
        index = json.loads((tmp_path / "new" / INDEX).read_text())
        assert set(index["weight_map"]) == set(tensors)
        assert index["metadata"]["total_size"] == sum(t.nbytes for t in tensors.values())
        for file in files:
            part = load_file(file)
            size = sum(t.nbytes for t in part.values())
            assert size <= shard_bytes or len(part) == 1
    else:
        assert [file.name for file in files] == ["model.safetensors"]
    same(load(tmp_path / "new"), model)


def test_saving_in_bf16_rounds_only_what_may_be_rounded(model, tmp_path):
    model.save_pretrained(tmp_path, dtype=torch.bfloat16)
    tensors = load_file(tmp_path / "model.safetensors")
    wide = {"A_log", "D", "dt_bias", "e_score_correction_bias"}
    for name, t in tensors.items():
        expected = torch.float32 if name.rpartition(".")[2] in wide else torch.bfloat16
        assert t.dtype == expected, name
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == "bfloat16"
    narrow = load(tmp_path)
    assert narrow.dtype == torch.bfloat16
    for name, t in narrow.state_dict().items():
        assert torch.equal(t, model.state_dict()[name].to(t.dtype)), name
    assert load(tmp_path, dtype=torch.float32).dtype == torch.float32


def test_narrow_files_of_fp32_tensors_are_widened(model, tmp_path):
    tensors = {name: t.bfloat16() for name, t in released(model, tmp_path).items()}
    store(tmp_path, tensors)
    again = load(tmp_path)
    A_log = again.layers[0].mixer.A_log
    assert A_log.dtype == torch.float32
    assert torch.equal(A_log, model.layers[0].mixer.A_log.bfloat16().float())


def test_conversion_goes_piece_by_piece(tmp_path, monkeypatch):
    monkeypatch.setattr(tensorfile, "_PIECE", 7)
    wide = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    stored = {"odd": torch.tensor([1], dtype=torch.uint8), "wide": wide, "none": wide[:0]}
    save_file(stored, tmp_path / "x.safetensors")
    entries = tensorfile.read_header(tmp_path / "x.safetensors")
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        out = torch.full((5, 6), float("nan"), dtype=dtype)
        tensorfile.read(entries["wide"], out)
        assert torch.equal(out, wide.to(dtype))
    tensorfile.read(entries["none"], torch.empty(0, 6))
    os.truncate(tmp_path / "x.safetensors", entries["wide"].start + 100)
    with pytest.raises(ValueError, match=r"x\.safetensors became shorter"):
        tensorfile.read(entries["wide"], torch.empty(5, 6))


def test_tied_embeddings_are_stored_once(tmp_path):
    tied = tiny_model(tiny_config(PATTERN, tie_word_embeddings=True), backend="reference")
    assert "lm_head.weight" not in released(tied, tmp_path)
    again = load(tmp_path)
    assert again.lm_head.weight is again.embeddings.weight
    with torch.no_grad():
        assert relative(again(tokens(1, 5)), tied(tokens(1, 5))) == 0


def test_progress_reports_every_byte(model, tmp_path):
    tensors = released(model, tmp_path)
    seen = []
    load(tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == seen[-1][1] == sum(t.nbytes for t in tensors.values())


def test_overwriting_leaves_no_file_of_the_old_checkpoint(model, tmp_path):
    model.save_pretrained(tmp_path, max_shard_bytes=9_000)
    (tmp_path / "tokenizer.json").write_text("{}")
    model.save_pretrained(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["config.json", "model.safetensors", "tokenizer.json"]
    model.save_pretrained(tmp_path, max_shard_bytes=40_000)
    assert not (tmp_path / "model.safetensors").exists()
    same(load(tmp_path), model)


def test_a_failed_save_leaves_the_old_checkpoint(model, tmp_path, monkeypatch):
    target = tmp_path / "model"
    model.save_pretrained(target)
    before = {file.name: file.read_bytes() for file in target.iterdir()}

    def full_disk(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    for path in (target, tmp_path / "new"):
        with pytest.raises(OSError, match="No space"):
            model.save_pretrained(path, max_shard_bytes=9_000)
    assert {file.name: file.read_bytes() for file in target.iterdir()} == before
    assert os.listdir(tmp_path) == ["model"]


# Damages.


def rename(tensors, old, new):
    return {name.replace(old, new): t for name, t in tensors.items()}


def without(tensors, *names):
    return {name: t for name, t in tensors.items() if name not in names}


DAMAGES = {
    "two missing": (
        lambda t: without(t, "backbone.norm_f.weight", "backbone.layers.0.mixer.D"),
        ["missing backbone.norm_f.weight [48]", "missing backbone.layers.0.mixer.D [6]"],
    ),
    "an expert missing": (
        lambda t: without(t, "backbone.layers.1.mixer.experts.5.up_proj.weight"),
        ["missing backbone.layers.1.mixer.experts.5.up_proj.weight [24, 32]"],
    ),
    "an expert too many": (
        lambda t: t | {"backbone.layers.1.mixer.experts.8.up_proj.weight": torch.ones(24, 32)},
        ["unexpected backbone.layers.1.mixer.experts.8.up_proj.weight"],
    ),
    "unexpected": (
        lambda t: t | {"backbone.layers.2.mixer.q_proj.bias": torch.ones(64)},
        ["unexpected backbone.layers.2.mixer.q_proj.bias [64]"],
    ),
    "wrong shapes": (
        lambda t: (
            t | {"lm_head.weight": torch.ones(96, 40), "backbone.norm_f.weight": torch.ones(1)}
        ),
        ["lm_head.weight has shape [96, 40]", "[96, 48]", "backbone.norm_f.weight has shape [1]"],
    ),
    "transposed stack": (
        lambda t: {k: v.mT.contiguous() if "experts.up" in k else v for k, v in stacked(t).items()},
        ["experts.up_proj has shape [8, 32, 24]"],
    ),
    "another layer": (
        lambda t: rename(t, "layers.3.", "layers.4."),
        ["missing backbone.layers.3.mixer.up_proj.weight", "unexpected backbone.layers.4.norm"],
    ),
    "stored twice": (
        lambda t: t | {"model.norm_f.weight": torch.ones(48)},
        ["backbone.norm_f.weight is stored twice"],
    ),
    "per expert and stacked": (
        lambda t: t | {"backbone.layers.1.mixer.experts.up_proj": torch.ones(8, 24, 32)},
        ["experts.up_proj is stored twice"],
    ),
    "quantised": (
        lambda t: t | {"lm_head.weight": torch.ones(96, 48).to(torch.float8_e4m3fn)},
        ["lm_head.weight in model", "is fp8, neither hf_quant_config.json nor config.json says"],
    ),
}


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("damage", DAMAGES)
def test_one_error_names_everything(model, tmp_path, damage, shards):
    change, names = DAMAGES[damage]
    store(tmp_path, change(released(model, tmp_path)), shards)
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path)
    for name in names:
        assert name in str(caught.value)


def test_config_that_contradicts_the_tensors(model, tmp_path):
    released(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for change, name in (
        ({"hybrid_override_pattern": "MM*-"}, "missing backbone.layers.1.mixer.in_proj.weight"),
        ({"n_routed_experts": 6}, "unexpected backbone.layers.1.mixer.experts.7.down_proj"),
        ({"moe_latent_size": None}, "unexpected backbone.layers.1.mixer.fc1_latent_proj.weight"),
        ({"use_conv_bias": False}, "unexpected backbone.layers.0.mixer.conv1d.bias"),
        ({"ssm_state_size": 32}, "in_proj.weight has shape [262, 48], the config asks for [326,"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(CheckpointError) as caught:
            load(tmp_path)
        assert name in str(caught.value)


@pytest.mark.parametrize("keep", [0, 7, 100, 0.5, 0.999])
def test_truncated_file(model, tmp_path, keep):
    released(model, tmp_path)
    file = tmp_path / "model.safetensors"
    size = file.stat().st_size
    os.truncate(file, keep if isinstance(keep, int) else int(size * keep))
    with pytest.raises(CheckpointError, match=r"model\.safetensors is truncated"):
        load(tmp_path)


def test_damaged_headers(model, tmp_path):
    released(model, tmp_path)
    file = tmp_path / "model.safetensors"
    good = file.read_bytes()
    length = int.from_bytes(good[:8], "little")
    header = json.loads(good[8 : 8 + length])
    entry = dict(header["lm_head.weight"])

    def put(changed):
        text = json.dumps(header | {"lm_head.weight": changed}).encode()
        file.write_bytes(len(text).to_bytes(8, "little") + text + good[8 + length :])

    for changed in (
        entry | {"dtype": "F4"},
        entry | {"shape": [96, 47]},
        entry | {"data_offsets": [-4, entry["data_offsets"][1]]},
        entry | {"data_offsets": [3, 1]},
        {"dtype": "F32"},
        [],
    ):
        put(changed)
        with pytest.raises(CheckpointError, match=r"damaged entry for lm_head\.weight"):
            load(tmp_path)
    file.write_bytes(good[:8] + b"x" + good[9:])
    with pytest.raises(CheckpointError, match="damaged header"):
        load(tmp_path)


def test_index_problems(model, tmp_path):
    model.save_pretrained(tmp_path, max_shard_bytes=40_000)
    index = json.loads((tmp_path / INDEX).read_text())
    names = index["weight_map"]
    files = sorted(set(names.values()))

    def refused(*messages):
        with pytest.raises(CheckpointError) as caught:
            load(tmp_path)
        for message in messages:
            assert message in str(caught.value)

    moved = next(name for name, file in names.items() if file == files[0])
    for weight_map, messages in (
        (names | {moved: files[1]}, [f"{moved} is in {files[0]}, the index says {files[1]}"]),
        (names | {"x.y": files[0]}, [f"x.y is in no file, the index says {files[0]}"]),
        ({k: v for k, v in names.items() if k != moved}, [f"{moved} of {files[0]} is not in"]),
        (names | {moved: "../elsewhere.safetensors"}, ["'../elsewhere.safetensors' is missing"]),
        ({}, ["no weight_map"]),
    ):
        (tmp_path / INDEX).write_text(json.dumps({"weight_map": weight_map}))
        refused(*messages)
    (tmp_path / INDEX).write_text(json.dumps(index))
    os.truncate(tmp_path / files[0], 50)
    (tmp_path / files[1]).unlink()
    refused(f"{files[0]} is truncated", f"'{files[1]}' is missing")


def test_absent_checkpoints(model, tmp_path):
    with pytest.raises(ValueError, match=r"config\.json does not exist"):
        load(tmp_path)
    released(model, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"'model\.safetensors' is missing"):
        load(tmp_path)


PEAK = """
import sys
from warpweave import Model
from warpweave.model import tensorfile

def kib(key):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(key))

import torch; torch.zeros(1) @ torch.zeros(1)
before = kib("VmRSS")
model = Model.from_pretrained(sys.argv[1], backend="reference")
weights = sum(t.nbytes for t in model.state_dict().values())
print((kib("VmHWM") - before) * 1024 / weights, weights)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads Linux's peak memory")
@pytest.mark.parametrize("layout", ["per expert", "stacked"])
def test_peak_memory_of_loading_is_that_of_the_weights(tmp_path, layout):
    config = tiny_config(
        "EE", hidden_size=512, moe_intermediate_size=512, n_routed_experts=64, moe_latent_size=None
    )
    with torch.no_grad():
        big = Model(config, backend="reference")
    tensors = released(big, tmp_path)
    if layout == "stacked":
        store(tmp_path, stacked(tensors))
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path)], capture_output=True, text=True, check=True
    )
    ratio, weights = map(float, done.stdout.split())
    print(f"{layout}: peak {ratio:.3f} x {weights / 1e6:.0f} MB")
    assert weights > 250e6
    assert ratio < 1.1
