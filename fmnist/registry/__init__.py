"""Runs and the champion in a store: the commit protocol."""
