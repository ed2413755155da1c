"""What ``normplugins bench`` measures, each beside its baseline: norms, a training update, translating, preparing."""

from importlib import import_module

from normplugins.bench.options import Options

BENCHMARKS = ("norm", "step", "decode", "prepare")

__all__ = ["BENCHMARKS", "Options", "run"]


def run(what: str | None, options: Options) -> None:
    """Carry out one benchmark, or all of them: print tables and add rows to ``results/benchmarks.csv``.

    What stands in the file by the end, after an interrupt too, is what ``results/speed.md`` and its figure show.

    Raises:
        UserError: something cannot be measured; what was measured before stands in the file.
    """
    from normplugins.bench import page

    options.check()
    before = options.csv.stat().st_size if options.csv.exists() else 0
    try:
        for name in [what] if what else BENCHMARKS:
            import_module(f"normplugins.bench.{name}").run(options)
    finally:
        if options.csv.exists() and options.csv.stat().st_size > before:
            print(f"written to {page.write(options.results)}")
