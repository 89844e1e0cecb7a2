"""The commands of `f2b-server`, a file for each group; every one is a thin layer over a module."""
