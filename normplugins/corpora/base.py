"""The base class of all corpora and the registry that finds them by name."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from normplugins.utils.download import fetch
from normplugins.utils.errors import UserError
from normplugins.utils.settings import invalid_value, setting
from normplugins.utils.steps import Echo

SPLITS = ("train", "valid", "test")
CORPORA: dict[str, type[Corpus]] = {}
_OLDER = {"seed": 1, "verify": True, "length_in": "words"}
"""Values in the configs of older runs, which held the settings of all corpora and the published counts."""


@dataclass
class Corpus:
    """A corpus: its fields are the settings of a recipe, its class attributes are facts about the published text.

    Each corpus is a subclass. It sets ``name``, adds the settings that it uses, and implements the method that reads
    its input files: ``read`` for parallel text, ``open_split`` for running text. ``configs/corpus/<name>.yaml`` holds
    the values of a recipe.
    """

    PUBLISHED: ClassVar[Mapping[str, int]] = {}
    """The published counts. Counts that differ from them are reported, and recorded with every result."""

    RECIPE: ClassVar[int] = 1
    """Version of the preparation: increased when the same files and settings give different text or facts."""

    name: str = ""

    def check(self) -> None:
        """Raise UserError for settings that the corpus cannot be prepared with."""
        for field in fields(self):
            if message := invalid_value(field, getattr(self, field.name), "corpus."):
                raise UserError(message)

    def published(self) -> Mapping[str, int]:
        """Return the published counts for these settings."""
        return self.PUBLISHED

    def count_differences(self, found: Mapping[str, int], unit: str = "") -> list[str]:
        """Describe each count that differs from the published one."""
        published = self.published().items()
        return [f"{found[name]:,} of {count:,} {name}{unit}" for name, count in published if count != found[name]]

    def fetch_files(self, raw: Path, echo: Echo) -> dict[str, Path]:  # noqa: ARG002
        """Return the input files by name, downloaded into ``raw`` if necessary; a generated corpus has none."""
        return {}

    def settings(self) -> dict[str, Any]:
        """Return everything that the prepared text depends on, except the input files."""
        raise NotImplementedError

    def variant(self) -> str:
        """Return the folder name for these settings."""
        raise NotImplementedError


@dataclass
class PublishedCorpus(Corpus):
    """A corpus that is downloaded, and verified against the published text."""

    FILES: ClassVar[Mapping[str, Sequence[str]]]
    """Maps each file name to its download addresses, which are tried in order."""

    verify: bool = setting(True, "refuse text that differs from the published text")
    url: str | None = setting(None, "another address of the file, or of a folder with all files", changes_result=False)

    def addresses(self) -> Mapping[str, Sequence[str]]:
        """Return the addresses of each file that these settings need, by file name."""
        return self.FILES

    def fetch_files(self, raw: Path, echo: Echo) -> dict[str, Path]:
        """Return the input files by name, downloaded into ``raw`` if necessary."""
        files = {}
        for name, addresses in self.addresses().items():
            if self.url:
                addresses = [self.url if self.url.endswith(name) else f"{self.url.rstrip('/')}/{name}"]
            files[name] = fetch(name, addresses, raw, echo, self.check_file)
        return files

    def check_file(self, path: Path) -> None:
        """Raise UserError for a downloaded file that is damaged or, with ``verify``, not the published one."""


def archived(address: str) -> str:
    """Return the address of the Internet Archive's copy, from about 2020, of a file whose host may be gone."""
    return f"https://web.archive.org/web/2020id_/{address}"


def verified(where: str, name: str, lines: Iterable[bytes], wanted: str) -> Iterator[bytes]:
    """Yield the lines. Raises UserError at the end if their digest differs from that of the published text ``name``.

    ``wanted`` is a SHA-256, or a digest preceded by its algorithm: ``sha1:...``. ``where`` names the text in the error.
    """
    algorithm, _, wanted = wanted.rpartition(":")
    digest = hashlib.new(algorithm or "sha256")
    for line in lines:
        digest.update(line)
        yield line
    if (found := digest.hexdigest()) != wanted:
        raise UserError(
            f"{where} is not the published {name}: its {digest.name} is {found}, not {wanted}; "
            "get the original file, or set corpus.verify=false to use this one"
        )


def verify_digest(where: str, name: str, lines: Iterable[bytes], wanted: str) -> None:
    """Raise UserError if the digest of the lines is not ``wanted``, as :func:`verified` does."""
    deque(verified(where, name, lines, wanted), maxlen=0)


AnyCorpus = TypeVar("AnyCorpus", bound=Corpus)


def register(corpus: type[AnyCorpus]) -> type[AnyCorpus]:
    """Class decorator that registers a corpus under its ``name``."""
    CORPORA[corpus.name] = corpus
    return corpus


def corpus_config(mapping: Mapping[str, Any]) -> Corpus:
    """Build the corpus ``mapping["name"]`` from a composed Hydra node or from the config of an older run.

    Raises UserError for an unknown name or setting.
    """
    name = mapping.get("name")
    if name not in CORPORA:
        raise UserError(f"unknown corpus {name!r}; known: {', '.join(CORPORA)}")
    own = [field.name for field in fields(CORPORA[name])]
    for key, value in mapping.items():
        without_effect = value in (None, _OLDER.get(key)) or key.startswith("expected_")
        if key not in own and not without_effect:
            raise UserError(f"unknown corpus setting {key}; known: {', '.join(own)}")
    return CORPORA[name](**{key: mapping[key] for key in own if key in mapping})


def register_corpus_nodes(store: Any, with_yaml: Collection[str]) -> None:
    """Store the defaults of each corpus in Hydra's ConfigStore, as ``corpus/<name>`` or ``corpus/_<name>``.

    A corpus in ``with_yaml`` has a file ``configs/corpus/<name>.yaml``, whose defaults list names ``corpus/_<name>``.
    """
    for name, corpus in CORPORA.items():
        store.store(group="corpus", name=f"_{name}" if name in with_yaml else name, node=asdict(corpus()))
