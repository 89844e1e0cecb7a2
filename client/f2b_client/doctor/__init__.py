"""The doctor: every check that a hospital can make before round 0."""
