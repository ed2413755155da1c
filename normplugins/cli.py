"""The ``normplugins`` command: one function for each of its subcommands."""

import argparse
import os
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path

import normplugins
from normplugins import fairseq_tools
from normplugins.utils.errors import UserError

TIME_IS_UP = 75  # EX_TEMPFAIL: the same command resumes


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status."""
    parser = build_parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and not options.takes_overrides:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.overrides = [*getattr(options, "overrides", []), *rest]
    return call(options)


def fairseq_tool() -> int:
    """Run the tool that a console script ``fairseq-TOOL`` is named after, as fairseq's documentation describes it."""
    tool = Path(sys.argv[0]).stem.removeprefix("fairseq-")
    return call(argparse.Namespace(command=run_fairseq, tool=tool, overrides=sys.argv[1:], our_models=False))


def call(options: argparse.Namespace) -> int:
    """Carry out a parsed command and return its exit status; an error that the user can correct is one line."""
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
        resumable = options.command in (run_experiment, run_campaign, prepare_corpus)
        complain("interrupted; the same command resumes where it stopped" if resumable else "interrupted")
        return 130
    except BrokenPipeError:  # the reader of the output has ended, as in `normplugins report | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status or 0


def complain(message: str) -> int:
    """Print one line on stderr and return the exit status 1."""
    print(f"normplugins: {' '.join(message.split())}", file=sys.stderr)
    return 1


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="normplugins",
        description="Train and score fairseq transformers whose normalization is a config choice.",
        epilog="normplugins COMMAND --help describes the options of a command.",
    )
    parser.add_argument("--version", action="version", version=f"normplugins {normplugins.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function: object, text: str, takes_overrides: bool = False) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        sub.set_defaults(command=function, takes_overrides=takes_overrides)
        return sub

    def overrides(sub: argparse.ArgumentParser, example: str) -> None:
        sub.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=f"settings to change, such as {example}")

    def results(sub: argparse.ArgumentParser) -> None:
        text = "the folder with the records of published runs (default: %(default)s)"
        sub.add_argument("--results", type=Path, default="results", metavar="DIR", help=text)

    run = command("run", run_experiment, "train a model, score it and record the result", True)
    run.add_argument("experiment", metavar="EXPERIMENT", help="a corpus with its recipe, such as demo or iwslt14")
    text = "run every combination of settings that are given as lists, such as norm=ln,pn seed=1,2,3"
    run.add_argument("-m", "--multirun", action="store_true", help=text)
    text = "with hardware=slurm: wait until the submitted jobs have ended"
    run.add_argument("--wait", action="store_true", help=text)
    overrides(run, "norm=pn, seed=2, or dry_run=true to see the size of the run first")
    campaign = command("campaign", run_campaign, "run every cell of a plan that has no published result yet")
    text = "files that list experiments, cells and seeds, such as configs/campaign/multi30k.yaml"
    campaign.add_argument("plans", type=Path, nargs="+", metavar="PLAN", help=text)
    text = "stop after N minutes; the same command resumes where it stopped"
    campaign.add_argument("--minutes", type=float, metavar="N", help=text)
    campaign.add_argument("--show", action="store_true", help="print which cells are done, and run nothing")
    prepare = command("prepare", prepare_corpus, "download a corpus, verify it and convert it for training", True)
    prepare.add_argument("experiment", metavar="CORPUS", help="an experiment whose corpus to prepare, such as iwslt14")
    overrides(prepare, "data_dir=/scratch/data")
    evaluate = command("evaluate", evaluate_run, "score a trained model again, with other settings", True)
    text = "the folder of a completed run, such as runs/iwslt14/pn/seed1"
    evaluate.add_argument("run", type=Path, metavar="RUN", help=text)
    text = "a folder for the translations, or for the log-probabilities of a language model"
    evaluate.add_argument("--save", type=Path, metavar="DIR", help=text)
    overrides(evaluate, "evaluate.beam=10")
    report = command("report", write_report, "print the tables of all published results and write results/README.md")
    results(report)
    analyze = commands.add_parser("analyze", help="examine a trained model")
    analyses = analyze.add_subparsers(required=True, metavar="ANALYSIS")
    text = "test whether a language model sees the words that it predicts"
    causality = analyses.add_parser("causality", help=text, description=f"T{text[1:]}.")
    text = "the folder of a completed run, such as runs/ptb/ln/seed1"
    causality.add_argument("run", type=Path, metavar="RUN", help=text)
    text = "how often each text is scored with other words after a position (default: %(default)s)"
    causality.add_argument("--draws", type=int, default=2, metavar="N", help=text)
    text = "how many segments of the test text are examined (default: %(default)s)"
    causality.add_argument("--segments", type=int, default=32, metavar="N", help=text)
    results(causality)
    causality.set_defaults(command=analyze_causality, takes_overrides=False)
    text = "convert a checkpoint of the PowerNorm authors' code or of stock fairseq"
    convert = command("import-checkpoint", import_checkpoint, text)
    convert.add_argument("source", type=Path, metavar="SOURCE", help="the checkpoint file to convert")
    convert.add_argument("destination", type=Path, metavar="DESTINATION", help="the checkpoint file to write")
    text = "merge norms that are constant at evaluation into the linear layers that follow them"
    folding = command("fold", fold_checkpoint, text)
    text = "a checkpoint file, such as runs/iwslt14/bn/seed1/checkpoint_best.pt"
    folding.add_argument("source", type=Path, metavar="CHECKPOINT", help=text)
    text = "the checkpoint file to write (default: NAME_folded.pt beside NAME.pt)"
    folding.add_argument("destination", type=Path, nargs="?", metavar="DESTINATION", help=text)
    fairseq = commands.add_parser("fairseq", help="run one of fairseq's own tools with our models", add_help=False)
    text = "show this text; `normplugins fairseq TOOL --help` shows the options of a tool"
    fairseq.add_argument("-h", "--help", action="help", help=text)
    fairseq.add_argument("tool", choices=fairseq_tools.TOOLS, help="the tool fairseq-TOOL")
    fairseq.add_argument("overrides", nargs=argparse.REMAINDER, metavar="...", help="the tool's own options")
    fairseq.set_defaults(command=run_fairseq, takes_overrides=True, our_models=True)
    return parser


def run_experiment(options: argparse.Namespace) -> int:
    """``normplugins run EXPERIMENT [overrides]``: one run, or with ``-m`` every combination, one after another.

    With ``hardware=slurm`` each run is a Slurm job, and several jobs may run at the same time.
    """
    from normplugins.runs.check import check
    from normplugins.runs.compose import compose_config, expand_sweep
    from normplugins.runs.plan import show_plan
    from normplugins.runs.run import run
    from normplugins.training.distributed import launched
    from normplugins.training.rendezvous import refuse

    if options.multirun and launched():
        raise UserError("run -m under torchrun or srun: launch one run at a time, without -m")
    # All configs are composed first, so that a typing error in the last one is reported before the first run starts.
    jobs = expand_sweep(options.overrides) if options.multirun else [options.overrides]
    try:
        configs = [compose_config(options.experiment, job) for job in jobs]
    except UserError as error:
        refuse(error)
        raise
    if any(config.hardware.name == "slurm" and not config.dry_run for config in configs):
        from normplugins.runs.slurm import submit

        for config in configs:
            check(config)
        submit(options.experiment, jobs, configs, options.wait)
        return 0
    failed = 0
    for number, config in enumerate(configs, 1):
        if options.multirun:
            print(f"== {number} of {len(configs)}: {config.experiment} {config.variant} seed {config.seed}")
        try:
            show_plan(config) if config.dry_run else run(config)
        except UserError as error:
            if not options.multirun:
                raise
            failed += complain(str(error))
    if failed:
        raise UserError(f"{failed} of {len(configs)} runs failed")
    return 0


def run_campaign(options: argparse.Namespace) -> int:
    """``normplugins campaign PLAN...``: status 0 if all cells are done, and EX_TEMPFAIL if the time ended before."""
    from normplugins.runs.campaign import campaign

    done = campaign(options.plans, options.minutes, options.show)
    return 0 if done or options.show else TIME_IS_UP


def prepare_corpus(options: argparse.Namespace) -> None:
    """``normplugins prepare CORPUS [overrides]``."""
    from normplugins.corpora import corpus_config, prepare
    from normplugins.runs.compose import compose_config

    config = compose_config(options.experiment, options.overrides)
    prepared = prepare(corpus_config(config.corpus), Path(config.data_dir))
    print(f"ready in {prepared.bin_dir}")


def evaluate_run(options: argparse.Namespace) -> None:
    """``normplugins evaluate RUN [KEY=VALUE ...]``: print the scores without changing the record."""
    from normplugins.runs.scoring import rescore

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


def import_checkpoint(options: argparse.Namespace) -> None:
    """``normplugins import-checkpoint SOURCE DESTINATION``."""
    normplugins.register()
    from normplugins.models.import_checkpoint import import_checkpoint as convert

    convert(options.source, options.destination)
    print(f"written to {options.destination}")


def fold_checkpoint(options: argparse.Namespace) -> None:
    """``normplugins fold CHECKPOINT [DESTINATION]``."""
    from normplugins.runs.fold_checkpoint import fold_checkpoint as fold

    print(f"written to {fold(options.source, options.destination)}")


def run_fairseq(options: argparse.Namespace) -> None:
    """``normplugins fairseq TOOL ...`` with this package's models registered, or ``fairseq-TOOL ...`` without them."""
    fairseq_tools.run_tool(options.tool, options.overrides, options.our_models)
