"""Figures of merit as pairs: sums a site may send, and what pooled sums say, with an interval. No torch."""
