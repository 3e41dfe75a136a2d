# SPDX-License-Identifier: Apache-2.0
"""The `warpweave` command: generate text, describe and quantise checkpoints, say what runs here."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

from .device import default_device
from .model import Config, Model
from .model.backend import BACKENDS
from .model.checkpoint import CheckpointError, read_directory
from .model.generate import Sampler, Stats, stream_text
from .model.names import layer_name
from .model.quantization import read_metadata
from .model.quantize import RECIPES
from .model.tokenizer import Tokenizer

DEMO_MODEL = Path(__file__).parent / "demo" / "model"
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__
)
console = Console()
notes = Console(stderr=True)

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@contextmanager
def user_errors(debug: bool) -> Iterator[None]:
    """End in one line and exit code 2 for what the user can mend; anything else is our bug."""
    try:
        yield
    except BrokenPipeError:
        # The reader of our output left, as `head` does; Python must not flush into the pipe again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None
    except (ValueError, TypeError, OSError, ImportError) as error:
        if debug:
            raise
        text = str(error)
        if isinstance(error, CheckpointError) and len(error.problems) > 1:
            first, *rest = error.problems
            text = f"{first} (and {len(rest)} more, --debug lists them)"
        notes.print(f"error: {' '.join(text.split())}", style="red", soft_wrap=True, markup=False)
        raise typer.Exit(2) from None


@app.command()
def generate(
    prompt: Annotated[
        str | None, typer.Argument(help="Text to continue; standard input if not given.")
    ] = None,
    model: Annotated[Path, typer.Option(help="Checkpoint directory.")] = DEMO_MODEL,
    file: Annotated[Path | None, typer.Option(help="Read the prompt from a file.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Use the chat template.")] = False,
    system: Annotated[str | None, typer.Option(help="System message, with --chat.")] = None,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Nucleus of the distribution to draw from.")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="Make the draws repeatable.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=0, help="Length limit.")] = 256,
    stop: Annotated[
        list[str] | None, typer.Option(help="End before this text; may be repeated.")
    ] = None,
    backend: Annotated[str, typer.Option(help=f"{' or '.join(BACKENDS)}.")] = "native",
    dtype: Annotated[
        str | None, typer.Option(help=f"{' or '.join(DTYPES)}; as stored if not given.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda; cuda if not given and the kernels run there.")
    ] = None,
    activations: Annotated[
        str, typer.Option(help="bf16, or checkpoint: quantised as a quantised checkpoint says.")
    ] = "bf16",
    kv_cache: Annotated[
        str | None, typer.Option(help="bf16 or fp8; as the checkpoint says if not given.")
    ] = None,
    ssm_cache: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16; else as the checkpoint says.")
    ] = None,
    ssm_rounding: Annotated[
        str, typer.Option(help="nearest, or with --ssm-cache float16 stochastic.")
    ] = "nearest",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    stream: Annotated[
        bool, typer.Option("--stream/--no-stream", help="Print while generating.")
    ] = True,
    debug: Debug = False,
) -> None:
    """Continue a prompt, or answer it with --chat. Speeds go to standard error."""
    with user_errors(debug):
        if dtype is not None and dtype not in DTYPES:
            raise ValueError(f"--dtype {dtype!r} is not supported, only {' and '.join(DTYPES)}")
        if system is not None and not chat:
            raise ValueError("--system needs --chat")
        if device is None:  # the reference may be all there is: no kernels to ask
            device = default_device() if backend == "native" else "cpu"
        if device != "cpu" and not torch.cuda.is_available():
            raise ValueError(f"--device {device!r}: torch sees no CUDA device here, only 'cpu'")
        if threads is not None:
            torch.set_num_threads(threads)
        text = read_prompt(prompt, file)
        sampler = Sampler(temperature, top_p, seed, device)
        tokenizer = Tokenizer(model)
        if chat:
            messages = [{"role": "system", "content": system}] if system is not None else []
            ids = tokenizer.chat([*messages, {"role": "user", "content": text}])
        else:
            ids = tokenizer.encode(text)
        network = load(
            model, dtype=DTYPES[dtype] if dtype else None, device=device, backend=backend,
            activations=activations, kv_cache_dtype=kv_cache, ssm_cache_dtype=ssm_cache,
            ssm_rounding=ssm_rounding,
        )  # fmt: skip
        stats = Stats()
        pieces = stream_text(
            network,
            tokenizer,
            ids,
            max_new_tokens=max_new_tokens,
            sampler=sampler,
            stop=stop or (),
            stats=stats,
        )
        for piece in pieces if stream else ["".join(pieces)]:
            sys.stdout.write(piece)
            sys.stdout.flush()
        sys.stdout.write("\n")
        notes.print(
            f"prefill {stats.prompt_tokens} tokens, {stats.prefill_rate:.1f} tokens/s; "
            f"decode {stats.decode_tokens} tokens, {stats.decode_rate:.1f} tokens/s",
            style="dim",
            highlight=False,
        )


def read_prompt(prompt: str | None, file: Path | None) -> str:
    """The prompt from the one place that was given."""
    if prompt is not None and file is not None:
        raise ValueError("a prompt and --file are both given, only one is used")
    if file is not None:
        return file.read_text(encoding="utf-8")
    if prompt is not None:
        return prompt
    if sys.stdin.isatty():
        raise ValueError("no prompt: give one as an argument, by --file or on standard input")
    return sys.stdin.read()


def load(path: Path, **options: Any) -> Model:
    """Load a model behind a progress bar on standard error (none where that is no terminal)."""
    with progress_bar("loading") as show:
        return Model.from_pretrained(path, progress=show, **options)


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    columns = (TextColumn(what), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    quiet = not notes.is_terminal
    with Progress(*columns, console=notes, transient=True, disable=quiet) as bar:
        task = bar.add_task(what)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield show


@app.command()
def quantize(
    source: Annotated[Path, typer.Argument(help="Checkpoint directory, not quantised.")],
    target: Annotated[Path, typer.Argument(help="Directory to write; must not exist.")],
    recipe: Annotated[str, typer.Option(help=f"One of {', '.join(RECIPES)}.")],
    four_over_six: Annotated[
        bool, typer.Option("--four-over-six", help="Scale NVFP4 blocks to 4 where that errs less.")
    ] = False,
    head: Annotated[bool, typer.Option("--head", help="Also the language model head.")] = False,
    calibration: Annotated[
        Path | None,
        typer.Option("--calibrate", help="Text on which to measure activations for their scales."),
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of it that are read.")] = 8192,
    plot: Annotated[
        bool, typer.Option("--plot", help="Also draw the errors into quantization.png.")
    ] = False,
    shard_gib: Annotated[float, typer.Option(help="Size of the files.")] = 5.0,
    backend: Annotated[str, typer.Option(help=f"{' or '.join(BACKENDS)}.")] = "native",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    debug: Debug = False,
) -> None:
    """Write a copy of a checkpoint in NVFP4, FP8 or both, and say what that costs in precision.

    An interrupted run continues where it was when the command is given again.
    """
    from .model import quantize as quantizer
    from .model.calibrate import calibrate

    with user_errors(debug):
        if recipe not in RECIPES:
            raise ValueError(f"--recipe {recipe!r} is not supported, only {', '.join(RECIPES)}")
        if plot and find_spec("matplotlib") is None:
            raise ImportError("--plot needs matplotlib: pip install matplotlib")
        if threads is not None:
            torch.set_num_threads(threads)
        amax = None
        if calibration is not None:
            ids = Tokenizer(source).encode(calibration.read_text(encoding="utf-8"))[:tokens]
            if not ids:
                raise ValueError(f"{calibration} holds no text")
            rows = torch.tensor(ids[: len(ids) // 512 * 512 or None]).view(-1, min(512, len(ids)))
            with progress_bar("calibrating") as show:
                amax = calibrate(source, rows, backend=backend, progress=show)

        def finish(path: Path, matrices: list[dict[str, Any]]) -> None:
            if plot:
                draw_errors(path / "quantization.png", matrices, recipe)

        with progress_bar("quantising") as show:
            matrices = quantizer.quantize(
                source, target, recipe, four_over_six=four_over_six, head=head, amax=amax,
                max_shard_bytes=int(shard_gib * 2**30), backend=backend, progress=show,
                finish=finish,
            )  # fmt: skip
        print_errors(matrices)


def by_layer(matrices: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a report with the experts of a layer taken together."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in matrices:
        groups.setdefault(re.sub(r"\.experts\.\d+\.", ".experts.*.", row["layer"]), []).append(row)
    summary = []
    for layer, rows in groups.items():
        norm = sum(row["squared_norm"] for row in rows)
        error = sum(row["squared_error"] for row in rows)
        worst = max(rows, key=lambda row: float(row["error"]))
        summary.append({
            "layer": layer, "algorithm": rows[0]["algorithm"], "matrices": len(rows),
            "error": (error / norm) ** 0.5 if norm else 0.0, "worst": worst["error"],
        })  # fmt: skip
    return summary


def print_errors(matrices: list[dict[str, Any]], blocks: int = 10) -> None:
    """The relative Frobenius error of every layer, and the blocks with the largest errors."""
    columns = ("relative error of", "algorithm", "matrices", "all", "worst")
    table = Table(*columns, box=None, pad_edge=False)
    for row in by_layer(matrices):
        table.add_row(row["layer"], row["algorithm"], str(row["matrices"]),
                      f"{row['error']:.4f}", f"{row['worst']:.4f}")  # fmt: skip
    console.print(table)
    table = Table("worst blocks of 16", "row", "column", "error / rms of the matrix", box=None,
                  pad_edge=False)  # fmt: skip
    ranked = [(row["worst_error"] / rms(row), row) for row in matrices]
    for ratio, row in sorted(ranked, key=lambda pair: -pair[0])[:blocks]:
        table.add_row(row["layer"], *map(str, row["worst_block"]), f"{ratio:.3f}")
    console.print(table)


def rms(row: dict[str, Any]) -> float:
    N, K = row["shape"]
    return float(row["squared_norm"] / (N * K)) ** 0.5 or 1.0


def draw_errors(path: Path, matrices: list[dict[str, Any]], recipe: str) -> None:
    """Errors of all matrices along the model, and of each one's worst block."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    kinds = sorted({row["layer"].split(".")[-1] for row in matrices})
    for kind in kinds:
        rows = [row for row in matrices if row["layer"].split(".")[-1] == kind]
        x = [int(row["layer"].split(".")[1]) for row in rows]
        label = f"{kind} ({', '.join(sorted({row['algorithm'] for row in rows}))})"
        above.plot(x, [row["error"] for row in rows], ".", label=label)
        below.plot(x, [row["worst_error"] / rms(row) for row in rows], ".")
    above.set(title=f"recipe {recipe}", ylabel="relative Frobenius error", yscale="log")
    below.set(xlabel="layer", ylabel="worst block's error / rms", yscale="log")
    above.legend(fontsize="small")
    figure.savefig(path, dpi=120)


@app.command()
def info(
    path: Annotated[Path, typer.Argument(help="Checkpoint directory.")],
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Describe a checkpoint: layers, parameters, bytes, and the memory a sequence takes."""
    with user_errors(debug):
        facts = describe(path)
        if as_json:
            print(json.dumps(facts, indent=2))
            return
        table = Table(show_header=False, box=None)
        for key, value in facts.items():
            shown = f"{value:,}" if isinstance(value, int) else str(value)
            table.add_row(key.replace("_", " "), shown or "none")
        console.print(table)


def describe(path: Path) -> dict[str, Any]:
    """The facts of `warpweave info`, from the configuration and the headers of the weight files."""
    config = Config.from_pretrained(path)
    letters = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
    counts = Counter(config.pattern)
    facts: dict[str, Any] = {
        "pattern": config.pattern,
        "layers": {name: counts[letter] for letter, name in letters.items()},
        "parameters": config.parameters(),
        "active_parameters": config.parameters(active=True),
        "state_bytes_per_sequence": config.state_bytes(),
        "kv_bytes_per_token": config.kv_bytes_per_token(),
        "max_position_embeddings": config.max_position_embeddings,
        "kv_bytes_per_longest_sequence": config.kv_bytes_per_token()
        * config.max_position_embeddings,
    }
    if any(path.glob("*.safetensors*")):
        stored = read_directory(path)
        entries = [entry for parts in stored.pieces.values() for entry in parts.values()]
        dtypes: Counter[str] = Counter()
        for entry in entries:
            dtypes[str(entry.dtype).removeprefix("torch.")] += entry.nbytes
        facts["weight_bytes"] = sum(dtypes.values())
        facts["weight_bytes_by_dtype"] = dict(dtypes)
        layers = Counter(
            scheme.name if (scheme := source.scheme(layer_name(name, expert))) else "none"
            for source in read_metadata(path, config)[:1]
            for name, parts in stored.pieces.items()
            for expert, entry in parts.items()
            if entry.dtype in (torch.uint8, torch.float8_e4m3fn) and "_scale" not in name
        )
        facts["quantised_matrices"] = dict(layers)
        facts["unused_tensors"] = len(stored.unused)
    return facts


@app.command()
def doctor(as_json: AsJson = False, debug: Debug = False) -> None:
    """Say what runs here: instruction set, threads, devices, and the kernel of every op."""
    with user_errors(debug):
        facts = diagnose()
        if as_json:
            print(json.dumps(facts, indent=2))
            return
        kernels, choices = facts.pop("kernels"), facts.pop("choices")
        table = Table(show_header=False, box=None)
        for key, value in facts.items():
            shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            table.add_row(key.replace("_", " "), shown or "none")
        console.print(table)
        table = Table("op", "device", "kernel", "dtypes", box=None)
        for kernel in kernels:
            table.add_row(*(kernel[key] for key in ("op", "device", "kernel", "dtypes")))
        console.print(table)
        for choice in choices:
            names = ", ".join(choice["kernels"])
            console.print(f"{choice['op']}: {names}: {choice['when']}", soft_wrap=True)


def diagnose() -> dict[str, Any]:
    """The facts of `warpweave doctor`. ImportError where no kernels were compiled."""
    from .ops import _registry

    native: Any = _registry._native
    cuda = native.cuda_info()
    registry = native.kernels()
    rules: dict[tuple[str, str], list[str]] = {}
    for row in registry:
        names = rules.setdefault((row["op"], row.get("when", "")), [])
        if row.get("variant") not in (None, *names):
            names.append(row["variant"])
    kernels = []
    for op in dict.fromkeys(row["op"] for row in registry):
        for device in ("cpu", "cuda") if cuda["device_count"] else ("cpu",):
            try:
                target = native.kernel_for(op, device)
            except ValueError:
                continue  # the op has no kernel for this device
            row = next(row for row in registry if row["op"] == op and "dtypes" in row)
            kernels.append({"op": op, "device": device, "kernel": target, "dtypes": row["dtypes"]})
    return {
        **native.build_info(),
        "torch": torch.__version__,
        "cpu_isa": native.cpu_isa(),
        "cpu_isas": native.cpu_isas(),
        "threads": torch.get_num_threads(),
        **{f"cuda_{key}": value for key, value in cuda.items()},
        "cuda_devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "kernels": kernels,
        "choices": [
            {"op": op, "when": when, "kernels": names}
            for (op, when), names in rules.items()
            if when
        ],
    }


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def bench(context: typer.Context) -> None:
    """Run the benchmarks of a source checkout; --help-bench lists their options."""
    script = Path(__file__).resolve().parents[2] / "bench" / "run.py"
    if not script.is_file():
        notes.print(
            "error: the benchmarks are not in the wheel; install from a checkout: pip install -e .",
            style="red",
        )
        raise typer.Exit(2)
    arguments = ["--help" if a == "--help-bench" else a for a in context.args]
    raise typer.Exit(subprocess.run((sys.executable, str(script), *arguments)).returncode)


def main() -> None:
    """Entry point of the `warpweave` command."""
    app(prog_name="warpweave")
