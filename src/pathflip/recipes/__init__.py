"""Complete runs as functions and configurations."""
