"""The pure core: `decide(observed, now) -> Decision`. No I/O, no clock, no randomness."""
