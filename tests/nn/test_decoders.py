"""The light decoders: fixed positions, order of tokens, and the transposed convolution in disguise."""

import pytest
import torch

from oculex.nn.image.decoders import MaskedDecoder, PatchDecoder, sincos_positions


def test_positions_tell_columns_from_rows():
    table = sincos_positions(16, (3, 5))
    assert table.shape == (16, 16)
    assert (table[0] == 0).all()
    grid = table[1:].view(3, 5, 16)
    assert torch.equal(grid[0, 2, :8], grid[2, 2, :8])
    assert torch.equal(grid[1, 0, 8:], grid[1, 4, 8:])
    torch.testing.assert_close(grid[0, 3, 0], torch.tensor(3.0).sin())
    torch.testing.assert_close(grid[2, 0, 12], torch.tensor(2.0).cos())
    assert len(torch.unique(grid.flatten(0, 1), dim=0)) == 15
    with pytest.raises(ValueError, match="4 divides"):
        sincos_positions(18, (2, 2))


def test_predictions_follow_the_hidden_patches_in_any_order():
    torch.manual_seed(0)
    decoder = MaskedDecoder(12, 16, 2, 2, (3, 3), 10).eval()
    latent, keep, hidden = (
        torch.randn(2, 4, 12),
        torch.tensor([[0, 4, 8]] * 2),
        torch.tensor([[1, 2, 3, 5, 6, 7]] * 2),
    )
    plain = decoder(latent, keep, hidden)
    order = torch.tensor([3, 1, 0, 5, 4, 2])
    torch.testing.assert_close(decoder(latent, keep, hidden[:, order]), plain[:, order])
    seen = torch.tensor([2, 0, 1])
    shuffled = torch.cat([latent[:, :1], latent[:, 1:][:, seen]], dim=1)
    torch.testing.assert_close(decoder(shuffled, keep[:, seen], hidden), plain)


def test_the_patch_decoder_is_a_transposed_convolution():
    torch.manual_seed(0)
    decoder = PatchDecoder(8, 4)
    tokens = torch.randn(2, 6, 8)
    reference = torch.nn.ConvTranspose2d(8, 3, 4, 4)
    reference.weight.data = decoder.weight.data.T.reshape(8, 3, 4, 4)
    reference.bias.data = decoder.bias.data
    image = reference(decoder.mlp(tokens).transpose(1, 2).unflatten(2, (2, 3)))
    patches = image.reshape(2, 3, 2, 4, 3, 4).permute(0, 2, 4, 1, 3, 5).reshape(2, 6, 48)
    torch.testing.assert_close(decoder(tokens), patches)
