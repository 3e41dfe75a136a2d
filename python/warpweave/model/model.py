# SPDX-License-Identifier: Apache-2.0
"""The hybrid Mamba-Transformer language model, in one file.

Every letter of `config.pattern` is one residual layer h = h + mixer(norm(h)) with its own norm:
M Mamba-2, * grouped-query attention without positions, - dense relu^2 MLP, E mixture of experts
(in a latent space if the config has one). Modules carry the released tensor names without their
`backbone.` prefix; the experts of a layer are stacked into one (E, out, in) tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..quantized import FP8Tensor, NVFP4Tensor
from . import checkpoint
from . import generate as generation
from .backend import Backend, load_backend
from .cache import KV_DTYPES, AttentionState, Cache, MambaState, check_ssm_cache
from .config import Config
from .init import init_weights
from .weights import Matrices

MASK_BYTES = 1 << 26  # of one attention mask; a longer prefill is cut into blocks of queries


@dataclass
class Sequences:
    """Whose tokens a call carries: a (B, T) batch, or one packed row cut at `bounds`."""

    past: list[int]  # tokens of each sequence before this call
    new: list[int]  # and in this call
    cu_seqlens: Tensor | None = None
    bounds: list[int] | None = None  # cu_seqlens on the host

    @property
    def is_decode(self) -> bool:
        """One new token for sequences that all have a state to continue."""
        return self.bounds is None and set(self.new) == {1} and min(self.past) > 0

    @property
    def length(self) -> int:
        """Tokens of the longest sequence after this call."""
        return max(map(sum, zip(self.past, self.new, strict=True)), default=0)


class Linear(Matrices, nn.Linear):
    """x W' + b computed in the dtype of x, so that fp32 weights can train a bf16 model."""

    def __init__(self, ops: Backend, in_size: int, out_size: int, bias: bool = False):
        super().__init__(in_size, out_size, bias)
        self.ops = ops

    def reset_parameters(self) -> None:
        """Nothing: `init_weights` is the one place that chooses starting values."""

    if TYPE_CHECKING:

        def __call__(self, x: Tensor, out_dtype: torch.dtype | None = None) -> Tensor: ...

    def forward(self, x: Tensor, out_dtype: torch.dtype | None = None) -> Tensor:
        inputs = None if self.ops.activations == "bf16" else self.inputs("weight")
        y = self.ops.linear(x, self.matrix("weight", x.dtype), inputs, out_dtype)
        bias = self._parameters["bias"]
        return y if bias is None else y + bias.to(y.dtype)


class Embedding(Matrices, nn.Embedding):
    def reset_parameters(self) -> None:
        """Nothing, as for `Linear`."""

    def rows(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """The vectors of ids, in dtype."""
        if "weight" in self._parameters:
            return self(ids).to(dtype)  # type: ignore[no-any-return]
        table = self.matrix("weight", dtype)
        at = ids.flatten()
        picked: NVFP4Tensor | FP8Tensor
        if isinstance(table, NVFP4Tensor):
            scale = _picked(table.global_scale, at)
            picked = NVFP4Tensor(table.codes[at], _picked(table.block_scales, at), scale)
        else:
            assert isinstance(table, FP8Tensor)
            picked = FP8Tensor(_picked(table.data, at), _picked(table.scale, at))
        return picked.dequantize(dtype).view(*ids.shape, -1)


def _picked(t: Tensor, rows: Tensor) -> Tensor:
    """Rows of t, of what is one for all that one; torch selects bytes, but no E4M3 values."""
    if t.dim() == 0:
        return t
    return t.view(torch.uint8)[rows].view(t.dtype) if t.dtype.itemsize == 1 else t[rows]


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float, ops: Backend):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps, self.ops = eps, ops

    def forward(self, x: Tensor, **kwargs: Any) -> Any:
        return self.ops.rms_norm(x, self.weight, eps=self.eps, **kwargs)


class Fp32Module(nn.Module):
    """Keeps the tensors named in `fp32` in fp32 when the model is cast to a narrower dtype."""

    fp32: tuple[str, ...] = ()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Fp32Module:
        keep = {id(getattr(self, name)) for name in self.fp32}

        def apply(t: Tensor) -> Tensor:
            moved = fn(t)
            narrowed = id(t) in keep and moved.dtype in (torch.bfloat16, torch.float16)
            return t.to(moved.device) if narrowed else moved

        return super()._apply(apply, recurse)  # type: ignore[no-any-return, no-untyped-call]


class ConvWeights(nn.Module):
    """The filters of the causal convolution, stored (C, 1, W) and used as (C, W)."""

    def __init__(self, channels: int, width: int, bias: bool):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, width))
        self.bias = nn.Parameter(torch.empty(channels)) if bias else None

    def forward(self) -> tuple[Tensor, Tensor | None]:
        return self.weight.squeeze(1), self.bias


class Mamba2Mixer(Fp32Module):
    """in_proj -> causal conv + silu -> state space scan -> gated group norm -> out_proj.

    The packed in_proj output (B, T, z | x B C | dt) is never copied: conv, scan and norm read
    their columns as strided views. arXiv 2405.21060.
    """

    fp32 = ("A_log", "D", "dt_bias")

    def __init__(self, config: Config, ops: Backend, dt_clamp: str):
        super().__init__()
        self.ops, self.chunk_size = ops, config.chunk_size
        self.H, self.P = config.mamba_num_heads, config.mamba_head_dim
        self.G, self.N = config.n_groups, config.ssm_state_size
        self.in_proj = Linear(ops, config.hidden_size, config.in_proj_rows, bias=config.use_bias)
        self.conv1d = ConvWeights(config.conv_dim, config.conv_kernel, config.use_conv_bias)
        self.A_log = nn.Parameter(torch.empty(self.H, dtype=torch.float32))
        self.D = nn.Parameter(torch.empty(self.H, dtype=torch.float32))
        self.dt_bias = nn.Parameter(torch.empty(self.H, dtype=torch.float32))
        self.norm = RMSNorm(config.d_inner, config.layer_norm_epsilon, ops)
        self.out_proj = Linear(ops, config.d_inner, config.hidden_size, bias=config.use_bias)
        self.scan_limit = self.step_limit = config.time_step_limit
        if dt_clamp == "transformers":
            self.scan_limit, self.step_limit = (config.time_step_min, math.inf), (0.0, math.inf)

    def forward(self, u: Tensor, seqs: Sequences, state: MambaState | None) -> Tensor:
        di, GN, ops = self.H * self.P, self.G * self.N, self.ops
        z, xBC, dt = self.in_proj(u).split_with_sizes([di, di + 2 * GN, self.H], -1)
        xBC = xBC.transpose(1, 2)  # (B, conv_dim, T)
        ssm = {"D": self.D, "dt_bias": self.dt_bias, "dt_softplus": True}
        A, *conv = self._weights(state)

        if state is not None and seqs.is_decode:
            xBC = ops.causal_conv1d_update(xBC, state.conv, *conv, activation="silu")
            y = ops.ssm_step(
                state.ssm, *self._split(xBC, dt, A), **ssm, dt_limit=self.step_limit,
                **state.rounding,
            )  # fmt: skip
        else:
            conv_past, ssm_past = (state.conv, state.ssm.to(A.dtype)) if state else (None, None)
            xBC, conv_state = ops.causal_conv1d(
                xBC, *conv, activation="silu", initial_states=conv_past,
                cu_seqlens=seqs.cu_seqlens, return_final_states=True,
            )  # fmt: skip
            y, ssm_state = ops.ssd_scan(
                *self._split(xBC, dt, A), **ssm, chunk_size=self.chunk_size,
                dt_limit=self.scan_limit, initial_states=ssm_past,
                cu_seqlens=seqs.cu_seqlens, return_final_states=True,
            )  # fmt: skip
            if state is not None:
                state.conv.copy_(conv_state)
                state.keep(ssm_state, ops)
        return self.out_proj(self.norm(y.flatten(2), gate=z, group_size=di // self.G))

    def _weights(self, state: MambaState | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """A, and the filters and biases of the convolution; once for all the tokens of a state."""
        if state is None or torch.is_grad_enabled():
            return -torch.exp(self.A_log), *self.conv1d()
        if state.weights is None:
            state.weights = -torch.exp(self.A_log), *self.conv1d()
        return state.weights

    def _split(self, xBC: Tensor, dt: Tensor, A: Tensor) -> tuple[Tensor, ...]:
        """x (B,T,H,P), dt (B,T,H), A (H), B and C (B,T,G,N): the arguments of scan and step."""
        GN = self.G * self.N
        x, B, C = xBC.transpose(1, 2).split_with_sizes([self.H * self.P, GN, GN], -1)
        heads, groups = (self.H, self.P), (self.G, self.N)
        B, C = torch.unflatten(B, -1, groups), torch.unflatten(C, -1, groups)
        return torch.unflatten(x, -1, heads), dt, A, B, C


class Attention(nn.Module):
    """Causal softmax(q k' / sqrt(head_dim)) v with grouped keys and no positional embedding."""

    def __init__(self, config: Config, ops: Backend):
        super().__init__()
        d, self.head_dim = config.hidden_size, config.head_dim
        q = config.num_attention_heads * self.head_dim
        kv = config.num_key_value_heads * self.head_dim
        self.q_proj = Linear(ops, d, q)
        self.k_proj = Linear(ops, d, kv)
        self.v_proj = Linear(ops, d, kv)
        self.o_proj = Linear(ops, q, d)

    def kv_scales(self, stored: bool) -> tuple[float, float]:
        """Of fp8 keys and values, where the checkpoint has them."""
        k, v = getattr(self.k_proj, "k_scale", 1.0), getattr(self.v_proj, "v_scale", 1.0)
        return (float(k), float(v)) if stored else (1.0, 1.0)

    def forward(self, x: Tensor, seqs: Sequences, state: AttentionState | None) -> Tensor:
        k_scale, v_scale = (1.0, 1.0) if state is None else (state.k_scale, state.v_scale)
        q, k, v = (
            torch.unflatten(proj(x), -1, (-1, self.head_dim)).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )  # (B, heads, T, head_dim)
        if seqs.bounds is None:
            if state is not None:
                state.append(seqs.past, k, v)
                k, v = state.read(seqs.length, q.dtype)
            y = attend(q, k, v, seqs.past, k_scale)
        else:
            pieces = []
            for i, (lo, hi) in enumerate(pairwise(seqs.bounds)):
                qi, ki, vi = q[:, :, lo:hi], k[:, :, lo:hi], v[:, :, lo:hi]
                if state is not None:
                    state.append(seqs.past, ki, vi, row=i)
                    ki, vi = state.read(seqs.past[i] + hi - lo, q.dtype, row=i)
                pieces.append(attend(qi, ki, vi, seqs.past[i : i + 1], k_scale))
            y = torch.cat([q[:, :, :0], *pieces], 2)
        if v_scale != 1:
            y = y * v_scale
        return self.o_proj(y.transpose(1, 2).flatten(2))


def attend(q: Tensor, k: Tensor, v: Tensor, past: list[int], k_scale: float = 1.0) -> Tensor:
    """Attention of q (B,h,T,D) to k_scale k and v (B,kv,S,D); query t of row b sees keys up to
    past[b] + t."""
    scale = k_scale * q.shape[-1] ** -0.5
    options: dict[str, Any] = {"scale": scale, "enable_gqa": True}
    T, S = q.shape[2], k.shape[2]
    if q.numel() == 0:
        return q
    uniform = len(set(past)) == 1
    if uniform and T == 1:  # heads that share keys as rows of one: 1.4 to 3.4 times as fast
        rows = q.reshape(q.shape[0], k.shape[1], -1, q.shape[3])
        return F.scaled_dot_product_attention(rows, k, v, scale=scale).reshape(q.shape)
    if uniform and past[0] == 0:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, **options)
    last = torch.tensor(past[:1] if uniform else past, device=q.device)[:, None]
    last = last + torch.arange(T, device=q.device)  # (B or 1, T)
    keys, step = torch.arange(S, device=q.device), max(1, MASK_BYTES // (S * len(last)))
    pieces = []
    for t in range(0, T, step):
        mask = keys <= last[:, None, t : t + step, None]
        qt = q[:, :, t : t + step]
        pieces.append(F.scaled_dot_product_attention(qt, k, v, attn_mask=mask, **options))
    return torch.cat(pieces, 2)


class MLP(nn.Module):
    """down relu(up x)^2."""

    def __init__(self, size: int, width: int, bias: bool, ops: Backend):
        super().__init__()
        self.up_proj = Linear(ops, size, width, bias=bias)
        self.down_proj = Linear(ops, width, size, bias=bias)

    def linears(self) -> tuple[Linear, Linear]:
        return self.up_proj, self.down_proj

    def forward(self, x: Tensor, out_dtype: torch.dtype | None = None) -> Tensor:
        return self.down_proj(F.relu(self.up_proj(x)).square(), out_dtype)


class Router(Fp32Module):
    """Sigmoid top-k router. The correction bias steers the choice only, never the weights; it is a
    buffer because training moves it by counting tokens, not by gradients (arXiv 2408.15664)."""

    fp32 = ("e_score_correction_bias",)
    e_score_correction_bias: Tensor

    def __init__(self, config: Config, ops: Backend):
        super().__init__()
        self.ops = ops
        self.weight = nn.Parameter(torch.empty(config.n_routed_experts, config.hidden_size))
        bias = torch.zeros(config.n_routed_experts, dtype=torch.float32)
        self.register_buffer("e_score_correction_bias", bias)
        self.options = {
            "top_k": config.num_experts_per_tok,
            "n_group": config.n_group,
            "topk_group": config.topk_group,
            "normalize": config.norm_topk_prob,
            "scale": config.routed_scaling_factor,
        }

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (tokens, d) -> weights fp32 (tokens, k), indices int32 (tokens, k)."""
        routing: tuple[Tensor, Tensor] = self.ops.moe_route(
            x, self.weight, self.e_score_correction_bias, **self.options
        )
        return routing


class Experts(Matrices):
    """The routed experts' matrices, up_proj (E, inner, width) and down_proj (E, width, inner).

    `place` (E,) says where each expert lies in them, if not in order: files sort experts 0, 1, 10,
    11, .. 2, 20, .., and the matrices may be views of a file.
    """

    matrices = ("up_proj", "down_proj")
    place: Tensor | None

    def __init__(self, count: int, inner: int, width: int):
        super().__init__()
        self.up_proj = nn.Parameter(torch.empty(count, inner, width))
        self.down_proj = nn.Parameter(torch.empty(count, width, inner))
        self.register_buffer("place", None)


class MoE(nn.Module):
    """fc2(sum_k w_k expert_k(fc1 x)) + shared(x): the router and the shared expert see the full x,
    the routed experts its latent projection (or x itself where the config has no latent size)."""

    def __init__(self, config: Config, ops: Backend):
        super().__init__()
        d, latent, E = config.hidden_size, config.moe_latent_size, config.n_routed_experts
        inner, width, bias = config.moe_intermediate_size, config.expert_width, config.mlp_bias
        self.ops, self.bias = ops, bias
        self.gate = Router(config, ops)
        self.experts = Experts(E, inner, width)
        self.fc1_latent_proj = Linear(ops, d, latent, bias=bias) if latent else None
        self.fc2_latent_proj = Linear(ops, latent, d, bias=bias) if latent else None
        shared = config.moe_shared_expert_intermediate_size
        self.shared_experts = MLP(d, shared, bias, ops) if config.n_shared_experts else None

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        weights, indices = self.gate(rows)
        experts = self.experts
        if (place := experts.place) is not None:
            indices = place[indices]
        up, down = experts.matrix("up_proj", x.dtype), experts.matrix("down_proj", x.dtype)
        fc1, fc2, shared = self.fc1_latent_proj, self.fc2_latent_proj, self.shared_experts
        linears = [fc1, fc2, *((None, None) if shared is None else shared.linears())]
        out: Tensor
        if not self.bias and not self._quantises_activations(linears):  # the one op does neither
            w1, w2, s1, s2 = [m if m is None else m.matrix("weight", x.dtype) for m in linears]
            out = self.ops.latent_moe(rows, weights, indices, w1, up, down, w2, s1, s2)
            return out.view_as(x)
        out = self.ops.experts(
            rows if fc1 is None else fc1(rows), up, down, weights, indices,
            experts.inputs("up_proj"), experts.inputs("down_proj"),
        )  # fmt: skip
        wide = torch.promote_types(x.dtype, torch.float32)  # of the sum: rounded once
        out = out.to(wide) if fc2 is None else fc2(out, wide)
        out = out if shared is None else out + shared(rows, wide)
        return out.to(x.dtype).view_as(x)

    def _quantises_activations(self, linears: list[Linear | None]) -> bool:
        if self.ops.activations == "bf16":
            return False
        experts, given = self.experts, (m for m in linears if m is not None)
        inputs = [experts.inputs(name) for name in experts.matrices]
        return any(i is not None for i in (*inputs, *(m.inputs("weight") for m in given)))


class Block(nn.Module):
    """One residual layer, written so that the addition of the layer before and this layer's norm
    are one pass over memory: (x, h) -> (mixer(norm(h + x)), h + x)."""

    def __init__(self, config: Config, index: int, ops: Backend, dt_clamp: str):
        super().__init__()
        letter, width = config.pattern[index], config.mlp_widths[index]
        self.norm = RMSNorm(config.hidden_size, config.layer_norm_epsilon, ops)
        self.stateful = letter in "M*"
        self.mixer: nn.Module
        if letter == "M":
            self.mixer = Mamba2Mixer(config, ops, dt_clamp)
        elif letter == "*":
            self.mixer = Attention(config, ops)
        elif width is not None:
            self.mixer = MLP(config.hidden_size, width, config.mlp_bias, ops)
        else:
            self.mixer = MoE(config, ops)

    def forward(
        self,
        x: Tensor | None,
        h: Tensor,
        seqs: Sequences,
        state: MambaState | AttentionState | None,
    ) -> tuple[Tensor, Tensor]:
        if x is None:
            v = self.norm(h)
        else:
            v, h = self.norm(x, residual=h)
        return (self.mixer(v, seqs, state) if self.stateful else self.mixer(v)), h


class Model(nn.Module):
    """Embedding, the layers of `config.pattern`, a last norm and the language model head.

    dtype: torch.bfloat16 or torch.float32 (torch.float64 on the reference backend). A_log, D,
    dt_bias and the routers' correction biases are always fp32. compute_dtype is the dtype of the
    activations, by default `dtype`; a narrower one trains fp32 weights in bf16 products.
    backend: "native" kernels or "reference" (plain torch, differentiable, see `load_backend`).
    dt_clamp: "config" clamps the time step to config.time_step_limit everywhere, the published
    definition; "transformers" reproduces transformers' NemotronHForCausalLM, which raises dt to at
    least time_step_min over a whole prompt but not in its single-token step.
    activations: "bf16" multiplies quantised matrices with activations as they are; "checkpoint"
    quantises those too where the checkpoint says how, as W4A4 and W8A8 do (see `Backend`).
    kv_cache_dtype: "bf16" (that is compute_dtype) or "fp8" by the stored scales, None for what the
    checkpoint says. ssm_cache_dtype None is config.mamba_ssm_cache_dtype; ssm_rounding "stochastic"
    is for float16 only.
    A model that is not loaded from a checkpoint starts from random weights (see `init.py`).
    """

    def __init__(
        self,
        config: Config,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        backend: str = "native",
        dt_clamp: str = "config",
        compute_dtype: torch.dtype | None = None,
        activations: str = "bf16",
        kv_cache_dtype: str | None = None,
        ssm_cache_dtype: str | None = None,
        ssm_rounding: str = "nearest",
    ):
        super().__init__()
        supported = (torch.bfloat16, torch.float32) + (torch.float64,) * (backend == "reference")
        for name, value in (("dtype", dtype), ("compute_dtype", compute_dtype or dtype)):
            if value not in supported:
                raise ValueError(f"{name} {value} is not supported, only {supported}")
        if dt_clamp not in ("config", "transformers"):
            raise ValueError(f"dt_clamp {dt_clamp!r} must be 'config' or 'transformers'")
        if kv_cache_dtype not in (None, *KV_DTYPES):
            raise ValueError(f"kv_cache_dtype {kv_cache_dtype!r} must be 'bf16', 'fp8' or None")
        self.config, self._compute_dtype = config, compute_dtype
        self.kv_cache_dtype, self.ssm_rounding = kv_cache_dtype, ssm_rounding
        self.ssm_cache_dtype = ssm_cache_dtype or config.mamba_ssm_cache_dtype
        check_ssm_cache(self.ssm_cache_dtype, ssm_rounding)
        self.unused_tensors: list[str] = []  # names a checkpoint holds that this model does not run
        ops = load_backend(backend, activations)
        with torch.device("meta"):
            self.embeddings = Embedding(config.vocab_size, config.hidden_size)
            self.layers = nn.ModuleList(
                Block(config, i, ops, dt_clamp) for i in range(config.num_hidden_layers)
            )
            self.norm_f = RMSNorm(config.hidden_size, config.layer_norm_epsilon, ops)
            self.lm_head = Linear(ops, config.hidden_size, config.vocab_size)
        self.to(dtype)
        if torch.device(device).type != "meta":
            self.to_empty(device=device)
            init_weights(self)
        self.tie_weights()

    @property
    def dtype(self) -> torch.dtype:
        return self.norm_f.weight.dtype

    @property
    def compute_dtype(self) -> torch.dtype:
        return self._compute_dtype or self.dtype

    @property
    def device(self) -> torch.device:
        return self.norm_f.weight.device

    from_pretrained = classmethod(checkpoint.load)
    save_pretrained = checkpoint.save
    generate = generation.generate

    def tie_weights(self) -> None:
        """Share the embedding with the head where the config says so."""
        if not self.config.tie_word_embeddings:
            return
        table = self.embeddings.matrix("weight", self.dtype)
        if isinstance(table, Tensor):
            self.lm_head.weight = self.embeddings.weight
        else:
            self.lm_head.hold("weight", table, self.embeddings.inputs("weight"))

    def tied_names(self) -> set[str]:
        """Names of tensors that are another tensor of the model, and so not in a checkpoint."""
        tied = self.config.tie_word_embeddings
        return {f"lm_head.{name}" for name in self.lm_head.state_dict()} if tied else set()

    def fixed_names(self) -> set[str]:
        """Names of the tensors that keep their dtype whatever the model's."""
        fixed = {f"{path}.{name}" for path, m in self.named_modules()
                 if isinstance(m, Fp32Module) for name in m.fp32}  # fmt: skip
        return fixed | {f"{path}.{name}" for path, m in self.named_modules()
                        if isinstance(m, Matrices) for name, _ in m.named_buffers()}  # fmt: skip

    def new_cache(self, batch_size: int = 1, *, capacity: int = 0, seed: int = 0) -> Cache:
        """An empty cache for `batch_size` sequences of this model."""
        cache = Cache(
            self.config, batch_size, dtype=self.compute_dtype, device=self.device,
            capacity=capacity, kv_dtype=self.kv_cache_dtype or "bf16",
            ssm_dtype=self.ssm_cache_dtype, ssm_rounding=self.ssm_rounding, seed=seed,
        )  # fmt: skip
        for layer, state in zip(self.layers, cache.layers, strict=True):
            if isinstance(state, AttentionState):
                mixer: Any = layer.mixer
                state.k_scale, state.v_scale = mixer.kv_scales(self.kv_cache_dtype == "fp8")
        return cache

    def forward(
        self,
        input_ids: Tensor,
        *,
        cache: Cache | None = None,
        logits_to_keep: int | Tensor | None = None,
        cu_seqlens: Tensor | None = None,
    ) -> Tensor:
        """Logits, fp32 (B, T, vocab), of the token after each of input_ids (B, T).

        cache: continue the sequences it holds and advance it; any split of a sequence into calls
        gives the result of one call. Rows of one batch may have pasts of different length.
        cu_seqlens (num_seqs+1,) int32 or int64: input_ids is one packed row (1, T), sequence i is
        its tokens cu_seqlens[i] to cu_seqlens[i+1] (possibly none) and row i of the cache; this is
        how prompts of different length go through one call without padding.
        logits_to_keep: None or 0 keeps all positions, n the last n, a 1-D tensor those indices.
        Raises ValueError or TypeError before the cache is touched.
        """
        seqs = self._sequences(input_ids, cache, cu_seqlens)
        keep: Any = logits_to_keep
        if isinstance(logits_to_keep, int):
            if logits_to_keep < 0 or (logits_to_keep and cu_seqlens is not None):
                raise ValueError(
                    f"logits_to_keep {logits_to_keep} must be None, 0, a positive count (not with "
                    "cu_seqlens) or a tensor of indices"
                )
            keep = slice(-logits_to_keep, None) if logits_to_keep else None
        h = self.embeddings.rows(input_ids, self.compute_dtype)
        if cache is not None:
            cache.reserve(seqs.length)
        x: Tensor | None = None
        for i, layer in enumerate(self.layers):
            x, h = layer(x, h, seqs, None if cache is None else cache.layers[i])
        if cache is not None:
            cache.lengths = [past + new for past, new in zip(seqs.past, seqs.new, strict=True)]
        assert x is not None  # the pattern has at least one layer
        if keep is not None:
            x, h = x[:, keep], h[:, keep]
        v, _ = self.norm_f(x, residual=h)
        return self.lm_head(v, torch.promote_types(v.dtype, torch.float32))

    def _sequences(self, ids: Tensor, cache: Cache | None, cu_seqlens: Tensor | None) -> Sequences:
        """Check the shapes of a call against each other."""
        if ids.dim() != 2 or ids.is_floating_point():
            raise ValueError(
                f"input_ids must be integers (B, T), got {ids.dtype} {tuple(ids.shape)}"
            )
        bounds, new = None, [ids.shape[1]] * ids.shape[0]
        if cu_seqlens is not None:
            bounds = cu_seqlens.tolist()
            new = [b - a for a, b in pairwise(bounds)]
            edges = (bounds[:1], bounds[-1:])
            if ids.shape[0] != 1 or edges != ([0], [ids.shape[1]]) or min(new, default=0) < 0:
                raise ValueError(
                    f"cu_seqlens {bounds} must rise from 0 to the length of one packed row, "
                    f"input_ids is {tuple(ids.shape)}"
                )
        if cache is not None and cache.batch_size != len(new):
            raise ValueError(f"cache holds {cache.batch_size} sequences, the call has {len(new)}")
        past = [0] * len(new) if cache is None else list(cache.lengths)
        return Sequences(past, new, cu_seqlens, bounds)
