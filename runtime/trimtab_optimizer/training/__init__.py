"""Training inside a pass: to win back accuracy after pruning, and to answer as a teacher does."""
