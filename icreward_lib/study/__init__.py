"""The rater study: simulated raters and the analysis of a table of votes."""
