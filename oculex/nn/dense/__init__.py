"""Heads over maps of features."""
