"""Measurements. Each module prints a table and keeps its figures in ``results/``; ``make bench`` runs all of them."""
