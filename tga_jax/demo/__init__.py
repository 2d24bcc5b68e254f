"""The demo, end to end: train from scratch, align in four ways, measure, report."""
