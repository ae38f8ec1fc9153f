"""The parts of the report: what a run left behind, its figures, its page. No jax in here."""
