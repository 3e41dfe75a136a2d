# SPDX-License-Identifier: Apache-2.0
"""The `warpweave` command: generate text, describe a checkpoint, say what runs on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
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
        network = load(model, DTYPES[dtype] if dtype else None, device, backend)
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


def load(path: Path, dtype: torch.dtype | None, device: str, backend: str) -> Model:
    """Load a model behind a progress bar on standard error (none where that is no terminal)."""
    columns = (TextColumn("loading"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    quiet = not notes.is_terminal
    with Progress(*columns, console=notes, transient=True, disable=quiet) as bar:
        task = bar.add_task("loading")

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        return Model.from_pretrained(
            path, dtype=dtype, device=device, backend=backend, progress=show
        )


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
