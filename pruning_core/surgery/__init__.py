"""Surgery: the only place that writes weights."""
