"""Why a model answers as it does: LIME and Shapley values, in a process that no caller of the model waits for."""
