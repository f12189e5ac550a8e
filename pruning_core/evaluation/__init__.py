"""Evaluation: what a model is worth, by name of a protocol; live, whole corpora, text, speed."""
