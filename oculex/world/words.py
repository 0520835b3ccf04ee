"""The words of the world in three languages: names, genders, measure words, synonyms."""

from __future__ import annotations

from typing import NamedTuple

LANGUAGES: tuple[str, ...] = ("en", "de", "zh")

SYNONYMS: dict[str, tuple[str, ...]] = {
    "sphere": ("ball", "orb"), "cube": ("block", "die"), "cylinder": ("can", "drum"), "cone": ("party hat",),
    "pyramid": ("square pyramid",), "torus": ("ring", "doughnut"), "capsule": ("pill", "tablet"),
    "prism": ("hexagonal prism", "hexagonal block"), "wedge": ("ramp", "doorstop"),
    "star": ("five-pointed star",),
    "cross": ("plus sign", "plus"), "heart": ("love heart", "valentine"), "mug": ("cup", "coffee mug"),
    "arch": ("archway", "gateway"), "mushroom": ("toadstool",), "bowl": ("dish", "basin"),
    "red": ("crimson", "scarlet"), "orange": ("tangerine", "amber"), "yellow": ("golden", "lemon-coloured"),
    "green": ("emerald", "leaf-green"), "cyan": ("turquoise", "aqua"), "blue": ("cobalt", "azure"),
    "purple": ("violet", "lilac"), "pink": ("rosy", "rose-coloured"),
    "brown": ("chestnut", "chocolate-coloured"),
    "white": ("snow-white", "ivory"), "gray": ("grey", "ash-coloured"), "black": ("jet-black", "ebony"),
    "rubber": ("soft rubber", "matte rubber"), "plastic": ("glossy plastic", "shiny plastic"),
    "metal": ("metallic", "steel"), "wooden": ("timber", "wood"), "stone": ("granite", "rock"),
    "small": ("little", "tiny"), "large": ("big", "huge"), "striped": ("stripy",),
    "checkered": ("chequered",),
    "dotted": ("spotted", "polka-dot"),
}  # fmt: skip
"""Other words for the same thing, most frequent first; every listed word means one concept only."""

MATERIAL_WORD: dict[str, str] = {
    "rubber": "rubber", "plastic": "plastic", "metal": "metal", "wood": "wooden", "stone": "stone",
}  # fmt: skip
FLOOR: dict[str, str] = {
    "plain": "a plain floor", "checkered": "a checkered floor", "wooden": "a wooden floor",
    "tiled": "a tiled floor", "concrete": "a concrete floor",
}  # fmt: skip
PLURAL: dict[str, str] = {"torus": "tori", "prism": "prisms", "cross": "crosses", "arch": "arches"}
NUMBER: tuple[str, ...] = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")


class Noun(NamedTuple):
    word: str
    gender: str
    """m, f or n."""


DE_SHAPE: dict[str, Noun] = {
    "sphere": Noun("Kugel", "f"), "cube": Noun("Würfel", "m"), "cylinder": Noun("Zylinder", "m"),
    "cone": Noun("Kegel", "m"), "pyramid": Noun("Pyramide", "f"), "torus": Noun("Ring", "m"),
    "capsule": Noun("Kapsel", "f"), "prism": Noun("Prisma", "n"), "wedge": Noun("Keil", "m"),
    "star": Noun("Stern", "m"), "cross": Noun("Kreuz", "n"), "heart": Noun("Herz", "n"),
    "mug": Noun("Tasse", "f"), "arch": Noun("Bogen", "m"), "mushroom": Noun("Pilz", "m"),
    "bowl": Noun("Schale", "f"),
}  # fmt: skip
DE_COLOUR: dict[str, str] = {
    "red": "rot", "orange": "orangefarben", "yellow": "gelb", "green": "grün", "cyan": "türkisfarben",
    "blue": "blau", "purple": "violett", "pink": "rosafarben", "brown": "braun", "white": "weiß",
    "gray": "grau", "black": "schwarz",
}  # fmt: skip
"""Stems that take endings."""
DE_MATERIAL: dict[str, str] = {
    "rubber": "Gummi", "plastic": "Kunststoff", "metal": "Metall", "wood": "Holz", "stone": "Stein",
}  # fmt: skip
DE_PATTERN: dict[str, str] = {"striped": "gestreift", "checkered": "kariert", "dotted": "gepunktet"}
DE_SIZE: dict[str, str] = {"small": "klein", "medium": "mittelgroß", "large": "groß"}
DE_FLOOR: dict[str, str] = {
    "plain": "auf einem einfarbigen Boden", "checkered": "auf einem karierten Boden",
    "wooden": "auf einem Holzboden", "tiled": "auf einem Fliesenboden", "concrete": "auf einem Betonboden",
}  # fmt: skip
DE_RELATION: dict[str, str] = {
    "left of": "links von", "right of": "rechts von", "in front of": "vor", "behind": "hinter",
    "next to": "neben",
}  # fmt: skip
"""All take the dative."""
DE_NUMBER: tuple[str, ...] = ("kein", "ein", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht")

ZH_SHAPE: dict[str, tuple[str, str]] = {
    "sphere": ("个", "球体"), "cube": ("个", "立方体"), "cylinder": ("个", "圆柱体"),
    "cone": ("个", "圆锥体"),
    "pyramid": ("座", "金字塔"), "torus": ("个", "圆环"), "capsule": ("粒", "胶囊"),
    "prism": ("个", "六棱柱"),
    "wedge": ("个", "楔形块"), "star": ("颗", "五角星"), "cross": ("个", "十字形"), "heart": ("颗", "爱心"),
    "mug": ("个", "马克杯"), "arch": ("座", "拱门"), "mushroom": ("朵", "蘑菇"), "bowl": ("只", "碗"),
}  # fmt: skip
"""Measure word and noun."""
ZH_COLOUR: dict[str, str] = {
    "red": "红色", "orange": "橙色", "yellow": "黄色", "green": "绿色", "cyan": "青色", "blue": "蓝色",
    "purple": "紫色", "pink": "粉色", "brown": "棕色", "white": "白色", "gray": "灰色", "black": "黑色",
}  # fmt: skip
ZH_MATERIAL: dict[str, str] = {
    "rubber": "橡胶", "plastic": "塑料", "metal": "金属", "wood": "木质", "stone": "石质",
}  # fmt: skip
ZH_PATTERN: dict[str, str] = {"striped": "条纹", "checkered": "格子", "dotted": "圆点"}
ZH_SIZE: dict[str, str] = {"small": "小", "medium": "", "large": "大"}
ZH_FLOOR: dict[str, str] = {
    "plain": "纯色地面", "checkered": "棋盘格地面", "wooden": "木地板", "tiled": "瓷砖地面",
    "concrete": "水泥地面",
}  # fmt: skip
ZH_RELATION: dict[str, str] = {
    "left of": "左边", "right of": "右边", "in front of": "前面", "behind": "后面", "next to": "旁边",
}  # fmt: skip
ZH_NUMBER: tuple[str, ...] = ("零", "一", "两", "三", "四", "五", "六", "七", "八")


def plural(shape: str) -> str:
    return PLURAL.get(shape, shape + "s")
