"""Events, summaries, plots and the HTML report."""
