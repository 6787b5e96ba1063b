"""Grids of trainings: on this machine, or on many."""
