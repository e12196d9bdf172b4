"""The paper's two models, exact: their losses, names, import and export. Nothing on the main road imports this."""
