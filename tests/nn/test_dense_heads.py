"""Dense heads stand on the maps of any tower, name their positions as they count them, and find what they are told."""

import pytest
import torch
from torch.nn import functional as F

from oculex.nn.dense.dense_heads import (
    DetectionHead,
    SegmentationHead,
    best_objects,
    level_grids,
    maps_of,
    square_anchors,
)
from oculex.nn.dense.detection import Found
from oculex.nn.image.towers import image_tower
from oculex.objectives.grounding import assigned

TOWERS = {
    "vit": {"patch": 8, "width": 32, "layers": (1,), "heads": 2},
    "resnet": {"width": 8, "layers": (1, 1, 1), "heads": 4},
    "tinyvit_nano": {},
    "resnet10t": {},
    "vit_tiny_patch16_224": {},
}


def maps(name, size=64):
    """A tower's maps of two pictures, and whether it is plain."""
    tower = image_tower(name, size=size, **TOWERS[name]).eval()
    pixels = torch.rand(2, 3, size, size)
    kept = maps_of(tower)
    if kept:
        pyramid = tower.pyramid(pixels)
        return [pyramid[n] for n in kept], False
    tokens, grid = tower.tokens(pixels)
    return [tokens[:, -grid[0] * grid[1] :].transpose(1, 2).unflatten(2, grid)], True


@pytest.mark.parametrize("name", TOWERS)
def test_any_tower_carries_the_heads(name):
    found, plain = maps(name)
    channels = [each.shape[1] for each in found]
    grids = level_grids(found, plain)
    squares = torch.cat(square_anchors(grids, 64, 4.0))
    logits = SegmentationHead(channels, 16, 5, plain)(found)
    assert logits.shape == (2, 6, *grids[0])
    boxes = DetectionHead(channels, 16, 5, plain)(found)
    assert boxes.words.shape == (2, len(squares), 5)
    assert boxes.deltas.shape == (2, len(squares), 4)
    assert boxes.centred.shape == (2, len(squares))


def test_maps_of_other_sizes_are_as_good():
    """What a head says does not depend on how large a backbone's features are."""
    found, plain = maps("resnet")
    head = SegmentationHead([each.shape[1] for each in found], 16, 3, plain)
    torch.testing.assert_close(head([100 * each for each in found]), head(found), atol=1e-3, rtol=1e-3)


def test_anchors_lie_row_by_row_over_the_whole_picture():
    fine, coarse = square_anchors([(2, 4), (1, 2)], 64, 2.0)
    assert fine[0].tolist() == [8 - 16, 16 - 16, 8 + 16, 16 + 16]
    assert fine[5].tolist() == [24 - 16, 48 - 16, 24 + 16, 48 + 16]
    assert coarse[1].tolist() == [48 - 32, 32 - 32, 48 + 32, 32 + 32]


def test_the_likeliest_objects_are_found_once_and_inside_the_picture():
    squares = torch.tensor([[0.0, 0, 10, 10], [1.0, 0, 11, 10], [20, 20, 40, 40]])
    words = torch.full((1, 3, 2), -9.0)
    words[0, 0, 1], words[0, 1, 1], words[0, 2, 0] = 3.0, 2.0, 1.0
    found = best_objects(
        Found(words, torch.zeros(1, 3, 4), torch.zeros(1, 3)), squares, torch.tensor([[32.0, 64.0]]), 4
    )[0]
    assert found[:2, 0].tolist() == [1, 0]
    torch.testing.assert_close(found[0, 1], (torch.tensor(3.0).sigmoid() / 2).sqrt())
    torch.testing.assert_close(found[1, 2:], torch.tensor([20 / 32, 20 / 64, 1.0, 40 / 64]))
    assert found[2:].isnan().all()


def test_a_detector_learns_where_a_bright_square_is():
    """From maps that show it, in 60 updates: the best box of a picture it has not seen overlaps the true one."""
    torch.manual_seed(0)
    head = DetectionHead([8], 16, 2, plain=False)
    levels = square_anchors([(8, 8)], 64, 4.0)

    def scenes(count, seed):
        generator = torch.Generator().manual_seed(seed)
        corner = torch.randint(0, 5, (count, 2), generator=generator)
        shown = 0.1 * torch.randn(count, 8, 8, 8, generator=generator)
        for row, (x, y) in zip(shown, corner.tolist(), strict=True):
            row[0, y : y + 3, x : x + 3] += 1.0
        return shown, torch.cat([8.0 * corner, 8.0 * corner + 24], dim=1)

    shown, boxes = scenes(32, 1)
    which = torch.stack([assigned(box[None], levels) for box in boxes])
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-2)
    from oculex.nn.dense.detection import decoded

    for _ in range(60):
        found = head([shown])
        here = which >= 0
        wanted = F.one_hot(torch.where(here, 0, 2), 3)[..., :2].float()
        own = decoded(found.deltas, torch.cat(levels))[here]
        true = boxes[:, None].expand(-1, 64, -1)[here]
        loss = F.binary_cross_entropy_with_logits(found.words, wanted) + F.l1_loss(own, true) / 8
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    shown, boxes = scenes(16, 2)
    with torch.no_grad():
        best = best_objects(head([shown]), torch.cat(levels), torch.full((16, 2), 64.0), 1)[:, 0]
    error = (64 * best[:, 2:] - boxes).abs().mean(1)
    assert (error < 8).float().mean() > 0.8
    assert (best[:, 0] == 0).all()
