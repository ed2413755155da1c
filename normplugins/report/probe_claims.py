"""Judges the claims about batch statistics and gradients, by what the statistics probe measured during training."""

import math

import numpy as np
import pandas as pd

from normplugins.evaluation.student import interval_of_mean
from normplugins.report import probe_table
from normplugins.report.cells import SPREAD_SEEDS
from normplugins.report.contrasts import EXPERIMENT, NOT_RUN, UNDECIDED, so_far
from normplugins.report.evidence import FAILS, HOLDS, OPEN, Evidence
from normplugins.report.measured import numbers_table
from normplugins.report.plans import NU_BOUND, Plan
from normplugins.report.probe_figures import FIRST_NORM, PN_CELLS

NO_PROBE = NOT_RUN, "No record has the statistics probe."


def smaller_gradient(evidence: Evidence) -> tuple[str, str]:
    """Judge whether PN-V's gradient is smaller than BN's in every channel; return the verdict and the evidence."""
    cells = ("pnv", "bn")
    shares = pd.concat({cell: 100 * evidence.probed(cell, "pnv_bound_smaller") for cell in cells}, names=["cell"])
    if shares.empty:
        return NO_PROBE
    runs = shares.groupby(["cell", "seed"], sort=False).mean().unstack("seed").reindex(cells)
    always = shares.min() == 100
    lowest, highest = np.nanmin(runs), np.nanmax(runs)
    channels = "all channels" if always else f"{lowest:.0f} to {highest:.0f} % of the channels"
    return OPEN if always else FAILS, (
        f"At the inputs of these runs' norms, PN-V's gradient is smaller than BN's in {channels}, in models with PN-V "
        "and in models with BN. The table has the mean share of channels in %, over the encoder norms and the probed "
        f"updates. At single norms and updates, the share is {shares.min():.0f} to {shares.max():.0f} %. The verdict "
        "is about the strong form of the claim (in every channel). The paper concludes that the Lipschitz constant is "
        "smaller, which the gradients of single batches can neither confirm nor refute.\n\n"
        f"{numbers_table('norm', runs.add_prefix('seed '), '{:.1f}')}\n\n{evidence.links(*cells)}"
    )


def bounded(evidence: Evidence) -> tuple[str, str]:
    """Judge whether nu stays below the products that feed it and gradients stay finite; return verdict and evidence."""
    planned = [cell for _, cell in Plan.named(NU_BOUND).cells]
    every = dict.fromkeys([*PN_CELLS, *planned])
    lost = [cell for cell in every if evidence.seeds(cell, diverged=True)]
    finite = all(
        np.isfinite(evidence.probed(cell, name)).all()
        for cell in every for name in ("nu", "largest_nu", "grad_product", "grad_input")
    )  # fmt: skip
    rows: dict[str, dict[str, float]] = {}
    below = []
    for cell in planned:
        largest, product = (evidence.probed(cell, name) for name in ("largest_nu", "grad_product"))
        if product.empty:
            continue
        quotients = (largest.groupby("seed").max() / product.groupby("seed").max()).dropna()
        gradient = evidence.probed(cell, "grad_input", probe_table.EARLY)
        rows[cell] = {"‖ν‖ / ‖Λ_B‖": quotients.max(), "‖∂L/∂x‖": gradient.max()}
        below.append(len(quotients) >= SPREAD_SEEDS and bool((quotients <= 1).all()))
    if not rows and not lost and finite:
        return NOT_RUN, f"No run of the plan {NU_BOUND} has the statistics probe."
    holds = all(below) and len(below) == len(planned)
    also = f", and runs of {' and '.join(lost)} diverged" if lost else ""
    verdict = so_far(HOLDS if holds else UNDECIDED, evidence.ended(NU_BOUND))
    return (FAILS if lost or not finite else verdict), (
        "ν follows ν ← (1 - 0.1 m) ν + 0.1 Λ_B, where m is the mean of x̂² in the batch. ν averages Λ_B while m is "
        "near 1, and can grow if m stays above 20. In all runs of PN, ν and the gradients are "
        f"{'finite at all' if finite else 'not finite at some'} measured updates{also}. The claim holds if, in three "
        f"seeds of each cell of the plan {NU_BOUND}, the largest ‖ν‖ of all norms and updates is not larger than the "
        "largest ‖Λ_B‖ of the probed updates, which are eight per decade. For each cell, the table has the ratio of "
        "the seed where it is highest. It also has the largest ‖∂L/∂x‖ from update "
        f"{probe_table.EARLY} on, for comparison: the Frobenius norm for one batch, whose loss L is in nats and summed "
        "over its target tokens. The verdict covers these runs; a bound for every input would need a proof.\n\n"
        f"{numbers_table('cell', pd.DataFrame(rows).T, '{:#.3g}')}\n\n"
        f"[Figure](figures/pn-backward.png). {evidence.links(*every)}"
    )


def averages(evidence: Evidence) -> tuple[str, str]:
    """Judge whether running statistics approach those of batches in training; return the verdict and the evidence."""
    rows: dict[str, dict[str, float]] = {}
    changes: dict[str, list[float]] = {}
    settled = probe_table.WARMUP
    before, after = f"before update {settled:,}", f"from update {settled:,} on"
    gaps = probe_table.loss_gaps(evidence.probe)
    for cell, number in (("bn", "deviation_tid"), ("pnv", "psi_tid")):
        early = evidence.probed(cell, number, probe_table.EARLY, settled - 1).groupby("seed").mean()
        late = evidence.probed(cell, number, settled).groupby("seed").mean()
        seeds = early.index.intersection(late.index)
        changes[cell] = [late[seed] - early[seed] for seed in seeds]
        for seed in seeds:
            gap = gaps.get((cell, int(seed)), math.nan)
            rows[f"{cell}, seed {seed}"] = {before: early[seed], after: late[seed], "loss gap in bits": gap}
    if not rows:
        return NO_PROBE
    known = {norm: interval_of_mean(each) for norm, each in changes.items() if len(each) >= SPREAD_SEEDS}
    rises, falls = ([norm for norm, ends in known.items() if sign * ends[0] > 0 < sign * ends[1]] for sign in (1, -1))
    verdict = FAILS if rises else HOLDS if len(falls) == len(changes) else UNDECIDED
    intervals = "; ".join(f"{norm}: {low:+.3f} to {high:+.3f}" for norm, (low, high) in known.items())
    return so_far(verdict, evidence.ended(EXPERIMENT, "bn", "pnv")), (
        "The claim is about the distance between the statistics of a batch and the running statistics, divided by the "
        "size of the running statistics: the standard deviations of BN, and the quadratic means ψ of PN-V. The change "
        f"of this distance during training gets a 95 % interval over the seeds of a norm, if it has {SPREAD_SEEDS} or "
        "more. The claim holds if the intervals of both norms are below 0, and does not hold if one of them is above "
        f"0. The table has the mean distance before and after update {settled:,}, where the learning rate's warmup "
        f"ends. The first mean begins at update {probe_table.EARLY}, because earlier running statistics still contain "
        "their initial values. The statistics of a finite batch differ from those of all text, so the distance cannot "
        "fall to 0. The loss gap is the validation loss with running statistics minus the loss with the statistics of "
        f"each validation batch, as the mean from update {settled:,} on. Intervals of the change: "
        f"{intervals or 'none with so few seeds'}.\n\n"
        f"{numbers_table('run', pd.DataFrame(rows).T, '{:.3f}')}\n\n"
        f"[Figure](figures/discrepancy.png). {evidence.links('bn', 'pnv')}"
    )


def fluctuation(evidence: Evidence) -> tuple[str, str]:
    """Compare batch statistics' fluctuation in a transformer and a ResNet; return the verdict and the evidence."""
    texts, images = evidence.probe, probe_table.vision_table(evidence.results)
    texts = texts[(texts["cell"] == "bn") & (texts["layer"] == probe_table.FIRST)]
    if texts[texts["quantity"] == "mean_tid"].empty or images.empty:
        return NOT_RUN, "It needs runs of Multi30k with BN, and the same measurement of a ResNet20."
    last = min(texts["update"].max(), images["update"].max())
    names = {quantity: title.partition("\n")[0] for quantity, title in FIRST_NORM["fluctuation"].items()}
    medians = pd.DataFrame({
        model: probe_table.along_training(each[each["update"] <= last], [*names, "tokens"], probe_table.EARLY)
        .groupby("quantity")["value"].median()
        for model, each in (("transformer", texts), ("ResNet20", images))
    })  # fmt: skip
    tokens, positions = medians.loc["tokens"]
    measured = medians.reindex(list(names)).rename(index=names)
    more = int((measured["transformer"] > measured["ResNet20"]).sum())
    return OPEN, (
        "The table has the median distance between the statistics of a batch and the running statistics in the first "
        f"norm, at updates {probe_table.EARLY} to {last:,}. The relative measures divide it by the norm of the running "
        f"deviations. The distance is larger in the transformer by {more} of {len(measured)} measures. The comparison "
        f"is confounded: a statistic covers about {tokens:,.0f} tokens of a batch in the transformer and "
        f"{positions:,.0f} positions in the ResNet20, and a statistic of fewer values fluctuates more. The paper's "
        "measure also depends on the number of channels and on the scale of the norm's input, which differ. "
        f"{probe_table.vision_shown(evidence.results)}.\n\n"
        f"{numbers_table('measure', measured, '{:#.3g}')}\n\n"
        f"[Figure](figures/fluctuation.png), [{probe_table.VISION}]({probe_table.VISION}). {evidence.links('bn')}"
    )
