"""The English that questions about scene graphs need: plurals, numbers, lists, and what kind of thing an attribute
tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from oculex.world.vocabulary import MATERIALS, PATTERNS, SIZES, colour_names
from oculex.world.words import MATERIAL_WORD, PLURAL

_IRREGULAR: Mapping[str, str] = {
    **PLURAL, "man": "men", "woman": "women", "person": "people", "child": "children", "foot": "feet",
    "tooth": "teeth", "goose": "geese", "mouse": "mice", "leaf": "leaves", "knife": "knives", "loaf": "loaves",
    "shelf": "shelves", "wolf": "wolves", "calf": "calves", "half": "halves", "scarf": "scarves", "ox": "oxen",
    "potato": "potatoes", "tomato": "tomatoes", "sheep": "sheep", "deer": "deer", "fish": "fish", "moose": "moose",
    "aircraft": "aircraft", "bison": "bison", "salmon": "salmon", "cactus": "cacti", "life": "lives", "wife": "wives",
}  # fmt: skip
_PLURALS = frozenset(plural for one, plural in _IRREGULAR.items() if plural != one)
_ONE_IN_S = ("ss", "us", "is")
"""Endings in s of words that mean one thing: glass, bus, tennis."""
_SINGULAR = frozenset({"lens", "gas", "canvas", "christmas", "atlas", "iris"})
_UNCOUNTED_WORDS = """
air asphalt bacon bread butter cement cheese chocolate clothing concrete cream dirt dough equipment fabric fence field
floor foam foliage food fruit fur furniture glass grass gravel ground hair hay ice icing jewelry juice ketchup
landscape lettuce light lighting luggage meat metal milk mud mustard outdoors indoors paint paper pasta pavement
pepper plastic rain rice rock rust salad sand sauce scenery shade shadow sky smoke snow soap soil soup steam steel
sugar sunlight sunshine surf sushi syrup tile traffic vegetation wall water wheat wine wood wool trousers scissors
glasses binoculars shorts jeans pants tennis baseball soccer background scene
"""
_UNCOUNTED = frozenset(_UNCOUNTED_WORDS.split())
"""Nouns of stuff, of scenery and of pairs, of which nobody asks how many there are."""

_TYPES: Mapping[str, str] = {
    "colour": "beige blond blonde bronze brunette colorful colourful copper cream crimson gold golden grey gray khaki "
    "maroon navy tan teal turquoise silver violet magenta lavender burgundy olive multicolored multi-colored "
    + " ".join(colour_names()),
    "size": "big bigger enormous giant gigantic huge little long massive mini miniature narrow petite short skinny slim "
    "tall tiny thick thin wide " + " ".join(SIZES),
    "material": "aluminum bamboo brass brick ceramic clay cloth concrete cotton denim fabric fur glass granite iron "
    "leather linen marble metallic paper porcelain silk steel straw tin tinfoil velvet vinyl wicker wood wooden wool "
    "woolen " + " ".join(MATERIAL_WORD[each.name] for each in MATERIALS),
    "texture": "bumpy checked chequered coarse floral furry fluffy fuzzy glossy grainy hairy matte patterned "
    "plaid polished rough shaggy shiny smooth spotted stripy textured wrinkled " + " ".join(PATTERNS),
    "shape": "angular arched circular cone-shaped conical curly curved cylindrical diamond domed flat hexagonal "
    "octagonal oval pointed pointy rectangular round rounded sharp spherical square star-shaped straight triangular "
    "wavy",
    "state": "ajar baked bare blank bright broken burnt burning clean cloudy closed cloudless cooked cracked cut "
    "damaged dark dead decorated dirty dry dusty empty faded fallen folded fresh fried frozen full hanging hot leafless "
    "leafy lit messy old open overcast overgrown parked peeled rainy ripe rusty sliced snowy stacked sunny torn "
    "turned unlit wet worn young",
    "activity": "bending chasing climbing crouching cycling dancing diving drinking driving eating flying grazing "
    "jumping kneeling laughing leaning looking lying playing posing reading resting riding running sitting skating "
    "skiing sleeping smiling squatting standing surfing swimming swinging talking walking watching working",
    "mood": "angry annoyed calm cheerful excited happy sad scared serious surprised unhappy upset",
    "orientation": "backward backwards diagonal facing forward horizontal inverted sideways tilted upright "
    "upside-down vertical",
    "gender": "female male",
}  # fmt: skip
TYPE_OF: Mapping[str, str] = {word: kind for kind, words in _TYPES.items() for word in words.split()}
"""What the usual attributes tell."""
OTHER = "other"


def attribute_type(attribute: str) -> str:
    """colour, size, material, ...; a phrase's is that of its last word ("dark blue"), ``OTHER`` where nobody knows."""
    return TYPE_OF.get(attribute) or TYPE_OF.get(attribute.rsplit(" ", 1)[-1], OTHER)


def countable(label: str) -> bool:
    """Whether one asks how many of it there are: a noun in the singular that is no stuff and no pair."""
    head = label.rsplit(" ", 1)[-1]
    if head in _UNCOUNTED or label in _UNCOUNTED or head in _PLURALS:
        return False
    return not head.endswith("s") or head in _SINGULAR or head.endswith(_ONE_IN_S)


def plural(label: str) -> str:
    """Of a noun in the singular; of several words the last one's."""
    *before, head = label.split(" ")
    if head in _IRREGULAR:
        found = _IRREGULAR[head]
    elif head.endswith("man") and head not in ("human", "german"):
        found = head[:-3] + "men"
    elif head.endswith(("s", "x", "z", "ch", "sh")):
        found = head + "es"
    elif head.endswith("y") and head[-2:-1] not in tuple("aeiou"):
        found = head[:-1] + "ies"
    else:
        found = head + "s"
    return " ".join([*before, found])


_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def number(value: int) -> str:
    """In words, from 0 up to 9,999."""
    if value < 20:
        return _ONES[value]
    if value < 100:
        ten, one = divmod(value, 10)
        return _TENS[ten - 2] + (f"-{_ONES[one]}" if one else "")
    size, name = (100, "hundred") if value < 1000 else (1000, "thousand")
    many, rest = divmod(value, size)
    return f"{number(many)} {name}" + (
        f" and {number(rest)}" if 0 < rest < 100 else f" {number(rest)}" if rest else ""
    )


def listed(words: Sequence[str], rng: np.random.Generator | None = None) -> str:
    """a / a and b / a, b, and c, in random order where there is an ``rng``."""
    ordered = list(words) if rng is None else [words[n] for n in rng.permutation(len(words))]
    if len(ordered) < 3:
        return " and ".join(ordered)
    return ", ".join(ordered[:-1]) + f", and {ordered[-1]}"
