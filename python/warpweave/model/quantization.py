# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint's metadata says of its precisions, and the metadata that ModelOpt writes.

`hf_quant_config.json` and `quantization_config` of config.json name an algorithm for all linear
layers, or for each layer (MIXED_PRECISION), and layers to leave out. What is stored decides how a
tensor is read; the metadata is checked against it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import translate
from pathlib import Path
from typing import Any

from .config import Config, read_json
from .names import PREFIXES, plain_name

QUANT_CONFIG = "hf_quant_config.json"
_OTHERS = ("mtp.", "vision", "mlp1.", "sound", "audio")  # networks beside the language model
_SPARED = ("embeddings", "lm_head")  # an algorithm for all linear layers may or may not mean them


@dataclass(frozen=True)
class Scheme:
    """An algorithm: `format` "nvfp4" or "fp8" (None: not supported); `inputs` "none", "static" by a
    stored scale, or "token" by the rows of the activations."""

    name: str
    format: str | None
    inputs: str = "none"


ALGORITHMS = {
    "NVFP4": Scheme("NVFP4", "nvfp4", "static"),
    "W4A16_NVFP4": Scheme("W4A16_NVFP4", "nvfp4"),
    "FP8": Scheme("FP8", "fp8", "static"),
    "FP8_PER_CHANNEL_PER_TOKEN": Scheme("FP8_PER_CHANNEL_PER_TOKEN", "fp8", "token"),
}


class Names:
    """Names, wildcards and "re:" expressions of a file. A name means a layer by that name or part
    of a name, whatever its prefix, and all that is in it."""

    def __init__(self, patterns: Iterable[str] = ()):
        patterns = list(patterns)
        wild = [p for p in patterns if p.startswith("re:") or any(c in p for c in "*?[")]
        self._names = {plain_name(p) for p in patterns} - set(wild)
        forms = [p[3:] if p.startswith("re:") else translate(p) for p in wild]
        self._wild = re.compile("|".join(f"(?:{form})" for form in forms)) if forms else None

    def __contains__(self, module: str) -> bool:
        parts = module.split(".")
        runs = (".".join(parts[i:j]) for j in range(len(parts), 0, -1) for i in range(j))
        if any(run in self._names for run in runs):
            return True
        wild = self._wild
        return wild is not None and any(wild.match(prefix + module) for prefix in PREFIXES)


@dataclass
class Metadata:
    """The rules of one file."""

    source: str
    default: Scheme | None = None
    layers: dict[str, Scheme] = field(default_factory=dict)  # by name without prefix
    patterns: list[tuple[Names, Scheme]] = field(default_factory=list)
    ignore: Names = field(default_factory=Names)
    kv_cache: str | None = None

    def scheme(self, module: str) -> Scheme | None:
        """The rule for a layer, as "layers.3.mixer.experts.7.up_proj"; None for unquantised."""
        if module in self.ignore:
            return None
        parts = module.split(".")
        for n in range(len(parts), 0, -1):  # a rule for a module is one for what is in it
            if found := self.layers.get(".".join(parts[:n])):
                return found
        return next((s for names, s in self.patterns if module in names), self.default)


def read_metadata(path: Path, config: Config) -> list[Metadata]:
    """One for each place that says something. ValueError for what cannot be understood."""
    found, source = [], QUANT_CONFIG
    try:
        if (path / QUANT_CONFIG).is_file():
            values = read_json(path / QUANT_CONFIG).get("quantization")
            if not isinstance(values, dict):
                raise ValueError(f"{QUANT_CONFIG} has no object 'quantization'")
            found.append(_modelopt(QUANT_CONFIG, values))
        source = "config.json"
        if config.quantization_config is not None:
            found.append(_from_config(config.quantization_config))
    except (AttributeError, TypeError) as error:
        raise ValueError(f"{source} describes the quantisation in another form: {error}") from None
    return found


def _from_config(values: dict[str, Any]) -> Metadata:
    method = values.get("quant_method")
    if method == "modelopt":
        return _modelopt("config.json", values)
    if method == "compressed-tensors":
        return _compressed_tensors(values)
    raise ValueError(
        f"quant_method {method!r} of config.json is not supported, only 'modelopt' and "
        "'compressed-tensors'"
    )


def _modelopt(source: str, values: dict[str, Any]) -> Metadata:
    # The file of ModelOpt's own also occurs nested into config.json.
    values = values.get("quantization", values)
    metadata = Metadata(source)
    ignore = values.get("exclude_modules") or values.get("ignore") or []
    metadata.ignore = Names(map(str, ignore))
    algorithm = values.get("quant_algo")
    groups = values.get("config_groups") or {}
    if algorithm == "MIXED_PRECISION":
        layers = values.get("quantized_layers") or {}
        if not layers and not groups:
            raise ValueError(f"MIXED_PRECISION of {source} has no quantized_layers")
        if not layers:
            _add_groups(metadata, groups)
        for name, layer in layers.items():
            _add(metadata, name, _algorithm(layer.get("quant_algo"), layer.get("group_size")))
    elif algorithm is not None:
        metadata.default = _algorithm(algorithm, values.get("group_size"))
        # Exporters call NVFP4 what has no quantised activations; the groups tell.
        inputs = [group.get("input_activations") for group in groups.values()]
        if inputs and not any(inputs):
            metadata.default = replace(metadata.default, inputs="none")
    elif groups:
        _add_groups(metadata, groups)
    metadata.kv_cache = _kv_cache(values.get("kv_cache_quant_algo"), values.get("kv_cache_scheme"))
    return metadata


def _algorithm(name: Any, group_size: Any = None) -> Scheme:
    scheme = ALGORITHMS.get(str(name), Scheme(str(name), None))
    if scheme.format == "nvfp4" and group_size not in (None, 16):
        return Scheme(f"{name} with group_size {group_size}", None)
    return scheme


def _compressed_tensors(values: dict[str, Any]) -> Metadata:
    metadata = Metadata("config.json")
    metadata.ignore = Names(map(str, values.get("ignore") or []))
    groups = values.get("config_groups")
    if not isinstance(groups, dict) or not groups:
        raise ValueError("quantization_config of config.json has no config_groups")
    _add_groups(metadata, groups, values.get("format"))
    metadata.kv_cache = _kv_cache(None, values.get("kv_cache_scheme"))
    return metadata


def _add_groups(metadata: Metadata, groups: Mapping[str, Any], kind: str | None = None) -> None:
    for group in groups.values():
        scheme = _group_scheme(group, kind)
        for target in group.get("targets") or ["Linear"]:
            if target in ("Linear", "Embedding"):
                metadata.default = scheme
            else:
                _add(metadata, target, scheme)


def _group_scheme(group: Mapping[str, Any], kind: str | None) -> Scheme:
    """What a config group asks for. Inputs are quantised per tensor (for NVFP4 tensor_group), per
    token, or not at all."""
    if "weights" not in group and "quant_algo" in group:
        return _algorithm(group["quant_algo"])
    weights, inputs = group.get("weights") or {}, group.get("input_activations")
    strategy, size = weights.get("strategy"), weights.get("group_size")
    bits = (weights.get("type", "int"), weights.get("num_bits"))
    name = group.get("quant_algo") or group.get("format") or kind or "config group"
    described = f"{name} ({bits[0]}{bits[1]}, strategy {strategy}, group_size {size})"
    if bits == ("float", 4) and size == 16 and strategy in (None, "tensor_group"):
        form = "nvfp4"
    elif bits == ("float", 8) and size is None and strategy in (None, "tensor", "channel"):
        form = "fp8"
    else:
        return Scheme(described, None)
    if not inputs:
        return Scheme(str(name), form)
    by_token = inputs.get("strategy") == "token" or (form == "fp8" and inputs.get("dynamic"))
    if inputs.get("num_bits") != bits[1] or inputs.get("type", "float") != "float":
        return Scheme(f"{described} with activations {inputs}", None)
    return Scheme(str(name), form, "token" if by_token else "static")


def _add(metadata: Metadata, name: str, scheme: Scheme) -> None:
    if name.startswith("re:") or any(c in name for c in "*?["):
        metadata.patterns.append((Names([name]), scheme))
    else:
        metadata.layers[plain_name(name)] = scheme


def _kv_cache(algorithm: str | None, scheme: Any) -> str | None:
    if isinstance(scheme, dict):
        algorithm = f"{scheme.get('type', 'float')}{scheme.get('num_bits')}".upper()
        algorithm = {"FLOAT8": "FP8"}.get(algorithm, algorithm)
    found: str | None = algorithm or scheme
    if found not in (None, "FP8"):
        raise ValueError(f"the KV cache's {found!r} is not supported, only 'FP8'")
    return found


def check_layer(
    metadata: list[Metadata], module: str, stored: str, form: str | None
) -> tuple[str, list[str]]:
    """How a layer's inputs are quantised (`Scheme.inputs`), and what contradicts its format (None:
    dense). `stored` is the tensor's name and file."""
    shown = form or "not quantised"
    if form and not metadata:
        return "none", [f"{stored} is {form}, neither {QUANT_CONFIG} nor config.json says how"]
    problems, inputs = [], set()
    for source in metadata:
        said = source.scheme(module)
        if said is None:
            if form:
                problems.append(f"{stored} is {form}, {source.source} leaves it unquantised")
        elif form is None and module in _SPARED and said is source.default:
            continue
        elif said.format is None:
            problems.append(
                f"{stored}: {said.name} of {source.source} is not supported, only "
                f"{', '.join(ALGORITHMS)}"
            )
        elif said.format != form:
            problems.append(f"{stored} is {shown}, {source.source} says {said.name}")
        else:
            inputs.add(said.inputs)
    if len(inputs) > 1 and "none" not in inputs:
        problems.append(f"{stored}: {' and '.join(m.source for m in metadata)} disagree on inputs")
    # Exporters call NVFP4 in one file what the other one says has no quantised activations.
    return "none" if "none" in inputs else next(iter(inputs), "none"), problems


def missing_layers(metadata: list[Metadata], modules: set[str]) -> Iterator[str]:
    """Rules for layers that are not stored."""
    known = {".".join(parts[:n]) for m in modules if (parts := m.split("."))
             for n in range(1, len(parts) + 1)}  # fmt: skip
    for source in metadata:
        for name in source.layers:
            if name not in known and not name.startswith(_OTHERS):
                yield f"{name} is quantised in {source.source}, but not stored"


def quant_configs(
    algorithms: Mapping[str, str], rest: Iterable[str], kv_fp8: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    """hf_quant_config.json and `quantization_config` of config.json, as ModelOpt writes them, of
    the algorithm of each quantised layer and the names of the other linear layers."""
    kinds = sorted(set(algorithms.values()))
    mixed = len(kinds) > 1
    name = "MIXED_PRECISION" if mixed else kinds[0]
    layers = {
        layer: {"quant_algo": algorithm} | ({"group_size": 16} if "NVFP4" in algorithm else {})
        for layer, algorithm in algorithms.items()
    }
    ignore = [*sorted(rest), "mtp*"]
    producer = {"name": "warpweave"}
    ours: dict[str, Any] = {"quant_algo": name, "exclude_modules": ignore}
    ours["kv_cache_quant_algo"] = "FP8" if kv_fp8 else None
    if mixed:
        ours["quantized_layers"] = layers
    elif "NVFP4" in name:
        ours["group_size"] = 16
    groups = {
        f"group_{i}": _group(kind)
        | {"targets": [n for n, a in algorithms.items() if a == kind] if mixed else ["Linear"]}
        for i, kind in enumerate(kinds)
    }
    theirs: dict[str, Any] = {
        "quant_method": "modelopt", "quant_algo": name, "ignore": ignore,
        "config_groups": groups, "producer": producer,
    }  # fmt: skip
    if mixed:
        theirs["quantized_layers"] = layers
    if kv_fp8:
        theirs["kv_cache_scheme"] = {"dynamic": False, "num_bits": 8, "type": "float"}
    return {"producer": producer, "quantization": ours}, theirs


def _group(algorithm: str) -> dict[str, Any]:
    scheme = ALGORITHMS[algorithm]
    weights: dict[str, Any] = {"dynamic": False, "num_bits": 4, "type": "float", "group_size": 16}
    if scheme.format == "fp8":
        weights = {"dynamic": False, "num_bits": 8, "type": "float"}
    inputs = dict(weights, dynamic=scheme.inputs == "token")
    if scheme.inputs == "token":
        weights["strategy"] = "channel"
    return {"weights": weights} | ({"input_activations": inputs} if scheme.inputs != "none" else {})
