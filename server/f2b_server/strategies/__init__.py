"""How the sites' updates become the next global model; formulae and when to use which in docs/strategies.md."""
