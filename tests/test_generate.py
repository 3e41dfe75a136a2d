# SPDX-License-Identifier: Apache-2.0
"""Sampling against its definition, and streams that never take text back."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tiny import BACKENDS, SIZES, tiny_config, tiny_model, tokens
from warpweave.model.generate import Sampler, Stats, TextStream, generate_tokens, stream_text

pytestmark = pytest.mark.usefixtures("one_thread")

VOCAB = SIZES["vocab_size"]


def decode_bytes(ids):
    """The smallest tokenizer whose tokens end inside characters."""
    return bytes(ids).decode("utf-8", errors="replace")


# Sampling.


def nucleus(p, top_p):
    """The smallest set of most probable tokens with a sum of at least top_p, by trying sizes."""
    order = sorted(range(len(p)), key=lambda i: (-p[i], i))
    for size in range(1, len(p) + 1):
        if sum(p[i] for i in order[:size]) >= top_p:
            return set(order[:size])
    return set(order)


@pytest.mark.parametrize("top_p", [0.05, 0.3, 0.6, 0.9, 1.0])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_nucleus_in_proportion(temperature, top_p):
    draws = 20_000
    logits = torch.tensor([0.3, 2.0, -1.0, 1.2, 1.1, -3.0, 0.0, 1.9], dtype=torch.float64)
    p = torch.softmax(logits / temperature, 0)
    allowed = nucleus(p.tolist(), top_p)
    kept = torch.tensor([i in allowed for i in range(len(p))])
    expected = torch.where(kept, p, 0) / p[kept].sum()
    sampler = Sampler(temperature, top_p, seed=1)
    counts = torch.bincount(sampler(logits.float().expand(draws, -1)), minlength=len(p))
    assert not counts[~kept].any()
    deviation = (draws * expected * (1 - expected)).sqrt()
    assert ((counts - draws * expected).abs() <= 5 * deviation + 1e-9).all()


def test_nucleus_has_the_token_that_crosses_the_threshold():
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log().expand(4000, -1)
    assert set(Sampler(1.0, 0.5, seed=0)(logits).tolist()) == {0}
    assert set(Sampler(1.0, 0.51, seed=0)(logits).tolist()) == {0, 1}
    assert set(Sampler(1.0, 0.76, seed=0)(logits).tolist()) == {0, 1, 2}
    assert set(Sampler(1.0, 1e-9, seed=0)(logits).tolist()) == {0}


def test_greedy_takes_the_largest():
    logits = torch.randn(50, VOCAB, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Sampler()(logits), logits.max(-1).indices)


def test_seeds():
    logits = torch.zeros(64, VOCAB)
    first = Sampler(1.0, 0.9, seed=5)(logits)
    assert torch.equal(first, Sampler(1.0, 0.9, seed=5)(logits))
    assert not torch.equal(first, Sampler(1.0, 0.9, seed=6)(logits))
    assert not torch.equal(Sampler(1.0)(logits), Sampler(1.0)(logits))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1.0,), "temperature"),
        ((float("inf"),), "temperature"),
        ((float("nan"),), "temperature"),
        ((1.0, 0.0), "top_p"),
        ((1.0, 1.5), "top_p"),
    ],
)
def test_refused_sampling(arguments, message):
    with pytest.raises(ValueError, match=message):
        Sampler(*arguments)


# Streams.


def play(ids, stop=()):
    """Pieces of a stream as they come, and whether a stop string ended it."""
    stream = TextStream(decode_bytes, stop)
    pieces = []
    for token in ids:
        pieces.append(stream.push(token))
        if stream.stopped:
            return pieces, True
    pieces.append(stream.finish())
    return pieces, stream.stopped


def until_stop(text, stop):
    return text[: min([text.find(s) for s in stop if s in text], default=len(text))]


@given(st.text(max_size=200), st.lists(st.text("ab€", min_size=1, max_size=4), max_size=3))
def test_stream_is_the_text_up_to_the_first_stop(text, stop):
    pieces, stopped = play(text.encode(), stop)
    # At the first end of a stop string the earliest beginning decides.
    assert "".join(pieces) == shortest(text, stop)
    assert stopped == any(s in text for s in stop)
    assert all("\ufffd" not in piece for piece in pieces) or "\ufffd" in text


def shortest(text, stop):
    """Read character by character until some stop string is complete; cut where it begins."""
    for end in range(1, len(text) + 1):
        if any(text[:end].endswith(s) for s in stop):
            return until_stop(text[:end], stop)
    return text


@given(st.binary(max_size=200))
def test_stream_of_any_bytes_is_their_decoding(data):
    pieces, _ = play(data)
    assert "".join(pieces) == decode_bytes(data)


@given(st.text("ab", max_size=60), st.lists(st.text("ab", min_size=1, max_size=5), max_size=3))
def test_nothing_is_ever_taken_back(text, stop):
    stream = TextStream(decode_bytes, stop)
    shown = ""
    for token in text.encode():
        shown += stream.push(token)
        assert shortest(text, stop).startswith(shown)
        if stream.stopped:
            break


def test_characters_appear_whole_and_at_once():
    stream = TextStream(decode_bytes)
    pieces = [stream.push(token) for token in "a€b😀".encode()]
    assert pieces == ["a", "", "", "€", "b", "", "", "", "😀"]
    assert stream.finish() == ""


def test_an_unfinished_character_ends_as_replacement():
    assert "".join(play("a€".encode()[:-1])[0]) == "a\ufffd"


def test_stop_string_across_tokens_is_never_shown():
    stream = TextStream(decode_bytes, ["</end>"])
    pieces = [stream.push(token) for token in b"text<</end>more"]
    assert "".join(pieces) == "text<"
    assert stream.stopped
    assert stream.finish() == ""


def test_possible_stop_is_shown_once_it_is_none():
    pieces, stopped = play(b"a</en b", ["</end>"])
    assert pieces[:6] == ["a", "", "", "", "", "</en "]
    assert not stopped
    assert "".join(play(b"a</en", ["</end>"])[0]) == "a</en"


def test_long_texts_decode_a_bounded_window():
    longest = 0

    def decode(ids):
        nonlocal longest
        longest = max(longest, len(ids))
        return decode_bytes(ids)

    text = "naïve € " * 200
    stream = TextStream(decode)
    shown = "".join(stream.push(token) for token in text.encode()) + stream.finish()
    assert shown == text
    assert longest <= 72


def test_empty_stop_string_is_refused():
    with pytest.raises(ValueError, match="stop"):
        TextStream(decode_bytes, ["x", ""])


# Generation.

backends = pytest.mark.parametrize("backend", [name for name, *_ in BACKENDS])


@pytest.fixture(scope="module")
def models():
    return {name: tiny_model(backend=name) for name, *_ in BACKENDS}


@backends
def test_greedy_generation_is_repeated_prefill(models, backend):
    model, ids = models[backend], tokens(2, 5)
    got = model.generate(ids, max_new_tokens=9, eos_token_ids=[])
    want = ids
    with torch.no_grad():
        for _ in range(9):
            want = torch.cat([want, model(want)[:, -1:].argmax(-1)], 1)
    assert torch.equal(got, want)


@backends
@pytest.mark.parametrize("chunk", [1, 3, 7, 2048])
def test_prompts_of_different_length_and_any_chunk(models, backend, chunk):
    model = models[backend]
    prompts = [tokens(n, seed=n) for n in (9, 1, 4)]
    alone = [model.generate(p[None], max_new_tokens=8, eos_token_ids=[])[0] for p in prompts]
    got = model.generate(prompts, max_new_tokens=8, eos_token_ids=[], prefill_chunk=chunk)
    for mine, want in zip(got, alone, strict=True):
        assert torch.equal(mine, want)
    batch = model.generate(tokens(2, 9), max_new_tokens=3, eos_token_ids=[], prefill_chunk=chunk)
    assert torch.equal(batch, model.generate(tokens(2, 9), max_new_tokens=3, eos_token_ids=[]))


@backends
def test_sequences_end_alone(models, backend):
    model, ids = models[backend], tokens(3, 5)
    free = model.generate(ids, max_new_tokens=12, eos_token_ids=[])[:, 5:]
    eos = int(free[0, 4])
    ends = [row.tolist().index(eos) if eos in row else 11 for row in free]
    got = model.generate(ids, max_new_tokens=12, eos_token_ids=[eos])[:, 5:]
    assert got.shape[1] == max(ends) + 1
    for row, want, end in zip(got, free, ends, strict=True):
        assert torch.equal(row[: end + 1], want[: end + 1])
        assert not row[end + 1 :].any()  # pad_token_id 0
    as_list = model.generate(list(ids), max_new_tokens=12, eos_token_ids=[eos])
    assert [len(row) - 5 for row in as_list] == [end + 1 for end in ends]


@backends
def test_generation_is_repeatable(models, backend):
    def draw(seed):
        options = {"temperature": 1.0, "top_p": 0.9, "seed": seed, "eos_token_ids": []}
        return models[backend].generate(tokens(2, 5), max_new_tokens=10, **options)

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


@backends
def test_empty_generations(models, backend):
    model, ids = models[backend], tokens(2, 5)
    assert torch.equal(model.generate(ids, max_new_tokens=0), ids)
    assert model.generate(ids[:0], max_new_tokens=3).shape == (0, 5)
    assert model.generate([], max_new_tokens=3) == []


@backends
def test_refused_generation(models, backend):
    model = models[backend]
    for prompt, message in (
        ([tokens(0)], "prompt 0 must hold"),
        ([tokens(3), torch.tensor([1, VOCAB])], "prompt 1 must hold"),
        ([torch.tensor([-1])], "prompt 0"),
    ):
        with pytest.raises(ValueError, match=message):
            model.generate(prompt)
    with pytest.raises(ValueError, match="max_new_tokens"):
        model.generate([tokens(3)], max_new_tokens=-1)
    with pytest.raises(ValueError, match="prefill_chunk"):
        model.generate([tokens(3)], prefill_chunk=0)


@backends
def test_stats_count_tokens(models, backend):
    stats = Stats()
    steps = generate_tokens(
        models[backend],
        [tokens(4), tokens(7)],
        max_new_tokens=6,
        sampler=Sampler(),
        stats=stats,
    )
    assert len(list(steps)) == 6
    assert (stats.prompt_tokens, stats.decode_tokens) == (11, 10)
    assert stats.prefill_rate > 0
    assert stats.decode_rate > 0


class Bytes:
    decode = staticmethod(decode_bytes)


@pytest.fixture(scope="module")
def byte_model():
    return tiny_model(tiny_config(vocab_size=256, eos_token_id=[3, 200]), backend="reference")


def test_text_ends_before_eos_and_before_stop(byte_model):
    prompt = list(b"Call me Ishmael.")

    def text(**options):
        return "".join(
            stream_text(byte_model, Bytes, prompt, max_new_tokens=32, sampler=None, **options)
        )

    free = text(eos=[])
    ids = byte_model.generate(torch.tensor([prompt]), max_new_tokens=32, eos_token_ids=[])[
        0, len(prompt) :
    ].tolist()
    assert free == decode_bytes(ids)
    eos = ids[20]
    assert text(eos=[eos]) == decode_bytes(ids[: ids.index(eos)])
    stop = free[10:13]
    assert text(eos=[], stop=[stop]) == free[: free.index(stop)]
