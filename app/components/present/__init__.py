"""Pieces of the Present page: the recipe of Tune in plain words."""
