"""The parts of the Export page: what formats can do, where it goes, and what was proven."""
