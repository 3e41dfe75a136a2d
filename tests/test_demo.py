# SPDX-License-Identifier: Apache-2.0
"""The demo model's corpus reader and recipe, and the checkpoint that ships."""

import re
import struct
import zlib
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from tiny import tiny_config
from warpweave.demo import MODEL_DIR, corpus, train
from warpweave.model import Model


def r_strings(strings: list[str | None], version: int = 3) -> bytes:
    """A character vector as R writes it: header, vector, and for each string flags and bytes."""
    out = b"X\n" + struct.pack(">iii", version, 0x00040201, 0x00030500)
    if version == 3:
        out += struct.pack(">i", 5) + b"UTF-8"
    out += struct.pack(">ii", 16, len(strings))
    for s in strings:
        data = b"" if s is None else s.encode()
        out += struct.pack(">ii", 0x00040009, -1 if s is None else len(data)) + data
    return out


@pytest.mark.parametrize("version", [2, 3])
def test_r_strings(version: int) -> None:
    text = ["It was", "", "a naïve truth", None]
    assert corpus.read_r_strings(r_strings(text, version)) == ["It was", "", "a naïve truth", ""]


@pytest.mark.parametrize(
    ("blob", "message"),
    [(b"A\n1", "XDR"), (r_strings([]).replace(b"\0\0\0\x10", b"\0\0\0\x0d"), "character vector")],
)
def test_other_r_objects_are_refused(blob: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        corpus.read_r_strings(blob)


def test_r_database_holds_several_objects() -> None:
    books = [["one", "two"], ["three"]]
    blob = b""
    for book in books:
        data = r_strings(book)  # type: ignore[arg-type]
        blob += struct.pack(">i", len(data)) + zlib.compress(data)
    assert corpus.read_r_database(blob) == books


def test_clean_joins_lines_and_drops_the_licence() -> None:
    raw = "licence\r\n*** START OF THIS BOOK ***\r\nIt was\r\n_a_ truth\r\n \r\n\r\nNext"
    assert corpus.clean(raw + "\n\nEnd of Project Gutenberg's\nlicence") == "It was a truth\n\nNext"


def test_split_holds_out_the_end_of_every_book() -> None:
    texts = ["\n\n".join(f"paragraph {i} of {book}" for i in range(100)) for book in "ab"]
    first, last = corpus.split(texts, held_out=0.1)
    for text, a, b in zip(texts, first, last, strict=True):
        assert f"{a}\n\n{b}" == text
        assert 0.05 < len(b) / len(text) <= 0.1


def test_an_epoch_reads_every_piece_once() -> None:
    r = train.Recipe(batch=4, length=8)
    tokens = torch.arange(8 * 4 * 5 + 10)
    steps = (len(tokens) - 9) // 32
    epoch = torch.cat([train.batch_at(tokens, step, r) for step in range(steps)])
    starts = epoch[:, 0].sort().values
    assert torch.equal(starts, starts[0] + 8 * torch.arange(steps * 4))
    assert torch.equal(epoch, epoch[:, :1] + torch.arange(9))
    assert torch.equal(train.batch_at(tokens, 3, r), epoch[12:16])
    assert not torch.equal(train.batch_at(tokens, steps, r), epoch[:4])


def test_learning_rate_of_a_prolonged_run_agrees_until_the_decay() -> None:
    short, long = train.Recipe(steps=2000, decay=1000), train.Recipe(steps=5000, decay=1000)
    rates = [train.learning_rate(step, short) for step in range(2000)]
    assert rates[:1000] == [train.learning_rate(step, long) for step in range(1000)]
    assert rates[0] < rates[50] < rates[99] == rates[1000] == short.lr
    assert all(a > b for a, b in pairwise(rates[1000:]))
    assert abs(rates[-1] - short.final_lr) < 0.001 * short.lr


@pytest.mark.parametrize(
    ("at", "steps", "decay", "allowed"),
    [(500, 2000, 1000, True), (1000, 4000, 1000, True), (1100, 4000, 1000, False),
     (1100, 2000, 1000, True), (2000, 2500, 1000, False), (900, 1500, 1000, False),
     (900, 1500, 500, True), (1100, 2000, 500, False)],
)  # fmt: skip
def test_only_an_undecided_run_changes_its_end(
    tmp_path: Path, at: int, steps: int, decay: int, allowed: bool
) -> None:
    old, new = (asdict(train.Recipe(steps=n, decay=d)) for n, d in ((2000, 1000), (steps, decay)))
    torch.save({"recipe": old, "config": {}, "step": at}, tmp_path / "state.pt")
    fresh = {"recipe": new, "config": {}, "step": 0}
    if allowed:
        assert train.resume(tmp_path / "state.pt", fresh) == fresh | {"step": at}
    else:
        with pytest.raises(ValueError, match="another recipe"):
            train.resume(tmp_path / "state.pt", fresh)
    for other in (fresh | {"config": {"hidden_size": 1}}, fresh | {"recipe": new | {"seed": 2}}):
        with pytest.raises(ValueError, match="another recipe"):
            train.resume(tmp_path / "state.pt", other)


def test_routers_move_towards_balance() -> None:
    torch.manual_seed(0)
    model = Model(tiny_config("ME"), backend="reference")
    counts = train.count_tokens(model)
    ids = torch.randint(96, (4, 16))
    (router,) = [m for m in model.modules() if isinstance(m, train.Router)]
    router.e_score_correction_bias[0] = 1.0  # everything to expert 0
    spread = []
    for _ in range(60):
        model(ids)
        tokens = counts[router]
        assert int(tokens.sum()) == 4 * 16 * 3
        spread.append(int(tokens.max() - tokens.min()))
        train.balance(counts, 0.03)
    assert spread[0] >= 64 - 20
    assert spread[-1] < spread[0] / 2


# The checkpoint that ships.

# From the held-out end of Pride and Prejudice (1813).
HELD_OUT = (
    "Happy for all her maternal feelings was the day on which Mrs. Bennet got rid of her two most "
    "deserving daughters. With what delighted pride she afterwards visited Mrs. Bingley, and "
    "talked of Mrs. Darcy, may be guessed."
)


def shipped() -> tuple[Model, Tokenizer]:
    tokenizer = Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json"))
    return Model.from_pretrained(MODEL_DIR, backend="reference", dtype=torch.float32), tokenizer


def test_shipped_model_is_what_its_files_say() -> None:
    model, tokenizer = shipped()
    assert set(model.config.pattern) == set("M*E-")
    assert model.config.moe_latent_size
    assert model.config.parameters() == sum(p.numel() for p in model.state_dict().values())
    assert model.config.parameters() <= 6_000_000
    assert sum(file.stat().st_size for file in MODEL_DIR.iterdir()) <= 12_000_000
    assert tokenizer.get_vocab_size() == model.config.vocab_size
    assert [tokenizer.id_to_token(i) for i in range(3)] == train.SPECIAL
    assert tokenizer.decode(tokenizer.encode(HELD_OUT).ids) == HELD_OUT
    recipe = asdict(train.Recipe())
    card = (MODEL_DIR / "README.md").read_text()
    assert f"--steps {recipe['steps']} --decay {recipe['decay']}" in card


def test_shipped_model_has_learned_english() -> None:
    """Fewer bits for unseen text than for its words in reverse, and close to the card's figure."""
    model, tokenizer = shipped()
    card = (MODEL_DIR / "README.md").read_text()
    figure = re.search(r"held-out bits per byte\*\* \| \*\*([0-9.]+)\*\*", card)
    assert figure
    bits = train.bits_per_byte(model, tokenizer, [HELD_OUT])
    assert bits < float(figure[1]) + 0.3
    assert train.bits_per_byte(model, tokenizer, [" ".join(HELD_OUT.split()[::-1])]) > bits + 0.8


def test_shipped_model_writes_words() -> None:
    """Greedy text repeats itself at worst; its words are words of the corpus, not letters."""
    model, tokenizer = shipped()
    ids = torch.tensor([tokenizer.encode("She had never been").ids])
    text = tokenizer.decode(model.generate(ids, max_new_tokens=40)[0].tolist())
    words = re.findall(r"[A-Za-z']+", text)
    assert len(words) > 20
    assert sum(len(tokenizer.encode(f" {word}").ids) == 1 for word in words) > 0.8 * len(words)
