"""What the live pages of a hospital and of the centre share: look, script, safety, serving, words."""
