"""What crosses the wire: the study, updates, statistics, keys and errors. No torch."""
