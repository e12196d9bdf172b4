"""How good a model is, with intervals and chance floors: metrics, the synthetic cohort, comparisons, reports."""
