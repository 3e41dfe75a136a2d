# SPDX-License-Identifier: Apache-2.0
"""The command line on a tiny checkpoint: what is printed, and how mistakes end."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer as Tokens
from tokenizers import decoders, models, pre_tokenizers
from typer.testing import CliRunner

import warpweave
from tiny import tiny_config, tiny_model
from warpweave import cli
from warpweave.device import default_device
from warpweave.model.tokenizer import Tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

TEMPLATE = """{%- for message in messages %}<s>{{ message.role }}
{{ message.content | trim }}</s>
{% endfor %}{% if add_generation_prompt %}<s>assistant
{% endif %}"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A checkpoint with a byte tokenizer: 256 bytes after <pad>, <s> and </s>."""
    path = tmp_path_factory.mktemp("checkpoint")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = ["<pad>", "<s>", "</s>", *alphabet]
    tokenizer = Tokens(models.BPE({name: i for i, name in enumerate(names)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(names[:3])
    tokenizer.save(str(path / "tokenizer.json"))
    settings = {
        "bos_token": "<s>",
        "eos_token": {"content": "</s>"},
        "chat_template": [
            {"name": "tools", "template": "no"},
            {"name": "default", "template": TEMPLATE},
        ],
    }
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    tiny_model(tiny_config(vocab_size=259), backend="reference").save_pretrained(path)
    return path


def run(*arguments, **options):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments], **options)


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def generate(directory, *arguments, **options):
    fixed = ("--model", directory, "--backend", "reference", "--max-new-tokens", 12)
    return run("generate", *fixed, *arguments, **options)


def expected(directory, prompt, new=12):
    tokenizer = Tokenizer(directory)
    model = warpweave.Model.from_pretrained(directory, backend="reference")
    ids = torch.tensor([tokenizer.encode(prompt)])
    out = model.generate(ids, max_new_tokens=new)[0, ids.shape[1] :].tolist()
    return tokenizer.decode(out)


def test_generate_continues_the_prompt(directory, tmp_path):
    want = expected(directory, "Hello")
    result = generate(directory, "Hello")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == want + "\n"
    assert "prefill 5 tokens" in result.stderr
    assert "tokens/s" in result.stderr
    assert generate(directory, "Hello", "--no-stream").stdout == want + "\n"
    (tmp_path / "prompt.txt").write_text("Hello")
    assert generate(directory, "--file", tmp_path / "prompt.txt").stdout == want + "\n"
    assert generate(directory, input="Hello").stdout == want + "\n"
    cut = want[4:6]
    assert generate(directory, "Hello", "--stop", cut).stdout == want[: want.index(cut)] + "\n"


def test_generate_draws_by_seed(directory):
    def draw(seed):
        options = ("--temperature", 1.5, "--top-p", 0.95, "--seed", seed)
        return generate(directory, "Hello", *options).stdout

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_chat_template(directory):
    tokenizer = Tokenizer(directory)
    text = "<s>system\nBe brief.</s>\n<s>user\nHi</s>\n<s>assistant\n"
    ids = tokenizer.chat(
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " Hi "}]
    )
    assert ids == tokenizer.encode(text)
    assert ids.count(1) == 3
    result = generate(directory, " Hi ", "--chat", "--system", "Be brief.")
    assert result.stdout == expected(directory, text) + "\n"
    assert f"prefill {len(ids)} tokens" in result.stderr


RICH_TEMPLATE = """{{ bos_token }}{% set ns = namespace(last=-1) %}
{%- for m in messages %}{% if m.role == "user" %}{% set ns.last = loop.index0 %}{% endif %}
{%- endfor %}
{% for m in messages %}
    {% if m.role == "skip" %}{% continue %}{% endif %}
    {%- if m.tools is defined %}
{{ m.tools | tojson }} {{ m.tools | tojson(indent=2) }}
    {% endif %}
<|{{ m.role }}|>{{ (m.content or "")[:9] }}{{ eos_token if loop.index0 == ns.last }}
{%- endfor %}{% if add_generation_prompt %}
<|assistant|><think>{% if enable_thinking is false %}</think>{% endif %}{% endif %}"""


def test_templates_render_as_in_transformers(directory):
    transformers = pytest.importorskip("transformers", reason="compares with transformers")
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(directory / "tokenizer.json"), bos_token="<s>", eos_token="</s>"
    )
    ours = Tokenizer(directory)
    ours.chat_template = RICH_TEMPLATE
    messages = [
        {"role": "system", "content": "é <b> 'q'", "tools": [{"name": "f", "x": [1, None]}]},
        {"role": "skip", "content": "x"},
        {"role": "user", "content": "Hello there, long"},
        {"role": "assistant", "content": None},
    ]
    for options in ({}, {"enable_thinking": False}, {"add_generation_prompt": False}):
        text = theirs.apply_chat_template(
            messages,
            chat_template=RICH_TEMPLATE,
            tokenize=False,
            **({"add_generation_prompt": True} | options),
        )
        assert ours.chat(messages, **options) == ours.encode(text)


def test_templates_are_sandboxed(directory, tmp_path):
    tokenizer = Tokenizer(directory)
    for template, message in (
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ raise_exception('no system role') }}", "no system role"),
        ("{% if %}", "Expected an expression"),
    ):
        tokenizer.chat_template = template
        with pytest.raises(ValueError, match=message):
            tokenizer.chat([{"role": "user", "content": "x"}])
    tokenizer.chat_template = "{{ {'a': '<é>'} | tojson }}{{ strftime_now('%%') }}{{ think }}"
    ids = tokenizer.chat([], think="yes")
    assert tokenizer.decode(ids) == '{"a": "<é>"}%yes'


def test_template_file_wins(directory, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes((directory / "tokenizer.json").read_bytes())
    with pytest.raises(ValueError, match="no chat template"):
        Tokenizer(tmp_path).chat([])
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "a"}')
    assert Tokenizer(tmp_path).chat_template == "a"
    (tmp_path / "chat_template.jinja").write_text("b")
    assert Tokenizer(tmp_path).chat_template == "b"


def test_info(directory):
    facts = json.loads(run("info", directory, "--json").stdout)
    config = tiny_config(vocab_size=259)
    assert facts["pattern"] == "M*E-ME*-M"
    assert facts["layers"] == {"mamba": 3, "attention": 2, "mlp": 2, "moe": 2}
    assert facts["parameters"] == config.parameters()
    assert facts["active_parameters"] == config.parameters(active=True)
    assert facts["weight_bytes"] == 4 * config.parameters()
    assert facts["weight_bytes_by_dtype"] == {"float32": 4 * config.parameters()}
    assert facts["kv_bytes_per_token"] == 2 * 2 * 2 * 16 * 2
    assert facts["kv_bytes_per_longest_sequence"] == 4096 * facts["kv_bytes_per_token"]
    assert facts["state_bytes_per_sequence"] == 3 * (96 * 16 * 4 + 160 * 3 * 2)
    text = run("info", directory).stdout
    assert f"{config.parameters():,}" in text
    assert "M*E-ME*-M" in text


def test_doctor_reports_what_the_native_module_says(monkeypatch):
    def kernel_for(op, device):
        if (op, device) == ("router", "cuda"):
            raise ValueError("router has no CUDA kernel")
        return f"{device}:avx2" if device == "cpu" else "cuda:sm_90"

    cuda = {"built": True, "device_count": 0, "problem": "no device"}
    native = SimpleNamespace(
        build_info=lambda: {"version": "1.2.3"},
        cpu_isa=lambda: "avx2",
        cpu_isas=lambda: ["x86-64-v2", "avx2"],
        cuda_info=lambda: cuda,
        kernels=lambda: [
            {"op": "router", "target": "cpu:avx2", "dtypes": "float32"},
            {"op": "conv", "target": "cpu:avx2", "dtypes": "float32 bfloat16"},
            {"op": "conv", "target": "cuda", "variant": "tile", "when": "tiles fit"},
            {"op": "conv", "target": "cuda", "variant": "wide tile", "when": "tiles fit"},
        ],
        kernel_for=kernel_for,
    )
    registry = SimpleNamespace(_native=native)
    monkeypatch.setitem(sys.modules, "warpweave.ops", SimpleNamespace(_registry=registry))
    monkeypatch.setitem(sys.modules, "warpweave.ops._registry", registry)
    facts = json.loads(run("doctor", "--json").stdout)
    assert facts["version"] == "1.2.3"
    assert facts["cpu_isas"] == ["x86-64-v2", "avx2"]
    assert facts["cuda_problem"] == "no device"
    assert facts["threads"] == torch.get_num_threads()
    on_cpu = [
        {"op": "router", "device": "cpu", "kernel": "cpu:avx2", "dtypes": "float32"},
        {"op": "conv", "device": "cpu", "kernel": "cpu:avx2", "dtypes": "float32 bfloat16"},
    ]
    assert facts["kernels"] == on_cpu
    (choice,) = facts["choices"]
    assert choice == {"op": "conv", "when": "tiles fit", "kernels": ["tile", "wide tile"]}
    text = run("doctor").stdout
    assert "cpu:avx2" in text
    assert "conv: tile, wide tile: tiles fit" in text
    assert torch.__version__ in text
    cuda["device_count"] = 1
    on_gpu = {"op": "conv", "device": "cuda", "kernel": "cuda:sm_90", "dtypes": "float32 bfloat16"}
    assert json.loads(run("doctor", "--json").stdout)["kernels"] == [*on_cpu, on_gpu]


def test_default_device(monkeypatch):
    """The GPU where the kernels run on it; else the CPU, with one warning if torch could use it."""
    cuda = {"problem": "CUDA driver version is insufficient for CUDA runtime version"}
    registry = SimpleNamespace(_native=SimpleNamespace(cuda_info=lambda: cuda))
    monkeypatch.setitem(sys.modules, "warpweave.ops._registry", registry)
    default_device.cache_clear()
    assert default_device() == "cpu"  # torch sees none
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    default_device.cache_clear()
    with pytest.warns(RuntimeWarning, match="on the CPU: CUDA driver version is insufficient") as w:
        assert [default_device(), default_device()] == ["cpu", "cpu"]
    assert len(w) == 1
    default_device.cache_clear()
    cuda["problem"] = ""
    assert default_device() == "cuda"
    default_device.cache_clear()


def test_the_reference_asks_no_kernels_where_to_run(directory, monkeypatch):
    monkeypatch.setattr(cli, "default_device", lambda: pytest.fail("it was asked"))
    assert generate(directory, "Hello").exit_code == 0


MISTAKES = [
    (("--temperature", "-1"), "temperature"),
    (("--top-p", "0"), "top_p"),
    (("--dtype", "float16"), "--dtype 'float16'"),
    (("--backend", "triton"), "backend 'triton'"),
    (("--device", "cuda"), "--device 'cuda'"),
    (("--activations", "int8"), "activations 'int8'"),
    (("--kv-cache", "int8"), "kv_cache_dtype 'int8'"),
    (("--system", "x"), "--system needs --chat"),
    (("--file", "/nonexistent/file"), "/nonexistent/file"),
    (("--model", "/nonexistent"), "tokenizer.json does not exist"),
    (("--stop", ""), "stop strings"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=lambda v: str(v)[:20])
def test_mistakes_end_in_one_line(directory, arguments, message):
    prompt = () if "--file" in arguments else ("Hello",)
    result = generate(directory, *prompt, *arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
    debug = generate(directory, *prompt, *arguments, "--debug")
    assert isinstance(debug.exception, ValueError | OSError)


def test_prompt_given_twice_or_empty(directory, tmp_path):
    (tmp_path / "p").write_text("x")
    result = generate(directory, "x", "--file", tmp_path / "p")
    assert result.exit_code == 2
    assert "both given" in result.stderr
    result = generate(directory, "")
    assert result.exit_code == 2
    assert "at least one token" in result.stderr


def test_damaged_checkpoint_is_one_line_and_all_with_debug(directory, tmp_path):
    for file in directory.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"n_routed_experts": 4}))
    result = generate(tmp_path, "x")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "more, --debug lists them" in result.stderr
    debug = generate(tmp_path, "x", "--debug")
    assert "experts.7.down_proj" in str(debug.exception)
    (tmp_path / "config.json").write_text(json.dumps(config | {"qk_norm": True}))
    assert "qk_norm" in run("info", tmp_path).stderr


def test_a_reader_that_leaves_is_no_error(directory):
    command = [sys.executable, "-m", "warpweave", "generate", "--model", str(directory)]
    with subprocess.Popen(
        [*command, "--backend", "reference", "Hello"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        process.stdout.close()
        errors = process.stderr.read()
    assert process.returncode == 1
    assert errors == b""


def test_module_runs_as_a_command(directory):
    command = [sys.executable, "-m", "warpweave", "generate", "--model", str(directory)]
    options = ["--backend", "reference", "--max-new-tokens", "4", "--threads", "1"]
    done = subprocess.run(
        [*command, *options], input="Hello", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == expected(directory, "Hello", 4) + "\n"
    bad = subprocess.run(
        [*command, *options, "--temperature", "-2"],
        input="Hi",
        capture_output=True,
        text=True,
        check=False,
    )
    assert bad.returncode == 2
    assert "Traceback" not in bad.stderr
