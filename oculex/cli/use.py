"""What a run is good for: finding, writing, drawing, acting, a page for people, other tools' formats."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from oculex.cli.options import Device, Json, Many, Modality, Out, Run
from oculex.cli.printing import flat, print_json
from oculex.contracts import UserError


@dataclass(frozen=True)
class Embed:
    """Write embeddings of images or texts to a Parquet file: id, embedding."""

    run_folder: Run
    out: Out
    images: Annotated[
        str | None, arg(metavar="PATH", help="Images: any source that `oculex train --data` reads.")
    ] = None
    texts: Annotated[Path | None, arg(metavar="FILE", help="Texts, one a line.")] = None
    modality: Modality = "image"
    device: Device = "auto"

    def run(self) -> None:
        from oculex import embeddings

        count = embeddings.embed(
            self.run_folder,
            self.out,
            images=self.images,
            texts=self.texts,
            device=self.device,
            modality=self.modality,
        )
        print(f"{count} embeddings in {self.out}")


@dataclass(frozen=True)
class Index:
    """Make a searchable index of images."""

    run_folder: Run
    images: Annotated[str, arg(metavar="PATH", help="Images: any source that `oculex train --data` reads.")]
    out: Out
    modality: Modality = "image"
    device: Device = "auto"

    def run(self) -> None:
        from oculex import embeddings

        count = embeddings.index(
            self.run_folder, self.images, self.out, device=self.device, modality=self.modality
        )
        print(f'{count} images indexed; try: oculex search {self.out} "a red ball"')


@dataclass(frozen=True)
class Search:
    """Find the images of an index that fit a text."""

    index: Annotated[Positional[Path], arg(metavar="INDEX", help="As `oculex index` made it.")]
    query: Annotated[Positional[str], arg(metavar="TEXT")]
    k: Annotated[int, arg(aliases=("-k",), help="How many.")] = 10
    json: Json = False

    def run(self) -> None:
        from oculex import embeddings

        hits = embeddings.search(self.index, self.query, self.k)
        if self.json:
            print_json(hits)
            return
        for hit in hits:
            print(f"{hit['score']:.4f}  {hit['id']}")


@dataclass(frozen=True)
class Generate:
    """Let a run's system write or draw: describe an image, answer a question about it, go on with a text, paint one.

    `--image cat.jpg` alone describes the image; `--image a.jpg b.jpg --prompt "What colour is the ball?"` asks of each;
    `--prompt "A red"` alone goes on with the text where the run is a language model's; `--draw "a red cube" -o cube.png`
    draws what the text says.
    """

    run_folder: Run
    image: Annotated[Many, arg(metavar="FILE", help="Images to look at: JPEG, PNG, WebP and the like.")] = ()
    prompt: Annotated[
        str, arg(metavar="TEXT", help="What is asked, or begun. Without it each image is described.")
    ] = ""
    draw: Annotated[str, arg(metavar="TEXT", help="What is to be drawn.")] = ""
    out: Annotated[
        Path | None, arg(aliases=("-o",), metavar="FILE", help="Where the drawing goes: PNG, JPEG or WebP.")
    ] = None
    seed: Annotated[
        int, arg(help="Another one gives another picture, and another text above temperature 0.")
    ] = 0
    guidance: Annotated[
        float | None, arg(help="How closely a drawing keeps to the text. Default: as the run was configured.")
    ] = None
    most: Annotated[int, arg(metavar="TOKENS", help="Longest text.")] = 64
    temperature: Annotated[float, arg(help="0 writes the likeliest text; more draws words more freely.")] = (
        0.0
    )
    device: Device = "auto"
    json: Json = False

    def run(self) -> None:
        from oculex import inference

        if self.draw or self.out is not None:
            if self.image or self.prompt:
                raise UserError("a run either draws or writes; give --draw and -o, or --image and --prompt")
            if self.out is None:
                raise UserError("where should the drawing go? give -o FILE.png")
            drawn = inference.draw(
                self.run_folder, self.draw, self.out, self.seed, self.device, self.guidance
            )
            print_json({"text": self.draw, "image": str(drawn)}) if self.json else print(drawn)
            return
        if self.guidance is not None:
            raise UserError("guidance is a drawing's; give --draw TEXT as well, or leave it out")
        said = inference.generate(
            self.run_folder,
            flat(self.image),
            self.prompt,
            self.most,
            self.device,
            self.temperature,
            self.seed,
        )
        if self.json:
            print_json(said)
            return
        for each in said:
            print(each["text"] if len(said) == 1 else f"{each['image']}\n  {each['text']}")


@dataclass(frozen=True)
class Act:
    """Let a run's robot say what it does next: `oculex act RUN --image seen.png --instruction "push the red cube"`.

    `oculex evaluate RUN --on table` lets it do so in the simulator, step after step.
    """

    run_folder: Run
    instruction: Annotated[str, arg(metavar="TEXT", help="What it is told to do.")]
    image: Annotated[Many, arg(metavar="FILE", help="What it sees: JPEG, PNG, WebP and the like.")] = ()
    device: Device = "auto"
    json: Json = False

    def run(self) -> None:
        from oculex import inference

        done = inference.act(self.run_folder, self.instruction, flat(self.image), self.device)
        if self.json:
            print_json(done)
            return
        for each in done:
            numbers = " ".join(f"{value:.4g}" for value in each["action"])
            print(numbers if len(done) == 1 else f"{each['image']}\n  {numbers}")


@dataclass(frozen=True)
class Serve:
    """Open a page on which people ask a run: it searches, classifies, describes, answers, draws, finds, as the run can.

    The page searches what the run's data held out, or the pictures that are named here. It is for this machine alone
    unless --host or --share say otherwise.
    """

    run_folder: Run
    images: Annotated[
        str, arg(metavar="PATH", help="Pictures to search: any source that `oculex train --data` reads.")
    ] = ""
    index: Annotated[
        Path | None, arg(metavar="INDEX", help="Pictures to search, as `oculex index` made it.")
    ] = None
    host: Annotated[str, arg(help="Address to listen on; 0.0.0.0 lets every machine of the network in.")] = (
        "127.0.0.1"
    )
    port: Annotated[int, arg(help="0 takes a free one.")] = 7860
    share: Annotated[bool, arg(help="Let anyone in who has the link, through Gradio's servers.")] = False
    device: Device = "auto"

    def run(self) -> None:
        from oculex.serve import serve

        serve(self.run_folder, self.images, self.index, self.host, self.port, self.share, self.device)


@dataclass(frozen=True)
class Export:
    """Export a run's model to a format that other tools open; prints how exactly it agrees."""

    run_folder: Run
    out: Annotated[Positional[Path], arg(metavar="OUT")]
    to: Annotated[Literal["open_clip", "transformers", "timm", "onnx"], arg(help="Format.")]
    modality: Modality = "image"

    def run(self) -> None:
        from oculex import export

        for parity in export.export_run(self.run_folder, self.to, self.out, self.modality):
            print(
                f"{parity.name:<20} largest absolute difference {parity.max_abs_error:.1e} over {parity.n} values"
            )
        print(f"exported to {self.out}")


@dataclass(frozen=True)
class Import:
    """Make a run of published weights, so that they can be evaluated, searched and trained on here."""

    model: Annotated[Positional[str], arg(metavar="MODEL", help="Name, file or folder.")]
    out: Out
    from_: Annotated[Literal["open_clip", "transformers"], arg(name="from", help="Whose format.")]
    pretrained: Annotated[str, arg(help="open_clip's tag or a weights file.")] = ""
    allow_pickle: Annotated[
        bool, arg(help="Accept weights that are not safetensors; only from people you trust.")
    ] = False

    def run(self) -> None:
        from oculex import export

        for parity in export.import_run(
            self.from_, self.model, self.out, pretrained=self.pretrained, allow_pickle=self.allow_pickle
        ):
            print(
                f"{parity.name:<20} largest absolute difference {parity.max_abs_error:.1e} over {parity.n} values"
            )
        print(f"imported; try: oculex evaluate {self.out} --on PATH")
