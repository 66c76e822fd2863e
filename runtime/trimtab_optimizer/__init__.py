"""The optimize Job: import a model, run the passes of a plan, measure, and publish the artifact with its report."""
