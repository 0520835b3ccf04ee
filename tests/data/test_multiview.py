"""Colours are torchvision's on the same drawn numbers; views are functions of the sample's generator alone."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from oculex.data import multiview
from oculex.data.multiview import Colours, coloured, crops, draw, normalised, views

functional = pytest.importorskip("torchvision.transforms.functional")
JITTERS = [
    functional.adjust_brightness,
    functional.adjust_contrast,
    functional.adjust_saturation,
    functional.adjust_hue,
]
EVERYTHING = Colours(jitter=0.8, grey=0.3, blur=0.6, solarise=0.4)


def drawn(count, colours=EVERYTHING):
    rng = np.random.default_rng(0)
    return torch.from_numpy(np.stack([draw(colours, rng) for _ in range(count)]))


def pixels(count, height=24, width=32):
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (count, 3, height, width), generator=generator, dtype=torch.uint8)
    image[0, :, :4] = torch.tensor([0, 128, 255], dtype=torch.uint8).view(3, 1, 1)
    image[1, :, :4] = 77  # grey: no hue
    return image


def theirs(image, numbers):
    x = image[None].float() / 255
    for kind in numbers[:4].int().tolist():
        if kind >= 0:
            x = JITTERS[kind](x, float(numbers[4 + kind]))
    if numbers[8]:
        x = functional.rgb_to_grayscale(x, 3)
    if sigma := float(numbers[9]):
        reach = int(3 * sigma)
        x = functional.gaussian_blur(x, [2 * reach + 1] * 2, [sigma] * 2) if reach else x
    return functional.solarize(x, 128 / 255)[0] if numbers[10] else x[0]


def test_colours_are_torchvisions():
    image, numbers = pixels(40), drawn(40)
    assert {tuple(row) for row in numbers[:, :4].int().tolist()} > {(-1, -1, -1, -1)}
    ours = coloured(image, numbers)
    for row in range(40):
        torch.testing.assert_close(ours[row], theirs(image[row], numbers[row]), atol=2e-5, rtol=0)


def test_colours_do_not_depend_on_the_batch():
    image, numbers = pixels(12), drawn(12)
    together = coloured(image, numbers)
    for row in range(12):
        torch.testing.assert_close(
            coloured(image[row : row + 1], numbers[row : row + 1])[0], together[row], atol=1e-6, rtol=0
        )


def test_colours_are_changed_in_float32_under_autocast():
    image, numbers = pixels(12), drawn(12)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = coloured(image, numbers)
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, coloured(image, numbers))


def test_drawn_numbers_keep_their_probabilities_and_bounds():
    numbers = drawn(4000, Colours())
    assert (numbers[:, 0] >= 0).float().mean().item() == pytest.approx(0.8, abs=0.03)
    assert numbers[:, 8].mean().item() == pytest.approx(0.2, abs=0.03)
    assert (numbers[:, 9] > 0).float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert numbers[:, 10].sum() == 0
    jittered = numbers[numbers[:, 0] >= 0]
    for column, low, high in ((4, 0.6, 1.4), (5, 0.6, 1.4), (6, 0.8, 1.2), (7, -0.1, 0.1)):
        assert low <= jittered[:, column].min() < low + 0.02
        assert high - 0.02 < jittered[:, column].max() <= high
    assert len({tuple(row) for row in jittered[:, :4].int().tolist()}) == math.factorial(4)


@pytest.fixture
def photo():
    rng = np.random.default_rng(1)
    smooth = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((200, 150))
    stream = io.BytesIO()
    smooth.save(stream, "JPEG", quality=95)
    return {"id": "photo", "image": stream.getvalue()}


def test_views_are_functions_of_the_generator(photo):
    def seen(seed):
        return views(photo, np.random.default_rng(seed), 32, (0.2, 1.0), (Colours(),) * 3)

    assert all(np.array_equal(a, b) for a, b in zip(seen(4), seen(4), strict=True))
    assert not np.array_equal(seen(4)[0], seen(5)[0])
    assert not np.array_equal(seen(4)[0][0], seen(4)[0][1])
    assert seen(4)[0].shape == (3, 3, 32, 32)
    assert seen(4)[1].shape == (3, multiview.WIDTH)


def test_half_of_the_crops_are_mirrored(photo):
    """A picture that is dark on its left: a crop is mirrored where the right is darker."""
    ramp = np.broadcast_to(np.linspace(0, 255, 64, dtype=np.uint8)[None, :, None], (64, 64, 3)).copy()
    cut = crops({"id": "ramp", "image": ramp}, np.random.default_rng(0), 16, (0.5, 1.0), 400).astype(int)
    mirrored = cut[:, 0, :, 0].mean(axis=1) > cut[:, 0, :, -1].mean(axis=1)
    assert mirrored.mean() == pytest.approx(0.5, abs=0.08)


def test_small_crops_of_a_reduced_jpeg_are_those_of_the_whole(photo):
    """One decoding serves all crops, no smaller than the smallest crop needs."""
    whole = np.asarray(Image.open(io.BytesIO(photo["image"])))
    a = crops(photo, np.random.default_rng(3), 24, (0.1, 0.4), 6).astype(float)
    b = crops({"id": "photo", "image": whole}, np.random.default_rng(3), 24, (0.1, 0.4), 6).astype(float)
    assert np.abs(a - b).mean() < 2.0


def test_normalised_views_lie_one_after_another():
    image = torch.zeros(2, 3, 3, 4, 4, dtype=torch.uint8)
    image[1, 2] = 255
    mean, std = torch.full((3, 1, 1), 51.0), torch.full((3, 1, 1), 102.0)
    nothing = torch.zeros(2, 3, multiview.WIDTH)
    nothing[..., :4] = -1
    flat = normalised(image, nothing, mean, std)
    assert flat.shape == (6, 3, 4, 4)
    torch.testing.assert_close(flat[:, 0, 0, 0], torch.tensor([-0.5, -0.5, -0.5, -0.5, -0.5, 2.0]))
