"""The ``normplugins`` command: one function for each of its subcommands."""

from normplugins import compat  # noqa: F401  (before fairseq, and in every process that fairseq starts)

# isort: split
import argparse
import importlib
import logging
import os
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import normplugins
from normplugins.utils.errors import UserError

FAIRSEQ_TOOLS = {
    "train": "train",
    "generate": "generate",
    "preprocess": "preprocess",
    "eval-lm": "eval_lm",
    "validate": "validate",
    "interactive": "interactive",
    "score": "score",
    "hydra-train": "hydra_train",
}
TIME_IS_UP = 75  # EX_TEMPFAIL: the same command goes on


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit status. What the user can put right is one line on stderr."""
    parser = build_parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and not options.takes_overrides:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.overrides = [*getattr(options, "overrides", []), *rest]
    try:
        status = options.command(options)
    except UserError as error:
        return complain(str(error))
    except pickle.UnpicklingError as error:
        from normplugins.training.checkpoints import why_refused

        return complain(f"a checkpoint was refused: {why_refused(error)}")
    except ModuleNotFoundError as error:
        if error.name not in ("fairseq", "fairseq_cli"):
            raise
        return complain("fairseq is not installed; install it with: pip install --no-deps fairseq==0.12.2")
    except KeyboardInterrupt:
        goes_on = options.command in (run_experiment, run_campaign, prepare_corpus)
        complain("interrupted; the same command goes on where it stopped" if goes_on else "interrupted")
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as in `normplugins report | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status or 0


def complain(message: str) -> int:
    """One line on stderr; returns the exit status 1."""
    print(f"normplugins: {' '.join(message.split())}", file=sys.stderr)
    return 1


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="normplugins", description="Normalization as a config choice: train, score, report."
    )
    parser.add_argument("--version", action="version", version=f"normplugins {normplugins.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function: object, text: str, takes_overrides: bool = False) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=function, takes_overrides=takes_overrides)
        return sub

    def overrides(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="Hydra overrides, such as norm=pn")

    run = command("run", run_experiment, "train, score and record one cell of a table", takes_overrides=True)
    run.add_argument("experiment", help="a primary config in configs/, such as iwslt14")
    run.add_argument("-m", "--multirun", action="store_true", help="run every combination: norm=ln,pn seed=1,2,3")
    text = "with hardware=slurm: return when the jobs have ended, not when they are submitted"
    run.add_argument("--wait", action="store_true", help=text)
    overrides(run)
    campaign = command("campaign", run_campaign, "run the cells of a plan until every one is published; resumable")
    campaign.add_argument("plans", type=Path, nargs="+", metavar="PLAN", help="such as configs/campaign/multi30k.yaml")
    campaign.add_argument("--minutes", type=float, metavar="N", help="stop after so many; the same command goes on")
    campaign.add_argument("--show", action="store_true", help="print the table of all cells and run nothing")
    prepare = command("prepare", prepare_corpus, "fetch, check and binarise a corpus", True)
    prepare.add_argument("experiment", metavar="CORPUS", help="the corpus of the experiment of that name")
    overrides(prepare)
    evaluate = command(
        "evaluate", evaluate_run, "score a trained run again, with other search settings or windows", True
    )
    evaluate.add_argument("run", type=Path, metavar="RUN", help="a run's folder, such as runs/iwslt14/pn/seed1")
    evaluate.add_argument("--save", type=Path, metavar="DIR", help="keep the translations or log-probabilities there")
    overrides(evaluate)
    report = command("report", write_report, "print the tables and write them to results/README.md")
    report.add_argument("--results", type=Path, default=Path("results"), help="default: results")
    analyze = commands.add_parser("analyze", help="measure something on a trained run")
    analyses = analyze.add_subparsers(required=True, metavar="ANALYSIS")
    text = "what a language model sees of the tokens after each position: a record, and the page results/causality.md"
    causality = analyses.add_parser("causality", help=text, description=text)
    causality.add_argument("run", type=Path, metavar="RUN", help="a run's folder, such as runs/ptb/ln/seed1")
    causality.add_argument("--draws", type=int, default=2, help="replacements of each future (default: %(default)s)")
    causality.add_argument(
        "--segments", type=int, default=32, help="segments scored; in training mode, trials (default: %(default)s)"
    )
    causality.add_argument("--results", type=Path, default=Path("results"), help="default: results")
    causality.set_defaults(command=analyze_causality, takes_overrides=False)
    convert = command(
        "import-checkpoint", import_checkpoint, "convert a checkpoint of the released code or of stock fairseq"
    )
    convert.add_argument("source", type=Path, help="checkpoint.pt of the released code, or of fairseq's transformer")
    convert.add_argument("destination", type=Path, help="the checkpoint to write")
    bench = command("bench", run_benchmarks, "measure speed beside the baselines; rows go to benchmarks.csv", True)
    bench.add_argument("what", nargs="?", choices=["norm", "step", "decode", "prepare"], help="default: all of them")
    bench.add_argument("--quick", action="store_true", help="the main case alone, without what grows with the work")
    bench.add_argument("--norms", default="", metavar="NAME,...", help="which norms; each benchmark has its own choice")
    bench.add_argument("--repeats", type=int, metavar="N", help="turns that each provider has")
    bench.add_argument("--threads", type=int, metavar="N", help="default: every core")
    bench.add_argument("--compiled", action="store_true", help="norms through torch.compile too")
    bench.add_argument("--checkpoint", type=Path, help="of a model with ln, to decode with; default: untrained weights")
    bench.add_argument("--results", type=Path, default=Path("results"), help="default: results")
    overrides(bench)
    folding = command(
        "fold", fold_checkpoint, "fold norms that are fixed at evaluation into the linear maps after them"
    )
    folding.add_argument(
        "source", type=Path, metavar="CHECKPOINT", help="such as runs/iwslt14/bn/seed1/checkpoint_best.pt"
    )
    folding.add_argument(
        "destination", type=Path, nargs="?", metavar="DESTINATION", help="default: NAME_folded.pt beside NAME.pt"
    )
    fairseq = commands.add_parser("fairseq", help="a stock fairseq tool with the plugin registered", add_help=False)
    fairseq.add_argument("-h", "--help", action="help", help="this text; fairseq TOOL --help: the tool's own")
    fairseq.add_argument("tool", choices=sorted(FAIRSEQ_TOOLS), help="as in fairseq-TOOL")
    fairseq.add_argument("overrides", nargs=argparse.REMAINDER)
    fairseq.set_defaults(command=run_fairseq, takes_overrides=True)
    return parser


def run_experiment(options: argparse.Namespace) -> int:
    """``normplugins run EXPERIMENT [overrides]``: one run, or with ``-m`` every combination, one after the other.

    With ``hardware=slurm`` each is a job of its own, and all may run at a time.
    """
    from normplugins.runs.compose import compose_config, expand_sweep
    from normplugins.runs.plan import show_plan
    from normplugins.runs.run import run
    from normplugins.training.distributed import launched

    if options.multirun and launched():
        raise UserError("run -m under torchrun or srun: launch one run at a time, without -m")

    def carry_out(config: Any) -> None:
        show_plan(config) if config.dry_run else run(config)

    # All jobs are composed first: a typing error in the last shows before the first has run for hours.
    jobs = expand_sweep(options.overrides) if options.multirun else [options.overrides]
    configs = [compose_config(options.experiment, job) for job in jobs]
    if any(config.hardware.name == "slurm" and not config.dry_run for config in configs):
        from normplugins.runs.slurm import launch

        launch(options.experiment, jobs, configs, options.wait)
        return 0
    if not options.multirun:
        carry_out(configs[0])
        return 0
    failed = 0
    for number, config in enumerate(configs, 1):
        print(f"== {number} of {len(configs)}: {config.experiment} {config.variant} seed {config.seed}")
        try:
            carry_out(config)
        except UserError as error:
            failed += complain(str(error))
    if failed:
        raise UserError(f"{failed} of {len(configs)} runs failed")
    return 0


def run_campaign(options: argparse.Namespace) -> int:
    """``normplugins campaign PLAN...``: the status is 0 when nothing is left, and otherwise that of a temporary end."""
    from normplugins.runs.campaign import campaign

    return 0 if campaign(options.plans, options.minutes, options.show) or options.show else TIME_IS_UP


def prepare_corpus(options: argparse.Namespace) -> None:
    """``normplugins prepare CORPUS [overrides]``."""
    from normplugins.corpora import corpus_config, prepare
    from normplugins.runs.compose import compose_config

    config = compose_config(options.experiment, options.overrides)
    prepared = prepare(corpus_config(config.corpus), Path(config.data_dir))
    print(f"ready in {prepared.bin_dir}")


def evaluate_run(options: argparse.Namespace) -> None:
    """``normplugins evaluate RUN [KEY=VALUE ...]``: prints the scores; the record stays as it is."""
    from normplugins.runs.rescore import rescore

    rescore(options.run, options.overrides, options.save)


def write_report(options: argparse.Namespace) -> None:
    """``normplugins report``."""
    from normplugins.report import report

    report(options.results)


def analyze_causality(options: argparse.Namespace) -> None:
    """``normplugins analyze causality RUN``."""
    from normplugins.report.causality_page import write_page
    from normplugins.runs.causality_audit import audit_causality

    audit_causality(options.run, options.results, options.draws, options.segments)
    for written in write_page(options.results):
        print(f"written: {written}")


def run_benchmarks(options: argparse.Namespace) -> None:
    """``normplugins bench [norm|step|decode|prepare] [overrides]``."""
    from normplugins.bench import Options, run

    given = {
        name: getattr(options, name) for name in ("results", "repeats", "threads", "quick", "compiled", "checkpoint")
    }
    names = tuple(name for name in options.norms.split(",") if name)
    run(options.what, Options(norms=names, overrides=options.overrides, **given))


def import_checkpoint(options: argparse.Namespace) -> None:
    """``normplugins import-checkpoint SOURCE DESTINATION``."""
    normplugins.register()
    from normplugins.models.import_checkpoint import import_checkpoint as convert

    convert(options.source, options.destination)
    print(f"written to {options.destination}")


def fold_checkpoint(options: argparse.Namespace) -> None:
    """``normplugins fold CHECKPOINT [DESTINATION]``."""
    normplugins.register()
    from normplugins.runs.fold_checkpoint import fold_checkpoint as fold

    print(f"written to {fold(options.source, options.destination)}")


def run_fairseq(options: argparse.Namespace) -> None:
    """``normplugins fairseq TOOL ...``: the stock tool's own command line, our models known to it."""
    from normplugins.utils.threads import keep_memory

    normplugins.register()
    keep_memory()
    tool = importlib.import_module(f"fairseq_cli.{FAIRSEQ_TOOLS[options.tool]}")
    plugin = str(Path(normplugins.__file__).parent)
    user_dir = [f"common.user_dir={plugin}"] if options.tool == "hydra-train" else ["--user-dir", plugin]
    sys.argv = [f"fairseq-{options.tool}", *options.overrides, *([] if options.tool == "score" else user_dir)]
    logging.getLogger("fairseq").setLevel(logging.NOTSET)
    tool.cli_main()


if __name__ == "__main__":
    sys.exit(main())
