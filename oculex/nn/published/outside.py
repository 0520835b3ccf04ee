"""Models that others made: hostile until checked. Nothing of them is run, and no memory is taken on their word alone."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from oculex.contracts import UserError
from oculex.data.sources.files import some
from oculex.data.text import BytePair
from oculex.nn.joint.dual_encoder import DualEncoder, DualEncoderConfig

_MAX_JSON = 64 << 20
_LIMITS = {"image_size": 4096, "patch": 1024, "width": 16_384, "heads": 1024, "embedding": 16_384, "text_width": 16_384,
           "text_layers": 256, "text_heads": 1024, "context": 65_536, "vocabulary": 4_000_000}  # fmt: skip
"""Of a configuration's numbers; the largest published ones are a tenth of these."""
_MAX_LAYERS = 256


def read_json(path: Path) -> dict[str, Any]:
    """The object of a JSON file; UserError for anything else."""
    try:
        if path.stat().st_size > _MAX_JSON:
            raise UserError(f"{path} is larger than {_MAX_JSON >> 20} MiB, which no configuration is")
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path}: {str(error)[:100]}") from error
    if not isinstance(tree, dict):
        raise UserError(f"{path} holds a {type(tree).__name__}, not a configuration")
    return tree


def read_weights(paths: list[Path], allow_pickle: bool = False) -> dict[str, Tensor]:
    """The tensors of safetensors files, whose headers the library checks against the file: offsets, overlaps, sizes.

    Raises UserError for a damaged file, for a pickle unless it is allowed, and for weights that are not floats.
    """
    state: dict[str, Tensor] = {}
    for path in paths:
        if path.suffix == ".safetensors":
            try:
                state |= load_file(path)
            except (OSError, SafetensorError, ValueError, KeyError, RuntimeError) as error:
                raise UserError(
                    f"cannot read {path}: {str(error)[:100]}; is it a whole safetensors file?"
                ) from error
        elif allow_pickle:
            state |= _unpickled(path)
        else:
            raise UserError(
                f"{path} is a pickle, which can run code when opened; give safetensors, or --allow-pickle if you trust it"
            )
    odd = [name for name, value in state.items() if not value.is_floating_point() and not _counter(name)]
    if odd:
        raise UserError(f"{paths[0]} holds {odd[0]!r} as {state[odd[0]].dtype}; give weights that are floats")
    return {name: value if _counter(name) else value.float() for name, value in state.items()}


def _counter(name: str) -> bool:
    return name.endswith(("num_batches_tracked", "position_ids"))


def _unpickled(path: Path) -> dict[str, Tensor]:
    """A pickle of tensors alone: torch's restricted reader refuses everything else in it."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises many kinds
        raise UserError(f"cannot read {path}: {str(error).splitlines()[0][:100]}") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} holds more than named tensors; convert it to safetensors")
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def section(tree: Mapping[str, Any], key: str, origin: Path | str) -> dict[str, Any]:
    """A named part of a configuration."""
    value = tree.get(key)
    if not isinstance(value, dict):
        raise UserError(f"{origin} has no {key!r}; is it the configuration of a CLIP?")
    return value


def checked(config: DualEncoderConfig, origin: Path | str) -> None:
    """Raises UserError where a number of a configuration is none, or so large that nobody trained such a model."""
    numbers = {name: getattr(config, name) for name in _LIMITS}
    wrong = {k: v for k, v in numbers.items() if type(v) is not int or not 1 <= v <= _LIMITS[k]}
    layers = config.layers
    if not all(type(n) is int and n >= 1 for n in layers) or not 1 <= sum(layers) <= _MAX_LAYERS:
        wrong["layers"] = layers
    if wrong:
        name, value = next(iter(wrong.items()))
        raise UserError(f"{origin} asks for {name}={str(value)[:40]}, which is no size of a CLIP")
    for name, whole, part in (
        ("heads", config.width, config.heads),
        ("text heads", config.text_width, config.text_heads),
    ):
        if config.image_tower == "vit" and whole % part:
            raise UserError(f"{origin}: a width of {whole} does not divide into {part} {name}")


def fitted(config: DualEncoderConfig, weights: Mapping[str, Tensor], origin: Path | str) -> None:
    """Raises UserError where the weights are not those of the configuration. Builds shapes only, no memory."""
    checked(config, origin)
    try:
        with torch.device("meta"):
            expected = {name: value.shape for name, value in DualEncoder(config).state_dict().items()}
    except (ValueError, RuntimeError, KeyError, AssertionError) as error:
        raise UserError(f"{origin}: its configuration makes no model: {str(error)[:100]}") from error
    found = {name: value.shape for name, value in weights.items()}
    wrong = [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
    if wrong:
        first = min(wrong)
        raise UserError(
            f"{origin}: {len(wrong)} weights do not fit its configuration, such as {first!r}: "
            f"{tuple(found.get(first, ()))}, not {tuple(expected.get(first, ()))}"
        )


def pixels(tree: Mapping[str, Any], mean: str, std: str, origin: Path | str) -> dict[str, Any]:
    """{"mean", "std"} of a preprocessing configuration; empty where it says nothing, CLIP's own then count."""
    found = {}
    for name, key, least in (("mean", mean, -math.inf), ("std", std, 0.0)):
        if (values := tree.get(key)) is None:
            continue
        numbers = isinstance(values, (list, tuple)) and all(type(v) in (int, float) for v in values)
        if not numbers or len(values) != 3 or not all(least < v < math.inf for v in values):
            raise UserError(
                f"{origin} gives {key}={str(values)[:60]}, which are no three numbers for the channels"
            )
        found[name] = tuple(map(float, values))
    return found


def tokenizer(folder: Path, vocabulary: int, own: bool) -> str:
    """What ``RunAssets.tokenizer`` opens for a model: CLIP's vocabulary, or the tokenizer.json of its folder.

    Raises UserError for another one: a name on a hub is not looked up.
    """
    if not own:
        return "clip"
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise UserError(
            f"{folder} has a vocabulary of its own and no tokenizer.json; save its tokenizer beside the weights"
        )
    read_json(path)
    if (size := BytePair.load(path).size) > vocabulary:
        raise UserError(f"{path} has {size:,} tokens, the model only {vocabulary:,}")
    return str(path)


def safetensors(folder: Path) -> list[Path]:
    """The weight files of a folder; UserError where it has none, or only pickles."""
    found = sorted(folder.glob("*.safetensors"))
    if not found:
        others = some(path.name for path in sorted(folder.iterdir())) or "nothing"
        raise UserError(
            f"{folder} has no safetensors file (it holds {others}); convert the weights, pickles are not opened"
        )
    return found
