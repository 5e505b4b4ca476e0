"""The engine's benchmark: whole rounds of fedkd, and of other people's code doing the same work."""
