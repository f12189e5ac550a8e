"""Pieces of screens, several of them shared between pages."""
