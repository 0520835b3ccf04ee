"""Connectors: the query transformer is BLIP-2's, and each makes as many visual tokens as it says."""

from pathlib import Path

import numpy as np
import pytest
import torch

from oculex.contracts import UserError
from oculex.nn.joint.connectors import ConnectorConfig, QueryTransformer, connector, from_blip2

GOLDEN = Path(__file__).parents[1] / "golden" / "minigpt4.npz"
SMALL = {"queries": 5, "query_width": 16, "query_layers": 3, "query_heads": 2}


def published():
    return {
        name.removeprefix("weights/"): torch.from_numpy(value)
        for name, value in np.load(GOLDEN).items()
        if name.startswith("weights/")
    }


def test_the_query_transformer_is_the_authors(evidence):
    golden = np.load(GOLDEN)
    ours = QueryTransformer(10, 16, 3, 2, 5).eval()
    ours.load_state_dict(from_blip2(published()))
    with torch.no_grad():
        got = ours(torch.from_numpy(golden["features"]))
    theirs = torch.from_numpy(golden["vectors"])
    torch.testing.assert_close(got, theirs, atol=2e-6, rtol=1e-5)
    error = float((got - theirs).abs().max())
    evidence("minigpt4", "golden", peer=str(golden["provenance"]), max_abs_error={"vectors": error})


def test_published_weights_without_a_place_are_left_out_and_broken_ones_refused():
    weights = published()
    whole = from_blip2(weights | {"llama_proj.weight": torch.zeros(2, 2), "Qformer.cls.bias": torch.zeros(2)})
    assert whole.keys() == QueryTransformer(10, 16, 3, 2, 5).state_dict().keys()
    del weights["Qformer.bert.encoder.layer.0.crossattention.self.value.weight"]
    with pytest.raises(UserError, match="do not belong together"):
        from_blip2(weights)


@pytest.mark.parametrize("name", ["linear", "mlp", "query"])
def test_visual_tokens_are_as_many_as_told(name):
    torch.manual_seed(0)
    made = connector(ConnectorConfig(name, **SMALL), 10, 24, (2, 3))
    for grid in ((2, 3), (4, 4)):
        patches = torch.randn(2, grid[0] * grid[1], 10)
        features = torch.cat([torch.randn(2, 1, 10), patches], 1)  # after a class token
        with torch.no_grad():
            got = made(features, grid)
            assert got.shape == (2, made.count(grid), 24)
            alone = made(patches, grid)
        assert torch.allclose(got, alone) == (name != "query")  # the query transformer sees the class token


def test_queries_see_the_image_and_each_patch_becomes_a_token():
    torch.manual_seed(0)
    features = torch.randn(1, 6, 10)
    changed = features.clone()
    changed[:, 2] = torch.randn(10)
    with torch.no_grad():
        query, linear = (
            connector(ConnectorConfig(n, **SMALL), 10, 24, (2, 3)).eval() for n in ("query", "linear")
        )
        differs = (query(features, (2, 3)) - query(changed, (2, 3))).abs().amax(-1)[0]
        assert (differs > 0).all()
        differs = (linear(features, (2, 3)) - linear(changed, (2, 3))).abs().amax(-1)[0]
        assert (differs > 0).tolist() == [False, False, True, False, False, False]


def test_fresh_queries_and_their_weights_have_the_deviation_that_is_asked_for():
    torch.manual_seed(0)
    for std in (0.02, 0.125):
        query = QueryTransformer(10, 32, 2, 2, 20, std=std)
        linear = [each.weight for each in query.layers.modules() if isinstance(each, torch.nn.Linear)]
        assert len(linear) == 4 + 7  # the first layer also attends to the image
        for weights in (query.queries, *linear):
            assert float(weights.detach().std()) == pytest.approx(std, rel=0.15)


def test_unknown_connectors_and_idle_fields_are_named():
    with pytest.raises(UserError, match="is not one of linear, mlp, query"):
        connector(ConnectorConfig("resampler"), 10, 24, (2, 3))
    sizes = {"queries", "query_width", "query_layers", "query_heads", "query_std"}
    assert set(ConnectorConfig("mlp").unused()) == sizes
    assert set(ConnectorConfig().unused()) == {"positions"}


def test_patches_that_look_alike_are_told_apart_by_their_positions():
    torch.manual_seed(0)
    alike = torch.randn(1, 1, 10).expand(1, 6, 10)
    for name in ("linear", "mlp"):
        plain = connector(ConnectorConfig(name, **SMALL), 10, 24, (2, 3))
        placed = connector(ConnectorConfig(name, positions=True, **SMALL), 10, 24, (2, 3))
        with torch.no_grad():
            assert torch.allclose(plain(alike, (2, 3)).std(1), torch.zeros(1, 24), atol=1e-6)
            assert (torch.pdist(placed(alike, (2, 3))[0]) > 0.1).all()
        assert count(placed) - count(plain) == 6 * 10


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())
