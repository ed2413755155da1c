"""Publishes runs: copies the record of a finished run and its translations into the folder of published results."""

from pathlib import Path

from normplugins.runs import folder
from normplugins.runs.inventory import published_path
from normplugins.runs.record import uncommitted
from normplugins.utils.errors import UserError
from normplugins.utils.files import copy_file, sha256


def publish(directory: Path, results: Path, force: bool = False, replace: bool = False) -> Path:
    """Copy the record of a run and its translations into ``results``. Identical files are not written again.

    With ``force``, a record is published even if its code is not committed or it replaces another record of this cell
    and seed; a line is printed in either case. With ``replace``, it replaces another record without a line. Returns the
    path of the published record.

    Raises:
        UserError: as :func:`normplugins.runs.folder.finished_run`, or its translations are damaged or edited. Without
            ``force``: its code was not committed, or another record of this cell and seed is published.
    """
    _, done = folder.finished_run(directory)
    source = directory / folder.RECORD
    target = published_path(results, done["experiment"], done["variant"], done["seed"])
    copies = {directory / kept["file"]: kept["sha256"] for kept in done.get("translations", {}).values()}
    for path, digest in copies.items():
        if not path.is_file() or sha256(path) != digest:
            raise UserError(f"{path} is not the file that {source} names: {folder.REMEDIES[folder.CONFIG]}")
    commits = [call["git_commit"] for call in (done, *done.get("later", []))]
    doubts = []
    if reason := next(filter(None, map(uncommitted, commits)), ""):
        doubts.append((f"{source} comes from {reason}", "commit it and start the run again with force=true"))
    if target.exists() and not replace and not _same(source, target):
        doubts.append((f"{target} is another record of this cell and seed", "remove it if it is wrong"))
    for reason, remedy in doubts:
        if not force:
            raise UserError(f"{reason}: {remedy}, or publish it with --force")
        print(f"published anyway: {reason}")
    for path in (*copies, source):  # the record last, so that it never names a file that is missing
        destination = target if path == source else target.with_name(path.name)
        if not _same(path, destination):
            copy_file(path, destination)
    return target


def _same(one: Path, other: Path) -> bool:
    return other.is_file() and one.read_bytes() == other.read_bytes()
