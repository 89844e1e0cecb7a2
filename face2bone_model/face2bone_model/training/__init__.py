"""Local training at one site, with or without differential privacy, and prediction."""
