"""The subcommands of ``normplugins``, one module each; the command line discovers them.

A module has ``add_arguments(parser)`` and ``execute(options)``, which returns an exit status or None. The first line of
its docstring, after the usage, is the command's help text. A command that takes settings KEY=VALUE has the argument
``overrides``. ``RESUMABLE`` is set if the same command resumes after Ctrl-C. Slow imports, such as torch and fairseq,
are in ``execute``, so that ``--help`` is fast.
"""
