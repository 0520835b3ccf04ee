"""To ONNX: image.onnx and text.onnx, checked by running them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from oculex.contracts import Assets, UserError
from oculex.data.collate import Ragged
from oculex.export.parity import Parity, check, inputs
from oculex.nn.joint.dual_encoder import DualEncoder


class _Image(nn.Module):
    def __init__(self, system: DualEncoder) -> None:
        super().__init__()
        self.system = system

    def forward(self, image: Tensor) -> Tensor:
        return self.system.encode_image({"image": image})


class _Text(nn.Module):
    def __init__(self, system: DualEncoder) -> None:
        super().__init__()
        self.system = system

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        return self.system.encode_text({"tokens": Ragged(tokens, lengths)})


@torch.no_grad()
def export(system: DualEncoder, assets: Assets, out: Path) -> list[Parity]:
    """image.onnx takes "image" uint8 [B, 3, S, S]; text.onnx "tokens" int64 [B, L] and "lengths" int64 [B]."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError("ONNX needs its own packages; pip install 'oculex[onnx]'") from error
    tokenizer: Any = assets.tokenizer(system.config.tokenizer)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(out / "tokenizer.json")
    images, ids = inputs(system.config.image_size, tokenizer, system.config.context)
    text = Ragged.of(ids)
    batch, length = (
        torch.export.Dim("batch", min=1),
        torch.export.Dim("length", min=2, max=system.config.context),
    )
    jobs = [
        ("image", _Image(system), (images,), ["image"], ({0: batch},)),
        (
            "text",
            _Text(system),
            (text.values, text.lengths),
            ["tokens", "lengths"],
            ({0: batch, 1: length}, {0: batch}),
        ),
    ]
    checks = []
    for name, module, arguments, labels, shapes in jobs:
        path = out / f"{name}.onnx"
        torch.onnx.export(
            module.eval(), arguments, str(path), input_names=labels, output_names=[f"{name}_embedding"],
            dynamic_shapes=shapes, dynamo=True, verbose=False, external_data=False,
        )  # fmt: skip
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        for rows in (len(arguments[0]), 2):
            part = [argument[:rows] for argument in arguments]
            feed = {label: value.numpy() for label, value in zip(labels, part, strict=True)}
            theirs = torch.from_numpy(session.run(None, feed)[0])
            checks.append(check(f"{name} embedding, {rows} rows", module(*part), theirs))
    return checks
