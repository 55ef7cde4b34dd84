"""Report on runs: an HTML page, its plots, and the paper's Figure 1."""
