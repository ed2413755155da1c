"""From the records under results/ to tables and figures. Reads nothing else."""

from normplugins.report.page import report

__all__ = ["report"]
