"""The commands of `f2b-client`, a file for each thing a hospital does."""
