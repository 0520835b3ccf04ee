"""One self-supervised update, oculex against lightly: MAE and DINO, each with the same vision transformer, weights,
batch, precision and optimizer. Lightly's side is its own examples' (examples/pytorch/mae.py and dino.py)."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from oculex import contracts
from oculex.bench.rounds import duel, matmul_peak
from oculex.contracts import Batch, UserError
from oculex.data import collate
from oculex.data.multiview import WIDTH
from oculex.nn.masking import random_mask
from oculex.nn.memory.teacher import rising
from oculex.systems.baselines.dino import DINO, DINOConfig
from oculex.systems.baselines.mae import MAE, MAEConfig
from oculex.training import optimizers
from oculex.training.step import Trainee, backward

SIZES: dict[str, Any] = {"image_size": 96, "patch": 8, "width": 256, "layers": (6,), "heads": 4}
MAE_MODEL = MAEConfig(**SIZES, decoder_width=128, decoder_layers=2, decoder_heads=4, normalise_targets=False)
DINO_MODEL = DINOConfig(
    **SIZES,
    drop_path=0.0,
    prototypes=4096,
    hidden=512,
    bottleneck=128,
    small_crops=6,
    small_size=48,
    still=0.0,
)
OPTIMIZER = contracts.Optimizer(lr=5e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.05)
ROWS = {"mae": 128, "dino": 16}
TOLERANCE = 5e-3

Update = Callable[[], float]


def run(rounds: int = 8) -> dict[str, Any]:
    """Images per second of whole updates, after the check that both sides have the same loss."""
    try:
        import lightly
    except ImportError as error:
        raise UserError("this benchmark compares with lightly; pip install lightly") from error
    load = os.getloadavg()[0]
    fabric = Fabric(accelerator="auto", devices=1, precision="bf16-mixed")
    torch.manual_seed(0)
    pairs = {"mae": _mae(fabric), "dino": _dino(fabric)}
    result: dict[str, Any] = {}
    for name, (ours, theirs) in pairs.items():
        losses = ours(), theirs()
        difference = abs(losses[0] - losses[1])
        if not difference < TOLERANCE * losses[1]:
            raise RuntimeError(f"{name}: the losses differ: oculex {losses[0]}, lightly {losses[1]}")
        result[name] = duel(ours, theirs, rounds, ROWS[name], "images/s") | {
            "loss": {"ours": losses[0], "peer": losses[1], "difference": difference}
        }
    return result | {
        "matmul_peak": matmul_peak(torch.bfloat16, fabric.device),
        "torch": torch.__version__,
        "lightly": lightly.__version__,
        "threads": torch.get_num_threads(),
        "load": load,
    }


def _ours(fabric: Fabric, system: Any, batch: Batch) -> Update:
    """An update as ``oculex train`` makes it."""
    model, optimizer = fabric.setup(
        Trainee(system.train()), optimizers.build(system, OPTIMIZER, contracts.Stage())
    )

    def update() -> float:
        on_device = collate.to(batch, fabric.device)
        optimizer.zero_grad()
        system.before_step(0, 1)
        losses = backward(fabric, model, on_device, accumulate=1, seed=0, step=0)
        system.after_backward(0, 1)
        optimizer.step()
        system.after_step(0, 1)
        return float(losses["loss"])

    return update


def _theirs(device: torch.device, model: nn.Module, loss: Callable[[], Tensor]) -> Update:
    """An update of the same kind, with the same optimizer over the same groups of weights."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.squeeze().ndim >= 2], "weight_decay": OPTIMIZER.weight_decay},
        {"params": [p for p in trained if p.squeeze().ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=OPTIMIZER.lr, betas=OPTIMIZER.betas, eps=OPTIMIZER.eps)

    def update() -> float:
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16):
            total = loss()
        total.backward()
        optimizer.step()
        return float(total)

    return update


def _pixels(rows: int, size: int, views: int = 0) -> np.ndarray:
    shape = (rows, *([views] if views else []), 3, size, size)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


# ----------------------------------------------------------------------------------------------------- MAE


def _mae(fabric: Fabric) -> tuple[Update, Update]:
    rng = np.random.default_rng(1)
    system, rows = MAE(MAE_MODEL), ROWS["mae"]
    hidden = np.stack([random_mask(system.grid, MAE_MODEL.mask_ratio, rng).ravel() for _ in range(rows)])
    batch = {
        "image": torch.from_numpy(_pixels(rows, MAE_MODEL.image_size)),
        "keep": torch.from_numpy(np.nonzero(~hidden)[1].reshape(rows, -1)),
        "hidden": torch.from_numpy(np.nonzero(hidden)[1].reshape(rows, -1)),
    }
    model = _lightly_mae(system).to(fabric.device).train()
    pixels = ((batch["image"].float() - system.mean) / system.std).to(
        fabric.device
    )  # its loader's work, not timed
    seen = torch.cat([torch.zeros(rows, 1, dtype=torch.long), batch["keep"] + 1], dim=1).to(fabric.device)
    masked = (batch["hidden"] + 1).to(fabric.device)
    theirs = _theirs(fabric.device, model, lambda: model(pixels, seen, masked))
    return _ours(fabric, system, batch), theirs


def _lightly_mae(system: MAE) -> nn.Module:
    from lightly.models import utils
    from lightly.models.modules import MaskedVisionTransformerDecoderTIMM, MaskedVisionTransformerTIMM

    c = system.config

    class Peer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = MaskedVisionTransformerTIMM(vit=_timm(c))
            self.decoder_embed = nn.Linear(c.width, c.decoder_width)
            self.decoder = MaskedVisionTransformerDecoderTIMM(
                self.backbone.vit.patch_embed.num_patches, c.decoder_width, c.decoder_layers, c.decoder_heads
            )
            self.prediction_head = nn.Linear(c.decoder_width, 3 * c.patch**2)
            self.criterion = nn.MSELoss()

        def forward(self, images: Tensor, seen: Tensor, masked: Tensor) -> Tensor:
            embedded = self.decoder_embed(self.backbone.encode(images=images, idx_keep=seen))
            whole = embedded.new_zeros(len(images), self.backbone.sequence_length, embedded.shape[-1])
            whole = utils.set_at_index(whole, seen, embedded)
            decoded = utils.get_at_index(self.decoder(whole, idx_mask=masked), masked)
            target = utils.get_at_index(utils.patchify(images, c.patch), masked - 1)
            return self.criterion(self.prediction_head(decoded), target)

    peer, state = Peer(), system.decoder.state_dict()
    peer.backbone.vit.load_state_dict(_timm_names(system.image.state_dict(), c.patch))
    peer.decoder_embed.load_state_dict({part: state[f"embed.{part}"] for part in ("weight", "bias")})
    rows = torch.arange(3 * c.patch**2).view(3, -1).T.flatten()  # their patches have the channels last
    peer.prediction_head.load_state_dict(
        {part: state[f"predict.{part}"][rows] for part in ("weight", "bias")}
    )
    blocks = {_block(name): value for name, value in state.items() if name.startswith(("blocks", "norm"))}
    blocks |= {"mask_token": state["mask_token"][None, None], "pos_embed": system.decoder.positions[None]}
    peer.decoder.load_state_dict(blocks)
    return peer


# ---------------------------------------------------------------------------------------------------- DINO


def _dino(fabric: Fabric) -> tuple[Update, Update]:
    from lightly.loss import DINOLoss
    from lightly.models.modules import DINOProjectionHead
    from lightly.models.utils import deactivate_requires_grad, update_momentum

    c, system, rows = DINO_MODEL, DINO(DINO_MODEL), ROWS["dino"]
    unchanged = torch.zeros(WIDTH)
    unchanged[:4] = -1
    crops = {"large": (c.image_size, 2), "small": (c.small_size, c.small_crops)}
    batch: Batch = {}
    for kind, (size, count) in crops.items():
        batch[kind] = torch.from_numpy(_pixels(rows, size, count))
        batch[f"{kind}_colours"] = unchanged.expand(rows, count, -1)
    head = {name.replace("mlp.", "layers."): value for name, value in system.head.state_dict().items()}
    head["last_layer.weight_v"] = head.pop("prototypes")
    head["last_layer.weight_g"] = torch.ones(c.prototypes, 1)

    def network() -> nn.Module:
        made = nn.Sequential(_timm(c), DINOProjectionHead(c.width, c.hidden, c.bottleneck, c.prototypes))
        made[0].load_state_dict(_timm_names(system.image.state_dict(), c.patch))
        made[1].load_state_dict(head)
        return made.to(fabric.device).train()

    student, teacher = network(), network()
    deactivate_requires_grad(teacher)
    criterion = DINOLoss(output_dim=c.prototypes).to(fabric.device)
    views = [
        ((view.float() - system.mean) / system.std).to(fabric.device)  # its loader's work, not timed
        for kind in crops
        for view in batch[kind].unbind(1)
    ]

    def loss() -> Tensor:
        taught = [teacher(view) for view in views[:2]]
        return criterion(taught, [student(view) for view in views])

    step = _theirs(fabric.device, student, loss)

    def update() -> float:
        value = step()
        update_momentum(student, teacher, m=rising(c.momentum, 0, 1))
        return value

    return _ours(fabric, system, batch), update


# -------------------------------------------------------------------------------------------------- shared


def _timm(c: Any) -> Any:
    """timm's vision transformer of the same sizes; it takes crops of any size."""
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=c.image_size,
        patch_size=c.patch,
        embed_dim=c.width,
        depth=sum(c.layers),
        num_heads=c.heads,
        num_classes=0,
        dynamic_img_size=True,
    )


_BLOCK = {"norm_1": "norm1", "norm_2": "norm2", "attention.qkv": "attn.qkv", "attention.out": "attn.proj"}
_BLOCK |= {"up": "mlp.fc1", "down": "mlp.fc2"}


def _block(name: str) -> str:
    for ours, theirs in _BLOCK.items():
        name = name.replace(f".{ours}.", f".{theirs}.")
    return name


def _timm_names(state: dict[str, Tensor], patch: int) -> dict[str, Tensor]:
    """Our transformer's weights under timm's names."""
    renamed = {_block(name.replace("norm_post", "norm")): value for name, value in state.items()}
    renamed["patch_embed.proj.weight"] = renamed.pop("patches.weight").view(-1, 3, patch, patch)
    renamed["patch_embed.proj.bias"] = renamed.pop("patches.bias")
    renamed["cls_token"] = renamed.pop("class_token")[None, None]
    renamed["pos_embed"] = renamed.pop("positions")[None]
    return renamed
