# SPDX-License-Identifier: Apache-2.0
"""What quantising costs the demo model: python bench/perplexity.py CORPUS [--characters N].

Perplexity by token on the held-out ends of the nine books it was trained on (fetched with apt into
CORPUS unless they are there), for every recipe, against bf16. Calibrated on other text of them.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from tokenizers import Tokenizer

from warpweave.demo import MODEL_DIR, corpus, train
from warpweave.model import Model
from warpweave.model.calibrate import calibrate
from warpweave.model.quantize import RECIPES, quantize

CALIBRATION = 8192  # tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--characters", type=int, help="of each book, instead of all held-out text")
    parser.add_argument("--backend", default="native")
    options = parser.parse_args()
    options.corpus.mkdir(parents=True, exist_ok=True)
    texts, held_out = corpus.split(corpus.fetch(options.corpus))
    held_out = [text[: options.characters] for text in held_out]
    tokenizer = Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json"))
    sample = train.encode(tokenizer, [text[: 2 * CALIBRATION] for text in texts])
    amax = calibrate(MODEL_DIR, sample[:CALIBRATION].view(-1, 512), backend=options.backend)
    count = sum(len(tokenizer.encode(text).ids) + 1 for text in held_out)
    size = sum(len(text.encode()) for text in held_out)

    def measure(path: Path, **kwargs: str) -> float:
        model = Model.from_pretrained(path, backend=options.backend, **kwargs)
        return 2 ** (train.bits_per_byte(model, tokenizer, held_out) * size / count)

    base = measure(MODEL_DIR)
    print(f"bf16: perplexity {base:.3f} over {count} tokens", flush=True)
    variants = {"": {}, ", head": {"head": True}, ", 4/6": {"four_over_six": True}}
    for recipe in RECIPES:
        for variant, kind in list(variants.items())[: 2 if recipe == "fp8" else 3]:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "model"
                quantize(MODEL_DIR, path, recipe, amax=amax, backend=options.backend, **kind)
                for activations in ("bf16", "checkpoint")[: 1 + ("w4a16" not in recipe)]:
                    got = measure(path, activations=activations)
                    name = f"{recipe}{variant}, activations {activations}"
                    print(f"{name}: {got:.3f}, {100 * (got / base - 1):+.2f} %", flush=True)


if __name__ == "__main__":
    main()
