"""The coordinating centre's side: enrols sites, runs rounds, aggregates, reports."""
