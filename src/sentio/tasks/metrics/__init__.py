"""Figures of merit, in numpy."""
