"""The networks: frozen trunk, frequency sparse attention, branches, KAN head, baselines, and their weights on disk."""
