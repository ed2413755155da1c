"""Lists the experiments; each is a primary config file in configs/."""

from normplugins.utils.paths import config_dir


def experiments() -> list[str]:
    """Return the names of the experiments."""
    return sorted(path.stem for path in config_dir().glob("*.yaml") if not path.stem.startswith("_"))


def summary(experiment: str) -> str:
    """Return the first sentence of the comment at the top of an experiment's file."""
    comment = []
    for line in (config_dir() / f"{experiment}.yaml").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.lstrip("# "))
    return f"{' '.join(comment).partition('. ')[0].rstrip('.')}."
