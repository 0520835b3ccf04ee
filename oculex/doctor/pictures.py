"""Problems of images: what cannot be read, what is too small, flat, grey, oblong, and what is there twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np

from oculex.doctor import copies
from oculex.doctor.findings import RARE, Finding, Rank, some
from oculex.doctor.look import HELD_OUT, TRAIN, Look, Seen

TINY = 32
"""Shorter sides below this hold little."""
OBLONG = 3.0
"""Longer side by shorter side, above which a square crop shows less than a third of the image."""
GREY = 3.0
"""Mean difference of a pixel's channels, of 255, below which an image has no colour."""


def unreadable(look: Look, bad_limit: float, clean: str) -> list[Finding]:
    """Samples that every epoch will meet and leave out, or that stop the run."""
    if not look.bad:
        return []
    n = sum(look.count(part) for part in look.of)
    share = look.share(len(look.bad), n)
    stops = share.value > bad_limit
    reasons = Counter(bad.reason.split(":")[0] for _, bad in look.bad)
    return [
        Finding(
            "unreadable",
            Rank.STOPS if stops else Rank.COSTS,
            "samples cannot be read"
            + (f", over data.bad_limit={bad_limit}: the run would stop" if stops else "")
            + f" ({', '.join(f'{count} x {reason}' for reason, count in reasons.most_common(3))})",
            clean,
            share,
            "samples",
            some([str(bad) for _, bad in look.bad]),
            [bad.key for _, bad in look.bad],
        )
    ]


def pictures(look: Look, size: int | None, clean: str, smaller: str) -> list[Finding]:
    """``size`` is the side in pixels of the recipe's view, None where it has no single one."""
    images = look.images()
    if not images:
        return []

    def finding(
        name: str, rank: Rank, says: str, remedy: str, test: Callable[[Seen], bool], drop: bool = False
    ) -> list[Finding]:
        hit = [seen.id for seen in images if test(seen)]
        if not hit:
            return []
        share = look.share(len(hit), len(images))
        rank = rank if share.value > RARE else Rank.NOTE
        return [Finding(name, rank, says, remedy, share, "images", some(hit), hit if drop else ())]

    found = finding(
        "tiny",
        Rank.COSTS,
        f"images have a side below {TINY} pixels",
        clean,
        lambda s: min(s.size) < TINY,
        True,
    )
    found += finding(
        "oblong",
        Rank.COSTS,
        f"images are more than {OBLONG:g} times as long as wide, so a square crop loses most of them",
        clean,
        lambda s: max(s.size) > OBLONG * min(s.size),
        True,
    )
    found += finding(
        "flat",
        Rank.COSTS,
        "images are of a single colour",
        clean,
        lambda s: s.thumb is not None and copies.spread(s.thumb) < 1.0,
        True,
    )
    found += finding(
        "grey",
        Rank.NOTE,
        "images have no colour",
        "nothing, if that is what your data is; otherwise look at how the images were exported",
        _grey,
    )
    if size is not None:
        small = [seen.id for seen in images if min(seen.size) < size]
        share = look.share(len(small), len(images))
        if small:
            median = int(np.median([min(seen.size) for seen in images]))
            found.append(
                Finding(
                    "upsampled",
                    Rank.COSTS if share.value > 0.5 else Rank.NOTE,
                    f"images are smaller than the recipe's {size} pixels and are blown up "
                    f"(median shorter side {median}): "
                    "compute without detail",
                    smaller,
                    share,
                    "images",
                    some(small),
                )
            )
    return found


def _grey(seen: Seen) -> bool:
    thumb = np.asarray(seen.thumb, np.float32)
    return bool(np.ptp(thumb, axis=2).mean() < GREY)


def duplicates(look: Look, clean: str) -> list[Finding]:
    """Leaks first: a held-out image that is also trained on makes every metric too good.

    To leave out are all members of a group but its first, wherever they lie.
    """
    images = look.images()
    same = copies.equal([seen.digest for seen in images])
    near = copies.alike([seen.bits for seen in images], [seen.thumb for seen in images])  # type: ignore[misc]
    same_set = set(same)
    near = [
        pair for pair in near if pair not in same_set and images[pair[0]].digest != images[pair[1]].digest
    ]
    found = []
    across = [p for p in [*same, *near] if images[p[0]].part != images[p[1]].part]
    held = sum(seen.part == HELD_OUT for seen in images)
    if across:
        leaked = sorted({i for pair in across for i in pair if images[i].part == HELD_OUT})
        partial = look.count(TRAIN) < look.of.get(TRAIN, 0)
        more = (
            f"; only {look.count(TRAIN):,} of {look.of[TRAIN]:,} training samples were compared, so expect about "
            f"{look.of[TRAIN] / look.count(TRAIN):.0f} times as many"
            if partial
            else ""
        )
        found.append(
            Finding(
                "leak",
                Rank.SPOILS,
                f"held-out images are also in the training part, so metrics on them flatter{more}",
                clean,
                look.share(len(leaked), held),
                "held-out images",
                some([_pair(images, pair) for pair in across]),
            )
        )
    for name, pairs, how in (("equal", same, "are byte for byte"), ("near", near, "look like")):
        sets = copies.groups(pairs)
        extra = [i for members in sets for i in members[1:]]
        if not extra:
            continue
        note = "" if look.whole() else "; among the samples looked at alone, all pairs are many more"
        found.append(
            Finding(
                f"duplicates-{name}",
                Rank.COSTS,
                f"images {how} another one, in {len(sets)} groups, the largest of {len(sets[0])}{note}",
                clean,
                look.share(len(extra), len(images)),
                "images",
                some([_pair(images, (members[0], members[1])) for members in sets]),
                [images[i].id for i in extra],
            )
        )
    return found


def _pair(images: list[Seen], pair: tuple[int, int]) -> str:
    a, b = images[pair[0]], images[pair[1]]
    return f"{a.id} ({a.part}) = {b.id} ({b.part})"
