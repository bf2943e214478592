"""Jobs: one script per verb, each an entry point for `ray job submit`: read config, build, run, record."""
