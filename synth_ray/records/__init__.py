"""Records: what is kept (traces, runs, jobs, models, exports). Knows nothing about how anything is computed."""
