"""The kinds of runs, by fairseq task: each a module with what is checked, how it is scored and what is said of it.

Each has ``CORPUS`` (the config of its corpora), ``RESCORABLE``
(keys that ``normplugins evaluate`` may change), ``OUTPUT`` (how the file ends that ``evaluate`` writes), ``OUTPUTS``
(patterns of the files that scoring leaves in a run's folder), and ``check(config)``, ``check_corpus(config, corpus)``,
``evaluate(config, checkpoint, corpus, output)``, ``keep_translations(config, corpus, output, kept)``,
``describe(metric)``, ``brief(metrics)``, ``label(settings)``, whose settings are a flat config, and what a plan
measures a step with:
``bare_task(settings, dictionary)`` and ``made_up_batch(tokens)``.
"""

from types import ModuleType

from normplugins.evaluation import language_modeling, translation
from normplugins.utils.errors import UserError

KINDS = {"translation": translation, "language_modeling": language_modeling}


def kind_of(task: str) -> ModuleType:
    """The kind of a run, by its ``task._name``.

    Raises:
        UserError: no such kind.
    """
    if task not in KINDS:
        raise UserError(f"unknown task '{task}': runs are of {' or '.join(KINDS)}")
    return KINDS[task]
