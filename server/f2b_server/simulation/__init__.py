"""The study's own apps in Flower's simulation engine (Ray): a folder for each hospital, on one machine or a cluster."""
