"""The Chinese mini world: anesthesiology and general medicine as fact tables, and what is written from them (Hypnos)."""
