"""Puts into sentences what the records of causality show; each follows from the numbers, whatever they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from normplugins.report.causality_records import MODES, Cell


def findings(cells: Sequence[Cell]) -> list[str]:
    """Sentences that follow from the numbers, whatever they are."""
    unmasked = [cell for cell in cells if cell.model.sees_by == "attention"]
    by_norm = [cell for cell in cells if cell.model.sees_by == "norm"]
    causal = [cell for cell in cells if cell.causal]
    found = [text for run in dict.fromkeys(cell.run for cell in unmasked) for text in _unmasked(run, unmasked)]
    found.extend(_by_norm(cell) for cell in by_norm)
    if causal:
        found.append(_masked(causal))
        found.extend(_leaks(causal))
    if unmasked:
        found.append(_unmasked_training(unmasked))
    unsure = [_name(cell, mode) for cell in cells for mode, of in cell.modes.items() if not of.repeatable]
    if unsure:
        found.append(
            f"Careful: with {listed(unsure)}, reading the *same* input twice did not give the same bits on this "
            "device, so that small changes there mean nothing."
        )
    return found


def _unmasked(run: str, unmasked: Sequence[Cell]) -> list[str]:
    cells = [cell for cell in unmasked if cell.run == run]
    modes = [cell.modes["evaluation"] for cell in cells]
    true, replaced = spread([mode.ppl_true for mode in modes]), spread([mode.ppl_replaced for mode in modes])
    seen = any(not mode.change.identical for mode in modes)
    verdict = "**The unmasked model reads the future**" if seen else "The unmasked model saw nothing of the future"
    norms = listed([cell.norm for cell in cells])
    text = (
        f"{verdict} ({run}; norm {norms}): perplexity {true} with the true future, {replaced} once the words after "
        "each position are others."
    )
    last, elsewhere = _places(cells, "last"), _places(cells, "others")
    if last and elsewhere:
        text += (
            f" With nothing replaced, over the whole test text, the same models have perplexity {spread(elsewhere)} "
            f"where words follow in the segment, and {spread(last)} at a segment's last position, where none does."
        )
    return [text]


def _places(cells: Iterable[Cell], place: str) -> list[float]:
    values = [cell.over_seeds(lambda one: one["by_place"] and one["by_place"][place]) for cell in cells]
    return [value for value in values if value is not None]


def _by_norm(cell: Cell) -> str:
    mode, training = cell.modes["evaluation"], cell.modes["training"]
    seen = "sees the future all the same" if not mode.change.identical else "saw nothing of the future here"
    text = (
        f"**Not causal, by its norm**: with `{cell.norm}`, a model whose attention is masked {seen} ({cell.run}): "
        f"perplexity {ppl(mode.ppl_true)} with the true future, {ppl(mode.ppl_replaced)} with a replaced one."
    )
    if training.other:
        reach = "does not reach" if training.other.identical else "reaches"
        text += f" In training, it {reach} another segment of the batch."
    return text


def _masked(causal: Sequence[Cell]) -> str:
    leaking = [cell for cell in causal if not cell.modes["evaluation"].change.identical]
    if not leaking:
        which = (
            "the causal model saw nothing" if len(causal) == 1 else f"none of the {len(causal)} causal models saw any"
        )
        return f"**In evaluation, {which} of the future**: not one bit changed of what is computed."
    worst = max(cell.modes["evaluation"].change.max for cell in leaking)
    return (
        f"In evaluation, {len(leaking)} of {len(causal)} models that should be causal are not, to the bit: "
        f"{listed([_name(cell) for cell in leaking])}. No log-probability of a true word changed by more than "
        f"{nats(worst)}."
    )


def _leaks(causal: Sequence[Cell]) -> list[str]:
    """A sentence for the norms that leak nothing in training, and one for each that does."""
    silent: list[str] = []
    leaking: dict[str, list[tuple[Cell, str]]] = {}
    for cell, mode in ((cell, mode) for cell in causal for mode in ("training", "training_in_warmup")):
        if mode in cell.modes:
            state = _state(cell, mode)
            changes = [cell.modes[mode].change, cell.modes[mode].other]
            if all(change is None or change.identical for change in changes):
                silent.append(state)
            else:
                leaking.setdefault(state, []).append((cell, mode))
    found = []
    silent = [state for state in dict.fromkeys(silent) if state not in leaking]
    if silent:
        found.append(f"In training mode, nothing at all leaks with {listed(silent)}: 0 to the bit.")
    for state, members in leaking.items():
        modes = [cell.modes[mode] for cell, mode in members]
        effect = max(abs(mode.ppl_replaced / mode.ppl_true - 1) for mode in modes)
        text = (
            f"In training mode, **{state}** lets something through: on average "
            f"{spread([mode.change.mean for mode in modes], size)} nats, at most "
            f"{nats(max(mode.change.max for mode in modes))}; the perplexity moves by "
            f"{'less than 0.1' if effect < 0.001 else f'up to {100 * effect:.1f}'} %."
        )
        others = [mode.other for mode in modes if mode.other]
        if others and not all(other.identical for other in others):
            text += f" It reaches other segments too: {spread([other.mean for other in others], size)} nats on average."
        found.append(text)
    return found


def _unmasked_training(unmasked: Sequence[Cell]) -> str:
    text = (
        "In training mode, what an unmasked model sees through its norm cannot be told apart from what it sees "
        "through attention, in the segment whose end was replaced."
    )
    others = [cell for cell in unmasked if cell.modes["training"].other]
    if others:
        text += " In another segment only the norm can carry anything: see the last columns of the second table."
    return text


def _state(cell: Cell, mode: str) -> str:
    """The norm, and for PN, when."""
    if cell.first["warmup"] is None:
        return f"`{cell.norm}`"
    during = mode == "training_in_warmup" or cell.warming
    return f"`{cell.norm}` {'during' if during else 'after'} its warmup"


def _name(cell: Cell, mode: str = "") -> str:
    return f"{cell.norm} ({cell.model.name}; {cell.run}{f'; {MODES[mode]}' if mode else ''})"


def size(value: float) -> str:
    """|Δ log p|, to two digits."""
    return f"{value:.2g}" if value else "0 (rounded)"


def nats(value: float) -> str:
    """The same with its unit."""
    return f"{size(value)} nats"


def ppl(value: float | None) -> str:
    """A perplexity, or a dash where there is none."""
    if value is None:
        return "-"
    return f"{value:.4g}" if value < 100 else f"{value:,.0f}" if value < 1e7 else f"{value:.1e}"


def spread(values: Sequence[float], text: Callable[[float], str] = ppl) -> str:
    """The least and the greatest, or the one that both are."""
    low, high = text(min(values)), text(max(values))
    return low if low == high else f"{low} to {high}"


def listed(names: Sequence[str]) -> str:
    """Names in a sentence, each once."""
    unique = list(dict.fromkeys(names))
    return unique[0] if len(unique) == 1 else f"{', '.join(unique[:-1])} and {unique[-1]}"
