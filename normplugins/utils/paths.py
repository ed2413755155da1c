"""Where the package's own files are: in a checkout of the repository, or inside an installed wheel."""

from pathlib import Path

from normplugins.utils.errors import UserError

PACKAGE = Path(__file__).parents[1]
"""The folder of the package ``normplugins``, which is also fairseq's ``--user-dir``."""


def checkout() -> Path | None:
    """The repository whose code is running, or None if the package was installed from a wheel."""
    root = PACKAGE.parent
    return root if (root / "pyproject.toml").is_file() and (root / "configs").is_dir() else None


def config_dir() -> Path:
    """The folder of the Hydra configs: ``configs/`` of the checkout, or the copy that the wheel holds."""
    root = checkout()
    return root / "configs" if root else PACKAGE / "configs"


def without_colon(setting: str, folder: str | Path) -> Path:
    """Return the absolute path of a folder that is passed to fairseq. Raises UserError if it has a colon."""
    path = Path(folder).absolute()
    if ":" in str(path):
        raise UserError(f"{setting}={path}: fairseq splits paths at ':', so name a folder without a colon")
    return path
