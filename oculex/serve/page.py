"""The page: what the run is and how good, and a tab for each thing that it can be asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import gradio as gr

from oculex.report.page import overview
from oculex.serve import tabs
from oculex.serve.opened import Opened
from oculex.serve.shelf import Shelf

_FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "DejaVu Sans", "sans-serif")
_MONO = ("ui-monospace", "SF Mono", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace")
"""Of the machine that looks: no font is loaded from anywhere."""
NAMED = 48
"""Classes of a run's data that are named."""


def build(run: Opened, shelf: Shelf | None, kept: float) -> gr.Blocks:
    """The page of a run; ``kept``: seconds that uploads and drawings are kept."""
    with gr.Blocks(
        title=f"{run.title} · oculex", analytics_enabled=False, fill_width=True, delete_cache=(600, int(kept))
    ) as page:
        gr.HTML(_head(overview(run.folder.path), run.classes), js_on_load=None, elem_id="head")
        able = tabs.of(run.system)
        if not able:
            gr.Markdown(
                f"{run.name} can be asked nothing that a page could show; `oculex show {run.name}` tells what it does."
            )
        with gr.Tabs():
            for tab in able:
                with gr.Tab(tab.title, id=tab.title.lower()):
                    tab.panel(run, shelf)
    page.queue(max_size=32)
    return page


def _head(seen: Mapping[str, Any], classes: Sequence[str]) -> str:
    """Name, sentence, what it was shown and headline numbers, escaped."""
    head, numbers = seen["head"], seen["numbers"]
    cells = "".join(
        f"<div><dt>{escape(n['title'])}</dt>"
        f"<dd class='big'>{escape(n['value'])}<small>{escape(n['unit'])}</small></dd>"
        f"<dd>{escape(n['span'])}{_more(n)}</dd></div>"
        for n in numbers
    )
    return (
        f"<p class='over'><b>{escape(head['run'])}</b><span>{escape(head['date'])}</span></p>"
        f"<h1>{escape(head['title'])}</h1><p class='lead'>{escape(head['sentence'])}</p>"
        f"<p class='fine'>{escape(head['paper'])}</p>{_known(classes)}"
        + (
            f"<dl>{cells}</dl>"
            if cells
            else "<p class='fine'>It has not been evaluated; `oculex evaluate` does.</p>"
        )
    )


def _known(classes: Sequence[str]) -> str:
    """The classes of its data, so that nobody asks a small run for what it never saw and blames the system."""
    if not classes:
        return ""
    more = f" and {len(classes) - NAMED:,} more" if len(classes) > NAMED else ""
    named = escape(", ".join(classes[:NAMED]))
    return f"<p class='fine'>Trained on data of {len(classes):,} classes, so it may know nothing else: {named}{more}.</p>"


def _more(number: Mapping[str, Any]) -> str:
    known = [
        f"n = {number['n']}" if number["n"] else "",
        f"chance {number['chance']}" if number["chance"] else "",
    ]
    return "".join(f" · {escape(each)}" for each in known if each)


def look() -> dict[str, Any]:
    """Theme and style, as ``Blocks.launch`` takes them: the colours and the plainness of the run's report."""
    theme = gr.themes.Base(
        primary_hue=gr.themes.colors.blue, neutral_hue=gr.themes.colors.gray, font=_FONT, font_mono=_MONO,
        radius_size=gr.themes.sizes.radius_sm,
    ).set(
        body_background_fill="#fcfcfa", body_background_fill_dark="#131517", body_text_color="#17191c",
        body_text_color_dark="#e9eaeb", body_text_color_subdued="#5c636c", body_text_color_subdued_dark="#9aa2ab",
        background_fill_primary="#ffffff", background_fill_primary_dark="#1c1f22", block_background_fill="#ffffff",
        block_background_fill_dark="#1c1f22", block_border_color="#e2e3df", block_border_color_dark="#2b2f34",
        border_color_primary="#e2e3df", border_color_primary_dark="#2b2f34", block_shadow="none",
        block_label_background_fill="#ffffff", block_label_background_fill_dark="#1c1f22",
        block_label_text_color="#5c636c", block_label_text_color_dark="#9aa2ab",
        block_title_text_weight="600", input_background_fill="#fcfcfa", input_background_fill_dark="#131517",
        button_primary_background_fill="#0b66b0", button_primary_background_fill_hover="#095494",
        button_primary_background_fill_dark="#2f7fc4", button_primary_background_fill_hover_dark="#3f8fd4",
        button_primary_text_color="#ffffff", color_accent="#0b66b0", slider_color="#0b66b0", slider_color_dark="#63aef0",
    )  # fmt: skip
    return {"theme": theme, "css": STYLE}


STYLE = """
.gradio-container {
  width: 100% !important; max-width: 78rem !important; margin: 0 auto !important; padding: 0 1.25rem 3rem !important;
  font-variant-numeric: tabular-nums;
}
.gradio-container .wrap, .gradio-container main.contain { width: 100%; }
.upload img { width: 100%; height: 100%; object-fit: contain; }
#head { padding: 2.25rem 0 .5rem; overflow-wrap: anywhere; }
#head .prose, #head > div { padding: 0 !important; }
#head p, #head dl, #head dd, #head h1 { margin: 0; }
#head .over {
  display: flex; flex-wrap: wrap; gap: 0 1.25rem; font-size: .8125rem; color: var(--body-text-color-subdued);
  margin-bottom: .9rem;
}
#head .over b { color: var(--body-text-color); }
#head h1 {
  font-size: clamp(1.7rem, 4vw, 2.6rem); line-height: 1.1; font-weight: 650; letter-spacing: -.025em;
  text-wrap: balance;
}
#head .lead { font-size: 1.0625rem; margin-top: .7rem; }
#head .fine, .fine { font-size: .8125rem; color: var(--body-text-color-subdued); }
#head .fine { margin-top: .35rem; max-width: 92ch; }
#head dl {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(12rem, 1fr)); gap: 1.25rem 2rem;
  margin: 1.6rem 0 .6rem;
}
#head dt { font-size: .8125rem; font-weight: 500; min-height: 2.5em; display: flex; align-items: flex-end; }
#head dd { font-size: .8125rem; color: var(--body-text-color-subdued); }
#head .big {
  font-size: 2.1rem; line-height: 1.2; font-weight: 650; letter-spacing: -.03em; color: var(--body-text-color);
}
#head .big small {
  font-size: .5em; font-weight: 500; letter-spacing: 0; color: var(--body-text-color-subdued);
  margin-left: .15em;
}
.empty {
  color: var(--body-text-color-subdued); padding: 2.5rem 0; text-align: center;
  border: 1px dashed var(--border-color-primary); border-radius: 4px;
}
.hits, .bars, .phrases { list-style: none; margin: 0 0 .75rem; padding: 0; }
.hits { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: 1.1rem .9rem; }
.hits li { margin: 0; overflow-wrap: anywhere; }
.hits img, .hits .none {
  width: 100%; aspect-ratio: 1; object-fit: cover; border-radius: 3px; display: block;
  background: var(--border-color-primary);
}
.hits .none { display: grid; place-items: center; font-size: .8125rem; color: var(--body-text-color-subdued); }
.hits b { display: block; margin-top: .35rem; font-size: .875rem; font-weight: 650; }
.hits span { display: block; font-size: .8125rem; line-height: 1.35; }
.hits small { font-size: .72rem; color: var(--body-text-color-subdued); }
.bars li {
  display: grid; grid-template-columns: minmax(6rem, 14rem) 1fr 4.5rem; gap: 0 .9rem; align-items: center;
  padding: .3rem 0; margin: 0; border-top: 1px solid var(--border-color-primary);
}
.bars li:first-child { border-top: 0; font-weight: 650; }
.bars span { overflow-wrap: anywhere; }
.bars i { height: .55rem; background: var(--border-color-primary); border-radius: 2px; overflow: hidden; }
.bars em { display: block; height: 100%; background: var(--slider-color); }
.bars b { text-align: right; font-weight: inherit; }
.phrases li {
  display: grid; grid-template-columns: .9rem 1fr auto; gap: .7rem; align-items: center; padding: .3rem 0;
  margin: 0;
}
.phrases u { width: .9rem; height: .9rem; border-radius: 2px; }
.phrases b { font-weight: 650; }
#drawn img, #features img { image-rendering: pixelated; }
"""
