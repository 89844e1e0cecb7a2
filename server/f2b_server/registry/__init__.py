"""The registry: each round's model, who is in it, and its signed releases."""
