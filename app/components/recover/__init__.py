"""The part of the Export page that trains what a recipe has left."""
