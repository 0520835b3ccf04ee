"""Runs: train, go on, load, evaluate, compare, embed, search. The one place that joins training with evaluation."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from oculex import catalog
from oculex.contracts import (
    Acts,
    Answers,
    BadSample,
    Batch,
    ContinuesText,
    Draws,
    EncodesImages,
    EncodesModalities,
    EncodesText,
    GroundsPhrases,
    Recipe,
    RepresentsImages,
    Source,
    System,
    UserError,
)
from oculex.contracts import Evaluation as Asked
from oculex.data.assets import RunAssets
from oculex.data.collate import collate, to
from oculex.data.sources import open_source
from oculex.data.sources.files import is_file
from oculex.evaluation import EvalSet, Evaluation, Untrained
from oculex.evaluation import compare as compare_tables
from oculex.evaluation import evaluate as evaluate_system
from oculex.evaluation import records as tables
from oculex.evaluation.drawn import drawn
from oculex.evaluation.filmed import filmed
from oculex.evaluation.gallery import gallery
from oculex.nn.language.generate import Choice, choosing
from oculex.training import loop, plan, ranks, recipes, reopen
from oculex.training.folder import RunFolder, read_json, write_json
from oculex.training.foundations import foundation
from oculex.training.replay import repeat

# ------------------------------------------------------------------------------------------- training


def customised(
    recipe: Recipe,
    data: Sequence[str] = (),
    budget: str | None = None,
    seed: int | None = None,
    changes: Mapping[str, Any] | Sequence[str] = (),
) -> Recipe:
    """A preset's recipe with a user's choices. Raises UserError for data of which a stage would not hear."""
    deaf = [n for n, stage in enumerate(recipe.stages) if stage.sources] if data else []
    if deaf:
        raise UserError(
            f"stage {recipe.stages[deaf[0]].name!r} of {recipe.system} has data of its own, which --data would not "
            f"change; give it yours by --set 'stages.{deaf[0]}.sources=[\"PATH\"]', the common by --set data.sources=..."
        )
    named = {"data.sources": list(data) or None, "budget": budget, "seed": seed}
    recipe = recipes.change(recipe, {key: value for key, value in named.items() if value is not None})
    return recipes.change(recipe, changes) if changes else recipe


def train(
    system: str,
    preset: str = "tiny",
    data: Sequence[str] = (),
    out: Path | None = None,
    budget: str | None = None,
    seed: int | None = None,
    changes: Mapping[str, Any] | Sequence[str] = (),
    quiet: bool = False,
) -> RunFolder:
    """Trains a catalog system and evaluates it; the run's folder."""
    name = catalog.find(system).name
    recipe = customised(recipes.preset(catalog.load(name), name, preset), data, budget, seed, changes)
    out = out or Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    return start(recipe, out, quiet=quiet)


def start(recipe: Recipe, out: Path, quiet: bool = False) -> RunFolder:
    """Trains a recipe into a new run folder."""
    return loop.start(recipe, out, _Evaluator(recipe, RunFolder(out)), foundation, quiet)


def resume(run: Path, skip_batch: bool = False, quiet: bool = False) -> RunFolder:
    """Goes on with a run from its last checkpoint."""
    opened = RunFolder.open(run)
    loop.resume(
        opened, _Evaluator(reopen.load_recipe(opened), opened), foundation, quiet=quiet, skip_batch=skip_batch
    )
    return opened


def replay(file: Path, changes: Sequence[str] = ()) -> dict[str, Any]:
    """Does the step that a crash.json tells of again, alone; what of it is not finite."""
    return repeat(file, changes)


class _Evaluator:
    """What the loop calls: metrics of the system on the run's evaluation sets. Only those that count keep records."""

    def __init__(self, recipe: Recipe, folder: RunFolder) -> None:
        self.recipe, self.folder = recipe, folder
        self.untrained = Untrained(partial(reopen.fresh, recipe, folder))

    def __call__(self, system: System, pool: plan.Pool, step: int, final: bool) -> dict[str, Any]:
        found = _sets(self.recipe.evaluation.on, pool, self.recipe.evaluation)
        if not found:
            return {}
        limit = None if final else self.recipe.evaluation.limit
        result = evaluate_system(
            system,
            found,
            device=next(system.parameters()).device,  # type: ignore[attr-defined]
            cache=None,
            limit=limit,
            tasks=self.recipe.evaluation.tasks,
            untrained=self.untrained,
            precision=self.recipe.precision,
        )
        if final and ranks.leads():
            _keep(self.folder, f"step-{step:09d}", result, found)
        return _json(result.metrics)


def _sets(on: Sequence[str], pool: plan.Pool, asked: Asked) -> dict[str, EvalSet]:
    """Named sources, or what the training data held out; probes are fitted on the training part."""
    judges = {name: partial(foundation, spec) for name, spec in asdict(asked.judges).items() if spec}
    if on:
        opened = [open_source(spec) for spec in on]
        return {
            name: EvalSet(name, source, None, asked.prompts, judges)
            for name, source in zip(_slugs(opened), opened, strict=True)
        }
    names = _slugs(pool.held_out)
    paired = dict(zip([source.name for source in pool.train], pool.train, strict=True))
    return {
        n: EvalSet(n, held, paired.get(held.name), asked.prompts, judges)
        for n, held in zip(names, pool.held_out, strict=True)
    }


def _slugs(sources: Sequence[Source]) -> list[str]:
    """Short unique names for metrics: the last part of a path."""
    names: list[str] = []
    for source in sources:
        base = (
            re.sub(r"[^\w.-]+", "-", source.name.split(":")[0].rstrip("/").rsplit("/", 1)[-1]).strip("-")
            or "data"
        )
        names.append(base if base not in names else f"{base}-{len(names)}")
    return names


def _keep(folder: RunFolder, name: str, result: Evaluation, sets: Mapping[str, EvalSet]) -> Path:
    """Records, their metrics, the gallery of what was retrieved, pictures with boxes that were found, films of robots."""
    path = folder.records / f"{name}.parquet"
    result.table.write(path)
    write_json(folder.records / f"{name}.json", {"metrics": _json(result.metrics), "records": str(path)})
    found = gallery(result.table, {each: evalset.test for each, evalset in sets.items()})
    if found:
        write_json(folder.path / "gallery.json", found)
    boxes = drawn(result.table, {each: evalset.test for each, evalset in sets.items()})
    if boxes:
        write_json(folder.path / "boxes.json", boxes)
    films = filmed(result.table, {each: evalset.test for each, evalset in sets.items()})
    if films:
        write_json(folder.path / "films.json", films)
    return path


def _json(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {name: asdict(estimate) for name, estimate in metrics.items()}


# -------------------------------------------------------------------------------------- finished runs


def folder(run: Path) -> RunFolder:
    """The run's folder; raises UserError where there is none."""
    return RunFolder.open(Path(run))


def load(run: Path | str, device: str = "cpu") -> System:
    """The system of a run with the weights of its last checkpoint (the averaged ones where it has them)."""
    system: Any = reopen.load(RunFolder.open(Path(run)))
    return system.to(torch.device(resolve(device))).eval()


def resolve(device: str) -> str:
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def parameters(run: Path) -> int:
    return sum(p.numel() for p in load(run).parameters())  # type: ignore[attr-defined]


def evaluate(
    run: Path | str, on: Sequence[str] = (), limit: int | None = None, device: str = "auto"
) -> dict[str, Any]:
    """{"metrics": {name: {value, low, high, n}}, "records": path}. An interrupted evaluation is gone on with."""
    opened = RunFolder.open(Path(run))
    recipe = reopen.load_recipe(opened)
    system = load(run, device)
    pool = plan.Pool((), (), None) if on else plan.open_pool(recipe.data.sources, recipe.data.holdout)
    found = _sets(tuple(on) or recipe.evaluation.on, pool, recipe.evaluation)
    if not found:
        raise UserError(f"{run} held nothing out (data.holdout=0); name a source with --on PATH")
    result = evaluate_system(
        system,
        found,
        device=resolve(device),
        cache=opened.records / "cache",
        limit=limit,
        also=recipe.evaluation.tasks,
        untrained=Untrained(partial(reopen.fresh, recipe, opened)),
        precision=recipe.precision,
    )
    digest = hashlib.sha256(repr((sorted(on), limit)).encode()).hexdigest()[:8]
    records = _keep(opened, f"evaluate-{digest}", result, found)
    skipped = [{"set": name, "id": key, "reason": reason} for name, key, reason in result.skipped]
    return {"metrics": _json(result.metrics), "records": str(records), "skipped": skipped}


def last_records(opened: RunFolder) -> Path:
    """The newest record table of a run."""
    found = sorted(opened.records.glob("*.parquet"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise UserError(f"{opened.path} has no records; `oculex evaluate {opened.path}` makes them")
    return found[-1]


def compare(runs: Sequence[Path]) -> dict[str, Any]:
    """Paired differences of each run to the first, on the items that both answered."""
    first, *others = [tables.read(last_records(RunFolder.open(run))) for run in runs]
    differences = {
        str(run): _json(compare_tables(other, first)) for run, other in zip(runs[1:], others, strict=True)
    }
    return {"base": str(runs[0]), "differences": differences}


def describe(name: str) -> dict[str, Any]:
    """What `oculex show` prints: from the catalog, and from the system's file where there is one."""
    row = catalog.find(name)
    shown = dataclasses.asdict(row) | {
        "status": catalog.status(row),
        "about": row.claim,
        "presets": {},
        "claims": [],
    }
    if not catalog.has_code(row):
        return shown
    plugin = catalog.load(name)
    module = __import__(row.module, fromlist=["_"])
    shown["about"] = (module.__doc__ or "").strip()
    for preset in plugin.presets:
        recipe = recipes.preset(plugin, name, preset)
        with torch.device("meta"):
            system: Any = plugin.system.build(recipe.model, RunAssets(None, None))
        count = sum(p.numel() for p in system.parameters())
        shown["presets"][preset] = {"parameters": count, "budget": recipe.budget, "batch": recipe.batch}
    shown["claims"] = [dataclasses.asdict(claim) for claim in plugin.claims]
    return shown


# ------------------------------------------------------------------------------------------------ texts

_TOGETHER = 32
"""Images that are looked at in one batch."""


def generate(
    run: Path | str,
    images: Sequence[Path | str] = (),
    prompt: str = "",
    most: int = 64,
    device: str = "auto",
    temperature: float = 0.0,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """[{"image", "prompt", "text"}]: what a run's system says of each image, or, without images, to the prompt alone.

    Without a prompt an image is described. A system that grounds phrases says where the prompt's is. ``most``: tokens
    of a text. ``temperature`` 0 takes the likeliest token each time, so equal calls give equal
    texts; any other draws by ``seed``. Raises UserError where the system does not write, where there is neither image nor
    prompt, for a file that is no image, and for a prompt that does not fit.
    """
    if most < 1:
        raise UserError(f"a text of {most} tokens says nothing; give --most 1 or more")
    if temperature < 0:
        raise UserError(f"a temperature of {temperature} means nothing; give --temperature 0 or more")
    system: Any = load(run, device)
    name = reopen.load_recipe(RunFolder.open(Path(run))).system
    views, say = asked(system, name, [(str(path), _image(Path(path))) for path in images], prompt)
    texts, where = list[str](), torch.device(resolve(device))
    by = Choice(temperature, torch.Generator(where).manual_seed(seed))
    with torch.inference_mode(), choosing(by):
        for start in range(0, len(views), _TOGETHER):
            texts += say(to(collate(views[start : start + _TOGETHER]), where), most)
    shown: list[str | None] = [str(path) for path in images] or [None]
    return [{"image": i, "prompt": prompt, "text": text} for i, text in zip(shown, texts, strict=True)]


def asked(
    system: Any, name: str, images: Sequence[tuple[str, bytes]], prompt: str
) -> tuple[list[dict[str, Any]], Callable[[Batch, int], list[str]]]:
    """Views of the ``prompt`` about each of the images, (id, file) each, or alone, and what answers a batch of them.

    ``name``: of the system, for errors; UserError as ``generate`` raises it.
    """
    if not images and not prompt.strip():
        raise UserError("there is nothing to write about; give an image, a prompt or both")
    question = {"question": prompt} if prompt.strip() else {}
    if isinstance(system, Answers):
        samples: list[dict[str, Any]] = [{"id": key, "image": image, **question} for key, image in images]
        samples, say = samples or [{"id": "the prompt", **question}], system.answer
    elif isinstance(system, GroundsPhrases):
        if not images or not question:
            raise UserError(f"{name} finds what a phrase means; give an image and the phrase as the prompt")
        phrase = {"text": prompt, "spans": [[[0, len(prompt)]]], "boxes": [[]]}
        if not system.reads(phrase):
            raise UserError(f"the phrase {prompt[:60]!r} is longer than {name} reads; give a shorter one")
        samples = [{"id": key, "image": image, "grounded": [phrase]} for key, image in images]
        say = partial(_places, system)
    elif not isinstance(system, ContinuesText):
        raise UserError(f"{name} writes no text; `oculex show {name}` tells what it does")
    elif images:
        raise UserError(f"{name} goes on with a text and sees nothing; leave the image out and give a prompt")
    else:
        samples, say = [{"id": "the prompt", "caption": prompt}], system.continue_text
    try:
        return [system.view(sample, None) for sample in samples], say  # type: ignore[attr-defined]
    except BadSample as bad:
        raise UserError(str(bad)) from None


def _places(system: GroundsPhrases, batch: Batch, most: int) -> list[str]:
    """Of each image the best place of its one phrase, in shares of the picture's width and height, as a text."""
    best = system.ground(batch, 1)[:, 0, 0].tolist()
    return [
        "x {0:.3f} to {2:.3f}, y {1:.3f} to {3:.3f} of the picture, score {4:.3f}".format(*each)
        for each in best
    ]


def act(
    run: Path | str, instruction: str, images: Sequence[Path | str] = (), device: str = "auto"
) -> list[dict[str, Any]]:
    """[{"image", "instruction", "action"}]: what a run's robot does next where it sees each image, or nothing.

    Raises UserError where the system does not act, nothing is told, or a file is no image.
    """
    system: Any = load(run, device)
    if not isinstance(system, Acts):
        name = reopen.load_recipe(RunFolder.open(Path(run))).system
        raise UserError(f"{name} does not act; `oculex show {name}` tells what it does")
    if not instruction.strip():
        raise UserError("what is the robot to do? give --instruction TEXT")
    told = {"instruction": instruction}
    samples = [{"id": str(path), "image": _image(Path(path)), **told} for path in images]
    try:
        views = [system.view(sample, None) for sample in samples or [{"id": "the instruction", **told}]]  # type: ignore[attr-defined]
    except BadSample as bad:
        raise UserError(str(bad)) from None
    with torch.inference_mode():
        actions = system.act(to(collate(views), torch.device(resolve(device)))).tolist()
    shown: list[str | None] = [str(path) for path in images] or [None]
    return [
        {"image": i, "instruction": instruction, "action": a} for i, a in zip(shown, actions, strict=True)
    ]


def draw(
    run: Path | str,
    text: str,
    out: Path | str,
    seed: int = 0,
    device: str = "auto",
    guidance: float | None = None,
) -> Path:
    """A run's picture of a text, written to ``out``, a PNG, JPEG or WebP by its name; equal seeds give equal pictures.

    Raises UserError where ``painted`` does or the file cannot be written.
    """
    from PIL import Image

    out = Path(out)
    if out.suffix.lower() not in _PICTURES:
        raise UserError(f"{out} does not say what kind of picture it is; end it in {', '.join(_PICTURES)}")
    name = reopen.load_recipe(RunFolder.open(Path(run))).system
    picture = painted(load(run, device), name, text, seed, guidance)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(out)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}") from error
    return out


def painted(system: Any, name: str, text: str, seed: int = 0, guidance: float | None = None) -> np.ndarray:
    """A system's picture of a text, uint8 [H, W, 3]. ``guidance``: how closely it keeps to the text; None: as configured.

    ``name``: of the system, for errors. Raises UserError where it does not draw, has no guidance, or the text is empty.
    """
    if not text.strip():
        raise UserError("there is nothing to draw; say what")
    if not isinstance(system, Draws):
        raise UserError(f"{name} draws no pictures; `oculex show {name}` tells what it does")
    shown: Any = system
    config, where = shown.config, next(shown.parameters()).device
    if guidance is not None and not hasattr(config, "guidance"):
        raise UserError(f"{name} draws without guidance; leave it out")
    batch = to(collate([shown.view({"id": "the text", "caption": text}, None)]), where)
    if guidance is not None:
        shown.config = dataclasses.replace(config, guidance=guidance)
    try:
        with torch.inference_mode():
            (picture,) = shown.draw(batch, torch.Generator(where).manual_seed(seed))
    finally:
        shown.config = config
    return picture.permute(1, 2, 0).cpu().numpy()


_PICTURES = (".png", ".jpg", ".jpeg", ".webp")


def _image(path: Path) -> bytes:
    if not is_file(path):
        raise UserError(f"{path} is not a file; give pictures, such as photo.jpg")
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


# -------------------------------------------------------------------------------- embeddings and search


def embed(
    run: Path,
    out: Path,
    images: str | None = None,
    texts: Path | None = None,
    device: str = "auto",
    modality: str = "image",
) -> int:
    """Writes id and embedding of every image or text to a Parquet file; how many.

    Of images it is the embedding shared with text; of a system that has none, the features that probes are fitted on.
    ``modality``: another key of the samples than the image, such as audio, of a system that encodes it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if (images is None) == (texts is None):
        raise UserError("give either --images PATH or --texts FILE")
    system = load(run, device)
    ids, values = _embedded(
        system, images=images, texts=texts, device=resolve(device), features=True, modality=modality
    )
    column = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel(), pa.float32()), values.shape[1])
    part = out.with_name(f".{out.name}.part")
    out.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"id": ids, "embedding": column}), part)
    part.replace(out)
    return len(ids)


def _embedded(
    system: Any,
    images: str | None,
    texts: Path | None,
    device: str,
    features: bool = False,
    modality: str = "image",
) -> tuple[list[str], np.ndarray]:
    """(ids, float32 [n, D]). ``features``: what a system that does not encode images represents them by will do."""
    from oculex.evaluation.embed import embed as embed_source

    if images is not None and modality != "image":
        known = system.modalities if isinstance(system, EncodesModalities) else ()
        if modality not in known:
            raise UserError(f"this system encodes {', '.join(known) or 'images alone'}, not {modality!r}")
        return embed_source(system, open_source(images), modality, device=device)
    wanted, capability = ("image", EncodesImages) if texts is None else ("text", EncodesText)
    if not isinstance(system, capability):
        if not (features and wanted == "image" and isinstance(system, RepresentsImages)):
            raise UserError(f"this system does not encode {wanted}s; `oculex show` tells what it can do")
        wanted = "represent"
    source = open_source(images) if images is not None else _Texts(texts)  # type: ignore[arg-type]
    return embed_source(system, source, wanted, device=device)


class _Texts:
    """Lines of a text file as samples."""

    classes: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"cannot read {path}: {error}; give a UTF-8 text file, one text a line"
            ) from error
        self.name, self.lines = str(path), [line.strip() for line in text.splitlines() if line.strip()]
        if not self.lines:
            raise UserError(f"{path} has no text; give one text a line")

    def fingerprint(self) -> str:
        return hashlib.sha256("\n".join(self.lines).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int, /) -> dict[str, str]:
        return {"id": self.lines[index], "caption": self.lines[index]}


def index(run: Path, images: str, out: Path, device: str = "auto", modality: str = "image") -> int:
    """Writes a folder with unit-norm image embeddings, their ids, and which run answers queries; how many. ``modality``
    as for ``embed``."""
    ids, values = _embedded(
        load(run, device), images=images, texts=None, device=resolve(device), modality=modality
    )
    out.mkdir(parents=True, exist_ok=True)
    np.save(
        out / "embeddings.npy", values / np.linalg.norm(values, axis=1, keepdims=True), allow_pickle=False
    )
    write_json(out / "index.json", {"run": str(Path(run).resolve()), "images": images, "ids": ids})
    return len(ids)


def open_index(index: Path) -> tuple[dict[str, Any], np.ndarray]:
    """({"run", "images", "ids"}, unit-norm embeddings [n, D]) as ``index`` wrote them; UserError where there is none."""
    if not (index / "index.json").is_file():
        raise UserError(f"{index} is not an index; `oculex index RUN --images PATH -o {index}` makes one")
    try:
        values = np.load(index / "embeddings.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {index / 'embeddings.npy'}: {error}; make the index again") from error
    return read_json(index / "index.json"), values


def search(index: Path, query: str, k: int = 10) -> list[dict[str, Any]]:
    """The k best images: [{id, score}], score the cosine similarity."""
    facts, values = open_index(index)
    system: Any = load(facts["run"])
    with torch.no_grad():
        text = system.encode_text(collate([system.view({"id": "query", "caption": query}, None)]))[0].float()
    scores = values @ (text / text.norm()).numpy()
    best = np.argsort(-scores)[:k]
    return [{"id": facts["ids"][i], "score": float(scores[i])} for i in best]
