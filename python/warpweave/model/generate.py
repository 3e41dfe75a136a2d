# SPDX-License-Identifier: Apache-2.0
"""Generation: chunked prefill, sampling, and text that streams in whole characters."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from .cache import Cache

if TYPE_CHECKING:
    from .model import Model

PREFILL_CHUNK = 2048  # tokens a prefill call carries: bounds activations, not the prompt


class Sampler:
    """Chooses the next token: the largest logit at temperature 0, else by nucleus sampling.

    p = softmax(logits / temperature); the nucleus is the smallest set of tokens, most probable
    first, whose probabilities sum to at least top_p (arXiv 1904.09751); one token is drawn from it
    in proportion to p. A seed makes the draws repeatable on one kind of device.
    """

    def __init__(
        self,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        device: torch.device | str = "cpu",
    ):
        if not 0 <= temperature < float("inf"):
            raise ValueError(f"temperature must be finite and not negative, got {temperature}")
        if not 0 < top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {top_p}")
        self.temperature, self.top_p = temperature, top_p
        self.generator = torch.Generator(device=device)
        if seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(seed)

    def __call__(self, logits: Tensor) -> Tensor:
        """logits (B, V) -> tokens (B,), int64."""
        if self.temperature == 0:
            return logits.argmax(-1)
        p = torch.softmax(logits.float() / self.temperature, -1)
        if self.top_p == 1:
            return torch.multinomial(p, 1, generator=self.generator)[:, 0]
        p, order = p.sort(dim=-1, descending=True, stable=True)
        before = p.cumsum(-1) - p  # the probability of everything more probable
        p = p.masked_fill(before >= self.top_p, 0)
        choice = torch.multinomial(p, 1, generator=self.generator)
        return order.gather(-1, choice)[:, 0]


@dataclass
class Stats:
    """Times of one generation. The first new token belongs to the prefill that produced it."""

    prompt_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_tokens: int = 0
    decode_seconds: float = 0.0

    @property
    def prefill_rate(self) -> float:
        """Prompt tokens per second."""
        return self.prompt_tokens / self.prefill_seconds if self.prefill_seconds else 0.0

    @property
    def decode_rate(self) -> float:
        """Tokens per second after the first, over all sequences."""
        return self.decode_tokens / self.decode_seconds if self.decode_seconds else 0.0


def prefill(
    model: Model, prompts: Sequence[Tensor], cache: Cache, chunk: int = PREFILL_CHUNK
) -> Tensor:
    """Feed one prompt (T_b,) per row of the cache; the logits (B, vocab) after each prompt's end.

    Prompts of one length go as a (B, T) batch, others as one packed row, in both cases in calls of
    about `chunk` tokens, so that memory does not grow with the prompt.
    """
    lengths = [len(prompt) for prompt in prompts]
    step = max(1, chunk // max(1, len(prompts)))
    if len(set(lengths)) == 1:
        ids = torch.stack(list(prompts))
        for start in range(0, lengths[0], step):
            logits: Tensor = model(ids[:, start : start + step], cache=cache, logits_to_keep=1)
        return logits[:, 0]
    rows: dict[int, Tensor] = {}
    for start in range(0, max(lengths), step):
        pieces = [prompt[start : start + step] for prompt in prompts]
        ends = torch.tensor([0] + [len(piece) for piece in pieces]).cumsum(0)
        last = [b for b, T in enumerate(lengths) if start < T <= start + step]
        logits = model(
            torch.cat(pieces)[None],
            cache=cache,
            cu_seqlens=ends.to(model.device, torch.int32),
            logits_to_keep=(ends[1:][last] - 1).to(model.device),
        )
        rows.update(zip(last, logits[0], strict=True))
    return torch.stack([rows[b] for b in range(len(prompts))])


@torch.inference_mode()
def generate_tokens(
    model: Model,
    prompts: Sequence[Tensor],
    *,
    max_new_tokens: int,
    sampler: Sampler,
    eos: Sequence[int] = (),
    prefill_chunk: int = PREFILL_CHUNK,
    stats: Stats | None = None,
) -> Iterator[list[int | None]]:
    """Yield the new token of every sequence, step by step; None once a sequence has ended.

    A sequence ends after a token of `eos`; iteration ends when all have, or after max_new_tokens.
    """
    stats = Stats() if stats is None else stats
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens must not be negative, got {max_new_tokens}")
    if prefill_chunk < 1:
        raise ValueError(f"prefill_chunk must be positive, got {prefill_chunk}")
    for b, prompt in enumerate(prompts):
        low, high = (int(prompt.min()), int(prompt.max())) if len(prompt) else (0, -1)
        if not 0 <= low <= high < model.config.vocab_size:
            raise ValueError(
                f"prompt {b} must hold at least one token, all in [0, {model.config.vocab_size}), "
                f"it has {len(prompt)} from {low} to {high}"
            )
    if max_new_tokens == 0 or not prompts:
        return
    longest = max(len(prompt) for prompt in prompts)
    # Most answers end long before a generous limit; keys and values grow when one does not.
    cache = model.new_cache(len(prompts), capacity=longest + min(max_new_tokens, 256))
    started = time.perf_counter()
    tokens = sampler(prefill(model, prompts, cache, prefill_chunk))
    chosen = tokens.tolist()  # waits for the device, so the clock below is right
    stats.prompt_tokens = sum(len(prompt) for prompt in prompts)
    stats.prefill_seconds = time.perf_counter() - started
    alive = [True] * len(prompts)
    for remaining in range(max_new_tokens - 1, -1, -1):
        yield [token if on else None for token, on in zip(chosen, alive, strict=True)]
        alive = [on and token not in eos for token, on in zip(chosen, alive, strict=True)]
        if not remaining or not any(alive):
            return
        started = time.perf_counter()
        tokens = sampler(model(tokens[:, None], cache=cache)[:, -1])
        chosen = tokens.tolist()
        stats.decode_seconds += time.perf_counter() - started
        stats.decode_tokens += sum(alive)


def generate(
    model: Model,
    input_ids: Tensor | Sequence[Tensor],
    *,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int | None = None,
    eos_token_ids: Sequence[int] | None = None,
    prefill_chunk: int = PREFILL_CHUNK,
) -> Any:
    """Continue prompts, greedily at temperature 0, else by nucleus sampling.

    input_ids (B, T) returns int64 (B, T + new), new at most max_new_tokens; rows that ended
    earlier than others are filled with pad_token_id. A list of B tensors (T_b,) of any lengths
    returns a list of B tensors (T_b + new_b,). Either way the end token is part of the result
    and every sequence is computed without padding. eos_token_ids defaults to the config's.
    """
    prompts = [row.to(model.device, torch.int64) for row in input_ids]
    eos = model.config.eos_token_ids if eos_token_ids is None else eos_token_ids
    steps = generate_tokens(
        model,
        prompts,
        max_new_tokens=max_new_tokens,
        sampler=Sampler(temperature, top_p, seed, model.device),
        eos=eos,
        prefill_chunk=prefill_chunk,
    )
    new = list(zip(*steps, strict=True)) or [()] * len(prompts)
    if isinstance(input_ids, Tensor):
        pad = model.config.pad_token_id or 0
        rows = [[pad if token is None else token for token in row] for row in new]
        grown = torch.tensor(rows, dtype=torch.int64, device=input_ids.device)
        return torch.cat([input_ids.long(), grown.view(len(rows), len(new[0]) if new else 0)], 1)
    kept = ([token for token in row if token is not None] for row in new)
    return [torch.cat([p, p.new_tensor(row)]) for p, row in zip(prompts, kept, strict=True)]


class TextStream:
    """Text of a growing list of tokens, in pieces that never need to be taken back.

    A piece ends on a whole character, although a token may end inside one, and holds back whatever
    could become the beginning of a stop string. At a stop string the text ends in front of it.
    """

    def __init__(self, decode: Callable[[list[int]], str], stop: Sequence[str] = ()):
        if "" in stop:
            raise ValueError("stop strings must not be empty")
        self.stopped = False
        self._decode, self._stop = decode, stop
        self._ids: list[int] = []
        self._shown = 0  # characters of decode(self._ids) already passed on
        self._pending = ""

    def push(self, token: int) -> str:
        """Add a token; the text that became certain."""
        self._ids.append(token)
        text = self._decode(self._ids)
        # Bytes of an unfinished character decode to at most three replacement characters.
        tail = len(text) - len(text[-3:].rstrip("\ufffd")) - len(text[:-3])
        new = text[self._shown : len(text) - tail]
        self._shown += len(new)
        if not tail and len(self._ids) >= 64:
            # Bound the cost of decoding; some tokens stay, as decoders may look at their neighbour.
            self._ids = self._ids[-8:]
            self._shown = len(self._decode(self._ids))
        return self._emit(new)

    def finish(self) -> str:
        """All remaining text, an unfinished character as replacement characters."""
        return self._emit(self._decode(self._ids)[self._shown :], final=True)

    def _emit(self, new: str, final: bool = False) -> str:
        if self.stopped:
            return ""
        self._pending += new
        found = [at for stop in self._stop if (at := self._pending.find(stop)) >= 0]
        if found:
            self.stopped = True
            return self._pending[: min(found)]
        hold = 0
        if not final:
            for stop in self._stop:
                most = min(len(stop) - 1, len(self._pending))
                fits = (n for n in range(most, 0, -1) if self._pending.endswith(stop[:n]))
                hold = max(hold, next(fits, 0))
        cut = len(self._pending) - hold
        text, self._pending = self._pending[:cut], self._pending[cut:]
        return text


class Decoder(Protocol):
    """What `stream_text` needs of a tokenizer."""

    def decode(self, ids: list[int]) -> str: ...


def stream_text(
    model: Model,
    tokenizer: Decoder,
    prompt: Sequence[int],
    *,
    max_new_tokens: int = 128,
    sampler: Sampler | None = None,
    stop: Sequence[str] = (),
    eos: Sequence[int] | None = None,
    stats: Stats | None = None,
) -> Iterator[str]:
    """Continue a prompt; yields pieces of text until an eos token, a stop string or the limit."""
    eos = model.config.eos_token_ids if eos is None else eos
    text = TextStream(tokenizer.decode, stop)
    tokens = generate_tokens(
        model,
        [torch.tensor(prompt, dtype=torch.int64, device=model.device)],
        max_new_tokens=max_new_tokens,
        sampler=sampler or Sampler(device=model.device),
        eos=eos,
        stats=stats,
    )
    for (token,) in tokens:
        if token is None or token in eos:
            break
        if piece := text.push(token):
            yield piece
        if text.stopped:
            return
    if piece := text.finish():
        yield piece
