"""The demo, end to end: train from scratch three ways, measure, report."""
