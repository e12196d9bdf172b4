"""How good a model is, with intervals and chance levels: metrics, the synthetic cohort, comparisons, reports."""
