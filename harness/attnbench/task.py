"""The contract of a task: examples that are a pure function of a seed, and the model and training that they ask for."""
