"""Draws: models in memory, and the one thread that torch runs on."""
