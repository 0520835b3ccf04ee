"""A 5 x 7 dot font for the labels printed on objects."""

from __future__ import annotations

from functools import cache

import numpy as np

MARGIN = 2
WIDEST = 4
"""Characters of the longest label."""
HEIGHT = 7 + 2 * MARGIN
_ROWS = {
    "A": "0E11111F111111", "B": "1E11111E11111E", "C": "0E11101010110E", "D": "1E11111111111E",
    "E": "1F10101E10101F", "F": "1F10101E101010", "G": "0E11101711110E", "H": "1111111F111111",
    "I": "0E04040404040E", "J": "0702020202120C", "K": "11121418141211", "L": "1010101010101F",
    "M": "111B1515111111", "N": "11111915131111", "O": "0E11111111110E", "P": "1E11111E101010",
    "Q": "0E11111115120D", "R": "1E11111E141211", "S": "0F10100E01011E", "T": "1F040404040404",
    "U": "1111111111110E", "V": "11111111110A04", "W": "1111111515150A", "X": "11110A040A1111",
    "Y": "11110A04040404", "Z": "1F01020408101F", "0": "0E11131519110E", "1": "040C040404040E",
    "2": "0E11010204081F", "3": "1F02040201110E", "4": "02060A121F0202", "5": "1F101E0101110E",
    "6": "0608101E11110E", "7": "1F010204080808", "8": "0E11110E11110E", "9": "0E11110F01020C",
}  # fmt: skip


def width(text: str) -> int:
    """Dots across a label, margins included."""
    return 6 * len(text) - 1 + 2 * MARGIN


@cache
def bitmap(text: str) -> np.ndarray:
    """uint8 [HEIGHT, columns], 1 where there is ink; the label fills the left ``width(text)`` columns."""
    dots = np.zeros((HEIGHT, 6 * WIDEST - 1 + 2 * MARGIN), np.uint8)
    for place, letter in enumerate(text):
        rows = bytes.fromhex(_ROWS[letter])
        for row, bits in enumerate(rows):
            for column in range(5):
                dots[MARGIN + row, MARGIN + 6 * place + column] = bits >> (4 - column) & 1
    dots.setflags(write=False)
    return dots
