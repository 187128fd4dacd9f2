"""Models: finding and loading them, tunings, attention for packed rows, generation, the bundled base."""
