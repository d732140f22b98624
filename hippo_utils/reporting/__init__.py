"""Tables, figures, the papers' published numbers, and the comparison of a run with the reference."""
