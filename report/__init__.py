"""One self-contained HTML page about a dataset: its pairs, drops, lengths, costs and recipes."""
