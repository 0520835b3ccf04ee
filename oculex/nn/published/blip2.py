"""BLIP-2's query transformer from published weights: under LAVIS' and MiniGPT-4's names, or transformers'."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from oculex.contracts import UserError
from oculex.nn.joint.connectors import QueryTransformer, from_blip2
from oculex.nn.published import outside

CHANNELS = 64
"""Of a head, as in BERT; weights do not tell."""
_PARTS = ("Qformer.bert.", "qformer.", "query_tokens", "ln_vision.", "vision_model.post_layernorm.")
_INDEX = "model.safetensors.index.json"


class Queries(nn.Module):
    """A query transformer at the place where a system with a connector has it."""

    def __init__(self, query: QueryTransformer) -> None:
        super().__init__()
        self.connector = nn.ModuleDict({"query": query})


def read(name: str) -> Queries:
    """The query transformer of a safetensors file, of a folder with such files, or of a model on the hub, from which only
    the files that hold it are fetched. Raises UserError where there is none."""
    path = Path(name).expanduser()
    files = [path] if path.is_file() else outside.safetensors(path) if path.is_dir() else _fetched(name)
    state = from_blip2({_lavis(key): value for file in files for key, value in _tensors(file).items()})
    layers = 1 + max((int(key.split(".")[1]) for key in state if key.startswith("layers.")), default=-1)
    if layers == 0 or not {"queries", "features_norm.weight"} <= state.keys():
        raise UserError(
            f"{name} has no query transformer of BLIP-2's; name a BLIP-2 or a MiniGPT-4, such as "
            "Salesforce/blip2-flan-t5-xxl"
        )
    count, width = state["queries"].shape
    query = QueryTransformer(
        len(state["features_norm.weight"]), width, layers, max(1, width // CHANNELS), count
    )
    wanted = {key: value.shape for key, value in query.state_dict().items()}
    odd = sorted(
        key for key in wanted.keys() | state.keys() if key not in state or wanted.get(key) != state[key].shape
    )
    if odd:
        raise UserError(
            f"{name} holds no whole query transformer of BLIP-2's: {odd[0]!r} is missing or of another shape"
        )
    query.load_state_dict(state)
    return Queries(query)


def _tensors(file: Path) -> dict[str, Tensor]:
    """The query transformer's tensors alone: the file may hold a language model of many gigabytes beside them."""
    if file.suffix != ".safetensors":
        raise UserError(f"{file} is no safetensors file; convert the weights, pickles are not opened")
    try:
        with safe_open(file, "pt") as opened:
            return {key: opened.get_tensor(key).float() for key in opened.keys() if key.startswith(_PARTS)}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        raise UserError(f"cannot read {file}: {str(error)[:100]}; is it a whole safetensors file?") from error


def _lavis(name: str) -> str:
    """transformers' name of a weight as LAVIS has it; others stay."""
    if name.startswith("vision_model.post_layernorm."):
        return name.replace("vision_model.post_layernorm.", "ln_vision.")
    if not name.startswith("qformer."):
        return name
    inner = name.removeprefix("qformer.").replace("attention.attention.", "attention.self.")
    if inner.startswith("layernorm."):
        inner = inner.replace("layernorm.", "embeddings.LayerNorm.")
    return f"Qformer.bert.{inner}"


def _fetched(name: str) -> list[Path]:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        try:
            index = json.loads(Path(hf_hub_download(name, _INDEX)).read_text(encoding="utf-8"))
            files = sorted({file for key, file in index["weight_map"].items() if key.startswith(_PARTS)})
        except EntryNotFoundError:
            files = ["model.safetensors"]
        return [Path(hf_hub_download(name, file)) for file in files]
    except Exception as error:  # the network, the hub, and whatever its files hold
        raise UserError(
            f"blip2:{name} is neither a file, a folder, nor a model on the hub that can be fetched: "
            f"{' '.join(str(error).split())[:160]}"
        ) from error
