"""The shared package of the Hippocrates and Hypnos companion. Not for clinical use."""
