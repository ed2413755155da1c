"""Turns the records of runs and of analyses into tables, figures and pages.

Unless their type says otherwise, these arguments mean the same in all modules:

- ``results`` (a path): the folder of the published results, such as ``results/`` in a checkout, with the records in
  ``runs/<experiment>/<cell>/seed<k>.json``.
- ``found``: the records as a table, from :func:`normplugins.report.records.read_results`.
- ``findings``: what the records say about the protocol's contrasts, by checkpoint, each from
  :func:`normplugins.report.contrasts.find`; ``primary`` are those of the averaged checkpoint.
- ``probe``: the numbers of the statistics probe, from :func:`normplugins.report.probe_table.probe_table`.
"""
