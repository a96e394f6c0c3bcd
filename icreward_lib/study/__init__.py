"""The human study: pairs, the page that people rate on, their votes; simulated raters; the analysis of votes."""
