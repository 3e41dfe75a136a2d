# SPDX-License-Identifier: Apache-2.0
import json

import pytest
import torch

from tiny import SIZES, tiny_config
from warpweave import Config, Model

NANO_30B = "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME"
SUPER = "MEMEMEM*EMEMEMEM*EMEMEMEM*EMEMEMEMEM*EMEMEMEMEM*EMEMEMEMEM*EMEMEMEMEM*EMEMEMEM*EMEMEMEME"
ULTRA = (
    "MEMEMEM*EMEMEM*EMEMEMEM*EMEMEMEM*EMEMEM*EMEMEMEM*EMEMEMEM*EMEMEM*EMEMEMEM*EMEMEMEM*EMEMEM*"
    "EMEMEMEM*EMEMEMEME"
)
H_8B = "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-"
H_47B = (
    "M-M-M-M-M-M-M-M-M*-M-M-M-M-M-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-M-M---MM---M-M*-M-M"
    "-M-M-M-"
)
V2_9B = "M-M-M-MM-M-M-M*-M-M-M*-M-M-M-M*-M-M-M-M*-M-MM-M-M-M-M-M-"

# Published shapes and, in the last five columns, published counts: billions of parameters, of
# active parameters, MiB of recurrent state per sequence, bytes of keys and values per token.
RELEASED = {
    "H-8B": (H_8B, {}, 8.10, 8.10, 97, 16384),
    "H-47B": (
        H_47B,
        {
            "hidden_size": 8192,
            "intermediate_size": 30720,
            "num_attention_heads": 64,
            "mamba_num_heads": 256,
            "ssm_state_size": 256,
        },
        46.8,
        46.8,
        725,
        20480,
    ),
    "9B-v2": (
        V2_9B,
        {
            "hidden_size": 4480,
            "intermediate_size": 15680,
            "num_attention_heads": 40,
            "mamba_head_dim": 80,
        },
        8.89,
        8.89,
        137,
        16384,
    ),
    "3-Nano-30B": (
        NANO_30B,
        {
            "hidden_size": 2688,
            "num_key_value_heads": 2,
            "mamba_num_heads": 64,
            "n_routed_experts": 128,
            "num_experts_per_tok": 6,
            "moe_intermediate_size": 1856,
            "moe_shared_expert_intermediate_size": 3712,
        },
        31.58,
        3.58,
        46.8,
        6144,
    ),
    "3-Super": (
        SUPER,
        {
            "num_key_value_heads": 2,
            "n_routed_experts": 512,
            "num_experts_per_tok": 22,
            "moe_intermediate_size": 2688,
            "moe_shared_expert_intermediate_size": 5376,
            "moe_latent_size": 1024,
        },
        120.67,
        12.77,
        162,
        8192,
    ),
    "3-Ultra": (
        ULTRA,
        {
            "hidden_size": 8192,
            "num_attention_heads": 64,
            "num_key_value_heads": 2,
            "mamba_num_heads": 256,
            "n_routed_experts": 512,
            "num_experts_per_tok": 22,
            "moe_intermediate_size": 5120,
            "moe_shared_expert_intermediate_size": 10240,
            "moe_latent_size": 2048,
        },
        549.3,
        56.1,
        389,
        12288,
    ),
}


@pytest.mark.parametrize("name", RELEASED)
def test_released_sizes(name):
    pattern, keys, total, active, state, kv = RELEASED[name]
    config = Config(pattern, **keys)
    assert config.parameters() / 1e9 == pytest.approx(total, rel=2e-3)
    assert config.parameters(active=True) / 1e9 == pytest.approx(active, rel=2e-3)
    assert config.state_bytes() / 2**20 == pytest.approx(state, rel=8e-3)
    assert config.kv_bytes_per_token() == kv


def test_d_inner_comes_from_heads_not_from_expand():
    config = Config(V2_9B, hidden_size=4480, mamba_head_dim=80, expand=2)
    assert (config.d_inner, config.conv_dim, config.in_proj_rows) == (10240, 12288, 22656)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"moe_latent_size": None},
        {"mlp_bias": True, "use_bias": True, "use_conv_bias": False},
        {"mlp_bias": True, "moe_latent_size": None},
        {"n_shared_experts": 0, "mlp_bias": True},
        {"tie_word_embeddings": True},
        {"intermediate_size": [24, 40]},
    ],
)
def test_parameter_count_is_that_of_the_model(changes):
    config = tiny_config(**changes)
    model = Model(config, device="meta", backend="reference")
    routers = [b for name, b in model.named_buffers()]
    count = sum(t.numel() for t in [*model.parameters(), *routers])
    assert config.parameters() == count
    idle = config.pattern.count("E") * 5 * 2 * config.expert_width * config.moe_intermediate_size
    assert config.parameters(active=True) == count - idle


SPELLINGS = [
    {"hybrid_override_pattern": "M*-E"},
    {"hybrid_override_pattern": "M|*-|E"},
    {"hybrid_override_pattern": "M*-E/*E/*E"},
    {"layers_block_type": ["mamba", "attention", "mlp", "moe"]},
    {"layers_block_type": ["linear_attention", "full_attention", "mlp", "moe"]},
    {"layer_types": ["linear_attention", "attention", "mlp", "moe"]},
    {"layers_block_type": ["mamba", "attention", "mlp", "moe"], "hybrid_override_pattern": "M*-E"},
    {"hybrid_override_pattern": "M*-E", "num_hidden_layers": 4},
]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_the_pattern(spelling):
    assert Config.from_dict(spelling).pattern == "M*-E"


def test_mtp_pattern_from_suffix_string_and_list():
    assert Config("M/E*/E*").mtp_hybrid_override_pattern == "E*"
    base = {"hybrid_override_pattern": "M"}
    key = {"mtp_hybrid_override_pattern": "E*"}
    names = {"mtp_layers_block_type": ["moe", "attention"]}
    assert Config.from_dict(base | key).mtp_hybrid_override_pattern == "E*"
    assert Config.from_dict(base | names).mtp_hybrid_override_pattern == "E*"


@pytest.mark.parametrize(
    ("key", "value", "field"),
    [
        ("attention_head_dim", 64, "head_dim"),
        ("mamba_n_groups", 4, "n_groups"),
        ("mamba_d_conv", 3, "conv_kernel"),
        ("mamba_expand", 4, "expand"),
        ("mamba_dt_min", 0.01, "time_step_min"),
        ("mamba_dt_max", 0.2, "time_step_max"),
        ("mamba_dt_init_floor", 0.002, "time_step_floor"),
        ("mamba_conv_bias", False, "use_conv_bias"),
        ("mamba_chunk_size", 256, "chunk_size"),
        ("num_local_experts", 16, "n_routed_experts"),
        ("norm_eps", 1e-6, "layer_norm_epsilon"),
        ("rms_norm_eps", 1e-6, "layer_norm_epsilon"),
    ],
)
def test_older_keys(key, value, field):
    base = {"hybrid_override_pattern": "M*-E"}
    assert getattr(Config.from_dict(base | {key: value}), field) == value
    with pytest.raises(ValueError, match=f"contradicts {field}"):
        Config.from_dict(base | {field: getattr(Config("M"), field), key: value})


@pytest.mark.parametrize(
    "value", [[0.01, float("inf")], [0.01, {"__float__": "Infinity"}], (0.01, "inf")]
)
def test_infinite_time_step_limit(value):
    config = Config.from_dict({"hybrid_override_pattern": "M", "mamba_dt_limit": value})
    assert config.time_step_limit == (0.01, float("inf"))


@pytest.mark.parametrize("changes", [{}, {"time_step_limit": (0.5, 2.0)}, {"eos_token_id": [2, 7]}])
def test_round_trip_through_json(changes):
    config = tiny_config(**changes)
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_inert_keys_have_no_effect():
    base = {"hybrid_override_pattern": "M*-E"}
    inert = {
        "rope_theta": 10000,
        "partial_rotary_factor": 1.0,
        "torch_dtype": "bfloat16",
        "architectures": ["NemotronHForCausalLM"],
        "transformers_version": "4.55.4",
        "auto_map": {},
        "use_mamba_kernels": True,
        "sliding_window": None,
        "moe_latent_size": None,
        "attention_bias": False,
    }
    assert Config.from_dict(base | inert) == Config.from_dict(base)


def test_null_is_absent_except_for_token_ids():
    values = {"hybrid_override_pattern": "M", "n_groups": None, "eos_token_id": None}
    config = Config.from_dict(values)
    assert (config.n_groups, config.eos_token_id, config.eos_token_ids) == (8, None, [])


def test_multimodal_files_are_read_at_their_language_model():
    inner = {"model_type": "nemotron_h", "hybrid_override_pattern": "M*"}
    for key in ("text_config", "llm_config"):
        assert Config.from_dict({"model_type": "other", key: inner}).pattern == "M*"


REFUSED = [
    ({"sliding_window": 512}, "sliding_window"),
    ({"mlp_hidden_act": "silu"}, "mlp_hidden_act"),
    ({"mamba_hidden_act": "gelu"}, "mamba_hidden_act"),
    ({"attention_bias": True}, "attention_bias"),
    ({"attention_dropout": 0.1}, "attention_dropout"),
    ({"residual_in_fp32": True}, "residual_in_fp32"),
    ({"model_type": "llama"}, "model_type"),
    ({"model_type": "nemotron_h_puzzle"}, "block_configs"),
    ({"block_configs": [{"block_type": "mamba"}]}, "block_configs"),
    ({"qk_norm": True, "logit_scale": 2.0}, "logit_scale, qk_norm"),
    ({"hybrid_override_pattern": "MX"}, "'MX'"),
    ({"hybrid_override_pattern": ""}, "non-empty"),
    ({"hybrid_override_pattern": None}, "neither"),
    ({"layers_block_type": ["mamba"]}, "contradicts"),
    ({"layers_block_type": ["mamba", "attention", "mlp", "conv"]}, "conv"),
    ({"num_hidden_layers": 5}, "num_hidden_layers 5"),
    ({"intermediate_size": [8, 8]}, "2 widths for the 1 dense"),
    ({"conv_kernel": 5}, "conv_kernel"),
    ({"n_groups": 3}, "mamba_num_heads 128 must be a multiple of n_groups 3"),
    ({"num_key_value_heads": 5}, "num_key_value_heads 5"),
    ({"n_shared_experts": 2}, "n_shared_experts 2"),
    ({"num_experts_per_tok": 9}, "num_experts_per_tok 9"),
    ({"n_group": 4, "topk_group": 1, "num_experts_per_tok": 3}, "the 2 experts"),
    ({"n_group": 2, "topk_group": 3}, "topk_group"),
    ({"time_step_limit": [1.0, 0.5]}, "time_step_limit"),
    ({"time_step_limit": "no"}, "time_step_limit"),
    ({"time_step_min": 0.2}, "time_step_min 0.2"),
    ({"mamba_ssm_cache_dtype": "int8"}, "mamba_ssm_cache_dtype"),
    ({"hidden_size": 0}, "hidden_size"),
    ({"hidden_size": 12.5}, "hidden_size"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=lambda v: str(v)[:30])
def test_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Config.from_dict({"hybrid_override_pattern": "M*-E"} | changes)


def test_sizes_of_layers_that_are_not_there_do_not_matter():
    keys = {"n_routed_experts": 0, "num_experts_per_tok": 0, "mamba_num_heads": 7}
    assert Config.from_dict({"hybrid_override_pattern": "*-"} | keys).n_routed_experts == 0


def test_quantization_config_is_kept():
    quantized = {"quant_method": "modelopt", "quant_algo": "NVFP4"}
    config = Config.from_dict({"hybrid_override_pattern": "M", "quantization_config": quantized})
    assert config.quantization_config == quantized
    assert config.to_dict()["quantization_config"] == quantized


def test_files(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        Config.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        Config.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="JSON object"):
        Config.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(tiny_config().to_dict()))
    assert Config.from_pretrained(tmp_path).eos_token_ids == [2]
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 11]}')
    assert Config.from_pretrained(tmp_path).eos_token_ids == [2, 11]


def test_dense_widths_follow_the_pattern():
    config = tiny_config("-M-*-", intermediate_size=[8, 16, 24])
    assert config.mlp_widths == [8, None, 16, None, 24]
    assert tiny_config("-M-", intermediate_size=[8]).mlp_widths == [8, None, 8]
    model = Model(config, device="meta", backend="reference")
    assert model.layers[2].mixer.up_proj.weight.shape == (16, SIZES["hidden_size"])
    assert model.dtype == torch.float32
