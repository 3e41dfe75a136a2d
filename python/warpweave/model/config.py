# SPDX-License-Identifier: Apache-2.0
"""The architecture of one model, read from and written to a released `config.json`.

Three explicit tables decide what happens to a key of the file: `_ALIASES` (older spellings of a
field), `_FIXED` (keys that would change the mathematics; only the value every released model has is
accepted) and `_INERT` (keys without any effect on the numbers). Everything else that is not a field
of `Config` is an error, because a key we do not know may be a layer we do not compute.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

_LAYER_NAMES = {
    "mamba": "M",
    "linear_attention": "M",
    "attention": "*",
    "full_attention": "*",
    "mlp": "-",
    "moe": "E",
}

_ALIASES = {
    "attention_head_dim": "head_dim",
    "num_query_groups": "num_key_value_heads",
    "mamba_n_groups": "n_groups",
    "mamba_d_conv": "conv_kernel",
    "mamba_expand": "expand",
    "mamba_dt_min": "time_step_min",
    "mamba_dt_max": "time_step_max",
    "mamba_dt_init_floor": "time_step_floor",
    "mamba_dt_limit": "time_step_limit",
    "mamba_conv_bias": "use_conv_bias",
    "mamba_chunk_size": "chunk_size",
    "num_local_experts": "n_routed_experts",
    "norm_eps": "layer_norm_epsilon",
    "rms_norm_eps": "layer_norm_epsilon",
}

# Dropout is fixed at zero because no layer here applies it, in training either. attention_bias is
# ignored by other implementations, which would silently drop trained biases.
_FIXED = {
    "model_type": "nemotron_h",
    "mlp_hidden_act": "relu2",
    "mamba_hidden_act": "silu",
    "attention_bias": False,
    "attention_dropout": 0,
    "hidden_dropout": 0,
    "residual_in_fp32": False,
    "sliding_window": None,
    "block_configs": None,
    "mtp_block_configs": None,
    "mtp_n_routed_experts": None,
}

# The rotary keys are in released files although no attention layer has positions.
_INERT = frozenset(
    {
        *("architectures", "auto_map", "_name_or_path", "name_or_path", "torch_dtype", "dtype"),
        *("transformers_version", "use_cache", "num_logits_to_keep", "output_router_logits"),
        *("rope_theta", "partial_rotary_factor", "rope_scaling", "rope_parameters"),
        *("use_mamba_kernels", "mamba_proj_bias", "time_step_rank", "moe_shared_expert_overlap"),
        *("return_dict", "output_hidden_states", "output_attentions", "chunk_size_feed_forward"),
        *("is_encoder_decoder", "id2label", "label2id", "problem_type", "hidden_act"),
        *("tokenizer_class", "keep_mtp_spec_in_bf16"),
    }
)


@dataclass
class Config:
    """One hybrid model. Field names are the keys of the released `config.json`.

    `hybrid_override_pattern` has one letter for each residual layer: M Mamba-2, * attention,
    - dense MLP, E mixture of experts. `intermediate_size` is one width, or a list with one width
    for each "-" (or of length 1). `moe_latent_size` None means that the experts read the hidden
    vector itself. `n_shared_experts` 0 means no shared expert, 1 one of width
    `moe_shared_expert_intermediate_size`; other counts are refused because implementations disagree
    about the width. `expand`, `max_position_embeddings` and the `mtp` fields are carried along
    without effect. Raises ValueError for values that contradict each other or are not supported.
    """

    hybrid_override_pattern: str
    vocab_size: int = 131072
    hidden_size: int = 4096
    num_attention_heads: int = 32
    num_key_value_heads: int = 8
    head_dim: int = 128
    intermediate_size: int | list[int] = 21504
    mlp_bias: bool = False
    mamba_num_heads: int = 128
    mamba_head_dim: int = 64
    ssm_state_size: int = 128
    n_groups: int = 8
    conv_kernel: int = 4
    expand: int = 2
    chunk_size: int = 128
    use_conv_bias: bool = True
    use_bias: bool = False
    time_step_min: float = 0.001
    time_step_max: float = 0.1
    time_step_floor: float = 1e-4
    time_step_limit: tuple[float, float] = (0.0, math.inf)
    mamba_ssm_cache_dtype: str = "float32"
    n_routed_experts: int = 8
    num_experts_per_tok: int = 2
    n_shared_experts: int = 1
    moe_intermediate_size: int = 7688
    moe_shared_expert_intermediate_size: int = 7688
    moe_latent_size: int | None = None
    routed_scaling_factor: float = 1.0
    norm_topk_prob: bool = True
    n_group: int = 1
    topk_group: int = 1
    layer_norm_epsilon: float = 1e-5
    tie_word_embeddings: bool = False
    initializer_range: float = 0.02
    rescale_prenorm_residual: bool = True
    max_position_embeddings: int = 4096
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    num_nextn_predict_layers: int = 0
    mtp_hybrid_override_pattern: str = "*E"
    quantization_config: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        # Megatron writes pipeline cuts as "|" and appends the MTP block after "/".
        main, _, mtp = self.hybrid_override_pattern.partition("/")
        self.hybrid_override_pattern = main.replace("|", "")
        if mtp:
            self.mtp_hybrid_override_pattern = mtp.split("/")[0].replace("|", "")
        self.time_step_limit = _limit(self.time_step_limit)
        unknown = set(self.hybrid_override_pattern) - set("M*-E")
        if unknown or not self.hybrid_override_pattern:
            raise ValueError(
                f"hybrid_override_pattern {self.hybrid_override_pattern!r} must be a non-empty "
                "string of M, *, - and E"
            )
        for letter, names in _SIZES.items():
            for name in names if letter in self.pattern else ():
                value = getattr(self, name)
                if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                    raise ValueError(f"{name} must be a positive integer, got {value!r}")
        if "*" in self.pattern:
            self._check_divisible("num_attention_heads", "num_key_value_heads")
        if "M" in self.pattern:
            self._check_divisible("mamba_num_heads", "n_groups")
        if "E" in self.pattern:
            self._check_divisible("n_routed_experts", "n_group")
            self._check_routing()
        if not 2 <= self.conv_kernel <= 4:
            raise ValueError(f"conv_kernel must be 2, 3 or 4, got {self.conv_kernel}")
        if not 0 < self.time_step_min <= self.time_step_max:
            raise ValueError(
                f"time_step_min {self.time_step_min} and time_step_max {self.time_step_max} must "
                "satisfy 0 < min <= max"
            )
        if self.mamba_ssm_cache_dtype not in ("float32", "bfloat16", "float16"):
            raise ValueError(
                "mamba_ssm_cache_dtype must be float32, bfloat16 or float16, "
                f"got {self.mamba_ssm_cache_dtype!r}"
            )
        _ = self.mlp_widths  # raises when the list does not fit the pattern

    def _check_routing(self) -> None:
        if self.n_shared_experts not in (0, 1):
            raise ValueError(
                f"n_shared_experts {self.n_shared_experts} is not supported: write one shared "
                "expert of the combined moe_shared_expert_intermediate_size"
            )
        if self.topk_group > self.n_group:
            raise ValueError(f"topk_group {self.topk_group} is larger than n_group {self.n_group}")
        choosable = self.n_routed_experts // self.n_group * self.topk_group
        if self.num_experts_per_tok > choosable:
            raise ValueError(
                f"num_experts_per_tok {self.num_experts_per_tok} is larger than the {choosable} "
                "experts a token may choose from"
            )

    def _check_divisible(self, name: str, divisor: str) -> None:
        a, b = getattr(self, name), getattr(self, divisor)
        if a % b:
            raise ValueError(f"{name} {a} must be a multiple of {divisor} {b}")

    # Derived sizes.

    @property
    def pattern(self) -> str:
        """One letter of M, *, -, E for each layer."""
        return self.hybrid_override_pattern

    @property
    def num_hidden_layers(self) -> int:
        return len(self.pattern)

    @property
    def d_inner(self) -> int:
        """Width of the Mamba mixer, H * P; `expand` does not enter (9B-v2 has d_inner > 2 d)."""
        return self.mamba_num_heads * self.mamba_head_dim

    @property
    def conv_dim(self) -> int:
        """Channels of the causal convolution: x, B and C."""
        return self.d_inner + 2 * self.n_groups * self.ssm_state_size

    @property
    def in_proj_rows(self) -> int:
        """Rows of in_proj in order z, x, B, C, dt."""
        return self.d_inner + self.conv_dim + self.mamba_num_heads

    @property
    def expert_width(self) -> int:
        """Input and output width of a routed expert: the latent size, else hidden_size."""
        return self.moe_latent_size or self.hidden_size

    @property
    def mlp_widths(self) -> list[int | None]:
        """Dense MLP width of every layer, None where the layer is no dense MLP."""
        dense, widths = self.pattern.count("-"), self.intermediate_size
        if isinstance(widths, int):
            widths = [widths]
        if len(widths) == 1:
            widths = list(widths) * dense
        if len(widths) != dense:
            raise ValueError(
                f"intermediate_size has {len(widths)} widths for the {dense} dense layers of "
                f"{self.pattern!r}"
            )
        rest = iter(widths)
        return [next(rest) if letter == "-" else None for letter in self.pattern]

    @property
    def eos_token_ids(self) -> list[int]:
        """Every token that ends a sequence."""
        ids = self.eos_token_id
        return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)

    # Sizes of the whole model.

    def parameters(self, *, active: bool = False) -> int:
        """Number of parameters, MTP excluded; `active` counts top_k of the routed experts only."""
        d, di, kv = self.hidden_size, self.d_inner, self.num_key_value_heads * self.head_dim
        q = self.num_attention_heads * self.head_dim
        mamba = d * self.in_proj_rows + di * d + di + 3 * self.mamba_num_heads
        mamba += self.conv_dim * (self.conv_kernel + self.use_conv_bias)
        mamba += self.use_bias * (self.in_proj_rows + d)
        experts = self.num_experts_per_tok if active else self.n_routed_experts
        shared = self.n_shared_experts * self.moe_shared_expert_intermediate_size
        moe = self.n_routed_experts * (d + 1) + 2 * d * shared
        moe += experts * 2 * self.expert_width * self.moe_intermediate_size
        moe += 2 * d * self.moe_latent_size if self.moe_latent_size else 0
        if self.mlp_bias:
            moe += (shared + d) * self.n_shared_experts
            moe += (self.moe_latent_size + d) if self.moe_latent_size else 0
        dense = sum(2 * d * w + self.mlp_bias * (w + d) for w in self.mlp_widths if w)
        count = self.pattern.count
        total = (
            count("M") * mamba + count("*") * (2 * d * q + 2 * d * kv) + count("E") * moe + dense
        )
        total += (len(self.pattern) + 1) * d  # one norm before each layer and the last one
        return total + self.vocab_size * d * (1 if self.tie_word_embeddings else 2)

    def state_bytes(self, dtype_bytes: int = 2) -> int:
        """Bytes of recurrent state (convolution and SSM) of one sequence, whatever its length."""
        ssm = (
            self.d_inner
            * self.ssm_state_size
            * (4 if self.mamba_ssm_cache_dtype == "float32" else 2)
        )
        conv = self.conv_dim * (self.conv_kernel - 1) * dtype_bytes
        return self.pattern.count("M") * (ssm + conv)

    def kv_bytes_per_token(self, dtype_bytes: int = 2) -> int:
        """Bytes of attention keys and values that every token adds."""
        return self.pattern.count("*") * 2 * self.num_key_value_heads * self.head_dim * dtype_bytes

    # Files.

    @classmethod
    def from_pretrained(cls, path: str | Path) -> Config:
        """Read `config.json` of a checkpoint directory; `generation_config.json`, when there, wins
        for `eos_token_id`, as chat models list their end-of-turn token only in it."""
        path = Path(path)
        config = cls.from_dict(read_json(path / "config.json"))
        if (path / "generation_config.json").is_file():
            eos = read_json(path / "generation_config.json").get("eos_token_id")
            config.eos_token_id = config.eos_token_id if eos is None else eos
        return config

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Config:
        """Config from the keys of a `config.json`, in any released spelling.

        null counts as absent, except for token ids. A multimodal file is read at its `text_config`
        or `llm_config`. Raises ValueError for unknown keys (listing all of them), unsupported
        values, and two spellings of one field that disagree.
        """
        for nested in ("text_config", "llm_config"):
            if isinstance(inner := values.get(nested), dict):
                outer = {k: values[k] for k in ("quantization_config",) if values.get(k)}
                return cls.from_dict(outer | inner)
        if values.get("block_configs") or values.get("model_type") == "nemotron_h_puzzle":
            raise ValueError("block_configs (nemotron_h_puzzle, per-layer sizes) is not supported")
        nullable = ("pad_token_id", "bos_token_id", "eos_token_id")
        values = {k: value for k, value in values.items() if value is not None or k in nullable}
        known: dict[str, Any] = {}
        patterns = _patterns(values)
        for key, value in values.items():
            if key in _FIXED:
                if value != _FIXED[key]:
                    raise ValueError(f"{key} {value!r} is not supported, only {_FIXED[key]!r}")
            elif (name := _ALIASES.get(key, key)) in _FIELDS:
                value = _limit(value) if name == "time_step_limit" else value
                if known.setdefault(name, value) != value:
                    raise ValueError(f"{key} {value!r} contradicts {name} {known[name]!r}")
        unknown = sorted(
            set(values) - _FIELDS - _INERT - set(_ALIASES) - set(_FIXED) - set(_PATTERN_KEYS)
        )
        if unknown:
            raise ValueError(
                f"unknown config keys: {', '.join(unknown)} (a key that does not change the model "
                "can be removed from config.json)"
            )
        return cls(**(known | patterns))

    def to_dict(self) -> dict[str, Any]:
        """The keys of a released `config.json` (hybrid_override_pattern spelling)."""
        values = {key: value for key, value in asdict(self).items() if key != "quantization_config"}
        if self.quantization_config is not None:
            values["quantization_config"] = self.quantization_config
        values |= {key: value for key, value in _FIXED.items() if value is not None}
        low, high = self.time_step_limit
        # JSON has no infinity; this is how transformers 5 spells it.
        values["time_step_limit"] = [low, {"__float__": "Infinity"} if math.isinf(high) else high]
        values["num_hidden_layers"] = self.num_hidden_layers
        values["architectures"] = ["NemotronHForCausalLM"]
        return dict(sorted(values.items()))


_FIELDS = frozenset(field.name for field in fields(Config))
_PATTERN_KEYS = ("layers_block_type", "layer_types", "num_hidden_layers", "mtp_layers_block_type")
# The sizes each kind of layer needs; "" is every model.
_SIZES = {
    "": ("vocab_size", "hidden_size", "chunk_size"),
    "*": ("num_attention_heads", "num_key_value_heads", "head_dim"),
    "M": ("mamba_num_heads", "mamba_head_dim", "ssm_state_size", "n_groups"),
    "E": (
        *("n_routed_experts", "num_experts_per_tok", "moe_intermediate_size"),
        *("moe_shared_expert_intermediate_size", "n_group", "topk_group"),
    ),
}


def _patterns(values: dict[str, Any]) -> dict[str, str]:
    """The two patterns from the list or the string spelling; lists win nothing: all must agree."""
    found: dict[str, str] = {}
    for key in ("layers_block_type", "layer_types", "hybrid_override_pattern"):
        if key not in values:
            continue
        value = values[key]
        letters = (
            value.partition("/")[0].replace("|", "")
            if isinstance(value, str)
            else _letters(key, value)
        )
        for other, pattern in found.items():
            if pattern != letters:
                raise ValueError(f"{key} {letters!r} contradicts {other} {pattern!r}")
        found[key] = letters
    if not found:
        raise ValueError("config has neither hybrid_override_pattern nor layers_block_type")
    letters = next(iter(found.values()))
    if values.get("num_hidden_layers", len(letters)) != len(letters):
        raise ValueError(
            f"num_hidden_layers {values['num_hidden_layers']} contradicts the {len(letters)} "
            f"layers of {next(iter(found))} {letters!r}"
        )
    result = {"hybrid_override_pattern": values.get("hybrid_override_pattern", letters)}
    if "mtp_layers_block_type" in values and "mtp_hybrid_override_pattern" not in values:
        result["mtp_hybrid_override_pattern"] = _letters(
            "mtp_layers_block_type", values["mtp_layers_block_type"]
        )
    return result


def _letters(key: str, names: list[str]) -> str:
    unknown = sorted({str(name) for name in names} - set(_LAYER_NAMES))
    if unknown:
        raise ValueError(f"{key} has unknown layer names {unknown}, known: {sorted(_LAYER_NAMES)}")
    return "".join(_LAYER_NAMES[name] for name in names)


def _limit(value: Any) -> tuple[float, float]:
    """A dt limit; infinity is a JSON extension, a string, or transformers' {"__float__": ..}."""
    try:
        low, high = (float(v["__float__"] if isinstance(v, dict) else v) for v in value)
    except (TypeError, ValueError, KeyError):
        raise ValueError(f"time_step_limit must be two numbers, got {value!r}") from None
    if not 0 <= low <= high:
        raise ValueError(f"time_step_limit must satisfy 0 <= low <= high, got {value!r}")
    return low, high


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; ValueError names the file and what is wrong with it."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object, not a {type(value).__name__}")
    return value
