"""The report: what a search has found, as one page and a few pictures."""
