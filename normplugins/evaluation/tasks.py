"""Kinds of runs, by fairseq task.

Each kind is a module with the same names:

- ``CORPUS``: class of its corpora.
- ``RESCORABLE``: config keys that ``normplugins evaluate`` may change.
- ``OUTPUT``: suffix of the file that ``evaluate`` writes; ``OUTPUTS``: glob patterns of the files that scoring writes.
- ``check(config)``, ``check_corpus(config, corpus)``: raise UserError for settings or a corpus that cannot work.
- ``evaluate(config, checkpoint, corpus, output)``: scores a checkpoint.
- ``keep_translations(config, corpus, output, kept)``: writes the file that is published beside the record.
- ``describe(metric)``, ``brief(metrics)``, ``label(flat_config)``: text for the terminal.
- ``bare_task(settings, dictionary)``, ``made_up_batch(tokens)``: what a benchmark or plan measures a step with.
"""

from types import ModuleType

from normplugins.evaluation import language_modeling, translation
from normplugins.utils.errors import UserError

KINDS: dict[str, ModuleType] = {"translation": translation, "language_modeling": language_modeling}


def kind_of(task: str) -> ModuleType:
    """Return the kind of a run by its ``task._name``.

    Raises:
        UserError: the task is unknown.
    """
    if task not in KINDS:
        raise UserError(f"unknown task '{task}': runs are of {' or '.join(KINDS)}")
    return KINDS[task]
