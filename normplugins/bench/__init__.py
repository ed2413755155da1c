"""What ``normplugins bench`` measures, each beside its baseline: norms, a training update, translating, preparing."""

from importlib import import_module

from normplugins.bench.options import Options

BENCHMARKS = ("norm", "step", "decode", "prepare")

__all__ = ["BENCHMARKS", "Options", "run"]


def run(what: str | None, options: Options) -> None:
    """Carry out one benchmark, or all of them, print tables and add rows to ``results/benchmarks.csv``.

    Raises:
        UserError: something cannot be measured; what was measured before stands in the file.
    """
    options.check()
    for name in [what] if what else BENCHMARKS:
        import_module(f"normplugins.bench.{name}").run(options)
