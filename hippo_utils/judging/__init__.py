"""Who judges answers, and the pairs that come of it."""
