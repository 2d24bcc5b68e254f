"""What pages, figures and terminals share: how they look, intervals, and how far long work is."""
