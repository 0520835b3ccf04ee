"""Actions as tokens: RT-1's bins to the bit, a token for every bin, and nothing but valid actions."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers

from oculex.contracts import UserError
from oculex.data.actions import ActionSpace, action_space, binned, unbinned
from oculex.data.text import END, START, BytePair, train_tokenizer
from oculex.evaluation import Untrained
from oculex.nn.language.generate import generate
from oculex.nn.tokens.actions import ActionTokens, least_used_tokens, number_tokens

GOLDEN = Path(__file__).parents[1] / "golden" / "rt2.npz"
RT1 = ActionSpace(
    ("terminate", "x", "y", "z", "rx", "ry", "rz", "gripper"),
    (0.0, -0.05, -0.05, -0.05, -0.25, -0.25, -0.25, -1.0),
    (1.0, 0.05, 0.05, 0.05, 0.25, 0.25, 0.25, 1.0),
    (2, 0, 0, 0, 0, 0, 0, 0),
)


@pytest.mark.parametrize("bins", [256, 33])
def test_bins_are_those_of_rt1(bins, evidence):
    golden = np.load(GOLDEN)
    numbers = binned(golden["actions"], RT1, bins)
    assert (numbers == golden[f"tokens_{bins}"]).all()
    error = float(np.abs(unbinned(numbers, RT1, bins) - golden[f"decoded_{bins}"]).max())
    assert error < 1e-6
    evidence(
        "rt2",
        "golden",
        peer=str(golden["provenance"]),
        compared=f"bins of {len(numbers)} actions of 8 dimensions, {bins} bins each, and what they are read as",
        differing=int((numbers != golden[f"tokens_{bins}"]).sum()),
        max_abs_error={"actions": error},
    )


def test_openvla_bins_as_finely():
    """OpenVLA reads the middle of a bin, RT-1 its lower edge; on an edge rounding may decide for the next bin."""
    golden = np.load(GOLDEN)
    space = ActionSpace(("x",), (-1.0,), (1.0,), (0,))
    ours = unbinned(binned(golden["openvla_actions"][:, None], space, 256), space, 256)[:, 0]
    assert np.abs(ours - golden["openvla_decoded"]).max() <= 1.5 * 2 / 255 + 1e-6


@given(st.lists(st.floats(-3, 3), min_size=8, max_size=8), st.integers(2, 300))
def test_what_is_read_is_within_a_bin_of_what_was_done(action, bins):
    low, high = np.array(RT1.low), np.array(RT1.high)
    done = np.clip(action, low, high)
    numbers = binned(np.array(action), RT1, bins)
    assert (numbers >= 0).all()
    assert (numbers[1:] < bins).all()
    assert numbers[0] in (0, 1)
    read = unbinned(numbers, RT1, bins)
    assert (np.abs(read - done)[1:] <= ((high - low) / (bins - 1) + 1e-5)[1:]).all()
    assert (binned(read, RT1, bins)[1:] <= numbers[1:]).all()


def tokens(dimensions=8, bins=33):
    made = ActionTokens(dimensions, bins)
    made.settle(RT1, list(range(40, 40 + bins)))
    return made


def test_tokens_are_state_and_round_trip():
    made = tokens()
    action = np.array([1, 0.01, -0.02, 0.03, 0.1, -0.1, 0.2, 0.5], np.float32)
    ids = made.encode(action)
    other = ActionTokens(8, 33)
    other.load_state_dict(made.state_dict())
    assert other.encode(action) == ids
    assert np.abs(other.decode([ids])[0] - action).max() <= 2 / 32
    with pytest.raises(ValueError, match="stands for no action"):
        made.decode([[*ids[:-1], 3]])
    with pytest.raises(UserError, match=r"have 8 dimensions .*set dimensions=8"):
        ActionTokens(7, 33).settle(RT1, range(33))
    with pytest.raises(UserError, match="3 values"):
        ActionTokens(8, 2).settle(ActionSpace(RT1.names, RT1.low, RT1.high, (3, *RT1.values[1:])), range(2))


class Stubborn(torch.nn.Module):
    """A language model that prefers one word whatever it reads."""

    def __init__(self, vocabulary, favourite):
        super().__init__()
        self.embedding = torch.nn.Embedding(vocabulary, 4)
        self.favourite, self.config = favourite, type("C", (), {"max_position_embeddings": 64})()

    def get_input_embeddings(self):
        return self.embedding

    def forward(self, inputs_embeds, **_):
        logits = torch.randn(len(inputs_embeds), 1, self.embedding.num_embeddings)
        logits[..., self.favourite] += 100
        cache = type("K", (), {"batch_select_indices": lambda self, kept: None})()
        return type("O", (), {"logits": logits, "past_key_values": cache})()


@pytest.mark.parametrize("favourite", [0, 7, 99])
def test_only_whole_valid_actions_are_said(favourite):
    """By a model that wants to say something else, or to end at once; terminate is 0 or 1."""
    torch.manual_seed(0)
    made, end = tokens(), 0
    allowed = made.allowed(100, end)
    said = generate(
        Stubborn(100, favourite), torch.zeros(64, 3, 4), torch.full((64,), 3), end, 9, allowed=allowed
    )
    actions = made.decode(said)
    assert actions.shape == (64, 8)
    assert set(actions[:, 0]) == {0.0, 1.0}
    assert (actions[:, 1:] >= np.array(RT1.low[1:], np.float32) - 1e-6).all()
    assert len(set(actions[:, 1])) > 10
    free = generate(Stubborn(100, favourite), torch.zeros(4, 3, 4), torch.full((4,), 3), end, 9)
    assert free == [[] if favourite == end else [favourite] * 9] * 4


def test_integers_stand_for_bins_where_they_are_tokens():
    words = {START: 0, END: 1, "[UNK]": 2} | {str(n): n + 3 for n in range(300)}
    backend = Backend(models.WordLevel(words, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    assert number_tokens(BytePair(backend), 256, 303) == list(range(3, 259))
    with pytest.raises(UserError, match="no token of its own for the integer"):
        number_tokens(train_tokenizer(["a cube"] * 5, 300), 256, 300)


def test_the_rarest_tokens_are_overwritten():
    """First what the tokenizer never writes, then the merges that came last; never a text's beginning or end."""
    texts = ["push the red cube"] * 50 + ["push the blue cube"] * 40 + ["zebras graze"] * 2
    tokenizer = train_tokenizer(texts, 300)
    used = {token for text in texts[:90] for token in tokenizer.backend.encode(text).ids}
    assert least_used_tokens(tokenizer, 8, tokenizer.size + 5)[:5] == [
        tokenizer.size + n for n in (4, 3, 2, 1, 0)
    ]
    chosen = least_used_tokens(tokenizer, 5, tokenizer.size)
    assert not used & set(chosen)
    everything = least_used_tokens(tokenizer, tokenizer.size - 2, tokenizer.size)
    assert not {tokenizer.start, tokenizer.end} & set(everything)
    with pytest.raises(UserError, match="no room for 400 bins"):
        least_used_tokens(tokenizer, 400, tokenizer.size)


def test_sources_of_two_robots_are_refused():
    class Robot:
        def __init__(self, space):
            self.actions = space

    other = ActionSpace(("x",), (0.0,), (1.0,), (0,))
    assert action_space([object(), Robot(RT1), Robot(RT1)]) == RT1
    assert action_space([object()]) is None
    with pytest.raises(UserError, match="different robots"):
        action_space([Robot(RT1), Robot(other)])
    with pytest.raises(UserError, match="without an extent: x"):
        ActionSpace(("x",), (1.0,), (1.0,), (0,))
    with pytest.raises(UserError, match="no dimension 'stop'"):
        ActionSpace(("x",), (0.0,), (1.0,), (0,), ends="stop")
    fitted = ActionSpace.fitted(np.array([[0.0, 2.0], [1.0, 2.0]]))
    assert fitted.low == (0.0, 2.0)
    assert fitted.high == (1.0, 3.0)


def test_an_untrained_control_says_the_same_actions_in_the_same_tokens():
    """It is built without the data, which alone tell them."""
    settled = ActionTokens(8, 21)
    settled.settle(RT1, range(100, 121))
    fresh = Untrained(lambda: ActionTokens(8, 21)).build(settled)
    assert fresh.ids.tolist() == list(range(100, 121))
    assert fresh.space == settled.space
