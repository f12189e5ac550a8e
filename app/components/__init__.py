"""Pieces of screens that several pages share. The drag editor over the map will live here too."""
