"""Figures of merit, comparison and gate: records in, records out."""
