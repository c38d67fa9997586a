"""Recipes in YAML, one row of the results table each."""
