"""What a picture shows: the classes that a classifier knows, or names that the user gives (zero-shot)."""

from __future__ import annotations

from typing import Any

import gradio as gr
import torch
from torch import Tensor
from torch.nn.functional import normalize

from oculex.contracts import Classifies, EncodesImages, EncodesText, ScoresTexts, UserError
from oculex.evaluation import zeroshot
from oculex.evaluation.prompts import prompts
from oculex.serve import parts
from oculex.serve.opened import Opened
from oculex.serve.shelf import Shelf, by_text

NAMES = 500
"""Most that are told apart at once."""
SHOWN = 15


def named(run: Opened, picture: bytes | None, names: str) -> dict[str, Any]:
    """{"rows": [{"name", "score", "width", "shown"}, ...], "about"}, the best first: each of the user's names against
    the picture, as the zero-shot evaluation asks it (``oculex.evaluation.zeroshot``)."""
    sample = {"id": "the picture", "image": parts.given(picture)}
    classes = tuple(parts.lines(parts.text(names, "the names"), NAMES))
    if len(classes) < 2:
        raise UserError("give two names or more, one a line, for it to choose from")
    wordings = prompts(run.recipe.evaluation.prompts)
    with run.asking():
        image = run.batch(sample)
        scores = (_cosines if by_text(run.system) else _scores)(run, image, classes, wordings)
    kind = "Cosine similarity" if by_text(run.system) else "Score"
    least, most = float(scores.min()), float(scores.max())
    span = max(most - least, 1e-9)
    of = f", mean of {len(wordings)} wordings" if len(wordings) > 1 else ""
    about = f"{kind}{of}; bars run from the worst name to the best."
    return _rows(classes, scores, [(score - least) / span for score in scores.tolist()], "{:.3f}", about)


def _cosines(run: Opened, image: Any, classes: tuple[str, ...], wordings: tuple[str, ...]) -> Tensor:
    texts = [{"id": str(n), "caption": each} for n, each in enumerate(zeroshot.texts(classes, wordings))]
    embedded = torch.cat(
        [run.system.encode_text(run.batch(*texts[n : n + 256])) for n in range(0, len(texts), 256)]
    )
    weights = zeroshot.class_weights(embedded.float().view(len(classes), len(wordings), -1))
    return weights @ normalize(run.system.encode_image(image)[0].float(), dim=0)


def _scores(run: Opened, image: Any, classes: tuple[str, ...], wordings: tuple[str, ...]) -> Tensor:
    texts = [{"id": str(n), "caption": each} for n, each in enumerate(zeroshot.texts(classes, wordings))]
    scores = run.system.score_texts(image, run.batch(*texts))[0].float()
    return scores.view(len(classes), len(wordings)).mean(1)


def known(run: Opened, picture: bytes | None) -> dict[str, Any]:
    """The same of the classes that the system was trained to tell apart, by their probability."""
    sample = {"id": "the picture", "image": parts.given(picture)}
    with run.asking():
        probability = run.system.classify(run.batch(sample))[0].float().softmax(0)
    count = len(probability)
    classes = run.classes if len(run.classes) == count else tuple(f"class {n}" for n in range(count))
    about = f"Probability among the {count:,} classes that it was trained on."
    return _rows(classes, probability, probability.tolist(), "{:.1%}", about)


def _rows(
    classes: tuple[str, ...], scores: Tensor, widths: list[float], form: str, about: str
) -> dict[str, Any]:
    order = scores.argsort(descending=True, stable=True).tolist()[:SHOWN]
    values = scores.tolist()
    rows = [
        {
            "name": classes[n],
            "score": values[n],
            "width": round(100 * widths[n], 1),
            "shown": form.format(values[n]).replace("-", "−"),
        }
        for n in order
    ]
    return {"rows": rows, "about": about}


def panel(run: Opened, shelf: Shelf | None) -> None:
    system = run.system
    free = (isinstance(system, EncodesImages) and isinstance(system, EncodesText)) or isinstance(
        system, ScoresTexts
    )
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            picture = parts.upload()
            if free:
                classes = run.held_out.classes if run.held_out else ()
                names = gr.Textbox(
                    "\n".join(classes[:NAMES]), label="Names, one a line", lines=6, max_lines=12,
                    placeholder="a cat\na dog",
                )  # fmt: skip
                choose = gr.Button("Choose among these names", variant="primary")
            if isinstance(system, Classifies):
                tell = gr.Button("Classify", variant="secondary" if free else "primary")
            parts.examples(
                [parts.first(s, ()) for s in run.examples("image")], [picture], "Held-out pictures"
            )
        with gr.Column(scale=1, min_width=320):
            found = parts.laid_out(parts.BARS, elem_id="classes")
    if free:
        by_name = parts.told(lambda picture, names: named(run, picture, names))
        about = "Which of the given names, one a line, fits a picture best."
        parts.ask(choose, by_name, (picture, names), found, "classify_names", about)
    if isinstance(system, Classifies):
        by_class = parts.told(lambda picture: known(run, picture))
        parts.ask(
            tell,
            by_class,
            (picture,),
            found,
            "classify",
            "The likeliest of the classes that it was trained on.",
        )
