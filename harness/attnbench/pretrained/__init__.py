"""Pretrained models by `transformers`: queries, keys and values captured in them. For child processes only."""
