"""Lists the experiments; each is a primary config file in configs/."""

from itertools import takewhile

from normplugins.utils.paths import config_dir


def experiments() -> list[str]:
    """Return the names of the experiments."""
    return sorted(path.stem for path in config_dir().glob("*.yaml") if not path.stem.startswith("_"))


def summary(experiment: str) -> str:
    """Return the first sentence of the comment at the top of an experiment's file."""
    lines = (config_dir() / f"{experiment}.yaml").read_text(encoding="utf-8").splitlines()
    comment = " ".join(line.lstrip("# ") for line in takewhile(lambda line: line.startswith("#"), lines))
    return f"{comment.partition('. ')[0].rstrip('.')}."
