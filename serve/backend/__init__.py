"""The jobs, files and models of one home over HTTP: what `synth-ai train` and `synth-ai status` 0.2 talk to."""
