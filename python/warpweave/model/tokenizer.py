# SPDX-License-Identifier: Apache-2.0
"""Text to tokens and back, and chat templates, from the files of a checkpoint directory."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import tokenizers
from jinja2.sandbox import ImmutableSandboxedEnvironment

from .config import read_json


class Tokenizer:
    """`tokenizer.json`, with the special tokens and chat template of its neighbour files.

    The template is `chat_template.jinja`, else `chat_template` of tokenizer_config.json (a string,
    or a list of named ones of which "default" is taken). Raises ValueError for missing or damaged
    files.
    """

    def __init__(self, path: str | Path):
        path = Path(path)
        if not (path / "tokenizer.json").is_file():
            raise ValueError(f"{path / 'tokenizer.json'} does not exist")
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
        except Exception as error:  # the library raises Exception itself
            raise ValueError(f"{path / 'tokenizer.json'} is damaged: {error}") from None
        config = path / "tokenizer_config.json"
        self._config = read_json(config) if config.is_file() else {}
        template = self._config.get("chat_template")
        if isinstance(template, list):
            named = {entry["name"]: entry["template"] for entry in template}
            template = named.get("default")
        if (path / "chat_template.jinja").is_file():
            template = (path / "chat_template.jinja").read_text(encoding="utf-8")
        self.chat_template: str | None = template

    @property
    def vocab_size(self) -> int:
        """Number of tokens, special ones included."""
        return self._tokenizer.get_vocab_size()

    def encode(self, text: str, *, special_tokens: bool = True) -> list[int]:
        """Token ids; special_tokens lets the file's own rule add begin and end tokens."""
        return self._tokenizer.encode(text, add_special_tokens=special_tokens).ids

    def decode(self, ids: list[int]) -> str:
        """Text of token ids without special tokens."""
        return self._tokenizer.decode(ids, skip_special_tokens=True)

    def chat(self, messages: list[dict[str, Any]], **variables: Any) -> list[int]:
        """Token ids of a conversation, ending where the assistant's turn begins.

        messages are {"role": ..., "content": ...}; variables go to the template, for instance
        enable_thinking. Templates are code of the checkpoint and run in jinja2's immutable sandbox.
        """
        if self.chat_template is None:
            raise ValueError("this checkpoint has no chat template")
        special = {key: self._special(key) for key in ("bos_token", "eos_token", "pad_token")}
        arguments = {"messages": messages, "add_generation_prompt": True} | special | variables
        try:
            text = _environment().from_string(self.chat_template).render(arguments)
        except jinja2.TemplateError as error:
            raise ValueError(f"chat template: {error}") from None
        return self.encode(text, special_tokens=False)

    def _special(self, key: str) -> str:
        token = self._config.get(key) or ""
        return token["content"] if isinstance(token, dict) else token


def _environment() -> ImmutableSandboxedEnvironment:
    """The names that published templates expect, as transformers provides them."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda layout: datetime.now().strftime(layout)
    environment.filters["tojson"] = _tojson
    return environment


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # jinja2's own filter escapes for HTML, which would change the prompt.
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
