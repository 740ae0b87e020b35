"""Rows, from sources through formats to splits."""
