"""The subcommands of ``normplugins``: one module for each, which the command line finds by itself.

A module has ``HELP``, ``add_arguments(parser)`` and ``execute(options)``, which returns an exit status or None. It may
have ``TAKES_OVERRIDES``, if the command takes settings KEY=VALUE, and ``RESUMABLE``, if the same command resumes after
Ctrl-C. It imports what is slow to import, such as torch and fairseq, in ``execute``, so that ``--help`` is fast.
"""
