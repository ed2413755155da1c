"""Turns the records of runs and of analyses into tables, figures and pages."""
