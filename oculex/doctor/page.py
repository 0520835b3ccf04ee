"""The report as a person reads it."""

from __future__ import annotations

import textwrap

from oculex.doctor import Report
from oculex.doctor.findings import Finding, Rank, gigabytes

_STAGES = {
    "read": "reading",
    "decode": "decoding",
    "augment": "augmentation",
    "tokenise": "tokenising",
    "collate": "collating",
    "transfer": "transfer to the GPU",
    "loader": "all of these, by the recipe's workers",
    "update": "update: forward, backward, optimizer",
}
_CLEAN = "to leave such samples out"
_RANKS = {
    Rank.STOPS: "stops the run",
    Rank.SPOILS: "spoils the result",
    Rank.COSTS: "costs time or data",
    Rank.NOTE: "worth knowing",
}


def text(report: Report) -> str:
    """Problems, speed, memory."""
    recipe, look = report.recipe, report.looked
    counts = " and ".join(
        f"{look.count(part):,} of {total:,} {part} samples" for part, total in look.of.items()
    )
    lines = [
        f"{', '.join(recipe.data.sources)} for {recipe.system} ({recipe.preset})",
        f"looked at {counts} in {look.seconds:.0f} s"
        + ("" if look.whole() else "; shares are estimates with 95 % intervals"),
    ]
    if report.captions:
        lines.append(
            ", ".join(f"{value:.3g} {name.replace('_', ' ')}" for name, value in report.captions.items())
        )
    lines += ["", "PROBLEMS" if report.findings else "PROBLEMS: none found"]
    for number, finding in enumerate(report.findings, 1):
        lines += _finding(number, finding, look.whole(), report.clean)
    if any(finding.remedy == report.clean for finding in report.findings):
        lines += ["", f"{_CLEAN}:", f"  {report.clean}"]
    lines += ["", *_speed(report)]
    lines += ["", *_memory(report)]
    return "\n".join(lines)


def _finding(number: int, finding: Finding, whole: bool, clean: str) -> list[str]:
    share = ""
    if finding.share is not None:
        s = finding.share
        between = "" if whole else f" [{s.low:.1%}, {s.high:.1%}]"
        share = f"{round(s.value * s.n):,} of {s.n:,} ({s.value:.1%}{between}) "
        share += "" if finding.says.startswith(finding.of) else f"{finding.of}: "
    head = f"{number}. {share}{finding.says} ({_RANKS[finding.rank]})"
    lines = textwrap.wrap(head, 110, subsequent_indent="   ")
    lines += [f"   e.g. {example}" for example in finding.examples]
    return [*lines, f"   do:  {finding.remedy if finding.remedy != clean else f'{_CLEAN}, see below'}"]


def _speed(report: Report) -> list[str]:
    rates, batch = report.trial.rates, report.recipe.batch
    if rates is None:
        return [f"SPEED: not measured, {report.trial.unmeasured}"]
    lines = ["SPEED, samples/s, each alone; on one core but for the last two"]
    for name, label in _STAGES.items():
        if name in rates.stages:
            r = rates.stages[name]
            between = f"  [{_short(r.low)}, {_short(r.high)}]" if r.low > 0 else ""
            lines.append(f"  {label:<40} {_short(r.value):>9}{between}  n={r.n}")
    if report.load > rates.cores / 2:
        lines.append(
            f"  (the machine was busy, load {report.load:.0f} on {rates.cores} cores: all of this is too low)"
        )
    if "update" not in rates.stages:
        return [*lines, "  the update was not measured: it would not fit into memory"]
    if rates.rows < batch:
        lines.append(
            f"  (the update was timed on {rates.rows} samples; the recipe's batch has {batch:,}, which may do better)"
        )
    worker, update, needed = rates.worker(), rates.stages["update"].value, rates.needed()
    slowest = rates.slowest()
    share = rates.data_share()
    binds = "making batches" if share > 0.5 else "the update"
    lines.append(
        f"  {binds} binds: one worker makes {_short(worker)}, most of its time {_STAGES[slowest]}, and the update takes "
        f"{_short(update)}"
    )
    if rates.gpu:
        lines.append(
            f"  {needed} workers keep up; the recipe has {rates.workers}, the machine {rates.cores} cores. The GPU waits "
            f"{share:.0%} of the time."
        )
    else:
        lines.append(
            f"  on a CPU both share the {rates.cores} cores: about {share:.0%} of the time goes to batches, "
            f"{1 - share:.0%} to updates, with 1 worker or more"
        )
    return lines


def _memory(report: Report) -> list[str]:
    estimate = report.trial.memory
    if estimate is None:
        return [f"MEMORY: not estimated, {report.trial.unmeasured}"]
    parts = {
        "weights": estimate.weights, "gradients": estimate.gradients, "optimizer": estimate.optimizer,
        "batch": estimate.batch, "losses": estimate.losses, "activations": estimate.activations,
    }  # fmt: skip
    made = ", ".join(
        f"{name} {gigabytes(size)}" for name, size in parts.items() if size > 0.005 * estimate.peak
    )
    return [
        f"MEMORY, estimated peak of an update: {gigabytes(estimate.peak)} of {gigabytes(report.trial.available)} free",
        f"  at the peak: {made}",
    ]


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
