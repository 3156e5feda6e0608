"""Sentio."""
