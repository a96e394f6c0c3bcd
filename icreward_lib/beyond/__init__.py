"""What the poster did not ask: notebooks 07 to 12 call these modules."""
