"""Known-answer cohorts: rendered faces whose bone status is known, because it was planted."""
