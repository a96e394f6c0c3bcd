"""What the poster did not ask: notebooks 07 to 11 call these modules."""
