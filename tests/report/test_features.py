"""Components and attention of patches as pictures."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from oculex.contracts import UserError
from oculex.report.features import SIDE, components, heat, sheet
from oculex.systems.baselines.mae import MAE, MAEConfig

SMALL = MAEConfig(image_size=32, patch=8, width=32, layers=(2,), heads=2, decoder_width=16, decoder_layers=1,
                  decoder_heads=2)  # fmt: skip


def test_components_separate_what_differs_most():
    generator = torch.Generator().manual_seed(0)
    features = 0.01 * torch.randn(2, 8, 5, generator=generator)
    features[:, :4] += torch.tensor([3.0, 0, 0, 0, 0])
    features[0] += torch.tensor([0, 1.0, 0, 0, 0])
    found = components(features)
    assert found.shape == (2, 8, 3)
    assert found.min() == 0
    assert found.max() == 1
    assert (found[:, :4, 0] - found[:, 4:, 0]).abs().min() > 0.8
    assert (found[0, :, 1] - found[1, :, 1]).abs().min() > 0.5
    torch.testing.assert_close(components(features + 7), found, atol=1e-4, rtol=0)


def test_attention_is_the_mean_over_heads():
    attention = torch.tensor([[[0.1, 0.2, 0.7], [0.3, 0.4, 0.3]]])
    torch.testing.assert_close(heat(attention), torch.tensor([[0.0, 1 / 3, 1.0]]))


class Pictures:
    name, classes = "pictures", ()

    def fingerprint(self):
        return "pictures"

    def __len__(self):
        return 9

    def __getitem__(self, index):
        pixels = np.full((40, 40, 3), 20 * index, dtype=np.uint8)
        pixels[:20] = 255
        return {"id": str(index), "image": pixels}


def test_a_sheet_has_a_row_for_each_view():
    torch.manual_seed(0)
    drawn = Image.open(io.BytesIO(sheet(MAE(SMALL).eval(), Pictures(), count=3)))
    assert drawn.width >= 3 * SIDE
    assert drawn.height >= 3 * SIDE
    assert len(np.unique(np.asarray(drawn).reshape(-1, 3), axis=0)) > 20


def test_a_system_without_patches_is_named():
    with pytest.raises(UserError, match="object has no features of patches"):
        sheet(object(), Pictures())
