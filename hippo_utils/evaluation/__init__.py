"""Scoring, prompting and calibration: what the stored predictions say."""
