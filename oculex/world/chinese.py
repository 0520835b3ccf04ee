"""Chinese captions."""

from __future__ import annotations

import numpy as np

from oculex.world.content import Content
from oculex.world.draws import pick
from oculex.world.objects import Object
from oculex.world.words import (
    ZH_COLOUR,
    ZH_FLOOR,
    ZH_MATERIAL,
    ZH_NUMBER,
    ZH_PATTERN,
    ZH_RELATION,
    ZH_SHAPE,
    ZH_SIZE,
)

_LIGHT = {
    "studio": "光线明亮均匀。", "dusk": "傍晚温暖的斜光投下长长的影子。", "overcast": "光线灰暗柔和。",
    "night": "夜里只有一盏灯。", "film": "画面像老胶片一样偏暖，带有颗粒。",
    "sketch": "画面像带轮廓线的版画。",
}  # fmt: skip


def describe(thing: Object, size: bool, pattern: bool, material: bool, counted: bool = True) -> str:
    """Measure word, colour, pattern, material, size, noun."""
    measure, noun = ZH_SHAPE[thing.shape]
    words = [
        f"一{measure}" if counted else "",
        ZH_COLOUR[thing.colour],
        ZH_PATTERN[thing.pattern] if pattern and thing.pattern != "plain" else "",
        ZH_MATERIAL[thing.material] if material else "的",
        ZH_SIZE[thing.size] if size else "",
        noun,
    ]
    return "".join(words)


def alt(content: Content, rng: np.random.Generator) -> str:
    if not content.objects:
        return f"空无一物的{ZH_FLOOR[content.floor]}"
    how = (rng.random() < 0.3, rng.random() < 0.6, rng.random() < 0.55)
    first = content.objects[0]
    text = describe(first, *how)
    if content.legible[0] and not content.insist and rng.random() < 0.6:
        text += f"，上面印着“{first.label}”"
    elif len(content.objects) > 1 and (content.insist or rng.random() < 0.85):
        second, place = content.objects[1], content.places[1]
        if place is None or (not content.insist and rng.random() < 0.25):
            text += f"和{describe(second, *how)}"
        else:
            text = f"{describe(second, *how)}在{text}的{ZH_RELATION[place[0]]}"
    if rng.random() < 0.25:
        return f"{ZH_FLOOR[content.floor]}上，{text}"
    return pick(rng, ("", "", "", "照片：", "图中是")) + text


def detailed(content: Content, rng: np.random.Generator) -> str:
    count = ZH_NUMBER[len(content.objects)]
    opening = (
        f"{ZH_FLOOR[content.floor]}上有{count}个物体。",
        f"图片中，{ZH_FLOOR[content.floor]}上有{count}个物体。",
    )
    sentences = [pick(rng, opening)]
    for i, thing in enumerate(content.objects):
        place, name = content.places[i], describe(thing, True, True, True)
        tail = f"，上面印着“{thing.label}”" if content.legible[i] else ""
        if i == 0:
            sentences.append(f"主体是{name}{tail}。")
        elif place:
            other = describe(content.objects[place[1]], True, True, True, counted=False)
            sentences.append(f"{other}的{ZH_RELATION[place[0]]}是{name}{tail}。")
        else:
            sentences.append(f"还有{name}{tail}。")
    sentences.append(_LIGHT.get(content.domain, ""))
    return "".join(sentences)
