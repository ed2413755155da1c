"""The loss curves of stock fairseq's LayerNorm model and of ours, on the same batches from the same weights.

Dropout is off, since each draws its masks in its own order; all else is the experiment's recipe: stock fairseq with its
own model, Adam and label-smoothed cross-entropy, ours with the defaults. A third curve, stock fairseq's with the rows
of each batch reversed, says how far rounding alone drives two runs apart.

    python benchmarks/loss_curve.py                     # Multi30k, 200 updates: about five minutes on 2 cores
    python benchmarks/loss_curve.py --experiment iwslt14 --updates 20 hardware=cpu

It prints how far the curves are apart and writes results/loss_curve.json. The corpus has to be prepared before
(normplugins prepare multi30k).
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

from normplugins.bench.loss_curve import OURS, REVERSED, STOCK, WITHOUT_DROPOUT, loss_curves, summary
from normplugins.bench.step import training_batches
from normplugins.runs import record
from normplugins.runs.check import check
from normplugins.runs.compose import compose_config
from normplugins.runs.run import set_threads
from normplugins.training.distributed import on_cpu
from normplugins.utils.files import whole_file

RESULTS = Path(__file__).parents[1] / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--experiment", default="multi30k")
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--to", type=Path, default=RESULTS / "loss_curve.json", help="file to write")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    logging.getLogger("fairseq").setLevel(logging.WARNING)
    config = compose_config(options.experiment, [*WITHOUT_DROPOUT, *options.overrides])
    check(config)
    set_threads(config)
    case, task, batches = training_batches(config, options.updates)
    curves = loss_curves(config, task, batches)
    found = summary(curves)
    for name in (OURS, REVERSED):
        print(f"{name} against {STOCK}: largest {found[name]['largest']:.1e}, rms {found[name]['rms']:.1e} of the loss")
    written = {
        "case": case,
        "updates": options.updates,
        "overrides": [*WITHOUT_DROPOUT, *options.overrides],
        "relative_difference_from_stock": found,
        "hardware": record.hardware(on_cpu(config), 1),
        "versions": record.versions(),
        "git_commit": record.git_commit(),
        "losses": {name: [float(f"{loss:.9g}") for loss in losses] for name, losses in curves.items()},
    }
    with whole_file(options.to) as temporary:
        temporary.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
