"""The hospital's side: prepares faces, trains, and lets only gated numbers out."""
