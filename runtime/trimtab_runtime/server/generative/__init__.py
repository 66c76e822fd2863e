"""The server of a generative model: OpenAI's API over REST, beside health and metrics as every server has them."""
