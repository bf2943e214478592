"""OpenAI's chat completions, as far as they need no engine: requests in, answers and streams out. Pure."""
