"""Language models with low-rank parts go to transformers with these merged, and ``from_pretrained`` alone opens them."""

import pytest
import torch

from oculex.export.transformers import export
from oculex.nn.lora import adapted
from oculex.systems.baselines.gpt import GPT, GPTConfig
from oculex.systems.baselines.llava import LLaVA
from tests.systems.test_visual_language import Fixed, model

peft = pytest.importorskip("peft", reason="LoRA needs peft")
transformers = pytest.importorskip("transformers")


def tuned(language, *layers):
    """A language model whose low-rank parts have learnt something."""
    peft.inject_adapter_in_model(peft.LoraConfig(r=4, lora_alpha=8, target_modules=list(layers)), language)
    for name, weight in language.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(0, 0.3)
    return language


@pytest.mark.parametrize(
    ("kind", "layers"), [("llama", ("q_proj", "v_proj", "down_proj")), ("gpt2", ("c_attn",))]
)
def test_a_tuned_language_model_opens_without_peft(tmp_path, kind, layers):
    torch.manual_seed(0)
    config = GPTConfig(language=kind, language_width=32, language_layers=2, language_heads=2, context=64,
                       vocabulary=320, tokenizer="corpus:320")  # fmt: skip
    system = GPT(config, Fixed())
    ids = torch.randint(0, 300, (2, 9))
    plain = system.eval().language(ids).logits
    tuned(system.language, *layers)
    learnt = system.language(ids).logits
    assert (learnt - plain).abs().max() > 0.01
    (parity,) = export(system, system._assets, tmp_path)
    assert parity.max_abs_error < 1e-4
    assert adapted(system.language), "the system itself stays as it was"
    assert not list(tmp_path.glob("adapter*"))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert not adapted(theirs)
    torch.testing.assert_close(theirs.eval()(ids).logits, learnt, atol=1e-4, rtol=1e-3)


def test_a_tuned_llava_answers_alike(tmp_path):
    system = model(LLaVA).eval()
    tuned(system.language, "q_proj", "v_proj")
    (parity,) = export(system, system._assets, tmp_path)
    assert parity.max_abs_error < 1e-4
    theirs = transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32)
    assert not adapted(theirs)
